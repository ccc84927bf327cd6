"""Files to pictures: Parquet in the hub's layout, folders of image files, and NPZ archives. What holds the images and what the
labels is found, not assumed."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UserError
from ...memory import check_images
from ..context import levels_of
from .decoding import decode_all, size_of

if TYPE_CHECKING:
    import pyarrow

__all__ = ["IMAGE_ENDINGS", "Pictures", "image_column", "npz_headers", "read_folder", "read_npz", "read_parquet", "split_named"]

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".pgm", ".ppm")
_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
_USUAL = ("label", "fine_label", "labels", "class", "y", "target")


@dataclass(frozen=True, eq=False)
class Pictures:
    """``images`` (N, C, H, W) uint8; ``labels`` (N,) text or None, under the name ``label``, with their ``levels`` in order."""

    images: np.ndarray
    labels: np.ndarray | None = None
    label: str = "label"
    levels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def split_named(text: str) -> str | None:
    """The split that a file, folder or array is named for, such as ``train-00000-of-00002`` or ``x_test``; None for none."""
    words = re.split(r"[^a-z]+", text.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def image_column(schema: pyarrow.Schema) -> str | None:
    """The column that holds encoded images: bytes, or a struct with bytes, as the hub writes them; the first if several."""
    import pyarrow as pa

    for item in schema:
        kind = item.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return item.name
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return item.name
    return None


def read_parquet(files: Sequence[Path], label: str | None) -> Pictures:
    """Images and labels of Parquet files in the hub's layout; ``label`` chooses among several label columns.

    Raises
    ------
    UserError
        If a file is damaged, an image cannot be read, or there is no such label.
    """
    import pyarrow as pa
    import pyarrow.parquet

    try:
        opened = [pyarrow.parquet.ParquetFile(file) for file in files]
        schema = opened[0].schema_arrow
        column, (name, note) = image_column(schema), _label_column(schema, files[0], label)
        wanted = [str(column), *([name] if name else [])]
        labels: list[Any] = []

        def encoded() -> Iterator[tuple[str, bytes]]:
            for path, file in zip(files, opened, strict=True):
                row = 0
                for part in file.iter_batches(4096, columns=wanted):
                    if name:
                        labels.extend(part.column(name).to_pylist())
                    for cell in part.column(str(column)).to_pylist():
                        content = cell.get("bytes") if isinstance(cell, dict) else cell
                        if not content:
                            raise UserError(f"row {row} of {path} holds no image; leave the row out")
                        yield f"row {row} of {path}", content
                        row += 1

        images = decode_all(encoded())
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{files[0].parent} holds a damaged Parquet file: {' '.join(str(error).split())[:200]}") from error
    if not name or any(value is None for value in labels):
        return Pictures(images, notes=note)
    known = _class_names(schema, name)
    if known and isinstance(labels[0], int):
        if min(labels) < 0 or max(labels) >= len(known):  # the hub's way of holding back the labels of a test set
            return Pictures(images, notes=note)
        return Pictures(images, np.asarray(known)[labels], name, known, note)
    array = np.asarray(labels)
    levels = levels_of(name, array)
    return Pictures(images, np.asarray([str(value) for value in labels]), name, levels, note)


def _label_column(schema: pyarrow.Schema, file: Path, asked: str | None) -> tuple[str | None, tuple[str, ...]]:
    """The name of the label, None if there is none, and a note where there was a choice."""
    import pyarrow as pa

    names = [item.name for item in schema if pa.types.is_integer(item.type) or pa.types.is_string(item.type)]
    if asked is not None:
        if asked not in names:
            raise UserError(f"{file} has no label column {asked!r}; it has {', '.join(names) or 'none'}")
        return asked, ()
    told = [name for name in names if _class_names(schema, name)] or [name for name in _USUAL if name in names] or names[:1]
    chosen = next((name for name in _USUAL if name in told), told[0] if told else None)
    others = [name for name in told if name != chosen]
    return chosen, (f"{chosen} is taken as the label; choose {' or '.join(others)} with --label",) if others else ()


def _class_names(schema: pyarrow.Schema, name: str) -> tuple[str, ...]:
    """The names of the classes, if the hub's metadata tell them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[name]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def read_folder(folder: Path, files: Sequence[Path]) -> Pictures:
    """Image files in ``folder``; where they lie in subfolders, those are the classes.

    Raises
    ------
    UserError
        If an image cannot be read, or some lie in classes and some do not.
    """
    classes = [file.relative_to(folder).parts[0] if file.parent != folder else "" for file in files]
    if "" in classes and any(classes):
        outside = files[classes.index("")]
        raise UserError(f"{folder} has images in subfolders and outside of them, such as {outside.name}; put each into its class")
    check_images(len(files), size_of(files[0]), str(folder))
    images = decode_all((str(file), file) for file in files)
    if not any(classes):
        return Pictures(images)
    return Pictures(images, np.asarray(classes), "label", tuple(sorted(set(classes))))


def npz_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of every array of an NPZ archive, without reading the arrays; empty for what is no such archive."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(file)
                    found[name.removesuffix(".npy")] = (shape, dtype)
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}
    return found


def read_npz(path: Path) -> dict[str, Pictures]:
    """Images of an NPZ archive by split: uint8 arrays (N, H, W), (N, H, W, C) or (N, C, H, W), beside labels (N,) or (N, 1).

    Raises
    ------
    UserError
        If images are not uint8, have another shape, or cannot be read.
    """
    found: dict[str, Pictures] = {}
    headers = npz_headers(path)
    with np.load(path, allow_pickle=False) as archive:
        for key, (shape, dtype) in headers.items():
            if len(shape) < 3:
                continue
            split = split_named(key) or "train"
            if dtype != np.uint8:
                raise UserError(f"array {key} of {path} holds {dtype}; images are uint8, with levels from 0 to 255")
            if split in found:
                raise UserError(f"{path} has several arrays of {split} images; keep one")
            images = _channels_first(archive[key], f"array {key} of {path}")
            same = [k for k, (s, d) in headers.items() if s in ((shape[0],), (shape[0], 1)) and d.kind in "iuU" and k != key]
            mine = [k for k in same if (split_named(k) or "train") == split]
            if not mine:
                found[split] = Pictures(images)
                continue
            values = archive[mine[0]].reshape(-1)
            levels = levels_of(mine[0], values)
            found[split] = Pictures(images, np.asarray([str(value) for value in values.tolist()]), "label", levels)
    return found


def _channels_first(images: np.ndarray, place: str) -> np.ndarray:
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images
    raise UserError(f"{place} has shape {images.shape}; images are (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W)")
