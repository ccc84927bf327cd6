"""What a bijection is: data to latent is ``forward``, and bound to a context it is a pure transform.

A :class:`Bijection` is a module; ``bind(context)`` turns its parameters into a :class:`Transform` once, which then maps,
inverts and measures volume without looking at the module again. Log-determinants have shape (B,).
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor, nn

from ..numerics.fixed_point import Solution, Solver
from ..numerics.logdet import Estimate, LogDet
from ..numerics.noise import Noise

__all__ = ["Bijection", "Transform", "exactly"]


class Transform(Protocol):
    """A bijection with its context taken in: pure functions of a batch (B, *)."""

    def forward(self, x: Tensor) -> Tensor:
        """z (B, *) of x."""
        ...

    def forward_and_logdet(self, x: Tensor, logdet: LogDet, noise: Noise) -> tuple[Tensor, Estimate]:
        """z and log abs det dz/dx, each row with its errors."""
        ...

    def inverse(self, z: Tensor, solver: Solver) -> Solution:
        """x of z in the precision of z or better, without gradients."""
        ...

    def attach(self, z: Tensor, x: Tensor) -> Tensor:
        """The solution x of ``forward(x) = z`` as a differentiable function of z and of the parameters."""
        ...

    def lipschitz(self) -> tuple[float, float]:
        """Sound bounds of the Lipschitz constants of the map and of its inverse; infinite where nothing is known."""
        ...

    def select(self, rows: Tensor) -> Self: ...
    def repeat(self, times: int) -> Self: ...
    def to(self, dtype: torch.dtype) -> Self: ...


class Bijection(nn.Module):
    """A map with an inverse; a subclass gives :meth:`bind` and, if data set it up, :meth:`initialize`."""

    def bind(self, context: Tensor | None = None) -> Transform:
        """The pure transform at a context (C,), (B, C) or None."""
        raise NotImplementedError

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Set what depends on data from x (B, *), once, and return z."""
        with torch.no_grad():
            return self.bind(context).forward(x)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """z (B, *) of x (B, *)."""
        return self.bind(context).forward(x)


def exactly(value: Tensor, rounding: Tensor) -> Solution:
    """A solution in closed form: no steps, and an error of ``rounding`` (B,) only."""
    rows, device = value.shape[0], value.device
    return Solution(
        value,
        rounding,
        torch.zeros(rows, dtype=torch.int64, device=device),
        torch.isfinite(rounding),
    )
