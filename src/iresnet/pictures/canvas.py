"""What all pictures share: their style, the check of what is to be drawn, and a file that is whole or absent."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DATA", "NOTE", "SAMPLES", "array", "new_figure", "points", "save", "some"]

DATA, SAMPLES, NOTE = "#0b69a8", "#d1591a", "#566272"
_MOST = 3000  # more dots than this only fill the paper
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.edgecolor": "#8a94a0",
    "axes.linewidth": 0.8,
    "xtick.color": NOTE,
    "ytick.color": NOTE,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "savefig.dpi": 160,
    "text.usetex": False,
}


def array(values: Any, name: str, *dimensions: int) -> np.ndarray:
    """``values`` as a float64 array with one of the given numbers of dimensions; tensors from any device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in dimensions:
        wanted = " or ".join(map(str, dimensions))
        raise UserError(f"{name} must have {wanted} dimensions to be drawn, not shape {values.shape}")
    return values


def points(values: Any, name: str, width: int) -> np.ndarray:
    """``values`` as a float64 array of shape (N, ``width``)."""
    rows = array(values, name, 2)
    if rows.shape[1] != width:
        raise UserError(f"{name} has {rows.shape[1]} columns where {width} are to be drawn; give one per column")
    return rows


def some(rows: np.ndarray) -> np.ndarray:
    """At most ``_MOST`` of the rows, evenly taken: the same picture every time."""
    return rows[:: max(1, math.ceil(len(rows) / _MOST))]


@contextmanager
def new_figure(rows: int, columns: int, *, size: float) -> Iterator[tuple[Figure, np.ndarray]]:
    """A figure of square panels of ``size`` inches, outside pyplot: no window and no global list of figures."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(size * columns, size * rows), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """The figure as a PNG at ``path``, written whole or not at all."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A column's name may be in a script that the font lacks: boxes will do.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return write_atomic(path, buffer.getvalue())
