"""Columns of a table in pairs, data against samples."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from .canvas import DATA, NOTE, SAMPLES, new_figure, points, save, some

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pairs"]

_COLUMNS = 5  # more columns than this cannot be read on a telephone


def pairs(path: str | os.PathLike[str], columns: Sequence[str], data: Any, samples: Any = None) -> Path:
    """Histograms of up to five columns on the diagonal and every pair of them as dots below it, data against samples.

    Parameters
    ----------
    columns
        The D names; of more than five columns the first five are drawn, so put the interesting ones first.
    data, samples
        Shape (N, D), array or tensor.

    Each axis spans the middle 99 % of data and samples together: a few far outliers would leave nothing to see.

    Raises
    ------
    UserError
        If a shape does not fit the names, nothing in a column is finite, or the file cannot be written.
    """
    width, count = len(columns), min(len(columns), _COLUMNS)
    if not width:
        raise UserError("there are no columns to draw; give at least one name")
    sets = [("data", data, DATA), ("samples", samples, SAMPLES)]
    sets = [(name, points(values, name, width)[:, :count], c) for name, values, c in sets if values is not None]
    limits = [_middle(np.concatenate([values[:, i] for _, values, _ in sets]), columns[i]) for i in range(count)]
    with new_figure(count, count, size=max(1.42, 3.2 / count)) as (figure, axes):
        for row in range(count):
            for column in range(count):
                axis = axes[row, column]
                if column > row:
                    axis.set_axis_off()
                elif column == row:
                    _histogram(axis, [(values[:, row], colour) for _, values, colour in sets], limits[row])
                else:
                    _scatter(axis, [(values[:, [column, row]], colour) for _, values, colour in sets])
                    axis.set_ylim(limits[row])
                axis.set(xlim=limits[column], box_aspect=1)
                _label(axis, row, column, count, columns)
        _legend(figure, [(name, colour) for name, _, colour in sets], count, width)
        return save(figure, path)


def _middle(values: np.ndarray, name: str) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise UserError(f"column {name!r} holds no finite number to draw")
    low, high = np.quantile(finite, [0.005, 0.995])
    margin = 0.06 * (high - low) or 0.5 * max(abs(low), 1.0)  # a constant column still gets an axis
    return float(low - margin), float(high + margin)


def _histogram(axis: Axes, sets: Sequence[tuple[np.ndarray, str]], limits: tuple[float, float]) -> None:
    fewest = min(len(values) for values, _ in sets)
    edges = np.linspace(*limits, min(max(math.isqrt(fewest), 8), 40) + 1)
    for index, (values, colour) in enumerate(sets):
        inside = values[(values >= limits[0]) & (values <= limits[1])]  # NaN is in no range
        heights = np.histogram(inside, edges)[0] / max(len(values), 1)
        axis.stairs(heights, edges, color=colour, fill=index == 0, alpha=0.35 if index == 0 else 1.0, linewidth=1.4)
    axis.set_ylim(bottom=0)


def _scatter(axis: Axes, sets: Sequence[tuple[np.ndarray, str]]) -> None:
    """Dots of all sets in one call and in mixed order, so that none lies on top of the other."""
    shown = [some(cloud) for cloud, _ in sets]
    colours = np.repeat([colour for _, colour in sets], [len(cloud) for cloud in shown])
    size = min(max(3000 / len(colours), 2.5), 12.0)  # few dots must be seen, many must not run together
    dots, order = np.concatenate(shown), np.random.default_rng(0).permutation(len(colours))
    axis.scatter(dots[order, 0], dots[order, 1], s=size, c=colours[order].tolist(), alpha=0.45, linewidths=0, rasterized=True)


def _label(axis: Axes, row: int, column: int, count: int, columns: Sequence[str]) -> None:
    """Names and ticks at the left and lower edge only; the top histogram's heights mean nothing beside a name."""
    axis.locator_params(nbins=2 if count > 3 else 3)
    if column == row:
        axis.set_yticks([])
    axis.tick_params(labelbottom=row == count - 1, labelleft=column == 0 and row > 0, labelsize=12)
    axis.ticklabel_format(style="sci", scilimits=(-2, 3), useMathText=True)
    # parse_math=False: a column may be called "$x" and must not be read as a formula.
    if row == count - 1:
        axis.set_xlabel(_short(columns[column]), parse_math=False)
    if column == 0 and row > 0:
        axis.set_ylabel(_short(columns[row]), parse_math=False)


def _short(name: object) -> str:
    name = " ".join("".join(c if c.isprintable() else "\ufffd" for c in str(name)).split())
    return name if len(name) <= 11 else name[:10] + "…"


def _legend(figure: Figure, sets: Sequence[tuple[str, str]], count: int, width: int) -> None:
    """In the empty upper corner: what the colours mean, and how many columns are not drawn."""
    lines = [*sets, *([(f"first {count} of {width} columns", NOTE)] if width > count else [])]
    for index, (words, colour) in enumerate(lines):
        at = (0.98, 0.97 - 0.045 * index)
        figure.text(*at, words, color=colour, ha="right", va="top", fontsize=12, fontweight="bold" if index < 2 else None)
