"""Data ready for a task: three splits in the user's own units, and the schema that maps them to a flow's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from .schema import Schema

__all__ = ["Dataset", "Split"]


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one part of the data.

    ``values`` (N, d) float64 are in the user's units, not dequantised; ``context`` (N, C) float64 is encoded, None if
    the data are unconditional; ``rows`` (N,) int64 are row numbers in the source, from 0; ``labels`` (N,) int64 are
    positions in ``Dataset.levels``, None if there is no label.
    """

    values: Tensor
    context: Tensor | None
    rows: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test rows with their schema.

    ``log_density(values, context=None)`` is the true log-density (N,) in nats where it is known: of the values, or
    given the context if the data are conditional and it is passed. ``warnings`` call for a choice of the user's,
    ``notes`` do not.
    """

    name: str
    kind: str  # "toy", "table" or "digits"
    train: Split
    validation: Split
    test: Split
    schema: Schema
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    levels: tuple[str, ...] = ()
    log_density: Callable[..., Tensor] | None = None

    @property
    def features(self) -> int:
        """The number d of columns of the density."""
        return len(self.schema.columns)

    def describe(self) -> str:
        """What was loaded, in a few lines."""
        count = f"{self.features} column{'s' if self.features != 1 else ''}"
        sizes = f"{len(self.train)} training, {len(self.validation)} validation and {len(self.test)} test rows"
        lines = [f"{self.name}: {count}; {sizes}"]
        if self.log_density is not None:
            lines.append("the true log-density is known")
        for column in self.schema.columns:
            if column.support != "real":
                lines.append(f"{column.name} is {column.domain}")
        if names := self.schema.dequantized:
            shown = ", ".join(f"{c.name} ({c.resolution:g})" for c in self.schema.columns if c.resolution)
            few = len(names) <= 8
            lines.append(f"dequantised: {shown if few else f'{len(names)} columns, {names[0]} to {names[-1]}'}")
        for column in self.schema.context:
            many = f"{len(column.levels)} levels" if column.levels else "a number"
            lines.append(f"conditional on {column.name} ({many})")
        return "\n".join([*lines, *self.notes])
