"""Rows as a task sees them: data in the user's units, handed out as batches in the flow's units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..numerics.noise import Noise

__all__ = ["Batch", "Encoder", "Rows"]

# Places of the noise of dequantisation and of augmentation below a key, apart from the log-determinant's probes.
_DEQUANTIZE, _AUGMENT = 1, 3


class Encoder(Protocol):
    """What of :class:`iresnet.data.schema.Schema` a batch needs: units, and whether noise comes in."""

    @property
    def dequantized(self) -> tuple[str, ...]: ...
    def encode(self, values: Tensor, noise: Tensor | None = None, *, rows: Tensor | None = None) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Batch:
    """Some rows, in the flow's units.

    x (B, *), context (B, C) or None, global row numbers (B,), log abs det d(x)/d(user's units) (B,), and classes (B,) or None.
    """

    x: Tensor
    context: Tensor | None
    rows: Tensor
    log_jacobian: Tensor
    labels: Tensor | None = None

    @property
    def classes(self) -> Tensor:
        """The labels, which a task that predicts them needs."""
        if self.labels is None:
            raise ValueError("these rows have no labels: give Rows(labels=...) the classes to predict")
        return self.labels


@dataclass(frozen=True, eq=False)
class Rows:
    """N rows of data.

    Parameters
    ----------
    values : (N, *) in the user's units.
    context : (N, C) or None, encoded.
    schema : how values become the flow's numbers; None if they already are.
    numbers : (N,) global numbers of the rows, which their noise is a function of; None for 0 to N - 1.
    labels : (N,) int64 classes to predict, or None.
    settled : put levels at the middle of their cells instead of spreading them by noise: what a classifier looks at.
    augment : what is done to images (B, C, H, W) of a batch before all else, as a function of them and of noise.
    """

    values: Tensor
    context: Tensor | None = None
    schema: Encoder | None = None
    numbers: Tensor | None = None
    labels: Tensor | None = None
    settled: bool = False
    augment: Callable[[Tensor, Noise], Tensor] | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def random(self) -> bool:
        """Whether encoding a row draws noise, which spreads columns of levels."""
        return not self.settled and self.schema is not None and bool(self.schema.dequantized)

    def take(self, places: Tensor) -> Rows:
        """The rows at ``places``, with their global numbers."""
        context, labels = (None if part is None else part[places] for part in (self.context, self.labels))
        return replace(self, values=self.values[places], context=context, numbers=self._numbers[places], labels=labels)

    @cached_property
    def _encoded(self) -> tuple[Tensor, Tensor] | None:
        """All rows at once where no noise comes in: standardising them for every batch would be work done again."""
        if self.schema is None:
            return self.values, torch.zeros(len(self), dtype=self.values.dtype)
        if self.random or self._bytes:
            return None
        return self.schema.encode(self.values, torch.full_like(self.values, 0.5), rows=self._numbers)

    @property
    def _bytes(self) -> bool:
        """Whether these are images: they stay bytes, an eighth of the memory of numbers, until a batch is made of them."""
        return self.values.dtype == torch.uint8

    @cached_property
    def _numbers(self) -> Tensor:
        return torch.arange(len(self)) if self.numbers is None else self.numbers

    def batch(self, places: Tensor, noise: Noise, like: Tensor) -> Batch:
        """The rows at ``places`` (B,), dequantised by ``noise`` where columns hold levels, in dtype and on device of ``like``."""
        rows = self._numbers[places]
        if self._encoded is not None:
            x, log_jacobian = self._encoded[0][places], self._encoded[1][places]
        else:
            assert self.schema is not None
            values, numbers = self.values[places], rows
            if self._bytes:  # on the device and in the precision of the flow; a table's units ask for more care
                values, numbers = values.to(like.device), rows.to(like.device)
            if self.augment is not None:
                values = self.augment(values, Noise(noise.at(_AUGMENT).seed, numbers))
            blank = torch.empty(values.shape, dtype=like.dtype if self._bytes else torch.float64, device=values.device)
            uniform = Noise(noise.at(_DEQUANTIZE).seed, numbers).uniforms(blank) if self.random else torch.full_like(blank, 0.5)
            x, log_jacobian = self.schema.encode(values, uniform, rows=rows)
        context = None if self.context is None else self.context[places].to(like)
        labels = None if self.labels is None else self.labels[places].to(like.device)
        return Batch(x.to(like), context, rows.to(like.device), log_jacobian.to(like.device), labels)

    def all(self, like: Tensor, noise: Noise | None = None, most: int | None = None) -> Batch:
        """All rows as one batch, or ``most`` of them, evenly spaced: the first rows of a table may be unlike its last."""
        return self.batch(self._places(most), noise or Noise(), like)

    def spread(self, most: int | None) -> Rows:
        """These rows, or ``most`` of them, evenly spaced, if that is fewer."""
        return self if most is None or most >= len(self) else self.take(self._places(most))

    def _places(self, most: int | None) -> Tensor:
        count = len(self) if most is None else min(most, len(self))
        return torch.arange(count, dtype=torch.int64) * len(self) // max(count, 1)
