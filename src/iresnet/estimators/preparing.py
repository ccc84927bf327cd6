"""From rows and weights to numbers that a flow can start from: distinct rows, units, a starting Gaussian.

Equal rows are one row of their summed weight, and rows are sorted. So a weight of two is the same as the row twice, bit for bit,
a weight of zero the same as no row, and the order of the rows does not matter; and a copy of a training row is never held out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.grids import find_grid

__all__ = ["Units", "distinct", "find_units", "gaussian_of", "weighted_quantile"]

_FINE = 1e-3  # of a column's standard deviation: a finer grid is as good as none


@dataclass(frozen=True, eq=False)
class Units:
    """How columns become the flow's numbers: z = (v + u r - center) / scale.

    ``steps`` r (d,) are the resolutions of columns that hold levels, 0 for the others, and u in [0, 1) their noise; ``origin``
    (d,) is one of the levels. All is float64 on the CPU. An :class:`~iresnet.tasks.rows.Encoder`.
    """

    center: Tensor
    scale: Tensor
    steps: Tensor
    origin: Tensor

    @property
    def dequantized(self) -> tuple[str, ...]:
        """The columns that hold levels, by number."""
        return tuple(str(k) for k in self.steps.nonzero().flatten().tolist())

    def encode(self, values: Tensor, noise: Tensor | None = None, *, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Values (N, d) to z (N, d) and log|dz/dv| summed over columns (N,); levels without noise are at their cells' middle."""
        u: Tensor | float = 0.5 if noise is None else noise.to("cpu", torch.float64)
        z = (values.to("cpu", torch.float64) + u * self.steps - self.center) / self.scale
        return z, -self.scale.log().sum().expand(len(z))

    def decode(self, z: Tensor) -> Tensor:
        """z (N, d) to values (N, d) float64, levels back on their grid."""
        v = z.to("cpu", torch.float64) * self.scale + self.center
        cell = torch.where(self.steps > 0, self.steps, 1.0)
        return torch.where(self.steps > 0, self.origin + torch.floor((v - self.origin) / cell) * cell, v)


def distinct(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows (m, d) of x (n, d) of positive weight (n,), sorted, and their weights (m,), of mean one."""
    kept = weight > 0
    rows, place = np.unique(x[kept], axis=0, return_inverse=True)
    total = np.bincount(place.ravel(), weight[kept], minlength=len(rows))
    return rows, total / total.mean()


def weighted_quantile(values: np.ndarray, weight: np.ndarray, share: float) -> float:
    """The smallest of ``values`` (n,) that has at least ``share`` of the weight (n,) at or below it."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weight[order])
    place = int(np.searchsorted(reached, share * reached[-1] * (1 - 1e-12)))
    return float(values[order[min(place, len(order) - 1)]])


def find_units(x: np.ndarray, weight: np.ndarray, *, dequantize: bool) -> Units:
    """Mean and standard deviation of each column of x (m, d), float64, with weights (m,), and the grids their values lie on.

    A column that does not vary has scale one. Without ``dequantize`` no grid is looked for.
    """
    share = weight / weight.sum()
    mean = share @ x
    spread = np.sqrt(share @ np.square(x - mean))
    varies = np.ptp(x, axis=0) > 0  # a mean of equal numbers is off by a rounding, so ask for the range
    mean, spread = np.where(varies, mean, x[0]), np.where(varies, spread, 1.0)
    steps = np.zeros(len(mean))
    for k in np.flatnonzero(varies & dequantize):
        step = find_grid(x[:, k])
        steps[k] = step if step is not None and step > _FINE * spread[k] else 0.0
    center, scale, steps, origin = (torch.from_numpy(np.ascontiguousarray(part)) for part in (mean, spread, steps, x.min(0)))
    return Units(center, scale, steps, origin)


def gaussian_of(z: Tensor, weight: Tensor, trim: float = 0.0) -> Tensor:
    r"""2 d points (2 d, d) with the mean and the covariance of z (m, d), float64, with weights (m,): what a flow starts from.

    The covariance S is shrunk towards its mean eigenvalue by the oracle approximation (Chen et al., 2010, arXiv 0907.4698), with
    the effective number of rows :math:`(\sum w)^2 / \sum w^2`: few rows in many columns still give a usable start. With ``trim``
    that share of the weight is left out, the rows furthest away, found by repetition as in FAST-MCD (Rousseeuw and Van Driessen,
    1999), and the covariance rescaled so that the median distance is a normal's.
    """
    kept = weight
    mean, covariance = _moments(z, kept)
    for _ in range(10 if trim else 0):
        distance = _distances(z, mean, covariance)
        limit = weighted_quantile(distance.numpy(), weight.numpy(), 1 - trim)
        kept = weight * (distance <= limit)
        mean, covariance = _moments(z, kept)
    if trim:
        d = z.shape[1]
        median = weighted_quantile(_distances(z, mean, covariance).numpy(), weight.numpy(), 0.5)
        covariance = covariance * max(median / (d * (1 - 2 / (9 * d)) ** 3), 1e-6)  # Wilson and Hilferty's median of chi^2
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * (values.clamp(min=0) * z.shape[1]).sqrt()
    return torch.cat((mean + root.mT, mean - root.mT))


def _moments(z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and shrunk covariance (d, d)."""
    share, d = weight / weight.sum(), z.shape[1]
    mean = share @ z
    centred = z - mean
    covariance = (centred * share[:, None]).mT @ centred
    count = 1 / float(share.square().sum())
    size = float(covariance.diagonal().mean())
    if not size > 1e-12:  # a single row: there is nothing but the units to say how wide
        return mean, torch.eye(d, dtype=z.dtype)
    square = float(covariance.square().mean())
    lower = (count + 1) * (square - size**2 / d)
    shrink = 1.0 if lower <= 0 else min(1.0, (square + size**2) / lower)
    eye = torch.eye(d, dtype=z.dtype)
    return mean, (1 - shrink) * covariance + shrink * size * eye


def _distances(z: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Squared Mahalanobis distances (m,), directions without spread floored as whitening does."""
    values, vectors = torch.linalg.eigh(covariance)
    floor = (1e-8 * values[-1]).clamp(min=math.ldexp(1.0, -120))
    return (((z - mean) @ vectors).square() / values.clamp(min=floor)).sum(1)
