r"""Full-covariance whitening: a flow that starts here starts as the full Gaussian of its data, and never below it.

With :math:`\Sigma = L L^T` the map is :math:`z = L^{-1} (x - \mu)`, solved by substitution and inverted by a product, so that the
two agree to rounding however the triangle was rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics.fixed_point import Solution, Solver
from ..numerics.logdet import Estimate, LogDet
from ..numerics.noise import Noise
from ..numerics.norms import gram_bound
from .base import Bijection, exactly

__all__ = ["Whiten", "WhitenTransform"]


class Whiten(Bijection):
    """Whitening by mean and covariance of data; the identity until :meth:`initialize`.

    Parameters
    ----------
    features : d.
    floor : eigenvalues of the covariance below ``floor`` times the largest are raised to it. ``floored`` says how many were:
        in as many directions there is (nearly) no spread, and the density is unbounded.
    """

    mean: Tensor
    triangle: Tensor
    floored: Tensor
    initialized: Tensor

    def __init__(self, features: int, floor: float = 1e-8) -> None:
        super().__init__()
        self.features, self.floor = features, floor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("triangle", torch.eye(features))
        self.register_buffer("floored", torch.zeros((), dtype=torch.int64))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Set mean and covariance from x (N, d), N >= 2, in float64, once; return z.

        Raises
        ------
        ValueError
            For rows of another width, fewer than two of them, or values that are not finite.
        """
        if not bool(self.initialized):
            if x.dim() != 2 or x.shape[1] != self.features:
                raise ValueError(f"this whitening is for rows of {self.features} numbers, got shape {tuple(x.shape)}")
            if x.shape[0] < 2 or not bool(torch.isfinite(x).all()):
                raise ValueError(f"whitening needs at least two rows of finite numbers, got {x.shape[0]} rows")
            with torch.no_grad():
                wide = x.double() if x.device.type != "mps" else x
                covariance = torch.atleast_2d(torch.cov(wide.mT, correction=0))
                values, vectors = torch.linalg.eigh(covariance)
                lowest = (self.floor * values[-1]).clamp(min=torch.finfo(torch.float32).tiny)
                self.floored.fill_(int((values < lowest).sum()))
                root = vectors * values.clamp(min=lowest).sqrt()
                # R of root^T = Q R gives the Cholesky factor without squaring the condition number.
                triangle = torch.linalg.qr(root.mT).R.mT
                triangle = triangle * torch.where(triangle.diagonal() < 0, -1.0, 1.0)
                self.triangle.copy_(triangle)
                self.mean.copy_(wide.mean(0))
                self.initialized.fill_(True)
        return super().initialize(x, context)

    def bind(self, context: Tensor | None = None) -> WhitenTransform:
        return WhitenTransform(self.mean, self.triangle)

    def extra_repr(self) -> str:
        return f"{self.features}, floor={self.floor:g}"


@dataclass(frozen=True)
class WhitenTransform:
    """z = L^-1 (x - mean); see :class:`~iresnet.bijections.base.Transform`."""

    mean: Tensor
    triangle: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.triangle, (x - self.mean).mT, upper=False).mT

    def forward_and_logdet(self, x: Tensor, logdet: LogDet, noise: Noise) -> tuple[Tensor, Estimate]:
        return self.forward(x), Estimate.sure(-self.triangle.diagonal().log().sum().expand(x.shape[0]))

    def inverse(self, z: Tensor, solver: Solver) -> Solution:
        value, eps = self.attach(z, z), torch.finfo(z.dtype).eps
        size = z.abs() @ self.triangle.to(z.dtype).mT.abs() + self.mean.to(z.dtype).abs()
        return exactly(value, 0.5 * eps * (z.shape[1] + 1) * size.norm(dim=1) + eps * value.norm(dim=1))

    def attach(self, z: Tensor, x: Tensor) -> Tensor:
        return z @ self.triangle.to(z.dtype).mT + self.mean.to(z.dtype)

    def lipschitz(self) -> tuple[float, float]:
        triangle = self.triangle.double() if self.triangle.device.type != "mps" else self.triangle
        return float(gram_bound(torch.linalg.inv(triangle))), float(gram_bound(triangle))

    def select(self, rows: Tensor) -> WhitenTransform:
        return self

    def repeat(self, times: int) -> WhitenTransform:
        return self

    def to(self, dtype: torch.dtype) -> WhitenTransform:
        return WhitenTransform(self.mean.to(dtype), self.triangle.to(dtype))
