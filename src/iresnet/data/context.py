"""Context columns: what a conditional density is given, as numbers a network takes.

A number is standardised; a class becomes an indicator per level (one-hot), with the levels kept in the schema.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

__all__ = ["Conditioned", "ContextColumn", "context_row", "fit_context", "level_text", "levels_of"]

_MOST_LEVELS = 1000  # a class with more is an identifier, and its indicators would drown the model
_FEW_LEVELS = 20  # whole numbers with at most this many values are taken as classes unless told otherwise


def level_text(value: Any) -> str:
    """How a level is written: text as it is, numbers without a needless decimal point, so that 3, 3.0 and "3" agree."""
    if isinstance(value, str):
        return value
    number = float(value)
    return str(int(number)) if number.is_integer() else repr(number)


@dataclass(frozen=True)
class ContextColumn:
    """One context column: a number (``levels`` empty), or a class with its ``levels`` in order."""

    name: str
    levels: tuple[str, ...] = ()
    center: float = 0.0
    scale: float = 1.0

    @property
    def width(self) -> int:
        """How many numbers it becomes: one per level, or one."""
        return len(self.levels) or 1

    def index(self, values: np.ndarray | Sequence[Any]) -> np.ndarray:
        """The levels (N,) of a class as int64 positions in ``levels``.

        Raises
        ------
        UserError
            If a value is not among the levels.
        """
        distinct, inverse = np.unique(_as_array(values), return_inverse=True)
        position = {level: k for k, level in enumerate(self.levels)}
        found = [position.get(level_text(value), -1) for value in distinct.tolist()]
        if -1 in found:
            value = level_text(distinct[found.index(-1)].item())
            raise UserError(f"{self.name} is {value!r}, which the model was not trained on; it knows {_several(self.levels)}")
        return np.asarray(found, dtype=np.int64)[inverse.reshape(-1)]

    def encode(self, values: np.ndarray | Sequence[Any]) -> Tensor:
        """Values (N,) as numbers (N, width) float64.

        Raises
        ------
        UserError
            If a value is not among the levels, not a number where one is needed, or not finite.
        """
        if self.levels:
            return torch.nn.functional.one_hot(torch.from_numpy(self.index(values)), len(self.levels)).double()
        array = _as_array(values)
        try:
            numbers = array.astype(np.float64)
        except ValueError as error:
            raise UserError(f"{self.name} must be a number: {error}") from error
        if not np.isfinite(numbers).all():
            raise UserError(f"{self.name} must be finite, got {numbers[~np.isfinite(numbers)][0]}")
        return torch.from_numpy((numbers - self.center) / self.scale)[:, None]

    def decode(self, encoded: Tensor) -> np.ndarray:
        """The inverse of :meth:`encode`: (N, width) to values (N,), levels as text."""
        if self.levels:
            return np.asarray(self.levels)[encoded.argmax(-1).cpu().numpy()]
        return encoded[:, 0].double().cpu().numpy() * self.scale + self.center

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"name": self.name, "levels": list(self.levels), "center": self.center, "scale": self.scale}


def _as_array(values: np.ndarray | Sequence[Any]) -> np.ndarray:
    array = np.asarray(values)
    return array.astype(np.float64) if array.dtype.kind in "biu" else array


def _several(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def levels_of(name: str, values: np.ndarray) -> tuple[str, ...]:
    """The distinct levels of a class column: numbers in order of size, then text in order of the alphabet.

    Raises
    ------
    UserError
        If there are so many that the column is an identifier rather than a class.
    """
    distinct = np.unique(values)
    if len(distinct) > _MOST_LEVELS:
        raise UserError(
            f"column {name} has {len(distinct)} different values, too many for a class (at most {_MOST_LEVELS}); "
            f"it looks like an identifier: --drop {name}"
        )
    return tuple(sorted({level_text(value) for value in distinct.tolist()}, key=_level_order))


def _level_order(level: str) -> tuple[bool, float, str]:
    try:
        number = float(level)
    except ValueError:
        return True, 0.0, level
    return math.isnan(number), number, level


def fit_context(name: str, values: np.ndarray, train: np.ndarray, kind: str = "auto") -> ContextColumn:
    """Describe a context column from ``values`` (N,) of all rows, and its scale from the rows at ``train`` (T,) alone.

    ``kind`` is ``"label"``, ``"number"`` or ``"auto"``: text is a class, and so are whole numbers with few values.

    Raises
    ------
    UserError
        If a number is asked for and the column is text, or a class has too many levels.
    """
    text = values.dtype.kind in "USO"
    if kind == "auto":
        whole = not text and len(np.unique(values)) <= _FEW_LEVELS and bool((values == np.floor(values)).all())
        kind = "label" if text or whole else "number"
    if kind == "label":
        return ContextColumn(name, levels_of(name, values))
    if text:
        raise UserError(f"column {name} holds text such as {str(values[0])!r}: give it as --context {name}:label")
    numbers = values[train].astype(np.float64)
    center, scale = float(numbers.mean()), float(numbers.std())
    return ContextColumn(name, (), center, scale if scale > 0 else 1.0)


def context_row(columns: Sequence[ContextColumn], given: Mapping[str, Any]) -> Tensor:
    """One context row (C,) float64 from name and value pairs such as ``{"label": "3"}``.

    Raises
    ------
    UserError
        If a name is missing or unknown, or a value is not one the column takes.
    """
    names = [column.name for column in columns]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            known = f"the model's context is {_several(names)}" if names else "the model has no context"
            raise UserError(f"there is no context column {name!r}: {known}{hint}")
    missing = [name for name in names if name not in given]
    if missing:
        raise UserError(f"the model is conditional: give a value for {_several(missing)}, as NAME=VALUE")
    if not columns:
        return torch.zeros(0, dtype=torch.float64)
    return torch.cat([column.encode([given[column.name]])[0] for column in columns])


class Conditioned:
    """What schemas share that have a ``context``: columns that a density is given."""

    context: tuple[ContextColumn, ...]

    @property
    def context_width(self) -> int:
        """The length C of an encoded context row, 0 if unconditional."""
        return sum(column.width for column in self.context)

    def encode_context(self, values: Mapping[str, np.ndarray | Sequence[Any]]) -> Tensor | None:
        """Context columns by name, each (N,), as numbers (N, C) float64; None if the schema has no context.

        Raises
        ------
        UserError
            If a column is missing, a class has an unknown level, or a number is not one.
        """
        if not self.context:
            return None
        for column in self.context:
            if column.name not in values:
                raise UserError(f"the model is conditional and needs the column {column.name}")
        return torch.cat([column.encode(values[column.name]) for column in self.context], 1)

    def context_row(self, given: Mapping[str, Any]) -> Tensor:
        """One context row (C,) from pairs such as ``{"label": "3"}``; raises as :func:`context_row` does."""
        return context_row(self.context, given)

    def describe_context(self) -> list[str]:
        """What the density is conditional on, in lines."""
        told = [f"{len(column.levels)} levels" if column.levels else "a number" for column in self.context]
        return [f"conditional on {column.name} ({many})" for column, many in zip(self.context, told, strict=True)]
