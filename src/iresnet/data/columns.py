"""One column of a density: its support, the grid its levels lie on, and its standardisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError

__all__ = ["SUPPORTS", "Column", "parse_support", "to_grid"]

SUPPORTS = ("real", "positive", "bounded")


@dataclass(frozen=True)
class Column:
    """A column and how it is mapped to the line; the order of the steps is told in :mod:`iresnet.data.schema`.

    ``low`` and ``high`` matter for bounded columns only. Values of a column with a ``resolution`` are
    ``origin`` plus a multiple of it.
    """

    name: str
    support: str = "real"
    low: float = 0.0
    high: float = 1.0
    resolution: float | None = None
    origin: float = 0.0
    center: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.support not in SUPPORTS:
            raise UserError(f"column {self.name}: the support must be one of {', '.join(SUPPORTS)}, got {self.support!r}")
        if self.support == "bounded" and not (math.isfinite(self.high - self.low) and self.low < self.high):
            raise UserError(f"column {self.name}: bounds need LOW < HIGH, got {self.low:g} and {self.high:g}")
        if self.resolution is not None and not (math.isfinite(self.resolution) and self.resolution > 0):
            raise UserError(f"column {self.name}: the resolution must be a positive number, got {self.resolution}")

    @property
    def domain(self) -> str:
        """The support in words."""
        return {"real": "all numbers", "positive": "above 0"}.get(
            self.support, f"strictly between {self.low:g} and {self.high:g}"
        )


def parse_support(name: str, text: str) -> tuple[str, float, float]:
    """``"real"``, ``"positive"`` or ``"bounded:LOW:HIGH"`` as (support, low, high), in the column's units.

    Raises
    ------
    UserError
        If the text is none of the three.
    """
    kind, *bounds = text.split(":")
    try:
        low, high = (float(bound) for bound in bounds) if bounds else (0.0, 1.0)
    except ValueError:
        kind, low, high = "", 0.0, 1.0
    if kind not in SUPPORTS or (kind == "bounded") != bool(bounds):
        raise UserError(f"column {name}: the support {text!r} is not real, positive or bounded:LOW:HIGH")
    return kind, low, high


def to_grid(v: Tensor, column: Column) -> Tensor:
    """The level at or below each value: the number a decimal file would hold, not one beside it by a rounding.

    ``v`` is (N,), in the column's units.
    """
    step = column.resolution or 1.0
    cells = torch.floor((v - column.origin) / step)
    per_unit, first = round(1 / step), round(column.origin / step)
    if per_unit > 0 and abs(per_unit * step - 1) < 1e-12 and abs(first * step - column.origin) < 1e-9 * step:
        return (cells + first) / per_unit  # 23484 / 100 is 234.84, but 23484 * 0.01 is not
    return column.origin + cells * step
