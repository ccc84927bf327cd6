"""Images as data: found by name or path, decoded once, kept as bytes, handed out as batches in levels of grey or colour."""

from __future__ import annotations

from .augment import Augmentation
from .loading import load_image_rows, load_images
from .schema import ImageSchema, read_schema
from .sources import NAMES, Source, find, names_images

__all__ = [
    "NAMES",
    "Augmentation",
    "ImageSchema",
    "Source",
    "find",
    "load_image_rows",
    "load_images",
    "names_images",
    "read_schema",
]
