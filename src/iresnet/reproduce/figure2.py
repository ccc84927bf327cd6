"""Figure 2 of the i-ResNet paper: densities of toy sets by an i-ResNet and by Glow, at equal parameters and time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from ..data import toy
from .base import I_RESNET, Bar, Cell, Picture, Record, Reproduction, Table
from .compared import compared, slim
from .telling import mean_and_spread

__all__ = ["REPRODUCTION", "Figure2"]

_MODELS = {"iresnet": "i-ResNet", "glow": "Glow"}


@dataclass(frozen=True)
class Figure2:
    """Both flows with about as many ``parameters`` as our default (None) or as told, for ``seconds`` of processor time."""

    sets: tuple[str, ...] = toy.NAMES
    seconds: float = 15.0
    parameters: int | None = None
    rows: int = 5000
    seeds: int = 1


def _measure_one(name: str, setting: Figure2, folder: Path, record: Record, advance: Any) -> Cell:
    found = compared(
        folder,
        name,
        tuple(_MODELS),
        setting.seconds,
        parameters=setting.parameters,
        seeds=setting.seeds,
        rows=setting.rows,
        advance=advance,
    )
    for model in _MODELS:
        arrays = found.arrays(model, 0)
        record.keep(f"{name}/{model}", grid=arrays["grid"].astype(np.float32), extent=arrays["extent"])
    return {"rows": [slim(row) for row in found.rows]}


def measure(setting: Figure2, record: Record, bar: Bar) -> None:
    """Both flows on each set, all seeds."""
    for name in setting.sets:
        with bar(name, len(_MODELS) * setting.seeds, "systems") as advance:
            record.cell(f"set/{name}", partial(_measure_one, name, setting, record.path / "runs" / name, record, advance))


def draw(record: Record) -> list[Picture]:
    """Data and both densities, four sets abreast."""
    from ..pictures.canvas import DATA, SAMPLES, new_figure, save

    sets, across = record.arguments["sets"], min(4, len(record.arguments["sets"]))
    bands = [sets[place : place + across] for place in range(0, len(sets), across)]
    with new_figure(3 * len(bands), across, size=2.1) as (figure, axes):
        for axis in axes.flat:
            axis.set_axis_off()
        for band, names in enumerate(bands):
            for column, name in enumerate(names):
                kept = {model: record.kept(f"{name}/{model}") for model in _MODELS}
                extent, panels = kept["iresnet"]["extent"].tolist(), axes[3 * band : 3 * band + 3, column]
                points = toy.sample(name, 3000, 2019).numpy()
                panels[0].scatter(*points.T, s=1.5, c=DATA, alpha=0.5, linewidths=0, rasterized=True)
                panels[0].set_title(name.replace("_", " "), fontsize=12)
                high = max(float(np.exp(arrays["grid"].max())) for arrays in kept.values())
                for panel, arrays in zip(panels[1:], kept.values(), strict=True):
                    shown = np.exp(arrays["grid"]) / high
                    panel.imshow(shown**0.7, origin="lower", extent=extent, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
                for panel, told in zip(panels, ("data", *_MODELS.values()), strict=True):
                    panel.set(xlim=extent[:2], ylim=extent[2:], box_aspect=1)
                    if not column:
                        colour = DATA if told == "data" else SAMPLES
                        panel.text(
                            -0.08, 0.5, told, rotation=90, ha="right", va="center", color=colour, transform=panel.transAxes
                        )
        save(figure, record.path / "figure2.png")
    told = (
        "Data, and the densities learned by an i-ResNet and by Glow, of about equal parameters, after equal processor time "
        "(first seed). Both densities of a set have one colour scale."
    )
    return [Picture("figure2.png", told)]


def _of(record: Record, name: str, model: str) -> list[dict[str, Any]]:
    return [row for row in record.cells[f"set/{name}"]["rows"] if row["model"] == model]


def tables(record: Record) -> list[Table]:
    """Nats above the truth on each set."""
    header = ["data", *(f"{told}: nats above the truth" for told in _MODELS.values()), "± of the test set"]
    header += [f"{told}: {what}" for what in ("parameters", "steps") for told in _MODELS.values()]
    rows = []
    for name in record.arguments["sets"]:
        found = {model: _of(record, name, model) for model in _MODELS}
        told = [name, *(mean_and_spread([row["above_truth"]["value"] for row in found[model]]) for model in _MODELS)]
        told.append(f"{max(row['above_truth']['stderr'] for rows_ in found.values() for row in rows_):.1g}")
        told += [f"{found[model][0]['parameters']:,}" for model in _MODELS]
        told += [f"{round(sum(row['steps'] for row in found[model]) / len(found[model])):,}" for model in _MODELS]
        rows.append(told)
    return [Table("How far the learned density is from the true one", header, rows)]


def findings(record: Record) -> list[str]:
    """The claim, by the numbers; and for how many sets the seeds' spread, of the difference, is smaller than it."""
    ahead, clear = [], 0
    for name in record.arguments["sets"]:
        ours, theirs = ([row["above_truth"]["value"] for row in _of(record, name, model)] for model in _MODELS)
        if sum(ours) < sum(theirs):
            ahead.append(name)
            several = len(ours) > 1
            clear += several and fmean(theirs) - fmean(ours) > math.hypot(stdev(ours), stdev(theirs))
    told = (
        f"The i-ResNet is nearer to the truth than Glow on {len(ahead)} of {len(record.arguments['sets'])} sets "
        f"({', '.join(ahead) or 'none'})"
    )
    seconds, seeds = record.arguments["seconds"], record.arguments["seeds"]
    spread = f"; on {clear} of these by more than the spread of the seeds" if seeds > 1 else ""
    return [f"{told}, after {seconds:g} s of processor time each, {seeds} seed{'s' * (seeds > 1)}{spread}."]


REPRODUCTION = Reproduction(
    "Figure 2: densities of toy sets, beside Glow",
    "Couplings leave half of the columns as they are at each step, which shows in two dimensions; a residual block moves "
    "every column by all of them. The paper shows it in pictures. All sets here have a known density, so that both flows are "
    "also judged in nats above the truth (the Kullback-Leibler divergence from it, estimated on test points).",
    [I_RESNET("Figure 2 (a picture, without figures)")],
    {"tiny": Figure2(), "paper": Figure2(seconds=1800.0, rows=20_000, seeds=3)},
    measure,
    draw,
    tables,
    findings,
    [
        "Glow is normflows': affine couplings, invertible linear maps and ActNorm; both flows begin with the same whitening.",
        "Equal processor time on one thread and about equal parameters; the paper gives neither for both.",
        "All eight sets have noise and so a density.",
    ],
)
