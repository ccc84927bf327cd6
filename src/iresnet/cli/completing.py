"""What the shell is told when someone presses the tab key; quick, so nothing heavy is imported but for the keys of --set."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["DATA", "data", "presets", "runs", "settings", "splits", "tasks"]

# As iresnet.data.BUILT_IN, which takes a second to import.
DATA = ("checkerboard", "cifar10", "cifar100", "circles", "digits", "digits-images", "eight_gaussians", "fashion_mnist", "mnist")
DATA = (*DATA, "moons", "pinwheel", "rings", "spirals", "swiss_roll")
_TABLES = (".csv", ".parquet", ".npz", ".npy")
_MOST = 500  # entries of a folder that are looked at


def runs(incomplete: str) -> list[str]:
    """Run folders beside what was typed, or one folder below, as in ``runs/``."""
    found = []
    for path in _beside(incomplete):
        if path.is_dir():
            inner = [path, *sorted(path.iterdir())[:_MOST]] if os.access(path, os.R_OK) else []
            found += [str(item) for item in inner if (item / "run.json").is_file()]
    return [name for name in found if name.startswith(incomplete)]


def data(incomplete: str) -> list[str]:
    """Built-in sets, tables of the folder of data, and tables and folders beside what was typed."""
    folder = os.environ.get("IRESNET_DATA", "")
    named = [path.stem for path in sorted(Path(folder).glob("*/*")) if path.suffix in _TABLES] if folder else []
    beside = [
        f"{path}/" if path.is_dir() else str(path) for path in _beside(incomplete) if path.is_dir() or path.suffix in _TABLES
    ]
    return [name for name in dict.fromkeys([*DATA, *named, *beside]) if name.startswith(incomplete)]


def presets(incomplete: str) -> list[str]:
    """Presets of tables and of images."""
    from ..presets import IMAGE_PRESETS, PRESETS

    return [name for name in dict.fromkeys([*PRESETS, *IMAGE_PRESETS]) if name.startswith(incomplete)]


def settings(incomplete: str) -> list[str]:
    """Keys of --set, each with its equals sign; after it there is nothing to suggest."""
    from ..config import keys

    return [f"{key}=" for key in keys() if f"{key}=".startswith(incomplete)]


def splits(incomplete: str) -> list[str]:
    """The parts of a data set."""
    return [name for name in ("test", "validation", "train") if name.startswith(incomplete)]


def tasks(incomplete: str) -> list[str]:
    """What one can train for."""
    return [name for name in ("density", "classify", "hybrid") if name.startswith(incomplete)]


def _beside(incomplete: str) -> list[Path]:
    """The entries of the folder that is being typed in, in order."""
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))[:_MOST]
    except OSError:
        return []
