r"""log det(I + J) of a residual map, as a value with its standard error and its bias; here what every estimator shares.

For a branch with :math:`\|J\|_2 \le c < 1`, and v with :math:`E[v v^T] = I`,

.. math:: \log\det(I+J) = \sum_{k \ge 1} \frac{(-1)^{k+1}}{k} \operatorname{tr} J^k
          = E\Big[\sum_{k \ge 1} \frac{(-1)^{k+1}}{k} v^T J^k v\Big].

One probe is unbiased; *truncating* the series is what biases, by at most
:math:`-d\,(\ln(1-c) + \sum_{k \le n} c^k / k)`. The series itself is in :mod:`iresnet.numerics.series`.

References
----------
| Invertible Residual Networks (Behrmann et al., 2019), arXiv 1811.00995
| Residual Flows for Invertible Generative Modeling (Chen et al., 2019), arXiv 1906.02735
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .elimination import inverse, log_abs_det
from .linearize import Linearization, Probed, attachable, linearize
from .noise import Noise

__all__ = ["Estimate", "Exact", "LogDet", "dense_jacobian", "lipschitz_of", "series_tail", "truncation_bias"]

Function = Callable[[Tensor], Tensor]

_ENTRIES = 2**23  # of the Jacobians of one part of a batch: 64 MB in float64, a few times that with what they are made of


@dataclass(frozen=True)
class Estimate:
    """A number that carries its error; each part (B,).

    ``stderr`` is the standard error of ``value`` over the random probes (0 if none were used, NaN if it is not known, as from a
    single probe). ``bias`` bounds or estimates what is systematic: truncation, rounding.
    """

    value: Tensor
    stderr: Tensor
    bias: Tensor

    def __add__(self, other: Estimate | Tensor | float) -> Estimate:
        """The sum of independent estimates: errors add in squares, biases add up."""
        if isinstance(other, Estimate):
            stderr = torch.hypot(self.stderr, other.stderr)
            return Estimate(self.value + other.value, stderr, self.bias + other.bias)
        return Estimate(self.value + other, self.stderr, self.bias)

    @staticmethod
    def total(parts: Sequence[Estimate]) -> Estimate:
        """The sum of one or more independent estimates in a few operations, however many they are."""
        value, stderr, bias = (torch.stack(column) for column in zip(*((p.value, p.stderr, p.bias) for p in parts), strict=True))
        return Estimate(value.sum(0), torch.linalg.vector_norm(stderr, dim=0), bias.sum(0))

    @staticmethod
    def sure(value: Tensor) -> Estimate:
        """A value in closed form."""
        zero = torch.zeros_like(value, requires_grad=False)
        return Estimate(value, zero, zero)


class LogDet(Protocol):
    """How a log-determinant is found: ``g(x), log det(I + dg/dx)`` from a bound branch and a batch (B, *)."""

    def __call__(self, function: Function, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Estimate]: ...


def lipschitz_of(function: Function) -> float:
    """The certified Lipschitz constant that a bound branch carries; infinite for a plain callable."""
    return float(getattr(function, "lipschitz", math.inf))


@dataclass(frozen=True)
class Exact:
    """The full Jacobian and its determinant: no probes, cost d Jacobian products and an LU factorisation (d^3) a row.

    Where the function offers a smaller matrix with the same determinant (a dense branch whose narrowest layer has r < d units),
    that is taken, and r stands for d: wide data cost no more than narrow.

    The stated bias is an estimate of rounding: 8 d eps, over the geometric mean of the singular values of I + J where that is
    below one, since what is nearly singular loses digits. A large batch is taken in parts, which the backward pass computes
    again, so that memory stays bounded.

    Parameters
    ----------
    recompute : where the branch has its gradient in closed form, keep only inputs and (I + J)^-1 for the backward pass, which
        computes the rest again: less memory, and differentiable only once.
    """

    recompute: bool = field(default=False, repr=False)

    def __call__(self, function: Function, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Estimate]:
        size = min(x[0].numel(), getattr(function, "rank", math.inf)) if len(x) else 1
        rows = max(1, _ENTRIES // int(size) ** 2)
        if self.recompute and 0 < len(x) <= rows and size == x[0].numel() and attachable(function, x):
            return self._attached(function, x)
        if len(x) <= rows or not (hasattr(function, "select") and hasattr(function, "linearize")):
            return self._at_once(function, x)
        bound: Any = function
        found = [self._part(bound.select(part), x[part]) for part in torch.arange(len(x), device=x.device).split(rows)]
        images, estimates = zip(*found, strict=True)
        parts = (torch.cat([getattr(one, name) for one in estimates]) for name in ("value", "stderr", "bias"))
        return torch.cat(images), Estimate(*parts)

    def _part(self, function: Function, x: Tensor) -> tuple[Tensor, Estimate]:
        """One part of a large batch, computed again in the backward pass if there is one."""
        if not torch.is_grad_enabled():
            return self._at_once(function, x)
        return checkpoint(self._at_once, function, x, use_reentrant=False)  # type: ignore[return-value]

    def _attached(self, function: Any, x: Tensor) -> tuple[Tensor, Estimate]:
        r"""The same numbers; the gradient is that of :math:`\sum_i \langle (I+J)^{-T} e_i, J e_i \rangle` over the axes."""
        with torch.no_grad():
            at = linearize(function, x)
            jacobian = at.jacobian() if at.jacobian is not None else dense_jacobian(at, x)
            estimate = _determinant(jacobian)
            size = jacobian.shape[-1]
            # Row i of the inverse is (I + J)^-T e_i; the size undoes the mean over the axes.
            left = (size * _inverse(jacobian)).transpose(0, 1).reshape(size, *x.shape)
            axes = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *x.shape[1:]).expand_as(left)
        image, value = at.attach(Probed(estimate.value, left, axes, False, True))  # type: ignore[misc]
        return image, Estimate(value, estimate.stderr, estimate.bias)

    def _at_once(self, function: Function, x: Tensor) -> tuple[Tensor, Estimate]:
        at = linearize(function, x)
        found = at.core or at.jacobian
        return at.value, _determinant(found() if found is not None else dense_jacobian(at, x))


def _determinant(jacobian: Tensor) -> Estimate:
    """log abs det(I + J) (B,) of J (B, d, d)."""
    jacobian, size = _full(jacobian), jacobian.shape[-1]
    if size == 1:
        slope = jacobian[:, 0, 0]
        value = torch.log1p(torch.where(slope < -1, -2 - slope, slope))  # abs(1 + slope), also for what is not contractive
    elif size == 2:  # LU of many 2 x 2 matrices costs more than everything else in a flow in the plane
        (a, b), (c, d) = jacobian[:, 0].unbind(-1), jacobian[:, 1].unbind(-1)
        value = torch.log(((1 + a) * (1 + d) - b * c).abs())
    else:
        eye = torch.eye(size, dtype=jacobian.dtype, device=jacobian.device)
        value = log_abs_det(eye + jacobian)
    rounding = 8 * size * torch.finfo(jacobian.dtype).eps * torch.exp((-value.detach() / size).clamp(min=0.0))
    return Estimate(value, torch.zeros_like(value, requires_grad=False), rounding)


def _inverse(jacobian: Tensor) -> Tensor:
    """(I + J)^-1 (B, d, d)."""
    jacobian, size = _full(jacobian), jacobian.shape[-1]
    matrix = torch.eye(size, dtype=jacobian.dtype, device=jacobian.device) + jacobian
    if size == 2:
        (a, b), (c, d) = matrix[:, 0].unbind(-1), matrix[:, 1].unbind(-1)
        return torch.stack((d, -b, -c, a), -1).div_((a * d - b * c)[:, None]).reshape(-1, 2, 2)
    return inverse(matrix)  # a singular one has an infinite log-determinant, which training looks out for


def _full(jacobian: Tensor) -> Tensor:
    """In a precision that determinants exist in: autocast makes Jacobians of half of it."""
    return jacobian.float() if jacobian.dtype in (torch.float16, torch.bfloat16) else jacobian


def dense_jacobian(at: Linearization, x: Tensor) -> Tensor:
    """J (B, d, d) by one product for each row of it."""
    size = x.shape[1:].numel()
    basis = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *x.shape[1:]).expand(size, *x.shape)
    return at.vjp(basis).reshape(size, x.shape[0], size).transpose(0, 1)


def truncation_bias(lipschitz: float, terms: int, size: int) -> float:
    r"""A priori bound :math:`-d\,(\ln(1-c) + \sum_{k \le n} c^k/k)` of what ``terms`` terms leave out (nats; d = ``size``)."""
    return size * series_tail(lipschitz, terms)


def series_tail(lipschitz: float, terms: int) -> float:
    """The sum of c^k / k over k > ``terms``; infinite unless c < 1. Added up, since the closed form cancels for small c."""
    if not lipschitz < 1:
        return math.inf
    total, power, last = 0.0, lipschitz ** (terms + 1), terms + 400
    for k in range(terms + 1, last):
        total += power / k
        power *= lipschitz
    return total + power / (last * (1 - lipschitz))
