"""Generation started from a classifier: the same flow trained for density, from its weights and from scratch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..report.format import number
from ..runs import evaluate_run
from .base import I_RESNET, Bar, Cell, Picture, Record, Reproduction, Table
from .telling import mean_and_spread
from .trained import trained_run

__all__ = ["REPRODUCTION", "Pretrain"]

_NAMES = {"scratch": "from scratch", "classifier": "from the classifier"}


@dataclass(frozen=True)
class Pretrain:
    """A classifier of ``data`` trained for ``before`` steps, then densities of the same bijection for ``steps`` each."""

    data: str = "digits-images"
    preset: str | None = "tiny"
    sets: tuple[str, ...] = ("model.blocks=[4]", "model.hidden=[32,32]", "model.alpha=1e-6")
    before: int = 300
    steps: int = 300
    rows: int | None = None
    seeds: int = 2
    threads: int | None = 1


def _options(setting: Pretrain, seed: int, steps: int) -> dict[str, Any]:
    """What classifier and density share, so that one can begin with the weights of the other."""
    options: dict[str, Any] = {"data.name": setting.data, "seed": seed, "train.steps": steps, "train.threads": setting.threads}
    return options | {"model.lipschitz": 0.97, "model.split": True, "data.crop": 0}


def _classifier(setting: Pretrain, seed: int, folder: Path, advance: Any) -> Cell:
    options = _options(setting, seed, setting.before) | {"task": "classify"}
    run = trained_run(folder, options, setting.sets, setting.preset, advance=advance)
    return {"error": evaluate_run(run)["error"]["value"]}


def _density(setting: Pretrain, seed: int, folder: Path, init: Path | None, advance: Any) -> Cell:
    options = _options(setting, seed, setting.steps) | {"train.pictures": 0}
    options |= {"evaluate.rows": setting.rows} if setting.rows is not None else {}
    run = trained_run(folder, options, setting.sets, setting.preset, init=init, advance=advance)
    evaluation, shape = evaluate_run(run), run.status()["data"]["shape"]
    records = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    held = [{"step": record["step"], "log_prob": record["log_prob"]} for record in records if record["split"] == "validation"]
    return {"history": held, "bits_per_dim": evaluation["bits_per_dim"], "shape": shape}


def measure(setting: Pretrain, record: Record, bar: Bar) -> None:
    """The classifier, then both densities, for every seed."""
    for seed in range(setting.seeds):
        folder = record.path / "runs"
        with bar(f"seed {seed}", setting.before + 2 * setting.steps) as advance:
            seen = folder / f"classify-{seed}"
            record.cell(f"seen/{seed}", partial(_classifier, setting, seed, seen, advance))
            for name, init in (("scratch", None), ("classifier", seen)):
                record.cell(f"{name}/{seed}", partial(_density, setting, seed, folder / f"{name}-{seed}", init, advance))


def _bits(cell: Cell) -> list[tuple[float, float]]:
    """Steps and bits per dimension of held-out rows through training."""
    size = math.prod(cell["shape"]) * math.log(2)
    return [(look["step"], -look["log_prob"] / size) for look in cell["history"]]


def draw(record: Record) -> list[Picture]:
    """Held-out bits per dimension through training."""
    from ..pictures.canvas import DATA, SAMPLES, new_figure, save

    with new_figure(1, 1, size=5.0) as (figure, axes):
        axis, last = axes[0, 0], []
        for name, colour in (("scratch", SAMPLES), ("classifier", DATA)):
            for number_, cell in enumerate(record.under(name)):
                looks = _bits(cell)
                axis.plot(*zip(*looks, strict=True), color=colour, linewidth=1.5, label=_NAMES[name] if not number_ else None)
                last += [bits for _, bits in looks[len(looks) // 8 :]]
        axis.set(xlabel="step", ylabel="held-out bits per dimension", ylim=(min(last) - 0.02, max(last) + 0.05))
        axis.legend(frameon=False)
        save(figure, record.path / "pretrain.png")
    return [
        Picture(
            "pretrain.png", "Held-out bits per dimension through training for density, one line for each seed: fewer are better."
        )
    ]


def tables(record: Record) -> list[Table]:
    """Where both come to, and how soon."""
    header = ("started", "test bits/dim", "steps to where scratch is after half of them", "error of the classifier, %")
    goals = [_at(cell, record.arguments["steps"] // 2) for cell in record.under("scratch")]
    rows = []
    for name, told in _NAMES.items():
        cells = record.under(name)
        soon = [_first(cell, goal) for cell, goal in zip(cells, goals, strict=True)]
        wrong = "–" if name == "scratch" else mean_and_spread([100 * cell["error"] for cell in record.under("seen")])
        reached = mean_and_spread([float(step) for step in soon if step is not None]) if None not in soon else "not reached"
        rows.append([told, mean_and_spread([cell["bits_per_dim"]["value"] for cell in cells], 4), reached, wrong])
    return [Table("Densities, from the classifier and from scratch", header, rows)]


def _at(cell: Cell, step: int) -> float:
    """Bits per dimension at the last look up to that step."""
    looks = _bits(cell)
    return [bits for at, bits in looks if at <= step][-1] if looks[0][0] <= step else looks[0][1]


def _first(cell: Cell, goal: float) -> int | None:
    return next((int(step) for step, bits in _bits(cell) if bits <= goal), None)


def findings(record: Record) -> list[str]:
    """Whether it helps."""
    means = {}
    for name in _NAMES:
        cells = record.under(name)
        means[name] = sum(cell["bits_per_dim"]["value"] for cell in cells) / len(cells)
    gain = means["scratch"] - means["classifier"]
    error = max(cell["bits_per_dim"]["stderr_data"] for cell in record.under("scratch"))
    told = "fewer" if gain > 0 else "more"
    told = f"Started from the classifier the density ends {number(abs(gain), 2)} bits/dim {told} than from scratch"
    return [f"{told}, after as many steps; the error of the test set is {number(error, 2)}."]


REPRODUCTION = Reproduction(
    "Pretraining: a density started from a classifier",
    "One network does both, so that what was learned for classes can be where a density begins: `iresnet train DATA --init "
    "RUN` takes the weights between data and latents, and a new base. Does it help?",
    [
        I_RESNET(
            "which shows one architecture for both tasks, without this experiment",
        )
    ],
    {
        "tiny": Pretrain(),
        "paper": Pretrain(
            data="mnist", preset="small", sets=("model.alpha=1e-6",), before=6000, steps=6000, rows=2000, seeds=3, threads=None
        ),
    },
    measure,
    draw,
    tables,
    findings,
    [
        "The papers train one architecture for either task, and do not report this start; there is no published figure to "
        "compare with.",
        "The steps of the classifier are not counted among those of the density.",
    ],
)
