"""Gradients through an inverse are those of the implicit function theorem, for latents, parameters and contexts."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from law_cases import SHAPES, branch, flow, rows

from iresnet import dense_flow
from iresnet.contract import FAMILIES
from iresnet.numerics.anderson import Anderson
from iresnet.numerics.fixed_point import NotConverged, Picard
from iresnet.numerics.implicit import implicit
from iresnet.numerics.newton import NewtonKrylov
from iresnet.testing import check_implicit_gradient


@pytest.mark.parametrize("by_latent", (True, False))
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("power", "free")])
def test_gradients_by_finite_differences(family, by_latent):
    for (features, hidden), context, solver in product(
        SHAPES[:4], (0, 2), (Picard(tol=1e-11), Anderson(tol=1e-11), NewtonKrylov(tol=1e-11))
    ):
        made = branch(family, features, hidden, 0.9, "tanh", context)
        given = rows(4, 2, 5).requires_grad_(True) if context else None
        wanted = (*made.parameters(), *(() if given is None else (given,)))
        check_implicit_gradient(
            solver, lambda made=made, given=given: made.bind(given), rows(4, features, 1), wanted, by_latent=by_latent
        )


def test_gradcheck():
    made = branch("gram", 2, (4,), 0.8, "tanh")
    bound = made.bind().to(torch.float64)

    def solve(y):
        return implicit(bound, y, Picard(tol=1e-13)(bound, y.detach()).value)

    assert torch.autograd.gradcheck(solve, (rows(3, 2).requires_grad_(True),))


def test_decode_through_a_whole_flow():
    conditional = flow(2, 2)
    z, context = rows(4, 2).requires_grad_(True), rows(4, 2, 3).requires_grad_(True)
    parameters = [parameter for name, parameter in conditional.named_parameters() if "base" not in name]
    weights = rows(4, 2, 6)
    loss = (weights * conditional.decode(z, context, solver=Picard(tol=1e-12))).sum()
    gradients = torch.autograd.grad(loss, [z, context, *parameters], materialize_grads=True)
    generator = torch.Generator().manual_seed(1)
    for tensor, gradient in zip([z, context, *parameters], gradients, strict=True):
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor.add_(sign * 1e-6 * direction)
                ends.append(float((weights * conditional.decode(z, context, solver=Picard(tol=1e-12))).sum()))
                tensor.sub_(sign * 1e-6 * direction)
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float((gradient * direction).sum()), rel=2e-5, abs=1e-6)


def test_the_value_is_the_solution_and_float32_works():
    made = branch("sandwich", 3, (8, 6), 0.97, "elu").float()
    y = rows(6, 3).float().requires_grad_(True)
    bound = made.bind()
    x = Picard()(bound, y.detach()).value
    attached = implicit(bound, y, x)
    assert torch.equal(attached.detach(), x)
    (single,) = torch.autograd.grad(attached.square().sum(), y)
    wide = made.double().bind()
    z = y.detach().double().requires_grad_(True)
    (double,) = torch.autograd.grad(implicit(wide, z, Picard()(wide, z.detach()).value).square().sum(), z)
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


def test_decode_is_the_certified_solution_with_or_without_a_graph():
    for context in (0, 2):
        narrow = flow(3, context, 4).float()
        z, given = rows(50, 3).float(), rows(50, context, 3).float() if context else None
        attached, found = narrow.decode(z, given), narrow.invert(z, given)
        assert attached.requires_grad and torch.equal(attached.detach(), found.value)
        with torch.no_grad():
            assert torch.equal(narrow.decode(z, given), found.value)


def test_a_loss_that_is_not_finite_is_not_blamed_on_the_branch():
    y = rows(3, 3).requires_grad_(True)
    bound = branch("sandwich", 3).bind()
    x = implicit(bound, y, Picard()(bound, y.detach()).value)
    (gradient,) = torch.autograd.grad((x * math.nan).sum(), y)
    assert bool(gradient.isnan().all())


def test_nothing_to_differentiate_is_the_solution_itself():
    made = branch("gram").requires_grad_(False)
    x = rows(3, 3)
    assert not implicit(made.bind(), rows(3, 3, 1), x).requires_grad


def test_a_gradient_that_does_not_converge_is_refused():
    made = branch("free", scale=60.0)
    y = rows(3, 3).requires_grad_(True)
    with pytest.raises(NotConverged, match="the gradient of an inverse did not converge"):
        implicit(made.bind(), y, torch.zeros(3, 3, dtype=torch.float64)).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_rows_reach_the_floor_of_the_precision_each_at_its_time(dtype):
    """Variational training: thousands of rows, some in cycles of rounding while others still converge."""
    torch.manual_seed(0)
    flow = dense_flow(2, blocks=3, hidden=(16, 16)).to(dtype)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        sample, log_prob = flow.sample_and_log_prob(1024)
        loss = (log_prob + (0.5 * (sample - 1) ** 2 / 0.25).sum(1)).mean()  # to N(1, 1/4) up to a constant
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.3
