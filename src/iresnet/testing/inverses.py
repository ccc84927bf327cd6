"""Laws of solvers: the true error is within the bound that is stated, and what cannot be promised is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..numerics.elimination import solve
from ..numerics.fixed_point import NotConverged, Solution, Solver
from ..numerics.implicit import implicit
from .lipschitz import jacobian

__all__ = ["check_implicit_gradient", "check_refusal", "check_rounding", "check_row_alone", "check_solution", "newton"]


def newton(function: Callable[[Tensor], Tensor], y: Tensor, start: Tensor, steps: int = 30) -> Tensor:
    """x (B, d) with x + g(x) = y in float64 by Newton's method from ``start``: the reference, by another way than any solver.

    A step that does not shorten the residual is halved, so kinks of the branch cannot make it cycle.
    """
    x, y = start.detach().double(), y.detach().double()
    eye = torch.eye(x.shape[1], dtype=x.dtype)

    def residual(point: Tensor) -> Tensor:
        with torch.no_grad():
            return y - point - function(point)

    for _ in range(steps):
        now = residual(x)
        move = solve(eye + jacobian(function, x), now)
        scale = torch.ones(len(x), 1, dtype=x.dtype)
        for _ in range(10):
            worse = ~(residual(x + scale * move).norm(dim=1, keepdim=True) <= now.norm(dim=1, keepdim=True))
            scale = torch.where(worse, scale / 2, scale)
        x = x + scale * move
        if bool((move.norm(dim=1) <= 1e-15 * x.norm(dim=1)).all()):
            break
    return x


def check_solution(solver: Solver, function: Any, y: Tensor, *, tol: float | None = None, name: str = "") -> Solution:
    """Every row's distance to the true solution is within its ``error_bound``, and that within the tolerance where converged.

    ``tol`` is the solver's; None where it chose by itself, and may state more than its target if rounding leaves no less.
    """
    told = name or repr(solver)
    solution = solver(function, y)
    wide = function.to(torch.float64)
    truth = newton(wide, y, solution.value)
    error = (solution.value.double() - truth).flatten(1).norm(dim=1)
    bound = solution.error_bound.double()
    excess = float((error - bound).max())
    assert bool((error <= bound).all()), f"{told}: the true error exceeds its bound by {excess:.3g}"
    assert bool(torch.isfinite(solution.value[solution.converged]).all()), f"{told}: a converged row is not finite"
    if tol is not None:
        allowed = tol * solution.value.double().flatten(1).norm(dim=1).clamp(min=1.0)
        met = solution.error_bound <= allowed * (1 + 1e-6)
        assert bool((met | ~solution.converged).all()), f"{told}: converged with a bound above tol"
    assert bool((solution.steps >= 1).all()), f"{told}: a row was not looked at"
    return solution


def check_rounding(function: Any, x: Tensor, name: str = "") -> float:
    """What one evaluation at x in the function's own precision, below float64, differs from float64 is within ``rounding(x)``.

    Returns the largest share of the bound that was used.
    """
    with torch.no_grad():
        narrow = x.to(function.dtype)
        error = (function(narrow).double() - function.to(torch.float64)(narrow.double())).flatten(1).norm(dim=1)
        share = error / function.rounding(narrow).double().clamp(min=1e-300)
    worst = float(share.max())
    assert worst <= 1.0, f"{name}: an evaluation errs by {worst:.3g} times the bound of its rounding"
    return worst


def check_refusal(solver: Solver, function: Any, y: Tensor, match: str = "not inverted", name: str = "") -> None:
    """A map without a certificate is refused: no row is called converged, every bound is infinite, ``check`` raises."""
    solution = solver(function, y)
    told = name or repr(solver)
    assert not bool(solution.converged.any()), f"{told}: claims to have inverted what nothing bounds"
    assert bool((solution.error_bound == math.inf).all()), f"{told}: bounds an error that nothing bounds"
    try:
        solution.check()
    except NotConverged as error:
        assert match in str(error), f"{told}: refuses without saying {match!r}: {error}"
    else:
        raise AssertionError(f"{told}: check() lets rows pass that did not converge")


def check_row_alone(solver: Solver, function: Any, y: Tensor, *, rtol: float = 1e-9, name: str = "") -> None:
    """A row's solution is the same alone as in its batch: the value within rounding, the steps within a few.

    Matrix products round differently in batches of different size, which may decide when float32 is left.
    """
    together = solver(function, y)
    told = name or repr(solver)
    for row in range(len(y)):
        mask = torch.tensor([row])
        alone = solver(function.select(mask), y[mask])
        torch.testing.assert_close(
            alone.value[0],
            together.value[row],
            rtol=rtol,
            atol=rtol,
            msg=lambda text, row=row: f"{told}, row {row} alone: {text}",
        )
        apart = int((alone.steps[0] - together.steps[row]).abs())
        assert apart <= 4, (
            f"{told}: row {row} takes {int(alone.steps[0])} steps alone and {int(together.steps[row])} in its batch"
        )


def check_implicit_gradient(
    solver: Solver, bind: Callable[[], Any], y: Tensor, wanted: tuple[Tensor, ...], *, by_latent: bool = True, step: float = 1e-6
) -> None:
    """Gradients of the solution by y, parameters and context are those of central differences, with random weights of both signs.

    With ``by_latent`` false y needs no gradient, and those of ``wanted`` must come all the same.
    """

    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    latent = y.detach().requires_grad_(by_latent)

    def solve() -> Tensor:
        with torch.no_grad():
            function = bind()
            start = solver(function, latent.detach()).check().value
            return (weights * newton(function, latent, start, 6)).sum()

    function = bind()
    found = solver(function, latent.detach()).check().value
    loss = (weights * implicit(function, latent, found)).sum()
    inputs = ((latent,) if by_latent else ()) + wanted
    gradients = torch.autograd.grad(loss, inputs, materialize_grads=True)
    assert any(bool(part.any()) for part in gradients), "no gradient arrived at all"
    for index, (tensor, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        direction = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        ends = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                tensor.add_(sign * step * direction)
                ends.append(solve())
                tensor.sub_(sign * step * direction)
        difference = (ends[0] - ends[1]) / (2 * step)
        exact = (gradient * direction).sum()
        size = gradient.norm() * direction.norm()
        error, allowed = float((difference - exact).abs()), 1e-5 * float(size) + 1e-7
        assert error <= allowed, f"input {index}: derivative {float(exact):.9g}, finite difference {float(difference):.9g}"
