r"""The schema of a table: what each column is, and the map between the user's units and the flow's.

For one column with value v, in this order:

1. a column with a ``resolution`` r holds levels, whose density would be unbounded; it is dequantised, v + r u with u
   uniform on [0, 1) (Uria, Murray and Larochelle, 2013, arXiv 1306.0186; Theis, van den Oord and Bethge, 2016,
   arXiv 1511.01844);
2. its support is mapped to the line: t = log v if positive, :math:`t = \operatorname{logit}((v - l)/(h - l))` if
   bounded, t = v if real;
3. z = (t - center) / scale.

The log-Jacobian of 2 and 3 turns the flow's density into one in the user's own units:
log p(v) = log p(z) + log_jacobian.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .columns import SUPPORTS, Column, to_grid
from .context import Conditioned, ContextColumn

__all__ = ["Column", "Schema"]

_MARGIN = 1e-8  # keeps noise off 0 and 1, where a bounded column's logit, or rounding to the grid, would slip


@dataclass(frozen=True)
class Schema(Conditioned):
    """Columns in order, and the context they are conditioned on (empty: unconditional)."""

    columns: tuple[Column, ...]
    context: tuple[ContextColumn, ...] = field(default=())

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names in order."""
        return tuple(column.name for column in self.columns)

    @property
    def features(self) -> int:
        """The number d of columns."""
        return len(self.columns)

    @property
    def dequantized(self) -> tuple[str, ...]:
        """The names of the columns that hold levels."""
        return tuple(column.name for column in self.columns if column.resolution is not None)

    @property
    def discrete(self) -> bool:
        """Whether every column holds levels, so that bits per dimension have a meaning."""
        return len(self.dequantized) == len(self.columns) > 0

    def bits_per_dim(self, log_prob: Tensor) -> Tensor:
        """Bits per dimension of log p(v) in nats: -(log p(v) + sum of log r) / (d log 2), r the resolutions.

        With uniform noise its mean is an upper bound on the code length of the levels.

        Raises
        ------
        UserError
            If a column is continuous, so that the number would depend on its unit.
        """
        if not self.discrete:
            name = next(column.name for column in self.columns if column.resolution is None)
            raise UserError(f"bits per dimension need levels in every column, and {name} is continuous; quote nats instead")
        cell = sum(math.log(column.resolution or 1.0) for column in self.columns)
        return -(log_prob + cell) / (len(self.columns) * math.log(2))

    @cached_property
    def _plan(self) -> dict[str, Tensor]:
        """The columns' fields as tensors, and the positions of those that are not real."""
        numbers = {
            key: torch.tensor([float(getattr(c, key) or 0.0) for c in self.columns], dtype=torch.float64)
            for key in ("low", "high", "resolution", "origin", "center", "scale")
        }
        places = {
            kind: torch.tensor([k for k, c in enumerate(self.columns) if c.support == kind], dtype=torch.long)
            for kind in SUPPORTS[1:]
        }
        levels = [k for k, c in enumerate(self.columns) if c.resolution is not None]
        return numbers | places | {"levels": torch.tensor(levels, dtype=torch.long)}

    def encode(
        self, values: Tensor, noise: Tensor | None = None, *, continuous: bool = False, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values in the user's units (N, d) to z (N, d) and log|dz/dv| summed over columns (N,); float64, on the CPU.

        ``noise`` (N, d) in [0, 1) dequantises the columns that have a resolution; ``continuous=True`` says instead that
        the values already are. ``rows`` (N,) are row numbers for error messages.

        Raises
        ------
        UserError
            If a value is outside its column's support, naming row and column; if columns need noise and there is none.
        """
        plan = self._plan
        v = values.to("cpu", torch.float64)
        if v.ndim != 2 or v.shape[1] != len(self.columns):
            raise UserError(f"expected rows of {len(self.columns)} columns, got shape {tuple(values.shape)}")
        levels = plan["levels"]
        if len(levels) and not continuous:
            if noise is None:
                raise UserError(
                    f"{', '.join(self.dequantized)} hold levels: give noise in [0, 1) to dequantise them, "
                    "or say continuous=True if that is done"
                )
            u = noise.to("cpu", torch.float64)[:, levels].clamp(_MARGIN, 1 - _MARGIN)
            v = v.index_add(1, levels, u * plan["resolution"][levels])
        self._check(v, values, rows)
        t, jacobian = v.clone(), -plan["scale"].log().sum().expand(len(v))
        if len(k := plan["positive"]):
            t[:, k] = v[:, k].log()
            jacobian = jacobian - t[:, k].sum(1)
        if len(k := plan["bounded"]):
            low, high = plan["low"][k], plan["high"][k]
            below, above = (v[:, k] - low).log(), (high - v[:, k]).log()
            t[:, k] = below - above
            jacobian = jacobian + ((high - low).log() - below - above).sum(1)
        return (t - plan["center"]) / plan["scale"], jacobian

    def _check(self, v: Tensor, given: Tensor, rows: Tensor | None) -> None:
        plan = self._plan
        bad = ~torch.isfinite(v)
        bad[:, plan["positive"]] |= v[:, plan["positive"]] <= 0
        k = plan["bounded"]
        bad[:, k] |= (v[:, k] <= plan["low"][k]) | (v[:, k] >= plan["high"][k])
        if not bad.any():
            return
        first = int(bad.any(1).nonzero()[0])
        column = self.columns[int(bad[first].nonzero()[0])]
        number = first if rows is None else int(rows[first])
        value = float(given[first, self.names.index(column.name)])
        finite = "all numbers" if column.support == "real" else column.domain
        extra = f" once its noise of width {column.resolution:g} is added" if column.resolution is not None else ""
        raise UserError(
            f"row {number}, column {column.name}: {value:g} is outside its support ({finite}){extra}; "
            "leave the row out or give the column another support"
        )

    def decode(self, z: Tensor, *, continuous: bool = False) -> Tensor:
        """z (N, d) to values in the user's units (N, d) float64, inside their supports.

        Columns with a resolution are put back on their grid unless ``continuous``.
        """
        plan = self._plan
        v = z.to("cpu", torch.float64) * plan["scale"] + plan["center"]
        tiny, huge = torch.finfo(torch.float64).tiny, torch.finfo(torch.float64).max
        if len(k := plan["positive"]):
            v[:, k] = v[:, k].exp().clamp(tiny, huge)
        if len(k := plan["bounded"]):
            low, high = plan["low"][k], plan["high"][k]
            inside = torch.minimum(low + (high - low) * torch.sigmoid(v[:, k]), torch.nextafter(high, low))
            v[:, k] = torch.maximum(inside, torch.nextafter(low, high))
        if len(plan["levels"]) and not continuous:
            for k in plan["levels"].tolist():
                v[:, k] = to_grid(v[:, k], self.columns[k])
        return v

    def describe(self) -> list[str]:
        """What is special about the columns and the context, in lines."""
        lines = [f"{column.name} is {column.domain}" for column in self.columns if column.support != "real"]
        if names := self.dequantized:
            shown = ", ".join(f"{c.name} ({c.resolution:g})" for c in self.columns if c.resolution)
            few = len(names) <= 8
            lines.append(f"dequantised: {shown if few else f'{len(names)} columns, {names[0]} to {names[-1]}'}")
        return lines + self.describe_context()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"columns": [asdict(c) for c in self.columns], "context": [c.to_dict() for c in self.context]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Schema:
        """The inverse of :meth:`to_dict`.

        Raises
        ------
        UserError
            If a key is unknown or missing.
        """
        _keys("schema", content, {"columns", "context"}, {"columns", "context"})
        columns = [_build(Column, item) for item in content["columns"]]
        context = [_build(ContextColumn, item | {"levels": tuple(item.get("levels", ()))}) for item in content["context"]]
        return cls(tuple(columns), tuple(context))


def _build(kind: type[Any], content: Mapping[str, Any]) -> Any:
    known = {item.name for item in fields(kind)}
    _keys("column", content, known, {"name"})
    return kind(**content)


def _keys(what: str, content: Mapping[str, Any], known: set[str], needed: set[str]) -> None:
    for word, names in (("unknown", set(content) - known), ("missing", needed - set(content))):
        if names:
            raise UserError(f"the {what} has {word} keys: {', '.join(sorted(names))}; was it written by another version?")
