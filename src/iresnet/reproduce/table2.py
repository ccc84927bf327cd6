"""Bits per dimension of the systems that the papers compare, at equal parameters and time, beside what they published."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .base import I_RESNET, RESIDUAL_FLOWS, Bar, Cell, Picture, Record, Reproduction, Table
from .compared import compared, slim
from .telling import mean_and_spread

__all__ = ["PUBLISHED", "REPRODUCTION", "Table2"]

# bits/dim on MNIST as the papers' tables of density estimation have them.
PUBLISHED = {
    "nice": "4.36",
    "made": "2.04",
    "maf": "1.89",
    "realnvp": "1.06",
    "glow": "1.05",
    "cnf": "0.99",
    "iresnet": "1.06 (i-ResNet), 0.970 (Residual Flow)",
}


@dataclass(frozen=True)
class Table2:
    """Each of ``models`` trained for ``seconds`` of processor time, scored on ``rows`` test images."""

    data: str = "mnist"
    models: tuple[str, ...] = ("iresnet", "nice", "realnvp", "glow", "made", "maf", "cnf")
    seconds: float = 15.0
    parameters: int | None = None
    rows: int = 200
    seeds: int = 1


def _measure_one(setting: Table2, folder: Path, advance: Any) -> Cell:
    found = compared(
        folder,
        setting.data,
        setting.models,
        setting.seconds,
        parameters=setting.parameters,
        seeds=setting.seeds,
        rows=setting.rows,
        advance=advance,
    )
    return {"rows": [slim(row) for row in found.rows]}


def measure(setting: Table2, record: Record, bar: Bar) -> None:
    """All systems, all seeds."""
    with bar("comparing", len(setting.models) * setting.seeds, "systems") as advance:
        record.cell("systems", partial(_measure_one, setting, record.path / "runs", advance))


def _bits(record: Record) -> dict[str, list[dict[str, Any]]]:
    """Rows by system, best first."""
    rows = record.cells["systems"]["rows"]
    found = {model: [row for row in rows if row["model"] == model] for model in record.arguments["models"]}
    return dict(sorted(found.items(), key=lambda item: _mean(item[1])))


def _mean(rows: list[dict[str, Any]]) -> float:
    return sum(row["bits_per_dim"]["value"] for row in rows) / len(rows)


def draw(record: Record) -> list[Picture]:
    """The systems in order."""
    from ..pictures.canvas import DATA, SAMPLES, new_figure, save

    with new_figure(1, 1, size=5.0) as (figure, axes):
        axis, found = axes[0, 0], _bits(record)
        for place, (model, rows) in enumerate(found.items()):
            colour = SAMPLES if model == "iresnet" else DATA
            axis.barh(place, _mean(rows), color=colour, alpha=0.65, height=0.65)
            axis.text(_mean(rows), place, f" {_mean(rows):.2f}", va="center", fontsize=11)
        axis.set_yticks(range(len(found)), [rows[0]["title"] for rows in found.values()])
        axis.set(xlabel="bits per dimension", xlim=(0, 1.15 * max(map(_mean, found.values()))))
        axis.invert_yaxis()
        save(figure, record.path / "table2.png")
    told = (
        f"Bits per dimension on test images of {record.arguments['data']} after {record.arguments['seconds']:g} s of processor "
        "time each. Fewer are better."
    )
    return [Picture("table2.png", told)]


def tables(record: Record) -> list[Table]:
    """The systems in order, beside the papers' figures."""
    header = ("system", "bits/dim", "± of the test images", "parameters", "steps", "density", "inverse", "published bits/dim")
    rows = []
    for model, found in _bits(record).items():
        bits = [row["bits_per_dim"] for row in found]
        told = [
            found[0]["title"],
            mean_and_spread([each["value"] for each in bits]),
            f"{max(each['stderr'] for each in bits):.1g}",
        ]
        told += [f"{found[0]['parameters']:,}", f"{round(sum(row['steps'] for row in found) / len(found)):,}"]
        published = PUBLISHED.get(model, "–") if record.arguments["data"] == "mnist" else "–"
        rows.append([*told, found[0]["density"], found[0]["inverse"], published])
    return [Table(f"Held-out images of {record.arguments['data']}", header, rows)]


def findings(record: Record) -> list[str]:
    """The order."""
    found = _bits(record)
    order = ", ".join(f"{rows[0]['title']} {_mean(rows):.2f}" for rows in found.values())
    return [f"Bits per dimension after {record.arguments['seconds']:g} s of processor time each, fewest first: {order}."]


REPRODUCTION = Reproduction(
    "Table 2: bits per dimension of the systems",
    "The systems that the papers compare are trained on the same images with the same dequantisation, with about equal "
    "parameters, for equal processor time. Couplings and masked networks see an image as a vector of pixels, but for Glow and "
    "ours, which convolve.",
    [
        I_RESNET(
            "its table of bits/dim on MNIST and CIFAR-10",
            checked=False,
        ),
        RESIDUAL_FLOWS(
            "its table of bits/dim",
            checked=False,
        ),
    ],
    {"tiny": Table2(), "paper": Table2(seconds=86_400.0, rows=10_000, seeds=3)},
    measure,
    draw,
    tables,
    findings,
    [
        "The published figures are of large models after days of training, each paper with its own; here all have the same "
        "small budget.",
        "FFJORD's network here is dense, where the paper's convolves; its field is solved dozens of times for each step.",
        "The published figures of MADE, MAF and NICE are those that the i-ResNet paper quotes.",
    ],
)
