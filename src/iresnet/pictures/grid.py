"""Images in a grid, beside as many of the data."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .canvas import DATA, SAMPLES, array, new_figure, save

__all__ = ["image_grid", "tiled"]


def image_grid(path: str | os.PathLike[str], images: Any, data: Any = None, *, scale: tuple[float, float] | None = None) -> Path:
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
    with new_figure(1, len(sets), size=3.3) as (figure, axes):
        for axis, (name, values, colour) in zip(axes.flat, sets, strict=True):
            shown = tiled(np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0.0, 1.0))
            axis.imshow(shown, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
            axis.set_title(name, color=colour)
            axis.set_axis_off()
        return save(figure, path)


def _images(values: Any, name: str) -> np.ndarray:
    images = array(values, name, 3, 4)
    if images.ndim == 4 and images.shape[-1] != 3:
        raise UserError(f"{name} must have shape (N, H, W) or (N, H, W, 3), not {images.shape}")
    if not len(images):
        raise UserError(f"{name} holds no image to draw")
    return images[:64]


def tiled(images: np.ndarray) -> np.ndarray:
    """(N, H, W, ...) in one square picture, with a white pixel between neighbours."""
    side = math.ceil(math.sqrt(len(images)))
    height, width = images.shape[1] + 1, images.shape[2] + 1
    sheet = np.ones((side * height - 1, side * width - 1, *images.shape[3:]))
    for i, image in enumerate(images):
        top, left = (i // side) * height, (i % side) * width
        sheet[top : top + height - 1, left : left + width - 1] = image
    return sheet
