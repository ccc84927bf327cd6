"""Pictures of data beside samples: a density in the plane, pairs of columns, a grid of images.

Each function writes one PNG, whole or not at all. Blue is the data and vermilion the flow, two colours that also the
colour-blind tell apart; every picture has a white ground and is made to be read 350 pixels wide as well as 700.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["density_2d", "image_grid", "pairs"]

DATA, SAMPLES = "#0b69a8", "#d1591a"
_POINTS = 3000  # more dots than this only fill the paper
_COLUMNS = 5  # more columns than this cannot be read on a telephone
_NATS = 12.0  # how far below its maximum the log-density is drawn: beyond lies what no sample of usual size reaches
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.edgecolor": "#8a94a0",
    "axes.linewidth": 0.8,
    "xtick.color": "#566272",
    "ytick.color": "#566272",
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "savefig.dpi": 160,
    "text.usetex": False,
}


def density_2d(
    path: str | os.PathLike[str],
    log_density_on_grid: Any,
    extent: Sequence[float],
    data: Any = None,
    samples: Any = None,
) -> Path:
    """Data and samples as dots above, the density and the log-density as maps below.

    Parameters
    ----------
    log_density_on_grid
        Shape (H, W), array or tensor, in nats; the first row is the lowest y, the first column the lowest x.
    extent
        (x_low, x_high, y_low, y_high) of the grid.
    data, samples
        Shape (N, 2); a panel whose points are missing is left out.

    Raises
    ------
    UserError
        If a shape does not fit, the grid holds no finite number, or the file cannot be written.
    """
    grid = _array(log_density_on_grid, "log_density_on_grid", 2)
    top = grid[np.isfinite(grid)].max(initial=-math.inf)
    if not math.isfinite(top):
        raise UserError("the log-density is nowhere finite on the grid; choose an extent where the data is")
    if len(extent) != 4 or not (extent[0] < extent[1] and extent[2] < extent[3]):
        raise UserError(f"extent must be (x_low, x_high, y_low, y_high) with low < high, not {tuple(extent)}")
    clouds = [("data", data, DATA), ("samples", samples, SAMPLES)]
    clouds = [(name, _points(points, name, 2), colour) for name, points, colour in clouds if points is not None]
    below = np.clip(np.where(np.isnan(grid), -math.inf, grid) - top, -100.0, 0.0)  # finite, for the colour map's sake
    maps = [("density", np.exp(below), 0.0, 1.0), (f"log-density, top {_NATS:g} nats", below, -_NATS, 0.0)]
    with _figure(2 if clouds else 1, max(len(clouds), 2), size=3.2) as (figure, axes):
        for axis, (name, points, colour) in zip(axes.flat, clouds, strict=False):
            shown = _some(points)
            axis.scatter(shown[:, 0], shown[:, 1], s=3, c=colour, alpha=0.5, linewidths=0, rasterized=True)
            axis.set_title(name, color=colour)
        if len(clouds) == 1:
            axes[0, 1].set_axis_off()
        for axis, (name, values, low, high) in zip(axes[-1], maps, strict=True):
            axis.imshow(
                values, origin="lower", extent=tuple(extent), cmap="Oranges", vmin=low, vmax=high, aspect="auto"
            )
            axis.set_title(name, color=SAMPLES)
        for axis in axes.flat:
            axis.set(xlim=extent[:2], ylim=extent[2:], box_aspect=1)
            axis.locator_params(nbins=4)
        return _save(figure, path)


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
    sets = [(name, _points(values, name, width)[:, :count], c) for name, values, c in sets if values is not None]
    limits = [_middle(np.concatenate([values[:, i] for _, values, _ in sets]), columns[i]) for i in range(count)]
    with _figure(count, count, size=max(1.42, 3.2 / count)) as (figure, axes):
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
        return _save(figure, path)


def image_grid(
    path: str | os.PathLike[str], images: Any, data: Any = None, *, scale: tuple[float, float] | None = None
) -> Path:
    """Up to 64 images in a square grid, beside as many of the data if given.

    Parameters
    ----------
    images, data
        Shape (N, H, W) for grey or (N, H, W, 3) for colour, array or tensor.
    scale
        The values shown as black and white; by default the smallest and largest of ``data`` or else of ``images``.

    Raises
    ------
    UserError
        If a shape does not fit or the file cannot be written.
    """
    sets = [("data", data, DATA), ("samples" if data is not None else "", images, SAMPLES)]
    sets = [(name, _images(values, name or "images"), colour) for name, values, colour in sets if values is not None]
    finite = sets[0][1][np.isfinite(sets[0][1])]
    low, high = scale if scale is not None else (finite.min(initial=math.inf), finite.max(initial=-math.inf))
    if not low < high:
        low, high = (0.0, 1.0) if not math.isfinite(low - high) else (low, low + 1.0)
    with _figure(1, len(sets), size=3.3) as (figure, axes):
        for axis, (name, values, colour) in zip(axes.flat, sets, strict=True):
            tiled = _tiled(np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0.0, 1.0))
            axis.imshow(tiled, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
            axis.set_title(name, color=colour)
            axis.set_axis_off()
        return _save(figure, path)


def _array(values: Any, name: str, *dimensions: int) -> np.ndarray:
    """``values`` as a float64 array with one of the given numbers of dimensions; tensors from any device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in dimensions:
        wanted = " or ".join(map(str, dimensions))
        raise UserError(f"{name} must have {wanted} dimensions to be drawn, not shape {array.shape}")
    return array


def _points(values: Any, name: str, width: int) -> np.ndarray:
    points = _array(values, name, 2)
    if points.shape[1] != width:
        raise UserError(f"{name} has {points.shape[1]} columns where {width} are to be drawn; give one per column")
    return points


def _images(values: Any, name: str) -> np.ndarray:
    images = _array(values, name, 3, 4)
    if images.ndim == 4 and images.shape[-1] != 3:
        raise UserError(f"{name} must have shape (N, H, W) or (N, H, W, 3), not {images.shape}")
    if not len(images):
        raise UserError(f"{name} holds no image to draw")
    return images[:64]


def _tiled(images: np.ndarray) -> np.ndarray:
    """(N, H, W, ...) in one square picture, with a white pixel between neighbours."""
    side = math.ceil(math.sqrt(len(images)))
    height, width = images.shape[1] + 1, images.shape[2] + 1
    sheet = np.ones((side * height - 1, side * width - 1, *images.shape[3:]))
    for i, image in enumerate(images):
        top, left = (i // side) * height, (i % side) * width
        sheet[top : top + height - 1, left : left + width - 1] = image
    return sheet


def _some(points: np.ndarray) -> np.ndarray:
    """At most ``_POINTS`` of the rows, evenly taken: the same picture every time."""
    return points[:: max(1, math.ceil(len(points) / _POINTS))]


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
    shown = [_some(points) for points, _ in sets]
    colours = np.repeat([colour for _, colour in sets], [len(points) for points in shown])
    size = min(max(3000 / len(colours), 2.5), 12.0)  # few dots must be seen, many must not run together
    points, order = np.concatenate(shown), np.random.default_rng(0).permutation(len(colours))
    axis.scatter(
        points[order, 0], points[order, 1], s=size, c=colours[order].tolist(), alpha=0.45, linewidths=0, rasterized=True
    )


def _label(axis: Axes, row: int, column: int, count: int, columns: Sequence[str]) -> None:
    """Names and ticks at the left and lower edge only; the top histogram's heights mean nothing beside a name."""
    axis.locator_params(nbins=2 if count > 3 else 3)
    if column == row:
        axis.set_yticks([])
    axis.tick_params(labelbottom=row == count - 1, labelleft=column == 0 and row > 0, labelsize=12)
    axis.ticklabel_format(style="sci", scilimits=(-2, 3), useMathText=True) if column != row else None
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
    lines = [*sets, *([(f"first {count} of {width} columns", "#566272")] if width > count else [])]
    for index, (words, colour) in enumerate(lines):
        at = (0.98, 0.97 - 0.045 * index)
        figure.text(
            *at, words, color=colour, ha="right", va="top", fontsize=12, fontweight="bold" if index < 2 else None
        )


@contextmanager
def _figure(rows: int, columns: int, *, size: float) -> Iterator[tuple[Figure, np.ndarray]]:
    """A figure of square panels of ``size`` inches, outside pyplot: no window and no global list of figures."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(size * columns, size * rows), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing"
        )  # a name in a script the font lacks: boxes will do
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return write_atomic(path, buffer.getvalue())
