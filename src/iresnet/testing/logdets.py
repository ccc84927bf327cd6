"""Laws of log-determinant estimators: unbiased up to the bias they state, spread as they state, and so for their gradients.

A stochastic estimate is repeated: every row of x stands many times in one batch, with noise of its own (``Noise(seed, rows)``).
Of a roulette one draw decides for a whole batch, so there batches are repeated. "Within" means five standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..numerics.elimination import log_abs_det
from ..numerics.logdet import LogDet
from ..numerics.noise import Noise
from .lipschitz import jacobian

__all__ = ["check_logdet", "check_logdet_gradient", "check_roulette", "true_logdet"]

_SIGMAS = 5.0
_ROUNDING = 1e-10


def true_logdet(function: Any, x: Tensor, *, graph: bool = False) -> Tensor:
    """log abs det(I + J) (B,) from the Jacobian by autograd, differentiable with ``graph``."""
    matrix = jacobian(function, x, graph=graph)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return log_abs_det(eye + matrix)


def _repeated(function: Any, x: Tensor, times: int) -> tuple[Any, Tensor]:
    many = function.repeat(times) if hasattr(function, "repeat") else function
    return many, x.repeat_interleave(times, 0)


def check_logdet(
    estimator: LogDet, function: Any, x: Tensor, *, repeats: int = 2000, seed: int = 0, biased: bool = False, name: str = ""
) -> None:
    """Value, stated standard error and stated bias of an estimator without roulette, against ``slogdet``.

    The mean over ``repeats`` independent draws equals the truth within its standard error and the stated bias; the mean square of
    the stated standard errors (where it states one) is the variance that the draws have; the value of g is g(x). ``biased`` says
    that the bias must be there: an estimator that left nothing out would not test its statement.
    """
    told = name or repr(estimator)
    truth = true_logdet(function, x)
    many, rows = _repeated(function, x, repeats)
    with torch.no_grad():
        value, estimate = estimator(many, rows, Noise(seed, torch.arange(len(rows))))
        torch.testing.assert_close(value, many(rows), rtol=1e-10, atol=1e-12, msg=lambda text: f"{told}, value of g: {text}")
    draws, stated = estimate.value.reshape(-1, repeats), estimate.stderr.reshape(-1, repeats)
    bias = estimate.bias.reshape(-1, repeats)
    spread = draws.std(1)
    error = draws.mean(1) - truth
    allowed = _SIGMAS * spread / math.sqrt(repeats) + bias.mean(1) + _ROUNDING
    assert bool((error.abs() <= allowed).all()), f"{told}: off by {error.abs().max():.3g} where {allowed.min():.3g} is stated"
    if biased:
        seen = error.abs() - _SIGMAS * spread / math.sqrt(repeats)
        assert bool((seen > 0).any()), f"{told}: no bias of the truncation was seen, so its bound was not tested"
    if bool(torch.isfinite(stated).all()):
        # The variance of a variance of nearly normal draws is 2/n of its square; heavier tails are allowed for.
        ratio = stated.square().mean(1) / spread.square().clamp(min=1e-300)
        none = (stated.amax(1) < 1e-12) & (spread < 1e-12)
        tolerance = 0.05 + 10.0 / math.sqrt(repeats)
        assert bool((none | ((ratio - 1).abs() < tolerance)).all()), (
            f"{told}: states variances {ratio.tolist()} times those it has"
        )


def check_roulette(
    estimator: LogDet, function: Any, x: Tensor, *, batches: int = 400, rows: int = 64, seed: int = 0, name: str = ""
) -> None:
    """An estimator that stops at random is unbiased: the mean over ``batches`` independent batches is the truth.

    It must state no standard error (NaN), and no bias.
    """
    told = name or repr(estimator)
    truth = true_logdet(function, x)
    many, repeated = _repeated(function, x, rows)
    means = []
    with torch.no_grad():
        for batch in range(batches):
            _, estimate = estimator(many, repeated, Noise(seed, torch.arange(len(repeated))).at(batch))
            means.append(estimate.value.reshape(-1, rows).mean(1))
            assert bool(estimate.stderr.isnan().all()), f"{told}: a roulette states a standard error"
            assert not bool(estimate.bias.any()), f"{told}: a roulette states a bias"
    table = torch.stack(means)
    error, stderr = table.mean(0) - truth, table.std(0) / math.sqrt(batches)
    assert bool((stderr > 0).all()), f"{told}: stopping at random changes nothing"
    assert bool((error.abs() <= _SIGMAS * stderr + _ROUNDING).all()), f"{told}: off by {error.tolist()}, stderr {stderr.tolist()}"


def check_logdet_gradient(
    estimator: LogDet,
    bind: Any,
    x: Tensor,
    wanted: Sequence[Tensor],
    *,
    groups: int = 24,
    repeats: int = 200,
    seed: int = 0,
    tolerance: float = 1e-8,
    name: str = "",
) -> None:
    """The mean gradient of an estimator is that of ``slogdet``, under random weights of both signs for each sample.

    Parameters
    ----------
    bind : called without arguments it gives the bound function, in the graph of ``wanted``.
    wanted : what to differentiate by besides x: parameters, a context.
    groups, repeats : independent groups of draws, whose spread gives the standard error, and draws of each row in a group.
    tolerance : what truncation leaves, relative to the gradient's size.
    """
    told = name or repr(estimator)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(len(x), generator=generator, dtype=x.dtype)
    points = (x.detach().requires_grad_(True), *wanted)
    loss = (weights * true_logdet(bind(), points[0], graph=True)).sum()
    truth = torch.autograd.grad(loss, points, materialize_grads=True)
    assert any(bool(part.any()) for part in truth[1:]) or not wanted, f"{told}: the log-determinant depends on no parameter here"
    # A few numbers for each tensor: along its own true gradient, and along random directions.
    directions = [
        torch.stack([part, *(torch.randn(part.shape, generator=generator, dtype=part.dtype) for _ in range(3))]) for part in truth
    ]
    table = []
    for group in range(groups):
        many, rows = _repeated(bind(), points[0], repeats)
        _, estimate = estimator(many, rows, Noise(seed + 1, torch.arange(len(rows))).at(group))
        loss = (weights * estimate.value.reshape(-1, repeats).mean(1)).sum()
        found = torch.autograd.grad(loss, points, materialize_grads=True)
        pairs = zip(directions, found, strict=True)
        table.append(torch.cat([(ways * part).flatten(1).sum(1) for ways, part in pairs]))
    means = torch.stack(table)
    exact = torch.cat([(ways * part).flatten(1).sum(1) for ways, part in zip(directions, truth, strict=True)])
    stderr = means.std(0) / math.sqrt(groups) if groups > 1 else torch.zeros_like(exact)
    size = torch.cat([ways.flatten(1).norm(dim=1) * part.norm() for ways, part in zip(directions, truth, strict=True)])
    error = (means.mean(0) - exact).abs()
    allowed = 1.2 * _SIGMAS * stderr + tolerance * size + 1e-12  # 1.2: a standard error from two dozen groups is itself uncertain
    worst = int((error / allowed).argmax())
    assert bool((error <= allowed).all()), (
        f"{told}: gradient along direction {worst} is {float(means.mean(0)[worst]):.6g} and should be {float(exact[worst]):.6g}; "
        f"{float(allowed[worst]):.2g} is allowed"
    )
