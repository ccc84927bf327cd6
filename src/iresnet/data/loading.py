"""From a name or a path to a data set: toy sets, digits, tables, and images."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from . import toy
from .columns import Column
from .context import ContextColumn, fit_context, levels_of
from .dataset import Dataset, Split
from .diagnose import summarise
from .fitting import context_names, fit_schema
from .images import NAMES as IMAGE_NAMES
from .images import ImageSchema, load_image_rows, load_images
from .reading import ENDINGS, exists, read_columns
from .schema import Schema
from .tables import Table, build_table, natural_label, split

__all__ = ["BUILT_IN", "load", "load_rows", "locate", "needed", "rows_from"]

BUILT_IN = tuple(sorted((*toy.NAMES, "digits", *IMAGE_NAMES)))
_TOY_SIZES = 20_000, 5_000, 20_000
_TEST_SEED = 2019  # of every toy test set, whatever the seed of the run, so that figures compare
_MOST_LEVELS = 100  # of a label that came with the data: beyond, it is a target to predict and not a class


def load(
    name_or_path: str | os.PathLike[str],
    *,
    seed: int,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    missing: str = "error",
    label: str | None = None,
    context: Sequence[str] = (),
    support: Mapping[str, str] | None = None,
    dequantize: str | Mapping[str, float] | None = None,
    n: int | None = None,
    predict: bool = False,
) -> Dataset:
    """Load a built-in set, or a table or images by path or by their name in the folder named by ``IRESNET_DATA``.

    ``label`` and ``context`` columns condition the density. ``support`` maps columns to ``"real"``, ``"positive"`` or
    ``"bounded:LOW:HIGH"``. ``dequantize`` is ``"none"`` (default for tables), ``"auto"`` or a resolution per column;
    digits are dequantised at 1 by default. ``n`` is the number of training points of a toy set (20,000 by default,
    with 5,000 to validate and 20,000 to test), or how many rows of a table, or training images, to use,
    drawn at random. With ``predict`` the label (``label``, or the one that came with the data) is what a classifier predicts, and
    conditions nothing.

    Raises
    ------
    UserError
        If there is no such data, it cannot be read, or an option does not fit it; the message says what to do.
    """
    if seed < 0 or (n is not None and n < 1):
        raise UserError(f"the seed must not be negative and n must be at least 1, got seed={seed}, n={n}")
    name = os.fspath(name_or_path)
    images = load_images(name, seed=seed, label=label, n=n, predict=predict) if name not in (*toy.NAMES, "digits") else None
    if images is not None:
        if columns is not None or drop or support or context or dequantize is not None or missing != "error":
            raise UserError(
                f"{name} holds images; --columns, --drop, --missing, --context, --support and --dequantize are for tables"
            )
        return images
    if name in toy.NAMES:
        if columns is not None or drop or support or dequantize not in (None, "none"):
            raise UserError(
                f"{name} is a toy set of two real columns; --columns, --drop, --support and --dequantize are for tables"
            )
        return _load_toy(name, seed, label, context, n or _TOY_SIZES[0], predict)
    digits = name == "digits"
    source, found = ("digits", _digits()) if digits else _read(name)
    aside = list(context_names(context))
    if predict and label in aside:
        raise UserError(f"{label} cannot be given as context and be predicted; leave it out of --context")
    if predict and label is None:
        own = natural_label(source, found)
        label = own if own not in {*(columns or ()), *drop, *aside} else None
        if label is None:
            there = ", ".join(list(found)[:12])
            raise UserError(f"{source} names no classes: give --label COLUMN, which to predict; it has {there}")
    table = build_table(source, found, columns=columns, drop=drop, missing=missing, label=label, context=aside)
    if n is not None and n < len(table):
        table = table.take(np.sort(np.random.default_rng([seed, 1]).choice(len(table), n, replace=False)))
    if dequantize is None:
        dequantize = dict.fromkeys(table.names, 1.0) if digits else "none"
    parts = split(len(table), seed)
    given = None if predict else label
    schema = fit_schema(table, parts[0], support=support, dequantize=dequantize, label=given, context=context)
    own, levels, labels = _labels(table, label)
    encoded = schema.encode_context(table.aside)
    warnings = [] if digits and schema.discrete else summarise(table.diagnose(ignore=schema.dequantized))
    return Dataset(
        name="digits" if digits else Path(source).stem,
        kind="digits" if digits else "table",
        train=_split(table, parts[0], encoded, labels),
        validation=_split(table, parts[1], encoded, labels),
        test=_split(table, parts[2], encoded, labels),
        schema=schema,
        warnings=warnings,
        notes=[*table.notes, *([f"{own} is predicted, one of {len(levels)} classes"] if predict and own else [])],
        label=own,
        levels=levels,
    )


def load_rows(name_or_path: str | os.PathLike[str], schema: Schema | ImageSchema, *, missing: str = "error") -> Split:
    """Rows to score with a model: the columns and the context its schema asks for, found by name; others are ignored.

    For a toy set these are its test points, for images those of the test split where there is one. A single row is enough.

    Raises
    ------
    UserError
        If the data cannot be read, lack a column, or have missing values or unknown levels.
    """
    name = os.fspath(name_or_path)
    if isinstance(schema, ImageSchema):
        return load_image_rows(name, schema)
    if name in toy.NAMES:
        return rows_from(name, _toy_columns(name), schema, missing=missing)
    return rows_from(*(("digits", _digits()) if name == "digits" else _read(name)), schema, missing=missing)


def rows_from(
    source: str, found: dict[str, np.ndarray], schema: Schema, *, missing: str = "error", numbers: np.ndarray | None = None
) -> Split:
    """As :func:`load_rows`, from columns ``found`` (N,); ``numbers`` (N,) are those of the rows, None for 0 to N - 1."""
    wanted = needed(source, found, schema)[len(schema.names) :]
    others = [column for column in found if column not in {*schema.names, *wanted}]
    given: dict[str, Any] = {"columns": schema.names, "drop": others, "label": None, "context": wanted}
    table = build_table(source, found, missing=missing, numbers=numbers, **given)
    return _split(table, torch.arange(len(table)), schema.encode_context(table.aside), None)


def needed(source: str, there: Iterable[str], schema: Schema) -> list[str]:
    """The names of the columns and then of the context that ``schema`` asks for. Raises UserError if one is not ``there``."""
    there = list(there)
    wanted = [*schema.names, *(column.name for column in schema.context)]
    absent = [name for name in wanted if name not in there]
    if absent:
        shown = ", ".join(absent[:8]) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
        raise UserError(f"{source} has no column {shown}, which the model was trained on; it has {', '.join(there[:12])}")
    return wanted


def _split(table: Table, part: Tensor, encoded: Tensor | None, labels: Tensor | None) -> Split:
    rows = torch.from_numpy(table.rows)
    return Split(
        torch.from_numpy(table.values)[part],
        None if encoded is None else encoded[part],
        rows[part],
        None if labels is None else labels[part],
    )


def _labels(table: Table, label: str | None) -> tuple[str | None, tuple[str, ...], Tensor | None]:
    """Name, levels and classes (N,), as positions in the levels, of ``label`` or of the label that came with the data."""
    name = label if label is not None else table.natural_label
    if name is None or (label is None and len(np.unique(table.aside[name])) > _MOST_LEVELS):
        return None, (), None
    column = ContextColumn(name, levels_of(name, table.aside[name]))
    return name, column.levels, torch.from_numpy(column.index(table.aside[name]))


def _digits() -> dict[str, np.ndarray]:
    """Scikit-learn's 1,797 digits of 8 x 8 pixels with levels 0 to 16: p00 (row 0, column 0) to p77, and label."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels, label = bunch.data, bunch.target
    columns = {f"p{k // 8}{k % 8}": np.ascontiguousarray(pixels[:, k]) for k in range(64)}
    return columns | {"label": label.astype(np.float64)}


def _toy_columns(name: str) -> dict[str, np.ndarray]:
    values, label = toy.sample_labelled(name, _TOY_SIZES[2], _TEST_SEED)
    own = label.numpy().astype(np.float64)
    return {"x1": values[:, 0].numpy(), "x2": values[:, 1].numpy(), toy.label_name(name): own}


def _load_toy(name: str, seed: int, label: str | None, context: Sequence[str], n: int, predict: bool) -> Dataset:
    own, classes = toy.label_name(name), toy.label_levels(name)
    asked = list(dict.fromkeys([*([label] if label is not None else []), *context_names(context)]))
    if predict and own in context_names(context):
        raise UserError(f"{own} cannot be given as context and be predicted; leave it out of --context")
    for given in asked:
        if given != own:
            raise UserError(f"{name} has no label or context column {given!r}; it has {own}")
    seeds = [int(state) for state in np.random.SeedSequence(seed).generate_state(2, np.uint64)] + [_TEST_SEED]
    drawn = [toy.sample_labelled(name, size, s) for size, s in zip((n, *_TOY_SIZES[1:]), seeds, strict=True)]
    if classes:
        column = ContextColumn(own, tuple(str(k) for k in range(classes)))
    else:
        column = fit_context(own, drawn[0][1].numpy(), np.arange(n), "number")
    conditioned = bool(asked) and not predict
    schema = Schema((Column("x1"), Column("x2")), (column,) if conditioned else ())
    train, validation, test = (
        Split(
            values,
            schema.encode_context({own: labels.numpy()}),
            torch.arange(len(values)),
            labels if classes else None,
        )
        for values, labels in drawn
    )

    def log_density(values: Tensor, context: Tensor | None = None) -> Tensor:
        if context is None or not schema.context:
            return toy.log_density(name, values)
        return toy.log_density(name, values, torch.from_numpy(column.decode(context).astype(np.float64)))

    label, levels = (own if classes else None), column.levels
    return Dataset(name, "toy", train, validation, test, schema, label=label, levels=levels, log_density=log_density)


def _read(name: str) -> tuple[str, dict[str, np.ndarray]]:
    path = locate(name)
    return str(path), read_columns(path)


def locate(name: str) -> Path:
    """The file or folder meant by a path, or the table of that name in the folder of data or its direct subfolders.

    Raises
    ------
    UserError
        If there is none that ``name`` could mean. A path is returned whether or not anything is there.
    """
    path = Path(name)
    there = exists(path)
    if there and not path.is_dir():
        return path
    folder = os.environ.get("IRESNET_DATA")
    places = _places(Path(folder)) if folder else []
    hits = [file for file in places if name in (file.stem, file.name)]
    if len(hits) > 1:
        raise UserError(f"{name} could be {' or '.join(map(str, hits))}; give the path")
    if hits:
        return hits[0]
    if there or path.suffix.lower() in ENDINGS or len(path.parts) > 1:
        return path
    known = [*BUILT_IN, *(file.stem for file in places)]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    built_in = ", ".join(BUILT_IN)
    raise UserError(f"there is no data named {name!r}; {hint}built in are {built_in}; or give the path of a table or of images")


def _places(folder: Path) -> list[Path]:
    """The tables in a folder and its direct subfolders."""
    if not os.path.isdir(folder):
        return []
    return sorted(file for pattern in ("*", "*/*") for file in folder.glob(pattern) if file.suffix.lower() in ENDINGS)
