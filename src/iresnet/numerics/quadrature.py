r"""log(I + A) of a contraction as a sum of resolvents, with a certified error.

.. math:: \log(I+A) = \int_0^1 A (I + tA)^{-1} dt, \qquad t = \frac{1 - e^{-u}}{c}, \quad 0 \le u \le -\ln(1-c).

In u the integrand is constant at the worst point, the eigenvalue -c, and Gauss and Legendre's rule converges geometrically, with
a number of nodes that grows with ln 1/(1-c) and not with 1/(1-c). Its error for any A of norm at most c is no larger than for the
complex numbers of modulus c (von Neumann's inequality and the maximum principle), where it is measured.

References
----------
| Computing A^alpha, log(A), and Related Matrix Functions by Contour Integrals (Hale, Higham and Trefethen, 2008), for the idea
  of a change of variable, doi 10.1137/070700607
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["log_rule"]

_LARGEST = 1 - 1e-12  # nearer to one than that, or beyond, the rule is for this


def log_rule(lipschitz: float, tol: float) -> tuple[Tensor, Tensor, float]:
    r"""Nodes t, weights w (n,) in float64 and the error of :math:`\sum_i w_i A (I + t_i A)^{-1}` for \|A\| <= ``lipschitz``.

    As few nodes as bring the error below ``tol``, or to the floor of rounding.
    """
    nodes, weights, error = _rule(min(max(lipschitz, 1e-3), _LARGEST), math.floor(math.log10(max(tol, 1e-15))))
    return nodes, weights, error if lipschitz <= _LARGEST else math.inf


@lru_cache(maxsize=256)
def _rule(lipschitz: float, digits: int) -> tuple[Tensor, Tensor, float]:
    angles = torch.cat([torch.linspace(0, math.pi, 400), math.pi - torch.logspace(-7, 0, 200)]).double()
    circle = torch.polar(torch.full_like(angles, lipschitz), angles)
    exact, end = torch.log(1 + circle), -math.log1p(-lipschitz)
    best: tuple[Tensor, Tensor, float] | None = None
    for count in range(2, 200, 2):
        places, shares = _gauss_legendre(count)
        u = 0.5 * end * (1 + places)
        nodes, weights = -torch.expm1(-u) / lipschitz, 0.5 * end * shares * torch.exp(-u) / lipschitz
        found = (weights * circle[:, None] / (1 + nodes * circle[:, None])).sum(1)
        error = float((found - exact).abs().max()) * 1.01  # between the points where it was measured it may be larger
        if best is None or error < best[2]:
            best = nodes, weights, error
        if error < 10.0**digits or error < 4e-15 * max(1.0, end):
            break
    assert best is not None
    return best


def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [-1, 1], by the eigenvalues of the Jacobi matrix (Golub and Welsch)."""
    k = torch.arange(1, count, dtype=torch.float64)
    beta = k / torch.sqrt(4 * k.square() - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(beta, 1) + torch.diag(beta, -1))
    return nodes, 2 * vectors[0].square()
