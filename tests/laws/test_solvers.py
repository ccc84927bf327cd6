"""Inverses: the true error is within the bound that is stated, and what cannot be promised is refused."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from law_cases import ACTIVATIONS, MONOTONE, SHAPES, branch, rows

from iresnet.contract import FAMILIES
from iresnet.contract.activations import activation
from iresnet.numerics.anderson import Anderson
from iresnet.numerics.fixed_point import NotConverged, Picard, a_priori_steps
from iresnet.numerics.newton import NewtonKrylov
from iresnet.testing import check_refusal, check_row_alone, check_solution

DTYPES = (torch.float32, torch.float64)
SOLVERS = (Picard, Anderson, NewtonKrylov)


def steep(family="gram", lipschitz=0.9, name="tanh", features=4, sign=-1.0, dtype=torch.float64, context=0):
    """A branch that uses nearly all of its bound near zero: g(x) close to sign * c * x, the slowest case there is."""
    made = branch(family, features, (features, features), lipschitz, name, context)
    with torch.no_grad():
        for index, weight in enumerate(made.weights):
            weight.copy_(50.0 * torch.eye(*weight.shape) * (sign if index == 0 else 1.0))
    return made.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_errors_are_within_their_bounds(solver, dtype):
    for family, (features, hidden), context, lipschitz in product(("sandwich", "gram"), SHAPES, (0, 2), (0.5, 0.97, 0.999)):
        made = branch(family, features, hidden, lipschitz, "elu", context, scale=3.0).to(dtype)
        bound = made.bind(rows(12, 2, 4).to(dtype) if context else None)
        for tol, scale in ((None, 1.0), (1e-5, 30.0)):
            solution = check_solution(solver(tol=tol), bound, rows(12, features, 1, scale).to(dtype), tol=tol)
            assert solution.converged.all()


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_activation(solver, name):
    for family in ("sandwich", "bjorck") if name in MONOTONE else ("frobenius",):
        made = branch(family, 4, (8, 6), 0.95, name, scale=3.0)
        if all(width % activation(name).group == 0 for width in made.hidden):
            assert check_solution(solver(), made.bind(), rows(12, 4, 1, 3.0)).converged.all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_branches_that_use_their_bound(solver, dtype):
    for lipschitz, sign, name in product((0.9, 0.99, 0.999), (1.0, -1.0), ("tanh", "relu", "sine", "maxmin")):
        bound = steep(lipschitz=lipschitz, sign=sign, name=name, dtype=dtype).bind()
        for scale in (0.0, 1e-3, 1.0):
            solution = check_solution(
                solver(max_steps=100_000), bound, rows(6, 4, 1, scale).to(dtype), name=f"{lipschitz} {sign} {name}"
            )
            assert solution.converged.all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_bound_is_sound_when_steps_run_out(solver):
    bound = steep(lipschitz=0.99).bind()
    y = rows(8, 4, 1)
    for steps in (1, 2, 5):
        solution = check_solution(solver(max_steps=steps), bound, y)
        assert not solution.converged.any() and int(solution.steps.max()) <= steps
        with pytest.raises(
            NotConverged, match=r"block 3: 8 of 8 rows not inverted; worst error bound .* after [0-9]+ steps: raise"
        ):
            solution.check("block 3")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_tolerance_below_the_precision_is_refused(solver, dtype):
    bound = steep(lipschitz=0.999, dtype=dtype).bind()
    solution = check_solution(solver(tol=1e-17), bound, rows(6, 4, 1).to(dtype), tol=1e-17)
    assert not solution.converged.any() and torch.isfinite(solution.error_bound).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_scalings_that_cancel_and_large_values(solver):
    for psi, scale, dtype in product((3.0, 30.0), (1.0, 1e6), DTYPES):
        made = branch("sandwich", 6, (16, 16), 0.999, "elu")
        with torch.no_grad():
            made.gain.fill_(math.pi / 2)
            for scaling in made.psi:
                scaling.copy_(psi * torch.randn(16))
        solution = check_solution(solver(), made.to(dtype).bind(), rows(10, 6, 1, scale).to(dtype))
        assert solution.converged.all() and int(solution.steps.max()) < 200


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_not_contractive_is_refused(solver):
    large = branch("free", scale=60.0).bind()
    assert large.lipschitz > 1
    check_refusal(
        solver(max_steps=50), large, rows(4, 3), "nothing guarantees that it is contractive: train it with a constrained family"
    )
    # Contractive, but nothing says so: found, and honestly without a bound.
    plain = branch("gram").bind()
    check_refusal(solver(max_steps=50), lambda x: plain(x), rows(4, 3), "not inverted")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_nan_is_never_silent(solver, bad):
    bound, y = branch("gram").bind(), rows(4, 3)
    y[2, 1] = bad
    solution = solver()(bound, y)
    assert solution.converged.tolist() == [True, True, False, True]
    assert float(solution.error_bound[2]) == math.inf
    with pytest.raises(NotConverged, match="the map: 1 of 4 rows not inverted"):
        solution.check()
    broken = branch("gram")
    with torch.no_grad():
        broken.weights[0][0, 0] = bad
    assert not solver()(broken.bind(), rows(4, 3)).converged.any()


def test_picard_keeps_to_the_number_of_steps_known_before():
    for lipschitz, sign in product((0.5, 0.9, 0.97), (1.0, -1.0)):
        bound, y = steep(lipschitz=lipschitz, sign=sign, name="relu").bind(), rows(6, 4, 1)
        first = float(bound(y).detach().norm(dim=1).max())
        for tol in (1e-2, 1e-6):
            known = a_priori_steps(lipschitz, first, tol)
            x = y
            for _ in range(known):
                x = y - bound(x)
            truth = Picard(tol=1e-13, max_steps=100_000)(bound, y).value
            assert (x - truth).norm(dim=1).max() <= tol
            solution = Picard(tol=tol, max_steps=100_000)(bound, y)
            assert int(solution.steps.max()) <= known + math.ceil(math.log(0.4) / math.log(lipschitz)) + 2


def test_a_priori_steps():
    assert a_priori_steps(0.5, 1.0, 2.0) == 0
    assert a_priori_steps(0.0, 1.0, 1e-9) == 1
    assert a_priori_steps(0.5, 1.0, 0.25) == 3
    for lipschitz, first, tol in product((0.1, 0.9, 0.999), (1e-3, 7.0), (1e-9, 1e-2)):
        steps = a_priori_steps(lipschitz, first, tol)
        assert lipschitz**steps * first / (1 - lipschitz) <= tol * (1 + 1e-9)
        assert steps == 0 or lipschitz ** (steps - 1) * first / (1 - lipschitz) >= tol * (1 - 1e-9)
    for lipschitz, tol in ((1.0, 1e-3), (1.2, 1e-3), (-0.1, 1e-3), (math.nan, 1e-3), (0.9, 0.0)):
        with pytest.raises(ValueError, match="no number of steps is known to suffice"):
            a_priori_steps(lipschitz, 1.0, tol)


def test_anderson_costs_at_most_twice_picard_and_usually_less():
    less, pairs = 0, 0
    for family, (features, hidden), seed in product(("sandwich", "gram"), SHAPES, range(3)):
        made = branch(family, features, hidden, 0.97, "elu" if family == "sandwich" else "tanh", seed=seed, scale=3.0)
        bound, y = made.bind(), rows(10, features, seed, 3.0)
        plain, fast = Picard()(bound, y).steps, Anderson()(bound, y).steps
        assert (fast <= 2 * plain + 3).all()
        less, pairs = less + int((fast <= plain).sum()), pairs + len(y)
    assert less > 0.8 * pairs
    for sign, name in product((1.0, -1.0), ("relu", "sine", "maxmin")):
        bound, y = steep(lipschitz=0.99, sign=sign, name=name).bind(), rows(10, 4, 1)
        plain, fast = Picard()(bound, y).steps, Anderson()(bound, y).steps
        assert (fast <= 2 * plain + 3).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", FAMILIES[:4])
def test_a_row_is_solved_as_if_it_were_alone(solver, family):
    for dtype, context in product(DTYPES, (0, 2)):
        made = branch(family, 3, (8, 6), 0.95, "elu", context, scale=3.0).to(dtype)
        bound = made.bind(rows(7, 2, 4).to(dtype) if context else None)
        y = rows(7, 3, 1).to(dtype) * torch.logspace(-2, 2, 7)[:, None].to(dtype)
        check_row_alone(solver(), bound, y, rtol=1e-9 if dtype == torch.float64 else 2e-6)


def test_a_good_start_saves_steps():
    bound, y = steep(lipschitz=0.9).bind(), rows(5, 4)
    cold = Picard()(bound, y)
    warm = Picard()(bound, y, start=cold.value)
    assert int(warm.steps.max()) <= 2 < int(cold.steps.min())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("wrong", [{"tol": 0.0}, {"tol": -1.0}, {"tol": float("nan")}, {"max_steps": 0}])
def test_a_solver_that_could_never_end_well_is_refused(solver, wrong):
    with pytest.raises(ValueError, match="tol > 0 and max_steps >= 1"):
        solver(**wrong)
