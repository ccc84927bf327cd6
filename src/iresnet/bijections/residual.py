"""The residual block y = x + g(x; context) with Lip(g) < 1.

References
----------
Invertible Residual Networks (Behrmann et al., 2019), arXiv 1811.00995
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..contract.base import Bound, Branch
from ..numerics.fixed_point import Solution, Solver
from ..numerics.implicit import implicit
from ..numerics.logdet import Estimate, LogDet
from ..numerics.noise import Noise
from .base import Bijection

__all__ = ["Residual", "ResidualTransform"]


class Residual(Bijection):
    """y = x + g(x) for a contractive branch g; ``residual.branch.bind(context)`` is the pure function g.

    Alone, it is inverted by ``residual.bind(context).inverse(y, Picard())``, a solution with its error bound.

    Parameters
    ----------
    branch : any :class:`~iresnet.contract.base.Branch` that keeps the shape of x.
    """

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        self.branch = branch

    def bind(self, context: Tensor | None = None) -> ResidualTransform:
        return self.of(self.branch.bind(context))

    def of(self, bound: Bound) -> ResidualTransform:
        """The block of its branch once that is bound."""
        return ResidualTransform(bound, self.branch.bf16 and self.branch.training)


@dataclass(frozen=True)
class ResidualTransform:
    """The bound form of :class:`Residual`; see :class:`~iresnet.bijections.base.Transform`.

    ``bf16`` has the branch's products, and only these, computed in bfloat16 on the way to the latent. Inverses never are.
    """

    bound: Bound
    bf16: bool = False

    def _products(self, x: Tensor) -> AbstractContextManager[Any]:
        return torch.autocast(x.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def forward(self, x: Tensor) -> Tensor:
        with self._products(x):
            value = self.bound(x)
        return x + value

    def forward_and_logdet(self, x: Tensor, logdet: LogDet, noise: Noise) -> tuple[Tensor, Estimate]:
        with self._products(x):
            value, estimate = logdet(self.bound, x, noise)
        return x + value, estimate

    def inverse(self, z: Tensor, solver: Solver) -> Solution:
        return solver(self.bound, z)

    def attach(self, z: Tensor, x: Tensor) -> Tensor:
        return implicit(self.bound, z, x)

    def lipschitz(self) -> tuple[float, float]:
        constant = self.bound.lipschitz
        return 1 + constant, 1 / (1 - constant) if constant < 1 else math.inf

    def select(self, rows: Tensor) -> ResidualTransform:
        return replace(self, bound=self.bound.select(rows))

    def repeat(self, times: int) -> ResidualTransform:
        return replace(self, bound=self.bound.repeat(times))

    def to(self, dtype: torch.dtype) -> ResidualTransform:
        return replace(self, bound=self.bound.to(dtype))
