"""What solvers do between evaluations: the small systems, the affine model, refused points, and draws of many rows."""

from __future__ import annotations

import resource
from itertools import product

import pytest
import torch
from law_cases import SHAPES, branch, flow, rows

from iresnet import dense_flow
from iresnet.contract.conv_branches import conv_branch
from iresnet.numerics.affine import affine_inverse
from iresnet.numerics.anderson import Anderson, Mixing
from iresnet.numerics.fixed_point import Picard
from iresnet.numerics.iteration import lengths
from iresnet.numerics.linearize import linearize
from iresnet.numerics.newton import NewtonKrylov, krylov_step
from iresnet.numerics.noise import Noise
from iresnet.testing import jacobian

SOLVERS = (Picard, Anderson, NewtonKrylov)


@pytest.mark.parametrize("memory", (1, 2, 3, 5))
def test_anderson_s_points_are_those_of_least_squares(memory):
    """The naive twin: columns of differences and torch's least squares, on the plain iteration."""
    bound, y = branch("gram", 9, (12, 12), 0.9, "tanh", scale=3.0).bind(), rows(5, 9, 1)
    mixing = Mixing(memory, precondition=False)
    mixing.begin(bound, y)
    x, points, residuals = y, [], []
    for _ in range(8):
        image = y - bound(x).detach()
        points, residuals = [*points[-memory:], x], [*residuals[-memory:], image - x]
        wanted = image
        if len(points) > 1:
            changes = torch.stack([new - old for old, new in zip(residuals, residuals[1:], strict=False)], -1)
            moves = torch.stack([new - old for old, new in zip(points, points[1:], strict=False)], -1)
            gamma = torch.linalg.lstsq(changes, residuals[-1][..., None]).solution
            wanted = image - ((moves + changes) @ gamma)[..., 0]
        found = mixing.propose(x, image, image - x, None)
        if float(lengths(image - x).min()) < 1e-6:  # the Gram matrix squares the condition
            break
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
        x = wanted


def test_krylov_steps_solve_the_system():
    bound, x, right = branch("sandwich", 5, (8, 8), 0.97, scale=3.0).bind(), rows(6, 5), rows(6, 5, 2)
    exact = torch.linalg.solve(torch.eye(5, dtype=x.dtype) + jacobian(bound, x), right[..., None])[..., 0]
    at, errors, found = linearize(bound, x), [], x
    for products in range(1, 6):
        found = krylov_step(at.jvp, right, products, affine_inverse(bound, x))
        errors.append(lengths(right - found - at.jvp(found)).detach())
    assert all(bool((later <= former * (1 + 1e-9)).all()) for former, later in zip(errors, errors[1:], strict=False))
    torch.testing.assert_close(found.detach(), exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("family", ("sandwich", "gram"))
def test_the_affine_model_is_exact_where_the_branch_is_affine(family):
    for features, hidden in ((3, (8,)), (4, (12, 6, 8)), (5, (2, 4))):
        made = branch(family, features, hidden, 0.97, "relu", scale=2.0)
        with torch.no_grad():
            for layer, bias in enumerate(made.biases):
                bias.fill_(1e4 ** (layer + 1))  # every unit is on
        bound, r = made.bind(), rows(7, features, 1)
        model = affine_inverse(bound, r)
        assert model is not None
        slope = jacobian(bound, r)
        torch.testing.assert_close(model(r + (slope @ r[..., None])[..., 0]).detach(), r, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(model.offset, bound(torch.zeros_like(r))[0], rtol=1e-8, atol=1e-8)
    assert affine_inverse(branch("gram", 3, (8,), 0.9, "maxmin").bind(), rows(2, 3)) is None
    assert affine_inverse(branch("gram", 3, context=2).bind(rows(2, 2)), rows(2, 3)) is None


def test_coarse_rounding_bounds_the_finer_one():
    for family, (features, hidden), name, dtype in product(
        ("sandwich", "gram"), SHAPES, ("tanh", "softplus", "maxmin"), (torch.float32, torch.float64)
    ):
        if family == "sandwich" and name == "maxmin":
            continue
        bound, x = branch(family, features, hidden, 0.97, name, scale=3.0).to(dtype).bind(), rows(9, features, 1, 10.0).to(dtype)
        assert bool((bound.coarse_rounding(lengths(x)) >= bound.rounding(x)).all())


@pytest.mark.parametrize("solver", (Anderson, NewtonKrylov))
def test_a_misleading_model_only_costs_steps(solver):
    """Far from where the affine model was fitted every unit is saturated: points that it proposes are refused."""
    made = branch("gram", 4, (4, 4), 0.999, "tanh")
    with torch.no_grad():
        for weight in made.weights:
            weight.copy_(-50.0 * torch.eye(4))
    bound, y = made.bind(), rows(8, 4, 1, 1e3)
    plain, fast = Picard()(bound, y).check(), solver()(bound, y).check()
    torch.testing.assert_close(fast.value, plain.value, rtol=1e-9, atol=1e-9)
    assert bool((fast.steps <= 4 * plain.steps + 12).all())


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("solver", SOLVERS)
def test_convolution_branches(solver, dtype):
    torch.manual_seed(0)
    made = conv_branch("gram", (2, 7, 7), 8, 0.97, "elu").double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    bound = made.to(dtype).bind()
    y = torch.randn(3, 2, 7, 7, dtype=dtype)
    found = solver()(bound, y).check()
    wide = bound.to(torch.float64)
    truth = Picard(tol=1e-13, max_steps=100_000)(wide, y.double(), start=found.value.double()).value
    assert found.value.shape == y.shape
    assert bool((lengths(found.value.double() - truth) <= found.error_bound).all())


def test_solvers_that_could_not_work_are_refused():
    with pytest.raises(ValueError, match="memory >= 1"):
        Anderson(memory=0)
    with pytest.raises(ValueError, match="products >= 1"):
        NewtonKrylov(products=0)


@pytest.mark.parametrize("context", (0, 2))
def test_a_row_of_a_sample_is_the_same_in_any_part(context):
    made = flow(2, context)
    given, seen = (rows(5000, context, 3) if context else None), []
    whole = made.sample(5000, given, noise=Noise(3, torch.arange(5000)), progress=seen.append)
    assert sum(seen) == 5000 and len(seen) > 1
    some = torch.arange(4090, 4100)
    again = made.sample(10, None if given is None else given[some], noise=Noise(3, some))
    torch.testing.assert_close(whole[some], again, rtol=1e-8, atol=1e-8)


def test_a_large_sample_takes_bounded_memory():
    made = dense_flow(8, blocks=1, hidden=(64, 64)).eval()
    made.sample(5000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert made.sample(200_000).shape == (200_000, 8)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024  # KiB, on Linux
    assert more < 60  # at once: 100 MiB for each hidden layer in float64
