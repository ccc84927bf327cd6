r"""An affine model of a branch, g(x) about m + J x on average over N(0, I): a start and a preconditioner for its inverse.

The least-squares fit over normal x has the mean Jacobian as its matrix (Stein's lemma). A branch that knows its layers gives it
in factors, J = U V, from one evaluation at a few fixed points; :math:`(I + J)^{-1} = I - U (I + V U)^{-1} V` then costs a system
as wide as a hidden layer. It only ever chooses where to look, so nothing need be guaranteed of it.

References
----------
Estimation of the Mean of a Multivariate Normal Distribution (Stein, 1981), doi 10.1214/aos/1176345632
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["POINTS", "AffineInverse", "affine_inverse"]

# Points of the fit, half of them the others' negatives. Twice as many save no evaluation on trained flows.
POINTS = 128


@dataclass(frozen=True)
class AffineInverse:
    """r (B, d) to (I + J)^-1 r, by a matrix or by its factors, whichever is smaller; ``offset`` (d,) is m."""

    offset: Tensor
    whole: Tensor | None
    left: Tensor
    right: Tensor

    def __call__(self, residual: Tensor) -> Tensor:
        if self.whole is not None:
            return residual @ self.whole
        return residual - (residual @ self.right) @ self.left

    def to(self, dtype: torch.dtype) -> AffineInverse:
        whole = None if self.whole is None else self.whole.to(dtype)
        return AffineInverse(self.offset.to(dtype), whole, self.left.to(dtype), self.right.to(dtype))


@lru_cache(maxsize=16)
def _points(width: int) -> Tensor:
    half = torch.randn(POINTS // 2, width, generator=torch.Generator().manual_seed(0))
    return torch.cat((half, -half))


def affine_inverse(function: Any, y: Tensor) -> AffineInverse | None:
    """The inverse of y ~ x + m + J x for ``function`` at rows like ``y`` (B, d); None where the branch offers no cheap model."""
    if y.dim() != 2 or not hasattr(function, "surrogate"):
        return None
    found = function.surrogate(_points(y.shape[1]).to(y))
    if found is None:
        return None
    offset, left, right = found
    inner = torch.eye(left.shape[1], dtype=y.dtype, device=y.device) + right @ left
    left = torch.linalg.solve_ex(inner, left, left=False)[0]
    if not bool(torch.isfinite(left).all()):
        return None
    eye = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    whole = (eye - left @ right).mT.contiguous() if left.shape[1] * 2 > y.shape[1] else None
    return AffineInverse(offset, whole, left.mT.contiguous(), right.mT.contiguous())
