r"""Levels of grey or colour to the line: :math:`s = \alpha + (1 - 2 \alpha) x / L`, and :math:`z = \operatorname{logit} s`.

x are dequantised levels in [0, L), L = 256 for images of 8 bits. Real NVP's ``alpha`` keeps the logit finite at both ends;
without one the map is the scaling x / L alone, under which uniform noise measures log2 L bits a dimension.

References
----------
Density estimation using Real NVP (Dinh et al., 2017), arXiv 1605.08803
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics.fixed_point import Solution, Solver
from ..numerics.logdet import Estimate, LogDet
from ..numerics.noise import Noise
from .base import Bijection, exactly

__all__ = ["Pixels", "PixelsTransform"]


class Pixels(Bijection):
    """[0, ``levels``)^d to the line by scale and logit, or to [0, 1)^d where ``alpha`` is None.

    Raises
    ------
    ValueError
        If ``levels`` is below 2 or ``alpha`` not in (0, 1/2).
    """

    def __init__(self, levels: int = 256, alpha: float | None = 0.05) -> None:
        super().__init__()
        if levels < 2 or not (alpha is None or 0 < alpha < 0.5):
            raise ValueError(f"pixels need levels >= 2 and alpha in (0, 0.5) or None, got {levels} and {alpha}")
        self.levels, self.alpha = int(levels), alpha

    def bind(self, context: Tensor | None = None) -> PixelsTransform:
        return PixelsTransform(self.levels, self.alpha)

    def extra_repr(self) -> str:
        return f"{self.levels}, alpha={self.alpha}"


@dataclass(frozen=True)
class PixelsTransform:
    """The bound form of :class:`Pixels`; see :class:`~iresnet.bijections.base.Transform`."""

    levels: int
    alpha: float | None

    def _logs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log s and log (1 - s), neither by a difference that cancels."""
        alpha = self.alpha or 0.0
        slope = (1 - 2 * alpha) / self.levels
        return torch.log(alpha + slope * x), torch.log(alpha + slope * (self.levels - x))

    def forward(self, x: Tensor) -> Tensor:
        if self.alpha is None:
            return x / self.levels
        below, above = self._logs(x)
        return below - above

    def forward_and_logdet(self, x: Tensor, logdet: LogDet, noise: Noise) -> tuple[Tensor, Estimate]:
        if self.alpha is None:
            return x / self.levels, Estimate.sure(x.new_full((x.shape[0],), -x.shape[1:].numel() * math.log(self.levels)))
        below, above = self._logs(x)
        slope = math.log1p(-2 * self.alpha) - math.log(self.levels)
        return below - above, Estimate.sure((slope - below - above).flatten(1).sum(1))

    def inverse(self, z: Tensor, solver: Solver) -> Solution:
        value, eps = self.attach(z, z), torch.finfo(z.dtype).eps
        if self.alpha is None:
            return exactly(value, eps * value.flatten(1).norm(dim=1))
        # The sigmoid is in (0, 1) and off by a few roundings; so are the difference and the two products.
        each = 8 * eps * self.levels / (1 - 2 * self.alpha)
        finite = torch.isfinite(z.flatten(1)).all(1)
        return exactly(value, torch.where(finite, each * math.sqrt(z.shape[1:].numel()), torch.inf).to(z.dtype))

    def attach(self, z: Tensor, x: Tensor) -> Tensor:
        if self.alpha is None:
            return z * self.levels
        return (torch.sigmoid(z) - self.alpha) * (self.levels / (1 - 2 * self.alpha))

    def lipschitz(self) -> tuple[float, float]:
        """On [0, levels]^d, where data lie; the inverse's holds everywhere."""
        if self.alpha is None:
            return 1 / self.levels, float(self.levels)
        slope = (1 - 2 * self.alpha) / self.levels
        return slope / (self.alpha * (1 - self.alpha)), 0.25 / slope

    def select(self, rows: Tensor) -> PixelsTransform:
        return self

    def repeat(self, times: int) -> PixelsTransform:
        return self

    def to(self, dtype: torch.dtype) -> PixelsTransform:
        return self
