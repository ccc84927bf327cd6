"""What a density and a sample cost, measured, against the number of dimensions, for four kinds of flow."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..compare import Budget, Domain, System, build, settings_for, train
from ..compare.own import Own
from ..data import toy
from ..numerics.series import PowerSeries
from ..report.format import number
from ..tasks.rows import Rows
from .base import I_RESNET, Bar, Cell, Paper, Picture, Record, Reproduction, Table

__all__ = ["REPRODUCTION", "Complexity"]

# Key: the system of iresnet.compare, and what it is called here.
_KINDS = {
    "nice": ("nice", "coupling (NICE)"),
    "maf": ("maf", "autoregressive (MAF)"),
    "cnf": ("cnf", "continuous (CNF)"),
    "residual": ("iresnet", "residual, determinant"),
    "series": ("iresnet", "residual, series"),
}
_LONG = 0.1  # seconds of processor time that a measurement takes at least, in three parts or more


@dataclass(frozen=True)
class Complexity:
    """Each flow with hidden layers of ``width`` units, trained for ``seconds`` of processor time in each of ``dimensions``."""

    kinds: tuple[str, ...] = tuple(_KINDS)
    dimensions: tuple[int, ...] = (2, 8, 32, 128)
    width: int = 64
    seconds: float = 0.8
    rows: int = 100
    seeds: int = 1


def _points(dimensions: int, rows: int, seed: int) -> Tensor:
    """Independent pairs of moons in as many planes as there are."""
    planes = [toy.sample("moons", rows, 1000 * seed + place) for place in range(dimensions // 2)]
    return torch.cat(planes, 1).float()


def _cost(call: Callable[[], Any]) -> float:
    """Median seconds of processor time of a call."""
    spent: list[float] = []
    while len(spent) < 3 or sum(spent) < _LONG:
        began = time.process_time()
        call()
        spent.append(time.process_time() - began)
        if spent[0] > 2:  # where one call is long, its noise is small
            break
    return statistics.median(spent)


def _trained(kind: str, dimensions: int, setting: Complexity, seed: int) -> System:
    domain = Domain((dimensions,))
    system = build(_KINDS[kind][0], domain, size=setting.width, seed=seed)
    rows, held = Rows(_points(dimensions, 5000, seed)), Rows(_points(dimensions, 100, seed + 1))
    train(system, rows, held, Budget(setting.seconds, "cpu"), settings_for(_KINDS[kind][0], domain, seed))
    if kind == "series" and isinstance(system, Own):
        system.flow.eval_logdet = PowerSeries(tol=1e-3)
    return system


def _measure_one(kind: str, dimensions: int, setting: Complexity, seed: int, advance: Any) -> Cell:
    system = _trained(kind, dimensions, setting, seed)
    x = _points(dimensions, setting.rows, seed + 2)
    each = 1000 / setting.rows
    with torch.no_grad():
        density = _cost(lambda: system.log_prob(x)) * each
        sample = _cost(lambda: system.sample(setting.rows)) * each
    advance(1)
    return {"density": density, "sample": sample, "parameters": system.parameters_counted, "dimensions": dimensions}


def measure(setting: Complexity, record: Record, bar: Bar) -> None:
    """Each kind in each number of dimensions, for every seed: one kind after the other in each, so that noise is shared."""
    if any(dimensions < 2 or dimensions % 2 for dimensions in setting.dimensions):
        raise ValueError("dimensions are even, since the data are pairs of moons")
    with bar("timing", setting.seeds * len(setting.kinds) * len(setting.dimensions), "flows") as advance:
        for seed in range(setting.seeds):
            for dimensions in setting.dimensions:
                for kind in setting.kinds:
                    record.cell(f"{kind}/{dimensions}/{seed}", partial(_measure_one, kind, dimensions, setting, seed, advance))


def _found(record: Record, kind: str, what: str) -> list[float]:
    """Medians over seeds, by dimension."""
    return [statistics.median(cell[what] for cell in record.under(kind, str(d))) for d in record.arguments["dimensions"]]


def _shown(record: Record, what: str) -> list[str]:
    """The kinds; the series has the same inverse as the determinant, and samples are told of one of them."""
    return [kind for kind in record.arguments["kinds"] if what == "density" or kind != "series"]


def draw(record: Record) -> list[Picture]:
    """Both costs on double logarithmic axes."""
    from ..pictures.canvas import new_figure, save

    colours = dict(zip(_KINDS, ("#566272", "#0b69a8", "#2f9e6e", "#d1591a", "#8e3b8a"), strict=True))
    dimensions = record.arguments["dimensions"]
    with new_figure(1, 2, size=4.4) as (figure, axes):
        for axis, what, title in zip(axes.flat, ("density", "sample"), ("densities", "samples"), strict=True):
            for kind in _shown(record, what):
                axis.plot(dimensions, _found(record, kind, what), "o-", color=colours[kind], ms=4, lw=1.6, label=_KINDS[kind][1])
            axis.set(xscale="log", yscale="log", title=f"1,000 {title}", xlabel="dimensions", xticks=dimensions)
            axis.set_xticklabels(list(map(str, dimensions)))
            axis.minorticks_off()
        axes[0, 0].set_ylabel("seconds of one processor core")
        axes[0, 0].legend(frameon=False, fontsize=10)
        save(figure, record.path / "complexity.png")
    told = (
        "What 1,000 densities and 1,000 samples cost of flows trained for the same time, by the number of dimensions. A "
        "residual flow's samples cost the same whichever way its determinant is found."
    )
    return [Picture("complexity.png", told)]


def tables(record: Record) -> list[Table]:
    """Costs and how they grow over the upper half of the dimensions."""
    dimensions = record.arguments["dimensions"]
    header = ["flow", *(f"d = {d}" for d in dimensions), "grows as d to the"]
    made = []
    for what, title in (("density", "1,000 densities, seconds of one core"), ("sample", "1,000 samples, seconds of one core")):
        rows = []
        for kind in _shown(record, what):
            found = _found(record, kind, what)
            middle, power = (len(found) - 1) // 2, "–"
            if dimensions[-1] > dimensions[middle]:
                grown = math.log(found[-1] / found[middle]) / math.log(dimensions[-1] / dimensions[middle])
                power = f"{grown:.1f}"
            rows.append([_KINDS[kind][1], *(number(value, 2) for value in found), power])
        made.append(Table(title, header, rows))
    return made


def findings(record: Record) -> list[str]:
    """Who is cheapest and dearest at the largest dimension."""
    told = []
    for what in ("density", "sample"):
        last = {kind: _found(record, kind, what)[-1] for kind in _shown(record, what)}
        order = ", ".join(f"{number(last[kind], 2)} s ({_KINDS[kind][1]})" for kind in sorted(last, key=lambda kind: last[kind]))
        told.append(
            f"1,000 {'densities' if what == 'density' else 'samples'} in {record.arguments['dimensions'][-1]} dimensions: "
            f"{order}."
        )
    return told


REPRODUCTION = Reproduction(
    "Complexity: what a density and a sample cost",
    "Couplings have a triangular Jacobian both ways; autoregressive flows give a density in one pass and a sample in as many "
    "as there are dimensions; continuous flows solve a differential equation either way, whose trace costs as many backward "
    "passes as there are dimensions if it is exact; residual flows find log det (I + J) by a determinant or by a series, and "
    "samples by fixed-point iteration. Each is trained for the same time, since what a solver costs depends on what was "
    "learned, then timed.",
    [
        I_RESNET("its table comparing flows by their properties"),
        Paper("FFJORD (Grathwohl et al., 2018)", "1810.01367", "on the cost of the trace"),
    ],
    {
        "tiny": Complexity(),
        "paper": Complexity(dimensions=(2, 4, 8, 16, 32, 64, 128, 256, 512), seconds=60.0, rows=500, seeds=3),
    },
    measure,
    draw,
    tables,
    findings,
    [
        "The papers state what is possible in principle, and no figures; here it is measured, in processor time of one "
        "thread, on batches as large as the setting has rows.",
        "Depths are the libraries' and our defaults, all hidden layers equally wide: it is growth with d that compares, not "
        "the level.",
        "The continuous flow's trace is exact up to 128 dimensions; the series ends at a certified remainder of 1e-3 nats, of "
        "one probe.",
    ],
)
