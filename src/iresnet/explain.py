r"""Which feature makes a row unlikely: integrated gradients of a score, which add up to the score, with their error.

For a score s, a row x and a reference r (a row that needs no explanation), feature i gets

.. math:: a_i = (x_i - r_i) \int_0^1 \partial_i s(r + t (x - r)) \, dt, \qquad \sum_i a_i = s(x) - s(r).

The integral is a Gauss-Legendre sum of n points, taken again with 2 n until the two agree. That the shares add up is checked:
s(x) - s(r) is known. How they are shared depends on the reference and on the path, here a straight line: that is a choice and not
an error. The numbers explain the difference from *that* reference, and nothing about causes.

References
----------
Axiomatic Attribution for Deep Networks (Sundararajan, Taly and Yan, 2017), arXiv 1703.01365
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Attribution", "attribute", "nearest"]

_PATHS = 2048  # points of paths whose gradient is taken at once


@dataclass(frozen=True)
class Attribution:
    """The shares of features in a difference of scores.

    ``value`` (B, d) are the shares, in the score's unit. ``error`` (B, d) is what they moved by when the points were last
    doubled, plus what the shares of the row together miss of ``total`` (B,), which is s(x) - s(r) itself: a step of the score
    that both sums overlooked shows there. ``points`` is their number.
    """

    value: Tensor
    error: Tensor
    total: Tensor
    points: int


def attribute(
    score: Callable[[Tensor], Tensor], x: Tensor, reference: Tensor, *, tol: float = 1e-2, most: int = 256
) -> Attribution:
    """The share of each feature in score(x) - score(reference).

    Parameters
    ----------
    score : rows (N, d) to (N,), differentiable.
    x : (B, d).
    reference : (B, d), or (d,) for all rows.
    tol : error of a share, in the score's unit, at which to stop doubling the points.
    most : points at most; ``Attribution.error`` says what was reached.

    Raises
    ------
    ValueError
        For shapes that do not agree.
    """
    if x.dim() != 2 or reference.shape not in (x.shape, x.shape[1:]):
        raise ValueError(
            f"attribute takes rows (B, d) and a reference (B, d) or (d,), got {tuple(x.shape)} {tuple(reference.shape)}"
        )
    way = x - reference
    with torch.no_grad():
        total = score(x) - score(reference.expand_as(x))
    points, last = 8, _integral(score, x, way, 8)
    while True:
        points *= 2
        value = _integral(score, x, way, points)
        error, last = (value - last).abs() + (value.sum(1) - total).abs()[:, None], value
        if not len(x) or float(error.max()) <= tol or 2 * points > most:
            return Attribution(value, error, total, points)


def _integral(score: Callable[[Tensor], Tensor], x: Tensor, way: Tensor, points: int) -> Tensor:
    places, weights = np.polynomial.legendre.leggauss(points)
    value = torch.zeros_like(x)
    left = [(float(0.5 - 0.5 * t), float(0.5 * w)) for t, w in zip(places, weights, strict=True)]  # 1 - t, from x backwards
    size = max(1, _PATHS // max(len(x), 1))
    for first in range(0, points, size):
        part = left[first : first + size]
        at = torch.cat([x - back * way for back, _ in part]).detach().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(score(at).sum(), at)
        for (_, weight), one in zip(part, slope.split(len(x)), strict=True):
            value += weight * one
    return value * way


def nearest(x: Tensor, rows: Tensor, score: Tensor) -> Tensor:
    """For each of x (B, d) the nearest of those of ``rows`` (N, d) whose ``score`` (N,) is at most the median: indices (B,).

    Half of the rows are more ordinary than the rest, and the nearest of them differs from x in no more than it must.
    """
    ordinary = (score <= score.median()).nonzero().flatten()
    return ordinary[torch.cdist(x, rows[ordinary]).argmin(1)]
