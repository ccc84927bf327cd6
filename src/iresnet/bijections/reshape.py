"""Bijections that only move numbers: squeezing images into channels, flattening, and acting on half of the channels.

References
----------
Density estimation using Real NVP (Dinh et al., 2017), arXiv 1605.08803
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..numerics.fixed_point import Solution, Solver
from ..numerics.logdet import Estimate, LogDet
from ..numerics.noise import Noise
from .base import Bijection, Step, Transform, exactly, inverse_of, trace

__all__ = ["Flatten", "Split", "SplitTransform", "Squeeze", "Unflatten", "Unsqueeze"]


class Squeeze(Bijection):
    """(B, C, H, W) to (B, C f^2, H / f, W / f): each square of f x f places becomes channels."""

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor

    def bind(self, context: Tensor | None = None) -> Rearrangement:
        return Rearrangement(_squeeze(self.factor), _unsqueeze(self.factor))

    def extra_repr(self) -> str:
        return f"{self.factor}"


class Unsqueeze(Squeeze):
    """The inverse of :class:`Squeeze`."""

    def bind(self, context: Tensor | None = None) -> Rearrangement:
        return Rearrangement(_unsqueeze(self.factor), _squeeze(self.factor))


class Flatten(Bijection):
    """(B, *shape) to (B, d)."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def bind(self, context: Tensor | None = None) -> Rearrangement:
        return Rearrangement(_reshape((math.prod(self.shape),)), _reshape(self.shape))

    def extra_repr(self) -> str:
        return f"{self.shape}"


class Unflatten(Flatten):
    """The inverse of :class:`Flatten`: (B, d) to (B, *shape)."""

    def bind(self, context: Tensor | None = None) -> Rearrangement:
        return Rearrangement(_reshape(self.shape), _reshape((math.prod(self.shape),)))


def _squeeze(factor: int) -> Callable[[Tensor], Tensor]:
    return lambda x: pixel_unshuffle(x, factor)


def _unsqueeze(factor: int) -> Callable[[Tensor], Tensor]:
    return lambda x: pixel_shuffle(x, factor)


def _reshape(shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    return lambda x: x.reshape(x.shape[0], *shape)


@dataclass(frozen=True)
class Rearrangement:
    """Numbers in another order: volume and distances stay. See :class:`~iresnet.bijections.base.Transform`."""

    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return self.there(x)

    def forward_and_logdet(self, x: Tensor, logdet: LogDet, noise: Noise) -> tuple[Tensor, Estimate]:
        return self.there(x), Estimate.sure(x.new_zeros(x.shape[0]))

    def inverse(self, z: Tensor, solver: Solver) -> Solution:
        return exactly(self.back(z), z.new_zeros(z.shape[0]))

    def attach(self, z: Tensor, x: Tensor) -> Tensor:
        return self.back(z)

    def lipschitz(self) -> tuple[float, float]:
        return 1.0, 1.0

    def select(self, rows: Tensor) -> Rearrangement:
        return self

    def repeat(self, times: int) -> Rearrangement:
        return self

    def to(self, dtype: torch.dtype) -> Rearrangement:
        return self


class Split(Bijection):
    """``inner`` acts on the second half of the channels; the first half stays as it is, and so does the shape.

    What other code calls factoring out: the half that stays is latent from here on, but the latent is one tensor all the same.

    Parameters
    ----------
    inner : keeps the shape (B, C / 2, *) of what it is given.
    """

    def __init__(self, inner: Bijection) -> None:
        super().__init__()
        self.inner = inner

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        kept, moved = _halves(x)
        return torch.cat((kept, self.inner.initialize(moved, context)), 1)

    def bind(self, context: Tensor | None = None) -> SplitTransform:
        return SplitTransform(self.inner.bind(context))


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape[1] % 2:
        raise ValueError(f"a split needs an even number of channels, got {x.shape[1]}")
    kept, moved = x.chunk(2, 1)
    return kept, moved


@dataclass(frozen=True)
class SplitTransform:
    """The bound form of :class:`Split`; see :class:`~iresnet.bijections.base.Transform`."""

    inner: Transform

    def forward(self, x: Tensor) -> Tensor:
        kept, moved = _halves(x)
        return torch.cat((kept, self.inner.forward(moved)), 1)

    def forward_and_logdet(self, x: Tensor, logdet: LogDet, noise: Noise) -> tuple[Tensor, Estimate]:
        kept, moved = _halves(x)
        value, estimate = self.inner.forward_and_logdet(moved, logdet, noise)
        return torch.cat((kept, value), 1), estimate

    def inverse(self, z: Tensor, solver: Solver) -> Solution:
        return inverse_of(self, z, solver)[0]

    def trace_inverse(self, z: Tensor, solver: Solver, name: str = "") -> Generator[Step, None, Tensor]:
        """The solutions of the inner parts. The half that stays keeps its error, so none of them makes an error smaller."""
        kept, moved = _halves(z)
        found = trace(self.inner, moved, solver, name)
        while True:
            try:
                step = next(found)
            except StopIteration as end:
                return torch.cat((kept, end.value), 1)
            yield replace(step, growth=max(1.0, step.growth))

    def attach(self, z: Tensor, x: Tensor) -> Tensor:
        kept, moved = _halves(z)
        return torch.cat((kept, self.inner.attach(moved, _halves(x)[1])), 1)

    def lipschitz(self) -> tuple[float, float]:
        there, back = self.inner.lipschitz()
        return max(1.0, there), max(1.0, back)

    def select(self, rows: Tensor) -> Self:
        return replace(self, inner=self.inner.select(rows))

    def repeat(self, times: int) -> Self:
        return replace(self, inner=self.inner.repeat(times))

    def to(self, dtype: torch.dtype) -> Self:
        return replace(self, inner=self.inner.to(dtype))
