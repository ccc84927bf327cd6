"""From a source of images to a data set: decoded once, labelled, and split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError
from ..context import ContextColumn
from ..dataset import Dataset, Split
from ..tables import split
from .cache import cached
from .reading import Pictures
from .schema import ImageSchema
from .sources import Source, find

__all__ = ["load_image_rows", "load_images"]

_LARGEST_VALIDATION = 5000


def load_images(name: str, *, seed: int, label: str | None = None, n: int | None = None, predict: bool = False) -> Dataset | None:
    """Images by name or path, None if ``name`` means something else.

    The source's own test images stay the test set. Validation images are the source's, or else a tenth of the training images,
    5,000 at most, chosen by ``seed``; without test images all are split as tables are. ``label`` conditions the density on the
    class, unless it is to ``predict``. ``n`` is how many training images to use, drawn at random.

    Raises
    ------
    UserError
        If the images cannot be read, do not fit together, or are too few.
    """
    found = _pictures(name, label)
    if found is None:
        return None
    name, levels, splits = found
    sizes = {part.images.shape[1:] for part in splits.values()}
    if len(sizes) > 1:
        raise UserError(f"{name}: training, validation and test images differ in size: {' and '.join(map(str, sorted(sizes)))}")
    classes, label_name = _classes(splits, name, label)
    context = (ContextColumn(label_name, classes),) if label is not None and not predict else ()
    schema = ImageSchema(splits["train"].images.shape[1:], levels, context)  # type: ignore[arg-type]
    parts = {key: _Numbered(part, classes, schema) for key, part in splits.items()}
    places = {"train": torch.arange(len(splits["train"].images))}
    if n is not None and n < len(places["train"]):
        places["train"] = torch.from_numpy(
            np.sort(np.random.default_rng([seed, 1]).choice(len(places["train"]), n, replace=False))
        )
    if "test" not in splits and "validation" not in splits:
        cut = dict(zip(("train", "validation", "test"), split(len(places["train"]), seed), strict=True))
        halves = {key: parts["train"].split(places["train"][part], 0) for key, part in cut.items()}
    else:
        halves = _cut(parts, places["train"], seed)
    notes = [note for part in splits.values() for note in part.notes]
    own = label_name if classes else None
    train, validation, test = (halves[key] for key in ("train", "validation", "test"))
    told = list(dict.fromkeys(notes))
    return Dataset(name, "images", train, validation, test, schema, notes=told, label=own, levels=classes)


class _Numbered:
    """The pictures of one source split as tensors, of which parts are taken with their numbers."""

    def __init__(self, pictures: Pictures, classes: tuple[str, ...], schema: ImageSchema) -> None:
        self.values = torch.from_numpy(np.ascontiguousarray(pictures.images))
        column = ContextColumn(pictures.label, classes)
        known = classes and pictures.labels is not None
        self.labels = torch.from_numpy(column.index(pictures.labels)) if known and pictures.labels is not None else None
        self.context = None
        if schema.context:
            if self.labels is None:
                raise UserError(f"some of the images have no {pictures.label}, which the model is conditional on")
            self.context = torch.nn.functional.one_hot(self.labels, len(classes)).double()

    def split(self, places: Tensor, first: int) -> Split:
        """The pictures at ``places``, numbered from ``first``."""
        context, labels = (None if part is None else part[places] for part in (self.context, self.labels))
        return Split(self.values[places], context, places + first, labels)


def _cut(parts: Mapping[str, _Numbered], train: Tensor, seed: int) -> dict[str, Split]:
    """The source's own splits; what it lacks is cut from its training images. Numbers do not repeat from split to split."""
    count, total = len(train), len(parts["train"].values)
    found, order = {}, np.random.default_rng([seed, count]).permutation(count)
    size = max(1, min(count // 10, _LARGEST_VALIDATION))
    for key in ("validation", "test"):
        if key in parts:
            found[key] = parts[key].split(torch.arange(len(parts[key].values)), total)
            total += len(parts[key].values)
        else:
            cut, order = order[:size], order[size:]
            found[key] = parts["train"].split(train[np.sort(cut)], 0)
    if len(order) < 1:
        raise UserError(f"{count} training images are too few; give at least 10")
    return found | {"train": parts["train"].split(train[np.sort(order)], 0)}


def _pictures(name: str, label: str | None) -> tuple[str, int, dict[str, Pictures]] | None:
    """The data's name, its levels a channel, and the pictures by split."""
    if name == "digits-images":
        return name, 17, {"train": _digits()}
    source: Source | None = find(name)
    if source is None:
        return None
    found = cached(source.files, f"label={label}", lambda: source.read(label))
    if "train" not in found:
        # A single split, such as an archive of test images, is all there is.
        if len(found) != 1:
            raise UserError(f"{name} has {' and '.join(found)} images but no training images")
        found = {"train": next(iter(found.values()))}
    return source.name, 256, found


def _classes(splits: Mapping[str, Pictures], name: str, label: str | None) -> tuple[tuple[str, ...], str]:
    """The classes of all splits in order, and the label's name."""
    train = splits["train"]
    if train.labels is None:
        if label is not None:
            raise UserError(f"{name} has no labels: put images into a folder for each class, or y_train beside x_train")
        return (), "label"
    if label not in (None, train.label):
        raise UserError(f"{name} has no label {label!r}; it has {train.label!r}")
    known = dict.fromkeys(train.levels)
    for part in splits.values():
        known |= dict.fromkeys(part.levels)
    return tuple(known), train.label


def _digits() -> Pictures:
    """Scikit-learn's 1,797 digits of 8 x 8 pixels with levels 0 to 16."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    labels = np.asarray([str(value) for value in bunch.target])
    return Pictures(bunch.images.astype(np.uint8)[:, None], labels, "label", tuple(map(str, range(10))))


def load_image_rows(name: str, schema: ImageSchema) -> Split:
    """Images to score with a model: those of the test split where there is one, else all. Raises UserError."""
    found = _pictures(name, schema.context[0].name if schema.context else None)
    if found is None:
        raise UserError(f"{name} holds no images, and the model was trained on images of {schema.size}")
    _, levels, splits = found
    pictures = splits.get("test", splits["train"])
    if tuple(pictures.images.shape[1:]) != schema.shape or levels != schema.levels:
        shape = ImageSchema(pictures.images.shape[1:], levels).size  # type: ignore[arg-type]
        raise UserError(f"{Path(name).name} holds images of {shape}, and the model was trained on images of {schema.size}")
    classes = schema.context[0].levels if schema.context else ()
    return _Numbered(pictures, classes, schema).split(torch.arange(len(pictures.images)), 0)
