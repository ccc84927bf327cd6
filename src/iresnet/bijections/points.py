"""Activation normalisation of points x (B, N, d): one scale and shift for each of d coordinates, the same for all N points."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..numerics.fixed_point import Solution, Solver
from ..numerics.logdet import Estimate, LogDet
from ..numerics.noise import Noise
from .actnorm import ActNorm, AffineTransform
from .base import Bijection

__all__ = ["PointNorm"]


class PointNorm(Bijection):
    """:class:`~iresnet.bijections.ActNorm` of x (B, N, ``features``); its log-determinant counts every point."""

    def __init__(self, features: int, context: int = 0) -> None:
        super().__init__()
        self.norm = ActNorm(features, context)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.norm.initialize(x.mT, context).mT

    def bind(self, context: Tensor | None = None) -> PointTransform:
        return PointTransform(self.norm.bind(context))


@dataclass(frozen=True)
class PointTransform:
    """The bound form of :class:`PointNorm`; see :class:`~iresnet.bijections.base.Transform`."""

    affine: AffineTransform

    def forward(self, x: Tensor) -> Tensor:
        return self.affine.forward(x.mT).mT

    def forward_and_logdet(self, x: Tensor, logdet: LogDet, noise: Noise) -> tuple[Tensor, Estimate]:
        z, estimate = self.affine.forward_and_logdet(x.mT, logdet, noise)
        return z.mT, estimate

    def inverse(self, z: Tensor, solver: Solver) -> Solution:
        solution = self.affine.inverse(z.mT, solver)
        return replace(solution, value=solution.value.mT.contiguous())

    def attach(self, z: Tensor, x: Tensor) -> Tensor:
        return self.affine.attach(z.mT, x.mT).mT

    def lipschitz(self) -> tuple[float, float]:
        return self.affine.lipschitz()

    def select(self, rows: Tensor) -> PointTransform:
        return PointTransform(self.affine.select(rows))

    def repeat(self, times: int) -> PointTransform:
        return PointTransform(self.affine.repeat(times))

    def to(self, dtype: torch.dtype) -> PointTransform:
        return PointTransform(self.affine.to(dtype))
