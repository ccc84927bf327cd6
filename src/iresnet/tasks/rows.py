"""Rows as a task sees them: data in the user's units, handed out as batches in the flow's units."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..numerics.noise import Noise

__all__ = ["Batch", "Encoder", "Rows"]

# Place of the dequantisation noise below a key, apart from the log-determinant's probes.
_DEQUANTIZE = 1


class Encoder(Protocol):
    """What of :class:`iresnet.data.schema.Schema` a batch needs: units, and whether noise comes in."""

    @property
    def dequantized(self) -> tuple[str, ...]: ...
    def encode(self, values: Tensor, noise: Tensor | None = None, *, rows: Tensor | None = None) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Batch:
    """x (B, *) and context (B, C) in the flow's units, global row numbers (B,), and log abs det d(x)/d(user's units) (B,)."""

    x: Tensor
    context: Tensor | None
    rows: Tensor
    log_jacobian: Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """N rows of data.

    Parameters
    ----------
    values : (N, *) in the user's units.
    context : (N, C) or None, encoded.
    schema : how values become the flow's numbers; None if they already are.
    numbers : (N,) global numbers of the rows, which their noise is a function of; None for 0 to N - 1.
    """

    values: Tensor
    context: Tensor | None = None
    schema: Encoder | None = None
    numbers: Tensor | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def random(self) -> bool:
        """Whether encoding a row draws noise, which spreads columns of levels."""
        return self.schema is not None and bool(self.schema.dequantized)

    @cached_property
    def _encoded(self) -> tuple[Tensor, Tensor] | None:
        """All rows at once where no noise comes in: standardising them for every batch would be work done again."""
        if self.schema is None:
            return self.values, torch.zeros(len(self), dtype=self.values.dtype)
        if self.schema.dequantized:
            return None
        return self.schema.encode(self.values, rows=self._numbers)

    @cached_property
    def _numbers(self) -> Tensor:
        return torch.arange(len(self)) if self.numbers is None else self.numbers

    def batch(self, places: Tensor, noise: Noise, like: Tensor) -> Batch:
        """The rows at ``places`` (B,), dequantised by ``noise`` where columns hold levels, in dtype and on device of ``like``."""
        rows = self._numbers[places]
        if self._encoded is not None:
            x, log_jacobian = self._encoded[0][places], self._encoded[1][places]
        else:
            values = self.values[places]
            uniform = Noise(noise.at(_DEQUANTIZE).seed, rows).uniforms(values.double())
            assert self.schema is not None
            x, log_jacobian = self.schema.encode(values, uniform, rows=rows)
        context = None if self.context is None else self.context[places].to(like)
        return Batch(x.to(like), context, rows.to(like.device), log_jacobian.to(like.device))

    def all(self, like: Tensor, noise: Noise | None = None, most: int | None = None) -> Batch:
        """All rows as one batch, or ``most`` of them, evenly spaced: the first rows of a table may be unlike its last."""
        count = len(self) if most is None else min(most, len(self))
        places = torch.arange(count, dtype=torch.int64) * len(self) // max(count, 1)
        return self.batch(places, noise or Noise(), like)
