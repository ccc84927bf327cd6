"""Bijections one after the other, with all residual branches bound in as few calls as they have shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..contract.base import bind_all
from ..numerics.fixed_point import Solution, Solver
from ..numerics.logdet import Estimate, LogDet
from ..numerics.noise import Noise
from .base import Bijection, Transform
from .residual import Residual, ResidualTransform

__all__ = ["Chain", "ChainTransform"]


class Chain(Bijection):
    """The composition of ``parts``, first to last from data to latent."""

    def __init__(self, parts: Iterable[Bijection]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def bind(self, context: Tensor | None = None) -> ChainTransform:
        residuals = [part for part in self.parts if isinstance(part, Residual)]
        bounds = iter(bind_all([part.branch for part in residuals], context))
        parts = [
            ResidualTransform(next(bounds)) if isinstance(part, Residual) else part.bind(context)  # type: ignore[operator]
            for part in self.parts
        ]
        return ChainTransform(tuple(parts))

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for part in self.parts:
            x = part.initialize(x, context)  # type: ignore[operator]
        return x


@dataclass(frozen=True)
class ChainTransform:
    """The bound form of :class:`Chain`; see :class:`~iresnet.bijections.base.Transform`."""

    parts: tuple[Transform, ...]

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part.forward(x)
        return x

    def forward_and_logdet(self, x: Tensor, logdet: LogDet, noise: Noise) -> tuple[Tensor, Estimate]:
        total = None
        for index, part in enumerate(self.parts):
            x, estimate = part.forward_and_logdet(x, logdet, noise.at(index))
            total = estimate if total is None else total + estimate
        return x, total if total is not None else Estimate.sure(x.new_zeros(x.shape[0]))

    def inverse(self, z: Tensor, solver: Solver) -> Solution:
        """x, with each part's error bound carried through the inverses of those before it (sound, but loose over many)."""
        value, bound, steps, converged = z, None, None, None
        for solution, part in self.trace_inverse(z, solver):
            if bound is None or steps is None or converged is None:
                bound, steps, converged = solution.error_bound, solution.steps, solution.converged
            else:
                bound = bound * part.lipschitz()[1] + solution.error_bound
                steps, converged = steps + solution.steps, converged & solution.converged
            value = solution.value
        if bound is None or steps is None or converged is None:
            zero = z.new_zeros(z.shape[0])
            return Solution(z, zero, zero.long(), zero == 0)
        return Solution(value, bound.nan_to_num(nan=math.inf, posinf=math.inf), steps, converged)

    def trace_inverse(self, z: Tensor, solver: Solver) -> Iterable[tuple[Solution, Transform]]:
        """The solutions of the parts, last to first: what :meth:`inverse` adds up."""
        for part in reversed(self.parts):
            solution = part.inverse(z, solver)
            yield solution, part
            z = solution.value

    def attach(self, z: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            points = [x.detach()] if self.parts else []
            for part in self.parts[:-1]:
                points.append(part.forward(points[-1]))
        for part, point in zip(reversed(self.parts), reversed(points), strict=True):
            z = part.attach(z, point)
        return z

    def lipschitz(self) -> tuple[float, float]:
        constants = [part.lipschitz() for part in self.parts]
        return math.prod(there for there, _ in constants), math.prod(back for _, back in constants)

    def select(self, rows: Tensor) -> ChainTransform:
        return ChainTransform(tuple(part.select(rows) for part in self.parts))

    def repeat(self, times: int) -> ChainTransform:
        return ChainTransform(tuple(part.repeat(times) for part in self.parts))

    def to(self, dtype: torch.dtype) -> ChainTransform:
        return ChainTransform(tuple(part.to(dtype) for part in self.parts))
