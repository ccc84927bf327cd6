"""Bijections one after the other, with all residual branches bound in as few calls as they have shapes."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from ..contract.base import bind_all
from ..numerics.fixed_point import Solution, Solver
from ..numerics.logdet import Estimate, LogDet
from ..numerics.noise import Noise
from .actnorm import AffineTransform
from .base import Bijection, Step, Transform, inverse_of, trace
from .fused import fused_run
from .residual import Residual, ResidualTransform
from .waiting import Waiting

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
            part.of(next(bounds)) if isinstance(part, Residual) else part.bind(context)  # type: ignore[operator]
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
        luck = noise.at(len(self.parts)).uniform()
        estimates, waiting, index, log_scales = [], Waiting(logdet, luck), 0, []
        while index < len(self.parts):
            part, place = self.parts[index], noise.at(index)
            if run := fused_run(self.parts[index:], x, logdet, place):
                noises = [noise.at(index + offset) for offset in run.places]
                x, estimate = run.forward_and_logdet(x, logdet, noises, luck)
                estimates.append(estimate)
                index += len(run)
                continue
            index += 1
            if isinstance(part, ResidualTransform):
                x = waiting.take(part, x, place)
            elif isinstance(part, AffineTransform) and part.log_scale.dim() == 1 and x.dim() == 2:
                x = part.forward(x)
                log_scales.append(part.log_scale)  # of which there are as many as blocks: one sum for all
            else:
                x, estimate = part.forward_and_logdet(x, logdet, place)
                estimates.append(estimate)
        estimates += waiting.finish()
        if log_scales:
            estimates.append(Estimate.sure(torch.stack(log_scales).sum().expand(x.shape[0])))
        return x, Estimate.total(estimates) if estimates else Estimate.sure(x.new_zeros(x.shape[0]))

    def inverse(self, z: Tensor, solver: Solver) -> Solution:
        return inverse_of(self, z, solver)[0]

    def trace_inverse(self, z: Tensor, solver: Solver, name: str = "") -> Generator[Step, None, Tensor]:
        """The solutions of the parts, last to first: what :meth:`inverse` adds up."""
        for index in reversed(range(len(self.parts))):
            z = yield from trace(self.parts[index], z, solver, f"{name}.{index}" if name else f"{index}")
        return z

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

    def select(self, rows: Tensor) -> Self:
        return replace(self, parts=tuple(part.select(rows) for part in self.parts))

    def repeat(self, times: int) -> Self:
        return replace(self, parts=tuple(part.repeat(times) for part in self.parts))

    def to(self, dtype: torch.dtype) -> Self:
        return replace(self, parts=tuple(part.to(dtype) for part in self.parts))
