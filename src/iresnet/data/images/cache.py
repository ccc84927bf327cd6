"""Decoded images on disk, so that decoding is done once: arrays in the user's cache folder, mapped into memory when asked for.

An entry is keyed by the paths, sizes and times of
change of what it was decoded from, so a changed file is decoded again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from ...files import cache_folder, read_json, write_json
from .reading import Pictures

__all__ = ["cached"]

_FORMAT = 1


def cached(files: Iterable[Path], options: str, decode: Callable[[], dict[str, Pictures]]) -> dict[str, Pictures]:
    """What ``decode`` returns, by split, from the cache if it is there. Without a place to write there is none, and no harm."""
    folder = cache_folder() / _key(files, options)
    with suppress(Exception):  # a damaged or half-removed entry is one that has to be made again
        return _read(folder)
    found = decode()
    with suppress(OSError):
        _write(folder, found)
        return _read(folder)
    return found


def _key(files: Iterable[Path], options: str) -> str:
    found = hashlib.sha256(f"{_FORMAT} {options}".encode())
    for file in files:
        stat = file.stat()
        found.update(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return f"images-{found.hexdigest()[:24]}"


def _write(folder: Path, content: dict[str, Pictures]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for split, pictures in content.items():
            np.save(beside / f"{split}_images.npy", pictures.images, allow_pickle=False)
            if pictures.labels is not None:
                np.save(beside / f"{split}_labels.npy", pictures.labels, allow_pickle=False)
        told = {split: [pictures.label, list(pictures.levels), list(pictures.notes)] for split, pictures in content.items()}
        write_json(beside / "splits.json", told)
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _read(folder: Path) -> dict[str, Pictures]:
    found = {}
    for split, (label, levels, notes) in read_json(folder / "splits.json").items():
        # Copy on write: torch wants memory that it may write to, and the file stays as it is.
        images = np.load(folder / f"{split}_images.npy", mmap_mode="c", allow_pickle=False)
        path = folder / f"{split}_labels.npy"
        labels = np.load(path, allow_pickle=False) if path.exists() else None
        found[split] = Pictures(images, labels, label, tuple(levels), tuple(notes))
    return found
