"""Images in rows, pixel for pixel: what is left of a comparison when axes and titles would only take room."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import write_atomic
from .canvas import array

__all__ = ["sheet"]

_WIDE = 800  # pixels that a sheet is enlarged to, or a little less
_MOST = 10_000  # images of a sheet


def sheet(path: str | os.PathLike[str], images: Any, columns: int | None = None, *, levels: int = 256) -> Path:
    """Images in rows of ``columns`` (a square by default), from left to right and top to bottom, enlarged by a whole factor.

    Parameters
    ----------
    images
        Shape (N, C, H, W) with C 1 or 3, array or tensor of levels; what lies outside [0, ``levels``) is cut.

    Raises
    ------
    UserError
        If there are no images or too many, their shape is another, or the file cannot be written.
    """
    from PIL import Image

    values = array(images, "images", 4)
    count, channels, height, width = values.shape
    if not 0 < count <= _MOST or channels not in (1, 3):
        raise UserError(f"a sheet takes 1 to {_MOST:,} images of 1 or 3 channels, not an array of shape {values.shape}")
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    pixels = np.clip(np.floor(np.nan_to_num(values)) * (255 / (levels - 1)), 0, 255).astype(np.uint8)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 255, dtype=np.uint8)
    for place, image in enumerate(pixels):
        top, left = (place // columns) * (height + 1), (place % columns) * (width + 1)
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    factor = max(1, _WIDE // canvas.shape[1])
    canvas = canvas.repeat(factor, 0).repeat(factor, 1)
    buffer = io.BytesIO()
    Image.fromarray(canvas[:, :, 0] if channels == 1 else canvas).save(buffer, format="PNG")
    return write_atomic(path, buffer.getvalue())
