"""Laws of volume: log-determinants of inverses and of chains, and densities that integrate to one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..bijections.base import Bijection
from ..flow import Flow
from ..numerics.elimination import log_abs_det
from ..numerics.fixed_point import Picard
from ..numerics.logdet import Exact, LogDet
from ..numerics.noise import Noise
from .lipschitz import jacobian

__all__ = ["check_chain_rule", "check_integral", "check_inverse_logdet"]


def check_inverse_logdet(
    bijection: Bijection, x: Tensor, context: Tensor | None = None, *, tolerance: float = 1e-7, logdet: LogDet | None = None
) -> None:
    """The log-determinant is that of the Jacobian by autograd, and that of the inverse at z is minus it.

    The inverse's own Jacobian is taken through the implicit function theorem (``attach``), at the x that the solver found.
    """
    transform: Any = bijection.bind(context)
    z, estimate = transform.forward_and_logdet(x, logdet or Exact(), Noise())
    torch.testing.assert_close(z, transform.forward(x), rtol=1e-10, atol=1e-12)
    there = log_abs_det(jacobian(transform.forward, x))
    name = type(bijection).__name__
    torch.testing.assert_close(
        estimate.value, there, rtol=tolerance, atol=tolerance, msg=lambda text: f"{name}, log-determinant: {text}"
    )
    found = transform.inverse(z.detach(), Picard()).check(name).value
    torch.testing.assert_close(found, x, rtol=tolerance, atol=tolerance, msg=lambda text: f"{name}, inverse: {text}")
    back = log_abs_det(jacobian(lambda latent: transform.attach(latent, found), z.detach()))
    torch.testing.assert_close(
        back, -there, rtol=tolerance, atol=tolerance, msg=lambda text: f"{name}, inverse's: {text}"
    )


def check_chain_rule(parts: list[Bijection], chain: Bijection, x: Tensor, context: Tensor | None = None) -> None:
    """The chain's value and exact log-determinant are those of its parts one after the other."""
    total, point = torch.zeros_like(x.flatten(1)[:, 0]), x
    for part in parts:
        point, estimate = part.bind(context).forward_and_logdet(point, Exact(), Noise())
        total = total + estimate.value
    z, whole = chain.bind(context).forward_and_logdet(x, Exact(), Noise())
    torch.testing.assert_close(z, point, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(whole.value, total, rtol=1e-9, atol=1e-10)


def check_integral(
    flow: Flow, context: Tensor | None = None, *, reach: float = 5.0, points: int | None = None, tolerance: float = 1e-3
) -> float:
    """The density of a flow on the line or in the plane integrates to one within ``tolerance``; returns the integral.

    The grid is even in u with x = m + s sinh(u), |u| <= ``reach``, for the quartiles' m and s of samples: fine where the mass is,
    and out to heavy tails.
    """
    (features,) = flow.shape
    assert features in (1, 2), f"an integral on a grid is for one or two dimensions, this flow has {features}"
    count = points or (20_001 if features == 1 else 401)
    u = torch.linspace(-reach, reach, count, dtype=torch.float64)
    total, weight = 0.0, torch.cosh(u) * (u[1] - u[0])
    with torch.no_grad():
        drawn = flow.sample(1000, context, generator=torch.Generator().manual_seed(0)).double()
        low, middle, high = drawn.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=0)
        spread = (high - low) / 2
        grid = middle + spread * torch.cartesian_prod(*[torch.sinh(u)] * features).reshape(-1, features)
        weights = spread.prod() * torch.cartesian_prod(*[weight] * features).reshape(-1, features).prod(1)
        bound = flow.bind(context)
        for piece, mass in zip(grid.split(50_000), weights.split(50_000), strict=True):
            density = bound.log_prob(piece.to(flow.base.anchor), logdet=Exact()).double().exp()
            total += float((density * mass).sum())
    assert abs(total - 1) <= tolerance, f"the density integrates to {total}"
    return total
