"""A density in the plane, beside the data and the samples."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .canvas import DATA, SAMPLES, array, new_figure, points, save, some

__all__ = ["density_2d"]

_NATS = 12.0  # how far below its maximum the log-density is drawn: beyond lies what no sample of usual size reaches


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
    grid = array(log_density_on_grid, "log_density_on_grid", 2)
    top = grid[np.isfinite(grid)].max(initial=-math.inf)
    if not math.isfinite(top):
        raise UserError("the log-density is nowhere finite on the grid; choose an extent where the data is")
    if len(extent) != 4 or not (extent[0] < extent[1] and extent[2] < extent[3]):
        raise UserError(f"extent must be (x_low, x_high, y_low, y_high) with low < high, not {tuple(extent)}")
    clouds = [("data", data, DATA), ("samples", samples, SAMPLES)]
    clouds = [(name, points(cloud, name, 2), colour) for name, cloud, colour in clouds if cloud is not None]
    below = np.clip(np.where(np.isnan(grid), -math.inf, grid) - top, -100.0, 0.0)  # finite, for the colour map's sake
    maps = [("density", np.exp(below), 0.0, 1.0), (f"log-density, top {_NATS:g} nats", below, -_NATS, 0.0)]
    with new_figure(2 if clouds else 1, max(len(clouds), 2), size=3.2) as (figure, axes):
        for axis, (name, cloud, colour) in zip(axes.flat, clouds, strict=False):
            shown = some(cloud)
            axis.scatter(shown[:, 0], shown[:, 1], s=3, c=colour, alpha=0.5, linewidths=0, rasterized=True)
            axis.set_title(name, color=colour)
        if len(clouds) == 1:
            axes[0, 1].set_axis_off()
        for axis, (name, values, low, high) in zip(axes[-1], maps, strict=True):
            axis.imshow(values, origin="lower", extent=tuple(extent), cmap="Oranges", vmin=low, vmax=high, aspect="auto")
            axis.set_title(name, color=SAMPLES)
        for axis in axes.flat:
            axis.set(xlim=extent[:2], ylim=extent[2:], box_aspect=1)
            axis.locator_params(nbins=4)
        return save(figure, path)
