"""Encoded images to arrays of bytes, by Pillow: lossless or refused."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import IO, Any

import numpy as np

from ...errors import UserError

__all__ = ["decode_all", "size_of"]

_PLAIN = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB"}
_WITH_ALPHA = {"LA": "L", "RGBA": "RGB", "PA": "RGB"}


def decode_all(encoded: Iterable[tuple[str, bytes | str | os.PathLike[str]]]) -> np.ndarray:
    """Images (N, C, H, W) uint8 of pairs of a place, for messages, and an image file's path or content.

    C is 1 if all are grey and 3 otherwise.

    Raises
    ------
    UserError
        If there are none, one cannot be read, has more than 8 bits or is not opaque, or they differ in size.
    """
    images: list[np.ndarray] = []
    first = ""
    for place, content in encoded:
        image = _decode(place, io.BytesIO(content) if isinstance(content, bytes) else content)
        if images and image.shape[:2] != images[0].shape[:2]:
            raise UserError(
                f"images must be of one size, and {first} has {_size(images[0])} pixels and {place} {_size(image)}; "
                "bring them to one size first"
            )
        first = first or place
        images.append(image)
    if not images:
        raise UserError("there are no images")
    if any(image.ndim == 3 for image in images):
        images = [image if image.ndim == 3 else np.repeat(image[:, :, None], 3, 2) for image in images]
        return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    return np.stack(images)[:, None]


def size_of(file: str | os.PathLike[str]) -> int:
    """Bytes of an image file's pixels, by its header; 0 if it has none that can be read."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.width * image.height * (1 if _PLAIN.get(image.mode) == "L" else 3)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 0


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"


def _decode(place: str, file: IO[bytes] | str | os.PathLike[str]) -> np.ndarray:
    """(H, W) or (H, W, 3)."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            mode, found = image.mode, _opaque(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        told = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{place} cannot be read as an image ({told}); leave it out or replace it") from error
    if found is None:
        raise UserError(
            f"{place} has pixels of mode {mode}; images must be opaque grey or RGB with 8 bits a channel: convert it first"
        )
    return found


def _opaque(image: Any) -> np.ndarray | None:
    """The pixels, or None where something would be lost."""
    if image.mode in _PLAIN and "transparency" not in image.info:
        return np.asarray(image.convert(_PLAIN[image.mode]))
    if image.mode in _WITH_ALPHA or image.mode in _PLAIN:
        whole = np.asarray(image.convert("RGBA"))
        if (whole[:, :, 3] == 255).all():
            return np.asarray(image.convert({**_PLAIN, **_WITH_ALPHA}[image.mode]))
    return None
