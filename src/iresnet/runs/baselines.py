"""What a flow has to beat: the Gaussian of a table's columns, the histograms of an image's pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..numerics.noise import Noise
from ..tasks.rows import Rows

__all__ = ["gaussian", "independent_pixels"]


def gaussian(train: Rows, rows: Rows, seed: int) -> Tensor:
    """Log-density (N,) of ``rows`` under the Gaussian with the mean and covariance of ``train``, dequantised alike."""
    like = torch.zeros((), dtype=torch.float64)
    fitted, held = train.all(like, Noise(seed).at(0)), rows.all(like, Noise(seed))
    mean, size = fitted.x.mean(0), fitted.x.shape[1]
    covariance = torch.atleast_2d(torch.cov(fitted.x.mT, correction=0))
    floor = 1e-12 * float(covariance.diagonal().max())
    triangle = torch.linalg.cholesky(covariance + floor * torch.eye(size, dtype=covariance.dtype))
    white = torch.linalg.solve_triangular(triangle, (held.x - mean).mT, upper=False)
    value = -0.5 * white.square().sum(0) - triangle.diagonal().log().sum() - 0.5 * size * math.log(2 * math.pi)
    return value + held.log_jacobian


def independent_pixels(train: Tensor, images: Tensor, levels: int) -> Tensor:
    """Log-probability (N,) of ``images`` (N, C, H, W) uint8 where each pixel and channel is drawn from its own histogram.

    That of ``train`` with one more count for every level, so that no level is impossible.
    """
    fitted, held = train.flatten(1), images.flatten(1)
    size = fitted.shape[1]
    places = torch.arange(size) * levels
    counts = torch.ones(size * levels, dtype=torch.float64)
    for part in fitted.split(4096):
        counts += torch.bincount((part.long() + places).flatten(), minlength=size * levels)
    logs = torch.log(counts / (len(fitted) + levels))
    return torch.cat([logs[part.long() + places].sum(1) for part in held.split(4096)])
