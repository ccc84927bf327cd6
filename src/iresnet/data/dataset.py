"""Data ready for a task: three splits in the user's own units, and the schema that maps them to a flow's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from .schema import Schema

if TYPE_CHECKING:
    from .images.schema import ImageSchema

__all__ = ["Dataset", "Split"]


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one part of the data.

    ``values`` are in the user's units, not dequantised: (N, d) float64, or (N, C, H, W) uint8 for images; ``context`` (N, C)
    float64 is encoded, None if the data are unconditional; ``rows`` (N,) int64 are row numbers in the source, from 0;
    ``labels`` (N,) int64 are positions in ``Dataset.levels``, None if there is no label.
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
    given the context if the data are conditional and it is passed. ``label`` names the classes and ``levels`` are what they are
    called, whether or not anything is conditioned on them or predicts them. ``warnings`` call for a choice of the user's,
    ``notes`` do not.
    """

    name: str
    kind: str  # "toy", "table", "digits" or "images"
    train: Split
    validation: Split
    test: Split
    schema: Schema | ImageSchema
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    label: str | None = None
    levels: tuple[str, ...] = ()
    log_density: Callable[..., Tensor] | None = None

    @property
    def features(self) -> int:
        """The number d of dimensions of the density: columns, or pixels times channels."""
        return self.schema.features

    def describe(self) -> str:
        """What was loaded, in a few lines."""
        kind = "" if self.kind == "images" else f"{self.features} column{'s' if self.features != 1 else ''}; "
        sizes = f"{len(self.train)} training, {len(self.validation)} validation and {len(self.test)} test rows"
        lines = [f"{self.name}: {kind}{sizes}"]
        if self.log_density is not None:
            lines.append("the true log-density is known")
        return "\n".join([*lines, *self.schema.describe(), *self.notes])
