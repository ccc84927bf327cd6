r"""Log-densities of noisy curves in the plane: a position on the curve drawn at random, plus noise.

The density of :math:`x = c(T) + \varepsilon` is the integral of the noise's density along the curve,

.. math:: p(x) = \int p_T(t)\, p_\varepsilon(x - c(t))\, dt \approx \sum_k w_k\, p_\varepsilon(x - c(t_k)),

by Gauss-Legendre quadrature on panels no longer than the noise is wide, where the integrand is all but a polynomial;
circles have a closed form. Everything is float64 and in logs, so that far points keep a finite log-density.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Curve", "box_gaussian", "circle_log_density", "curve_log_density", "gaussian", "quadrature"]

_CHUNK = 1 << 19  # pairs (point, node) held at once: 4 MiB in float64, about what a core's cache holds


class Curve(NamedTuple):
    """A curve as quadrature nodes: ``points`` (K, 2) and ``log_weights`` (K,), whose exponentials sum to 1; float64."""

    points: Tensor
    log_weights: Tensor


def quadrature(
    position: Callable[[np.ndarray], np.ndarray],
    edges: np.ndarray,
    weight: Callable[[np.ndarray], np.ndarray] = np.ones_like,
    order: int = 10,
) -> Curve:
    """Gauss-Legendre nodes of ``order`` on each panel between ``edges`` (P + 1,).

    ``position`` maps parameters (K,) to points (K, 2); ``weight`` is the parameter's density up to a constant.
    """
    nodes, weights = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges)[:, None] / 2
    parameter = (edges[:-1, None] + half + half * nodes).reshape(-1)
    mass = (half * weights).reshape(-1) * weight(parameter)
    return Curve(torch.from_numpy(position(parameter)), torch.from_numpy(np.log(mass / mass.sum())))


def gaussian(scale: float) -> Callable[[Tensor], Tensor]:
    """The log-density of isotropic Gaussian noise of standard deviation ``scale``, as a function of (*, 2) -> (*)."""
    constant = -math.log(2 * math.pi * scale**2)
    return lambda offset: constant - offset.square().sum(-1) / (2 * scale**2)


def box_gaussian(width: float, scale: float, far: bool = False) -> Callable[[Tensor], Tensor]:
    r"""The log-density of U(0, width) + N(0, scale^2) on either axis, as a function of (*, 2) -> (*).

    On one axis it is :math:`(\Phi(u/s) - \Phi((u-w)/s)) / w`. Beyond some 35 standard deviations the plain form
    underflows to minus infinity; ``far`` asks for the one in logs, right everywhere and five times slower.
    """

    def log_density(offset: Tensor) -> Tensor:
        # Symmetric about width/2: folded to the left, where both terms are small numbers and their difference is exact.
        folded = width / 2 - (offset - width / 2).abs()
        if far:
            upper, lower = (torch.special.log_ndtr(u / scale) for u in (folded, folded - width))
            return (upper + torch.log(-torch.expm1(lower - upper)) - math.log(width)).sum(-1)
        upper, lower = (torch.erfc(u / (-math.sqrt(2) * scale)) for u in (folded, folded - width))
        return ((upper - lower) / (2 * width)).prod(-1).log()

    return log_density


def curve_log_density(x: Tensor, curve: Curve, noise: Callable[[Tensor], Tensor]) -> Tensor:
    """log p(x) (B,) of points ``x`` (B, 2) for a curve and its noise's log-density; in chunks, so memory is flat."""
    rows = max(1, _CHUNK // len(curve.points))
    return torch.cat(
        [torch.logsumexp(noise(part[:, None, :] - curve.points) + curve.log_weights, dim=1) for part in torch.split(x, rows)]
        or [x.new_empty(0)]
    )


def circle_log_density(x: Tensor, radius: float, scale: float) -> Tensor:
    r"""log p(x) (B,) of a uniform angle on a circle about the origin plus N(0, scale^2) on either axis.

    In closed form :math:`\log I_0(r R / s^2) - (r^2 + R^2) / 2s^2 - \log 2 \pi s^2`, with the exponential taken out
    of the Bessel function so that nothing overflows.
    """
    r = torch.linalg.vector_norm(x, dim=-1)
    bessel = torch.special.i0e(r * radius / scale**2).log()
    return bessel - (r - radius).square() / (2 * scale**2) - math.log(2 * math.pi * scale**2)
