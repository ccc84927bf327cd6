"""No branch expands by more than it claims: for any weights, in either precision, wherever one looks."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from law_cases import ACTIVATIONS, MONOTONE, SHAPES, SOUND, branch, rows
from torch.nn.functional import normalize

from iresnet.contract import FAMILIES, NormalizedBranch, SandwichBranch, bind_all, penalty
from iresnet.contract.activations import activation
from iresnet.contract.sandwich import cayley
from iresnet.testing import check_branch, check_rounding, randomized, rescaled, worst_slopes

DTYPES = (torch.float32, torch.float64)
FAMILY_ACTIVATION = [
    (family, name) for family, name in product(FAMILIES, ACTIVATIONS) if family != "sandwich" or name in MONOTONE
]


def fits(name: str, hidden) -> bool:
    return all(width % activation(name).group == 0 for width in hidden)


@pytest.mark.parametrize(("family", "name"), FAMILY_ACTIVATION)
def test_every_family_activation_and_shape(family, name):
    for (features, hidden), conditional in product(SHAPES, (0, 2)):
        if fits(name, hidden):
            made = branch(family, features, hidden, 0.9, name, conditional)
            check_branch(made, rows(8, features), rows(8, 2) if conditional else None, ascent=3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", SOUND)
def test_weights_chosen_to_break_the_bound(family, dtype):
    for features, hidden, name in ((4, (6, 5), "elu"), (1, (3,), "relu")):
        made = branch(family, features, hidden, 0.97, name)
        for case in rescaled(made, dtype):
            check_branch(made, rows(6, features), ascent=1, name=case)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", SOUND)
def test_weights_chosen_to_break_the_bound_at_every_shape(family, dtype):
    for (features, hidden), seed in product((*SHAPES, (16, (32, 32))), range(3)):
        made = branch(family, features, hidden, 0.97, "relu" if seed else "elu")
        for case in rescaled(made, dtype, seed, (1e-6, 1e-3, 1.0, 1e3, 1e6)):
            check_branch(made, rows(6, features), ascent=2, name=case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("psi", (0.0, 2.0, 20.0))
def test_a_sandwich_branch_at_its_bound(psi, dtype):
    """With A^T B = I / 2 and slopes of one the branch is linear and as long as its bound, whatever Psi cancels on the way."""
    shrink = (1 - math.sqrt(0.5)) / (1 + math.sqrt(0.5))
    for size, depth in product((1, 2, 8, 48), (1, 2, 3)):
        made = SandwichBranch(size, (size,) * depth, 0.97, "relu").to(dtype)
        with torch.no_grad():
            for square, rest, scaling in zip(made.square, made.rest, made.psi, strict=True):
                square.zero_()
                rest.copy_(math.sqrt(shrink) * torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q)
                scaling.copy_(psi * torch.randn(size))
            made.gain.fill_(math.pi / 2)
        bound = made.bind()
        length = worst_slopes(bound.weights, (0.0, 1.0), starts=2, steps=2)
        whole = bound.weights[0].double()
        for weight in bound.weights[1:]:
            whole = weight.double() @ whole
        length = max(length, float(torch.linalg.matrix_norm(whole.detach(), 2)))
        assert 0.97 * (1 - 1e-3) <= length <= 0.97, f"{length / 0.97 - 1:.3g} at width {size}, depth {depth}"


@pytest.mark.parametrize(("family", "place", "dtype"), list(product(SOUND[1:], ("layer", "output"), DTYPES)))
def test_a_normalised_branch_at_its_bound(family, place, dtype):
    """Aligned rank-one weights meet their bounds in every layer at once."""
    generator = torch.Generator().manual_seed(0)
    for features, width, name in product((1, 2, 40), (1, 3, 50), ("relu", "lipswish", "sigmoid")):
        made = NormalizedBranch(features, (width, width), 0.97, name, family=family, place=place).to(dtype)
        directions = [torch.randn(size, generator=generator, dtype=torch.float64) for size in (features, width, width, features)]
        directions = [normalize(direction, dim=0) for direction in directions]
        with torch.no_grad():
            for index, weight in enumerate(made.weights):
                weight.copy_(10.0 ** (index + 1) * directions[index + 1][:, None] @ directions[index][None])
        first, second, third = (weight.double() for weight in made.bind().weights)
        length = float(torch.linalg.matrix_norm((third @ second @ first).detach(), 2)) * made.activation.lipschitz**2
        assert length <= 0.97
        if family != "bjorck" or min(features, width) == 1:
            assert length >= 0.97 * (1 - 1e-3)


def test_small_weights_are_never_scaled_up_and_zero_is_safe():
    for family in ("gram", "frobenius", "power", "free"):
        made = branch(family, 3, (4,), 0.9, "tanh")
        with torch.no_grad():
            for weight in made.weights:
                weight.mul_(1e-4)
        for weight, held in zip(made.weights, made.bind().weights, strict=True):
            torch.testing.assert_close(held, weight, rtol=1e-12, atol=0)
    for family in SOUND:
        made = branch(family, 3, (4,), 0.9, "tanh")
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.zero_()
        assert torch.isfinite(made.bind()(rows(2, 3))).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_branch_is_zero(family):
    made = branch(family, 3, (8, 6), 0.9, "tanh", 2, seed=None)
    assert not made.bind(rows(5, 2))(rows(5, 3)).any()


def test_guarantees_are_what_the_table_says():
    said = {family: branch(family).guarantee for family in FAMILIES}
    assert said == {
        "sandwich": "sound",
        "gram": "sound",
        "frobenius": "sound",
        "bjorck": "sound",
        "power": "estimate",
        "free": "none",
    }
    for family in FAMILIES:
        made = branch(family)
        bound = made.bind()
        assert (bound.lipschitz == made.lipschitz) == (family in SOUND)
    large = branch("free", scale=40.0).bind()
    assert large.lipschitz > 1


def test_power_iteration_changes_its_state_in_training_only():
    made = branch("power").train()
    before = {name: value.clone() for name, value in made.named_buffers()}
    made.eval().bind()
    assert all(torch.equal(before[name], value) for name, value in made.named_buffers())
    made.train().bind()
    assert any(not torch.equal(before[name], value) for name, value in made.named_buffers())


@pytest.mark.parametrize("family", FAMILIES)
def test_bound_together_as_one_by_one(family):
    made = [branch(family, 3, (5, 4), 0.9, "tanh", 2, seed=seed) for seed in range(3)]
    made += [branch(family, 3, (4, 4), 0.8, "elu", 2, seed=7), branch("gram", 3, (5, 4), 0.9, "tanh", 2, seed=8)]
    context, x = rows(4, 2), rows(4, 3)
    together = bind_all(made, context)
    for one, bound in zip(made, together, strict=True):
        alone = one.bind(context)
        assert alone.lipschitz == pytest.approx(bound.lipschitz, rel=1e-12)
        torch.testing.assert_close(bound(x), alone(x), rtol=1e-10, atol=1e-12)
    loss = sum(bound(x).square().sum() for bound in together)
    together_gradients = torch.autograd.grad(loss, list(made[0].parameters()), materialize_grads=True)
    alone_gradients = torch.autograd.grad(
        made[0].bind(context)(x).square().sum(), list(made[0].parameters()), materialize_grads=True
    )
    for left, right in zip(together_gradients, alone_gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("family", SOUND)
def test_the_rounding_of_an_evaluation_is_bounded(family):
    for name, scale in product(("elu", "tanh", "softplus"), (0.1, 1.0, 1e3)):
        for features, hidden in (*SHAPES, (16, (64, 64))):
            made = branch(family, features, hidden, 0.9, name, 2, scale=3.0).float()
            check_rounding(made.bind(rows(40, 2).float()), rows(40, features, 1, scale), f"{family} {name} {hidden} x {scale:g}")


def test_large_scalings_that_cancel_do_not_loosen_the_bound_of_rounding():
    made = SandwichBranch(4, (16, 16), 0.9, "relu")
    randomized(made, 1.0)
    with torch.no_grad():
        for bias in made.biases:  # a bias is not scaled with the weights
            bias.zero_()
    x = rows(20, 4).float()
    bound = made.bind().rounding(x).max()
    with torch.no_grad():
        for scaling in made.psi:
            scaling.copy_(10.0 * torch.randn(16))
    check_rounding(made.bind(), x)
    assert float(made.bind().rounding(x).max()) < 10 * float(bound)


def test_a_narrower_precision_loses_the_certificate():
    made = branch("gram", 3, (8, 6), 0.9).bind()
    assert made.to(torch.float32).lipschitz != 0.9
    assert made.to(torch.float32).lipschitz >= worst_slopes(made.to(torch.float32).weights, (0.0, 1.0))
    single = branch("gram", 3, (8, 6), 0.9).float().bind()
    assert single.to(torch.float64).lipschitz == 0.9


@pytest.mark.parametrize("scale", (1.0, 1e3, 1e6))
@pytest.mark.parametrize("dtype", DTYPES)
def test_cayley_never_meets_a_singular_matrix(scale, dtype):
    # Symmetric X and equal rows of Y leave Z of rank one: rounding swallows the identity that keeps it regular.
    for size, others in ((16, 16), (64, 3)):
        for fill in (torch.ones, torch.randn):
            square = scale * fill(size, 1, dtype=dtype) * torch.ones(1, size, dtype=dtype)
            rest = scale * fill(others, 1, dtype=dtype) * torch.ones(1, size, dtype=dtype)
            assert torch.isfinite(cayley(square, rest)).all()
    matrix = cayley(torch.randn(8, 8, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64))
    torch.testing.assert_close(matrix.mT @ matrix, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-13)


def test_the_penalty_is_the_sum_of_squared_norms():
    made = torch.nn.ModuleList([branch("free"), branch("free", seed=1)])
    truth = sum(torch.linalg.matrix_norm(weight, 2) ** 2 for one in made for weight in one.weights)
    found = penalty(made)
    assert truth.detach() <= found.detach() <= 1.03 * truth.detach()
    found.backward()
    assert all(weight.grad is not None and weight.grad.any() for one in made for weight in one.weights)


def test_the_rounding_of_products_that_cancel_is_bounded():
    """W x is zero up to rounding: only the sizes of W and x tell how much that is, the result does not."""
    worst = 0.0
    for seed in range(10):
        made = branch("free", 24, (16, 16), 0.9, "tanh", seed=seed)
        x = rows(1, 24, seed)
        with torch.no_grad():
            for bias in made.biases:
                bias.zero_()
            across = 10 * made.weights[0] @ x.T @ x / x.square().sum()
            made.weights[0].mul_(10).sub_(across)
        worst = max(worst, check_rounding(made.float().bind(), x, f"seed {seed}"))
    assert worst > 1e-3  # a bound that nothing comes near would say nothing
