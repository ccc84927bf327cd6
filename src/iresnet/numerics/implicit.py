r"""Gradients of an inverse by the implicit function theorem: nothing of the iteration is kept or unrolled.

For x + g(x) = y, :math:`dx = (I + J)^{-1} (dy - \partial g)`. The product with :math:`(I + J^T)^{-1}` that a gradient needs is a
fixed point itself, w <- x_bar - J^T w, with the same contraction.

References
----------
Deep Equilibrium Models (Bai et al., 2019), arXiv 1909.01377
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .fixed_point import NotConverged, lengths
from .linearize import linearize
from .logdet import lipschitz_of

__all__ = ["implicit"]


def implicit(function: Any, y: Tensor, solution: Tensor) -> Tensor:
    r"""``solution`` x* (B, *) of x + g(x) = y as a differentiable function of y and of everything that g depends on.

    By the implicit function theorem :math:`dx = (I + J)^{-1} (dy - \partial g)`: nothing of the iteration is kept or unrolled.
    The gradient :math:`w = (I + J^T)^{-1} \bar x` is itself a fixed point, w <- x_bar - J^T w, with the same contraction.
    Differentiable once.
    """
    x = solution.detach()
    native = x.to(getattr(function, "dtype", x.dtype))
    attached = y - function(native)  # carries the graph to y and to the branch's tensors; its value is x* up to rounding
    if not attached.requires_grad:
        return x
    attached = _Adjoint.apply(attached, function, native)
    return x.to(attached.dtype) + (attached - attached.detach())


class _Adjoint(torch.autograd.Function):
    """The identity, whose gradient is multiplied by (I + J^T)^-1."""

    @staticmethod
    def forward(ctx: Any, attached: Tensor, function: Any, x: Tensor) -> Tensor:
        ctx.function, ctx.x = function, x
        return attached.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        lipschitz = lipschitz_of(ctx.function)
        at = linearize(ctx.function, ctx.x)
        wanted = grad.to(ctx.x.dtype)
        if not bool(torch.isfinite(wanted).all()):  # a loss that is not finite says nothing about the branch
            return torch.full_like(grad, math.nan), None, None
        size = lengths(wanted)
        tol = 8 * torch.finfo(wanted.dtype).eps * (1 - lipschitz if lipschitz < 1 else 0.1) * size
        adjoint, shortest = wanted, torch.full_like(size, math.inf)
        done = torch.zeros_like(size, dtype=torch.bool)
        for _ in range(2000):
            update = wanted - at.vjp(adjoint)
            step, adjoint = lengths(update - adjoint), update
            # At the floor of the precision steps no longer shrink. Each row is remembered to have been there: rows reach it at
            # different times, and may go round in cycles on it.
            done |= (step <= tol) | ((step >= shortest) & (step < 1e-3 * size))
            if bool(done.all()):
                return adjoint.to(grad.dtype), None, None
            shortest = torch.minimum(shortest, step)
        told = "it is certified, so its numbers must be extreme" if lipschitz < 1 else "nothing guarantees that it is contractive"
        raise NotConverged(f"the gradient of an inverse did not converge through a branch: {told}")
