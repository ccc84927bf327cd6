"""From a name or a path to the files that hold images: a folder, an archive, a name under IRESNET_DATA, or the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ..reading import ENDINGS, exists
from .reading import (
    IMAGE_ENDINGS,
    Pictures,
    image_column,
    npz_headers,
    read_folder,
    read_npz,
    read_parquet,
    split_named,
)

__all__ = ["HUB", "NAMES", "Source", "find", "names_images"]

# Where the hub keeps what is known by a short name.
HUB = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "mnist": "ylecun/mnist",
}
NAMES = (*HUB, "digits-images")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Source:
    """Images that were found: their name, every file, and how to read them by split, given the label that was asked for."""

    name: str
    files: tuple[Path, ...]
    read: Callable[[str | None], dict[str, Pictures]]


def names_images(name: str) -> bool:
    """Whether ``name`` means images, as far as can be told without reading or fetching any."""
    path = Path(name)
    if name in NAMES:
        return True
    if not name or (exists(path) and not path.is_dir()):
        return bool(name) and path.suffix.lower() == ".npz" and _npz(path) is not None
    folder = os.environ.get("IRESNET_DATA")
    return path.is_dir() or (bool(folder) and (Path(str(folder)) / name).is_dir()) or _on_hub(path)


def _on_hub(path: Path) -> bool:
    """Whether what is not there reads like the hub's owner/name."""
    return bool(_REPOSITORY.fullmatch(path.as_posix())) and path.suffix.lower() not in ENDINGS and not path.parent.exists()


def find(name: str) -> Source | None:
    """The images meant by ``name``, None if it means something else, such as a table.

    Raises
    ------
    UserError
        If a folder holds no images, or several sets of them, or the hub cannot be reached.
    """
    path = Path(name)
    if exists(path):
        if path.is_dir():
            return _folder(path, path.resolve().name) or _refuse(path)
        return _npz(path) if path.suffix.lower() == ".npz" else None
    folder = os.environ.get("IRESNET_DATA")
    if folder and not path.is_absolute() and path.suffix.lower() not in ENDINGS:
        inside = Path(folder) / name
        if inside.is_dir() and (found := _folder(inside, path.name)) is not None:
            return found
    if name in HUB:
        return _hub(name, HUB[name])
    if _on_hub(path):
        return _hub(path.name, name)
    return None


def _refuse(path: Path) -> Source:
    raise UserError(
        f"{path} is a folder without images: it needs files ending in {', '.join(IMAGE_ENDINGS[:4])}, ..., "
        f"or Parquet files with a column of them; a table is a file ending in {', '.join(ENDINGS)}"
    )


def _npz(path: Path) -> Source | None:
    """An archive in which some array has three dimensions or more: no table."""
    if not any(len(shape) > 2 for shape, _ in npz_headers(path).values()):
        return None
    return Source(path.stem, (path,), lambda _: read_npz(path))


def _folder(folder: Path, name: str) -> Source | None:
    """Image files, or Parquet files with a column of images, below ``folder``."""
    try:
        files = sorted(file for file in folder.rglob("*") if not _hidden(file.relative_to(folder)) and file.is_file())
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror or error}") from error
    images = [file for file in files if file.suffix.lower() in IMAGE_ENDINGS and _placed(file.relative_to(folder).parts)]
    if images:
        return _image_files(folder, name, images)
    return _parquet(folder, name, [file for file in files if file.suffix.lower() == ".parquet"])


def _placed(parts: tuple[str, ...]) -> bool:
    """Whether an image lies in the folder itself, in a class, or in a class of a split: deeper ones belong to something else."""
    return len(parts) <= 2 or (len(parts) == 3 and _exact_split(parts[0]) is not None)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _image_files(folder: Path, name: str, images: list[Path]) -> Source:
    """``folder`` may be split by subfolders called train, test and so on, as ``train/cat/1.png``."""
    tops = {file.relative_to(folder).parts[0] for file in images if file.parent != folder}
    splits = {top: _exact_split(top) for top in tops}
    if not tops or not all(splits.values()) or any(file.parent == folder for file in images):
        return Source(name, tuple(images), lambda _: {"train": read_folder(folder, images)})
    parts: dict[str, tuple[Path, list[Path]]] = {}
    for top, split in splits.items():
        if split in parts:
            raise UserError(f"{folder} has two folders for its {split} images: {parts[split][0].name} and {top}; keep one")
        parts[str(split)] = folder / top, [file for file in images if (folder / top) in file.parents]
    return Source(name, tuple(images), lambda _: {split: read_folder(*part) for split, part in parts.items()})


def _exact_split(name: str) -> str | None:
    """The split that a folder is called by; a class may be called "test tube"."""
    return split_named(name) if re.fullmatch("[a-z]+", name.lower()) else None


def _parquet(folder: Path, name: str, files: list[Path]) -> Source | None:
    """Files such as ``mnist/train-00000-of-00001.parquet``; those of one folder belong together."""
    import pyarrow as pa
    import pyarrow.parquet

    sets: dict[Path, list[Path]] = {}
    for file in files:
        try:
            if image_column(pyarrow.parquet.read_schema(file)) is not None:
                sets.setdefault(file.parent, []).append(file)
        except (pa.ArrowException, OSError) as error:
            told = " ".join(str(error).split())[:150]
            raise UserError(f"{folder} is a folder with a damaged Parquet file, {file.name}: {told}") from error
    if not sets:
        return None
    if len(sets) > 1:
        raise UserError(f"{folder} holds several sets of images: {', '.join(map(str, sets))}; give the path of one")
    (mine,) = sets.values()
    splits: dict[str, list[Path]] = {}
    for file in mine:
        split = split_named(file.stem)
        if split is not None:
            splits.setdefault(split, []).append(file)
    splits = splits if "train" in splits else {"train": mine}
    return Source(name, tuple(sum(splits.values(), [])), lambda label: _read_sets(splits, label))


def _read_sets(splits: Mapping[str, list[Path]], label: str | None) -> dict[str, Pictures]:
    return {split: read_parquet(files, label) for split, files in splits.items()}


def _hub(name: str, repository: str) -> Source:
    """The Parquet files of a data set on the hub, downloaded once into the hub's own cache."""
    elsewhere = "or put a folder of that name into the one that IRESNET_DATA names"
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        raise UserError(
            f"there is no file or folder {name} here; to get {repository} from the hub: pip install 'iresnet[hub]', {elsewhere}"
        ) from error
    try:
        folder = snapshot_download(repository, repo_type="dataset", allow_patterns="*.parquet")
    except Exception as error:  # the client's errors are of many kinds: no network, no such repository, not allowed
        told = " ".join(str(error).split())[:200]
        raise UserError(f"cannot get {repository} from the hub: {told}; look at the name and the network, {elsewhere}") from error
    found = _folder(Path(folder), name)
    if found is None:
        raise UserError(f"{repository} on the hub holds no Parquet files with a column of images")
    return found
