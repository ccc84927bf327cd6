"""What a bijection is: data to latent is ``forward``, and bound to a context it is a pure transform.

A :class:`Bijection` is a module; ``bind(context)`` turns its parameters into a :class:`Transform` once, which then maps,
inverts and measures volume without looking at the module again. Log-determinants have shape (B,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from ..numerics.fixed_point import Solution, Solver
from ..numerics.logdet import Estimate, LogDet
from ..numerics.noise import Noise

__all__ = ["Bijection", "Step", "Transform", "exactly", "inverse_of", "trace"]


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


class Bijection(nn.Module, ABC):
    """A map with an inverse; a subclass gives :meth:`bind` and, if data set it up, :meth:`initialize`."""

    @abstractmethod
    def bind(self, context: Tensor | None = None) -> Transform:
        """The pure transform at a context (C,), (B, C) or None."""

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Set what depends on data from x (B, *), once, and return z."""
        with torch.no_grad():
            return self.bind(context).forward(x)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """z (B, *) of x (B, *)."""
        return self.bind(context).forward(x)


@dataclass(frozen=True)
class Step:
    """One part's share of an inverse.

    ``name`` is the part's place, such as "3", or "5.2" within a nested bijection; ``growth`` is at most by how much its inverse
    stretches the error of what it was given.
    """

    name: str
    solution: Solution
    growth: float


def trace(part: Transform, z: Tensor, solver: Solver, name: str = "") -> Generator[Step, None, Tensor]:
    """The inverse of ``part`` at z, part by part where it is made of parts (``trace_inverse``): yields steps, returns x."""
    own: Any = getattr(part, "trace_inverse", None)
    if own is not None:
        return (yield from own(z, solver, name))
    solution = part.inverse(z, solver)
    yield Step(name, solution, part.lipschitz()[1])
    return solution.value


def inverse_of(part: Transform, z: Tensor, solver: Solver, *, throw: bool = False) -> tuple[Solution, list[Step]]:
    """x and the steps to it. Each error bound is carried through the inverses after it: sound, but loose over many.

    With ``throw`` a part that did not converge raises ``NotConverged``, named by its place.
    """
    bound, steps = z.new_zeros(z.shape[0]), torch.zeros(z.shape[0], dtype=torch.int64, device=z.device)
    converged, taken, found = steps == 0, [], trace(part, z, solver)
    while True:
        try:
            step = next(found)
        except StopIteration as end:
            return Solution(end.value, bound.nan_to_num(nan=torch.inf, posinf=torch.inf), steps, converged), taken
        if throw:
            step.solution.check(f"block {step.name}".rstrip())
        taken.append(step)
        bound = bound * step.growth + step.solution.error_bound
        steps, converged = steps + step.solution.steps, converged & step.solution.converged


def exactly(value: Tensor, rounding: Tensor) -> Solution:
    """A solution in closed form: no steps, and an error of ``rounding`` (B,) only."""
    rows, device = value.shape[0], value.device
    return Solution(
        value,
        rounding,
        torch.zeros(rows, dtype=torch.int64, device=device),
        torch.isfinite(rounding),
    )
