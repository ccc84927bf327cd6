"""Laws of contractive branches: what is measured never exceeds what is claimed, wherever and however one looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..contract.base import Branch
from .norms import adversarial_matrices

__all__ = ["check_branch", "check_lipschitz", "jacobian", "randomized", "rescaled", "worst_slopes"]

# Singular values and products of the measurement itself, in float64.
_MEASUREMENT = 1e-12


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor, *, graph: bool = False) -> Tensor:
    """Jacobians (B, m, n) of a row-wise function (B, *) to (B, *) by autograd, one output at a time; the naive way.

    With ``graph`` they can be differentiated again, by x and by whatever the function depends on.
    """
    with torch.enable_grad():
        point = x if x.requires_grad else x.detach().requires_grad_(True)
        value = function(point).flatten(1)
        # A constant output has no graph to x, or to anything.
        rows = [
            torch.autograd.grad(column.sum(), point, create_graph=graph, retain_graph=True, materialize_grads=True)[0].flatten(1)
            for column in value.unbind(1)
        ]
    return torch.stack(rows, 1)


def _expansion(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(jacobian(function, x), ord=2)


def _ascend(function: Callable[[Tensor], Tensor], x: Tensor, steps: int, rate: float) -> Iterator[Tensor]:
    """Points on the way up the Jacobian's norm, by normalised gradient steps of halving length."""
    for step in range(steps):
        point = x.detach().requires_grad_(True)
        matrix = jacobian(function, point, graph=True)
        if not matrix.requires_grad:
            return
        (up,) = torch.autograd.grad(torch.linalg.matrix_norm(matrix, ord=2).sum(), point, materialize_grads=True)
        up = up.nan_to_num()
        length = torch.linalg.vector_norm(up.flatten(1), dim=1).clamp(min=1e-300).reshape(-1, *[1] * (x.dim() - 1))
        x = x + rate * 0.8**step * up / length
        yield x


def check_lipschitz(function: Any, x: Tensor, claimed: float, *, ascent: int = 8, rate: float = 1.0, name: str = "") -> float:
    """Expansion at most ``claimed``: at x (B, *) in float64, at points found by gradient ascent from there, and between points.

    Returns
    -------
    float: the largest expansion that was found, a lower estimate of the true constant.
    """
    worst, x = 0.0, x.detach().double()
    for points in (x, *_ascend(function, x, ascent, rate)):
        worst = max(worst, float(_expansion(function, points).max()))
        close = points + 1e-3 * torch.randn_like(points)
        far = points + points.abs().amax() * torch.randn_like(points)
        for other in (close, far, points.roll(1, 0)):
            with torch.no_grad():
                # A per-row context moves the function from row to row: both ends of a pair are of one row.
                there, here = function(other), function(points)
                length = torch.linalg.vector_norm((other - points).flatten(1), dim=1)
                moved = torch.linalg.vector_norm((there - here).flatten(1), dim=1)
                floor = 64 * torch.finfo(torch.float64).eps * (there.abs() + here.abs()).flatten(1).amax(1)
                floor = floor + (function.rounding(points) + function.rounding(other) if hasattr(function, "rounding") else 0)
                secant = torch.where(length > 0, (moved - floor) / length.clamp(min=1e-300), torch.zeros_like(length))
            worst = max(worst, float(secant.max()))
        assert worst <= claimed * (1 + _MEASUREMENT), (
            f"{name}: expands by {worst!r}, claims {claimed!r} ({worst / claimed - 1:.2g} above)"
        )
    return worst


def worst_slopes(
    weights: tuple[Tensor, ...], slope: tuple[float, float], *, starts: int = 32, steps: int = 30, seed: int = 0
) -> float:
    """The largest ``|W_n D_(n-1) ... D_1 W_1|`` found over diagonal D with entries in ``slope``, in float64.

    No input can do worse than the worst slopes, and no search over inputs finds them as well: sign steps from random corners.
    """
    low, high = slope
    generator = torch.Generator().manual_seed(seed)
    wide = [weight.detach().double() for weight in weights]
    slopes = [
        low + (high - low) * torch.randint(0, 2, (starts, weight.shape[0]), generator=generator).double() for weight in wide[:-1]
    ]
    for diagonal in slopes:
        diagonal[0] = high  # all open, which is worst where nothing cancels
    best = 0.0
    for _ in range(steps):
        for diagonal in slopes:
            diagonal.requires_grad_(True)
        product = wide[0].expand(starts, -1, -1)
        for diagonal, weight in zip(slopes, wide[1:], strict=True):
            product = weight @ (diagonal[..., None] * product)
        norm = torch.linalg.matrix_norm(product, ord=2)
        best = max(best, float(norm.detach().max()))
        gradients = torch.autograd.grad(norm.sum(), slopes, allow_unused=True, materialize_grads=True)
        # The norm is convex in each diagonal: it is largest in a corner, and its gradient points to a better one.
        slopes = [torch.where(up > 0, high, low).double() for up in gradients]
    return best


def rescaled(branch: Branch, dtype: torch.dtype, seed: int = 0, scales: tuple[float, ...] = (1e-3, 1.0, 1e3)) -> Iterator[str]:
    """Set the parameters of ``branch`` to one hard case after another, in place; yields each case's name.

    Weights are those of :func:`~iresnet.testing.norms.adversarial_matrices` times each scale; vectors (biases, gains, the
    scalings of sandwich layers) are random, of that scale too.
    """
    branch.to(dtype)
    generator = torch.Generator().manual_seed(seed)
    names = [name for name, _ in adversarial_matrices(1, 1)]
    for scale in scales:
        for name in names:
            with torch.no_grad():
                for index, parameter in enumerate(branch.parameters()):
                    if parameter.dim() > 1 and parameter.numel():
                        rows, columns = parameter.flatten(1).shape  # a kernel (O, I, k, k) as a matrix
                        matrix = dict(adversarial_matrices(rows, columns, torch.float64, seed + index))[name]
                        parameter.copy_((scale * math.sqrt(max(rows, columns)) * matrix).reshape(parameter.shape))
                    elif parameter.numel():
                        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            yield f"{type(branch).__name__}({branch.extra_repr()}), {name} x {scale:g}, {dtype}"


def check_branch(branch: Branch, x: Tensor, context: Tensor | None = None, *, ascent: int = 4, name: str = "") -> float:
    """The bound form of ``branch`` holds what it claims: at points and pairs, and for the worst slopes of its activations.

    A branch whose ``guarantee`` is "sound" must claim no more than its ``lipschitz``. Returns the largest expansion found.
    """
    told = name or repr(branch)
    bound: Any = branch.bind(context)
    if branch.guarantee == "sound":
        assert bound.lipschitz <= branch.lipschitz, f"{told}: promised {branch.lipschitz}, bound to {bound.lipschitz}"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in bound.tensors), f"{told}: constrained weights are not finite"
    wide = bound.to(torch.float64)
    assert wide.lipschitz == bound.lipschitz, f"{told}: the same weights in float64 claim {wide.lipschitz}, not {bound.lipschitz}"
    found = check_lipschitz(wide, x, bound.lipschitz, ascent=ascent, name=told)
    weights, activation = getattr(wide, "weights", ()), getattr(wide, "activation", None)
    matrices = len(weights) > 0 and all(weight.dim() == 2 for weight in weights)
    if matrices and activation is not None and activation.elementwise:
        worst = worst_slopes(weights, activation.slope, starts=8, steps=6)
        told_worst = f"{told}: the worst slopes expand by {worst!r}, it claims {bound.lipschitz!r}"
        assert worst <= bound.lipschitz * (1 + _MEASUREMENT), told_worst
        found = max(found, worst)
    return found


def randomized(module: nn.Module, scale: float = 1.0, seed: int = 0) -> nn.Module:
    """``module`` with all parameters drawn anew, N(0, scale^2 / fan-in): new blocks are the identity and test nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = parameter.shape[-1] if parameter.dim() > 1 else 1
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(scale * draw / math.sqrt(max(fan, 1)))
    return module
