"""A table: named numeric columns whose density is modelled, and columns kept aside as labels or context."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .diagnose import Diagnosis, diagnose
from .reading import NPZ_LABELS, is_number, read_columns

__all__ = ["Table", "absent_in", "build_table", "known_names", "natural_label", "read_table", "split"]

_FEWEST_ROWS = 10  # below, a tenth of the rows is less than one


@dataclass(frozen=True, eq=False)
class Table:
    """Rows in the order of the file.

    ``values`` (N, d) float64 are the density's columns, named by ``names``; ``aside`` holds the label and context
    columns (N,), numbers or text; ``rows`` (N,) int64 are row numbers in the file, from 0, whatever was left out.
    ``natural_label`` is a label that came with the data and is set aside unasked.
    """

    source: str
    names: tuple[str, ...]
    values: np.ndarray
    aside: dict[str, np.ndarray]
    rows: np.ndarray
    notes: tuple[str, ...] = ()
    natural_label: str | None = None

    def __len__(self) -> int:
        return len(self.values)

    def diagnose(self, ignore: Iterable[str] = ()) -> list[Diagnosis]:
        """What makes the density unbounded, by column; ``ignore`` are columns that are dequantised."""
        return diagnose(self.names, self.values, frozenset(ignore))

    def take(self, positions: np.ndarray) -> Table:
        """The rows at ``positions`` (M,), in that order."""
        aside = {name: column[positions] for name, column in self.aside.items()}
        return Table(self.source, self.names, self.values[positions], aside, self.rows[positions], self.notes, self.natural_label)


def read_table(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    missing: str = "error",
    label: str | None = None,
    context: Sequence[str] = (),
) -> Table:
    """Read a .csv, .parquet, .npz or .npy file.

    ``columns`` chooses the density's columns and their order, ``drop`` leaves some out; ``label`` and ``context`` are
    set aside. The ``y`` beside the matrix of an NPZ file is set aside too, unless ``columns`` asks for it.
    ``missing="drop"`` leaves out rows in which a column in use has no value.

    Raises
    ------
    UserError
        If the file cannot be read, a name is unknown, a column holds text, or values are missing or infinite.
    """
    path = Path(path)
    found = read_columns(path)
    return build_table(str(path), found, columns=columns, drop=drop, missing=missing, label=label, context=context)


def build_table(
    path: str,
    found: dict[str, np.ndarray],
    *,
    columns: Sequence[str] | None,
    drop: Sequence[str],
    missing: str,
    label: str | None,
    context: Sequence[str],
    numbers: np.ndarray | None = None,
) -> Table:
    """As :func:`read_table`, from columns ``found`` already; ``path`` is for messages, ``numbers`` (N,) those of the rows."""
    if missing not in ("error", "drop"):
        raise UserError(f"missing must be error or drop, got {missing!r}")
    for option, given in (("--columns", columns or ()), ("--drop", drop), ("--context", context)):
        known_names(given, found, path, option)
    if label is not None:
        known_names([label], found, path, "--label")
    set_aside: list[str] = list(dict.fromkeys([*([label] if label is not None else []), *context]))
    both = [name for name in set_aside if name in (columns or ()) or name in drop]
    if both:
        raise UserError(f"column {both[0]} cannot be label or context and also be in --columns or --drop")
    notes, unasked = [], None
    natural = natural_label(path, found)
    if natural and natural not in {*set_aside, *(columns or ()), *drop}:
        set_aside.append(natural)
        unasked = natural
        notes.append(f"{natural} is kept aside as the label and not modelled; condition on it with --label {natural}")
    names = [name for name in (found if columns is None else columns) if name not in drop and name not in set_aside]
    if not names:
        raise UserError(f"{path}: no column is left to model after --columns, --drop, --label and --context")
    for name in names:
        _refuse_text(name, found[name], path)

    used = {name: found[name] for name in [*names, *set_aside]}
    keep = _present(used, path, missing)
    rows = np.flatnonzero(keep) if numbers is None else numbers[keep]
    values = np.column_stack([found[name] for name in names])[keep]
    if not len(values):
        raise UserError(f"{path}: every row has a missing value; --drop the columns that are mostly empty")
    _refuse_infinite(names, values, rows, path)
    if not keep.all():
        notes.append(f"{int((~keep).sum())} of {len(keep)} rows are left out because a value is missing")
    aside = {name: found[name][keep] for name in set_aside}
    return Table(path, tuple(names), values, aside, rows, tuple(notes), unasked)


def natural_label(path: str, found: dict[str, np.ndarray]) -> str | None:
    """The label an NPZ file carries beside its matrix by custom, or that of digits."""
    if not (path.lower().endswith(".npz") and "x0" in found) and path != "digits":
        return None
    return next((name for name in NPZ_LABELS if name in found), None)


def known_names(given: Sequence[str], found: Iterable[str], path: str, option: str) -> None:
    """Refuse names that are not among ``found``, with the nearest ones as a hint, and names given twice."""
    found = list(found)
    repeated = sorted({name for name in given if list(given).count(name) > 1})
    if repeated:
        raise UserError(f"{option} names {', '.join(repeated)} twice")
    for name in given:
        if name not in found:
            near = difflib.get_close_matches(name, found, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(found[:12])}"
            raise UserError(f"{option}: {path} has no column {name!r}; {hint}")


def _refuse_text(name: str, column: np.ndarray, path: str) -> None:
    if column.dtype.kind != "U":
        return
    # The first item that is no number tells most: often a stray "?" among numbers.
    texts = ((row, item) for row, item in enumerate(column.tolist()) if item and not is_number(item))
    row, item = next(texts, (0, str(column[0])))
    raise UserError(
        f"{path}: column {name} holds text, such as {item[:40]!r} in row {row}; use --drop {name}, or in training "
        f"--context {name} to condition on it"
    )


def absent_in(column: np.ndarray) -> np.ndarray:
    """Where a column (N,) has no value."""
    return (column == "") if column.dtype.kind == "U" else np.isnan(column)


def _present(used: dict[str, np.ndarray], path: str, missing: str) -> np.ndarray:
    """Which rows (N,) have a value in every column in use."""
    absent = {name: absent_in(column) for name, column in used.items()}
    worst = [f"{name} ({int(mask.sum())})" for name, mask in absent.items() if mask.any()]
    keep = ~np.any(np.column_stack(list(absent.values())), axis=1)
    if worst and missing == "error":
        shown = ", ".join(worst[:8]) + (f" and {len(worst) - 8} more columns" if len(worst) > 8 else "")
        raise UserError(
            f"{path}: {int((~keep).sum())} of {len(keep)} rows have missing values, in {shown}; "
            "leave those rows out with --missing drop, or train without those columns (--drop)"
        )
    return keep


def _refuse_infinite(names: list[str], values: np.ndarray, rows: np.ndarray, path: str) -> None:
    # Half the largest exponent: the squares in a variance must not overflow either.
    wild = ~(np.abs(values) < 1e150)
    if wild.any():
        row, column = np.argwhere(wild)[0]
        raise UserError(
            f"{path}: column {names[column]} is {values[row, column]:g} in row {rows[row]}; "
            "give finite numbers below 1e150 or --drop the column"
        )


def split(n: int, seed: int, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> tuple[Tensor, Tensor, Tensor]:
    """Row positions of training, validation and test, each in ascending order and int64; the same for the same seed.

    Raises
    ------
    UserError
        If ``n`` is below 10 rows, a fraction is not positive, or they do not sum to 1.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise UserError(f"the fractions of train, validation and test must be positive and sum to 1, got {fractions}")
    validation, test = (max(1, round(fraction * n)) for fraction in fractions[1:])
    if n < _FEWEST_ROWS or n - validation - test < 1:
        raise UserError(f"{n} row{'s are' if n != 1 else ' is'} too few to train, validate and test on; give at least 10")
    if seed < 0:
        raise UserError(f"the seed must not be negative, got {seed}")
    order = np.random.default_rng([seed, n]).permutation(n)
    parts = np.split(order, [n - validation - test, n - test])
    train, held, last = (torch.from_numpy(np.sort(part)) for part in parts)
    return train, held, last
