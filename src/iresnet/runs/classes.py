"""Rows of each class: of a density that is conditional on one, or of a hybrid model's joint density."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data import ImageSchema, Schema, write_columns
from ..errors import UserError
from .folder import RunFolder
from .sampling import Sampler, spare_inputs, write_images

__all__ = ["ByClass", "classes_of", "draw_classes", "sample_classes"]

Progress = Callable[..., None]


class ByClass(NamedTuple):
    """``values`` (K * each, *), class after class; the ``name`` of the column of classes, its ``levels`` (K,), the schema."""

    values: Tensor
    name: str
    levels: tuple[str, ...]
    schema: Schema | ImageSchema


def classes_of(folder: RunFolder) -> tuple[str, tuple[str, ...]]:
    """The name of the class column that a run can be asked for rows of, and its levels.

    Raises
    ------
    UserError
        If the run has no density, or it knows no class, or several columns of them.
    """
    _, schema = folder.flow()
    if folder.config().task == "hybrid":
        return folder.classes()
    columns = [column for column in schema.context if column.levels]
    if len(columns) != 1 or len(schema.context) != 1:
        given = ", ".join(column.name for column in schema.context) or "nothing"
        raise UserError(
            f"--per-class is for a model conditional on one class, or trained with --task hybrid; {folder.path} is "
            f"conditional on {given}"
        )
    return columns[0].name, columns[0].levels


def draw_classes(
    folder: RunFolder,
    each: int,
    *,
    context: Sequence[str] = (),
    seed: int = 0,
    most: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ByClass:
    """``each`` rows of every class, or of the first ``most``; those of class k are what seed ``seed + k`` draws of it alone.

    ``context`` is what else a hybrid model is conditional on; ``options`` are those of :class:`Sampler`.

    Raises
    ------
    UserError
        For fewer than one row, a run without classes, or a class too rare to be drawn.
    """
    if each < 1:
        raise UserError(f"--per-class must be at least 1, got {each}")
    name, levels = classes_of(folder)
    levels, shown = levels[:most], []
    if progress is not None:
        progress(0, each * len(levels))
    sampler = Sampler(folder, context=[*context, f"{name}={levels[0]}"], **options)
    for place, level in enumerate(levels):
        one = sampler.about([*context, f"{name}={level}"], seed + place)
        shown.append(one.draw(0, each, progress)[0])
    return ByClass(torch.cat(shown), name, levels, sampler.schema)


def sample_classes(folder: RunFolder, each: int, out: str | Path, **options: Any) -> dict[str, Any]:
    """:func:`draw_classes`, written to ``out``: a picture with a row for each class, or rows with the class beside them."""
    spare_inputs(folder, out)
    found = draw_classes(folder, each, **options)
    classes = np.repeat(np.asarray(found.levels), each)
    told = {
        "rows": len(classes),
        "per_class": each,
        "classes": list(found.levels),
        "out": str(out),
        "seed": options.get("seed", 0),
    }
    if isinstance(found.schema, ImageSchema):
        write_images(out, found.values, found.schema, columns=each, more={found.name: classes})
        return told
    columns = {name: found.values[:, place].numpy() for place, name in enumerate(found.schema.names)}
    write_columns(out, columns | {found.name: classes})
    return told | {"columns": [*columns, found.name]}
