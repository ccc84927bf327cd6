"""Branches for sets of points: bounded for every number of points, equivariant, and parts of a flow like any other."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from law_cases import rows
from set_cases import KINDS, Flat, clouds, dense, made

from iresnet.bijections import Residual
from iresnet.contract import SET_FAMILIES, AttentionBranch, NormalizedSetBranch, attention_constant, bind_all, penalty, set_branch
from iresnet.contract.attention import AttentionBound
from iresnet.models import point_flow
from iresnet.numerics.fixed_point import Picard
from iresnet.numerics.logdet import Exact
from iresnet.numerics.series import PowerSeries
from iresnet.testing import (
    check_branch,
    check_implicit_gradient,
    check_inverse_logdet,
    check_lipschitz,
    check_logdet,
    check_logdet_gradient,
    check_parameter_gradients,
    check_rounding,
    check_row_alone,
    check_solution,
    jacobian,
    rescaled,
    worst_slopes,
)

DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_no_set_expands_by_more_than_is_claimed(kind):
    for points, features in ((1, 3), (2, 1), (4, 3), (6, 2)):
        for hidden, conditional in product(((4,), (6, 5)), (0, 2) if kind != "attention" and points == 4 else (0,)):
            branch = made(kind, features, hidden, conditional)
            given = rows(3, 2) if conditional else None
            check_branch(branch, clouds(3, points, features), given, ascent=2, name=f"{kind}, {points} points")


@pytest.mark.parametrize("points", (1, 2, 5))
@pytest.mark.parametrize("family", SET_FAMILIES)
def test_the_worst_slopes_of_a_set(family, points):
    """Slopes of every point apart, over the whole matrices."""
    for seed, hidden in product(range(3), ((4,), (4, 6))):
        bound = made(family, 2, hidden, seed=seed, nonlinearity="relu").bind()
        whole = tuple(dense(weight.detach(), points) for weight in bound.weights)
        assert worst_slopes(whole, (0.0, 1.0), starts=8, steps=6) <= 0.9
        x = clouds(2, points, 2)
        hand = x.flatten(1)
        for index, matrix in enumerate(whole):
            hand = hand @ matrix.mT + bound.offsets[index].repeat(points)
            hand = hand.relu() if index < len(whole) - 1 else hand
        torch.testing.assert_close(bound(x).flatten(1), hand)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ("sandwich", "gram", "attention"))
def test_set_weights_chosen_to_break_the_bound(kind, dtype):
    branch = made(kind, 2, (4,), nonlinearity="relu")
    for case in rescaled(branch, dtype, scales=(1e-3, 1e3)):
        check_branch(branch, clouds(2, 3, 2), ascent=0, name=case)
        if kind != "attention":
            whole = tuple(dense(weight.detach().double(), 3) for weight in branch.bind().weights)
            assert worst_slopes(whole, (0.0, 1.0), starts=4, steps=3) <= 0.9 * (1 + 1e-12), case


@pytest.mark.parametrize("in_mean", (False, True))
def test_a_set_layer_meets_its_bound_in_either_space(in_mean):
    """Aligned weights of rank one in one of the two spaces, none in the other: nothing is lost between norm and bound."""
    branch = NormalizedSetBranch(3, (5,), 0.97, "relu", family="gram").double()
    left, right = (torch.nn.functional.normalize(rows(1, size, size)[0], dim=0).abs() for size in (5, 3))
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.zero_()
        first, last = branch.of_mean if in_mean else branch.weights
        first.copy_(10 * left[:, None] @ right[None])
        last.copy_(10 * right[:, None] @ left[None])
        branch.biases[0].fill_(1e3)  # open
    (matrix,) = jacobian(branch.bind(), clouds(1, 4, 3))
    assert 0.97 * (1 - 1e-3) <= float(torch.linalg.matrix_norm(matrix, 2)) <= 0.97


def unit(points: int, features: int) -> AttentionBound:
    """Attention of which nothing but the softmax is left."""
    eye = torch.eye(features, dtype=torch.float64)
    return AttentionBound(eye, eye, torch.zeros(features, dtype=torch.float64), 1, points)


def test_the_constant_of_attention_against_search_and_the_published_bound():
    used = {}
    for points in (1, 2, 3, 5, 8):
        bound, claimed = unit(points, 2), attention_constant(points)
        starts = torch.cat([clouds(4, points, 2, seed, scale) for seed, scale in enumerate((0.3, 0.7, 1.5))])
        used[points] = check_lipschitz(bound, starts, claimed, ascent=8, rate=0.5) / claimed
    assert used[1] == pytest.approx(1.0, rel=1e-9)  # one point is its own mean
    assert used[2] > 0.5 and min(used.values()) > 0.2
    for points in (1, 2, 3, 10, 100, 10**6):  # Theorem 3.2, with phi inverted by bisection
        low, high = 0.0, 100.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if middle * math.exp(middle + 1) < points - 1 else (low, middle)
        assert attention_constant(points) <= math.sqrt(points) * (4 * high + 1) * (1 + 1e-9)


def test_the_inequalities_that_the_constant_of_attention_rests_on():
    """Each step of the proof by itself, for clouds of all sizes: entropy, one weight, and the three terms of the derivative."""
    for points, scale in product((2, 4, 9), (0.1, 0.5, 1.0, 2.0)):
        entropy = _phi_inverse(points - 1)
        q = clouds(64, points, 3, points, scale)
        t = torch.cdist(q, q).square()
        weights = torch.softmax(-t, -1)
        assert float((weights * t).sum(-1).max()) <= entropy
        assert float((weights * t).max()) <= _phi_inverse(1)
        away = q[:, None] - (weights @ q)[:, :, None]  # (B, i, j, k)
        covariance = torch.einsum("bij,bijk,bijl->bikl", weights, away, away)
        assert float(torch.linalg.matrix_norm(covariance, 2).max()) <= entropy
        third = 2 * torch.einsum("bij,bijk,bijl->bikjl", weights, away, q[:, :, None] - q[:, None]).flatten(-2)
        assert float(torch.linalg.matrix_norm(third, 2).max()) <= 2 * math.sqrt(entropy * _phi_inverse(1))
        whole = third.reshape(64, points, 3, points, 3) + torch.einsum("bij,kl->bikjl", weights, torch.eye(3).double())
        own = torch.einsum("bikl,ij->bikjl", 2 * covariance, torch.eye(points).double())
        torch.testing.assert_close((whole + own).reshape(64, 3 * points, 3 * points), jacobian(unit(points, 3), q))


def _phi_inverse(y: float) -> float:
    from scipy.special import lambertw

    return float(lambertw(y / math.e).real) * (1 + 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_points_have_no_order_and_rows_know_nothing_of_each_other(kind):
    branch = made(kind, context=0)
    bound, x, order = branch.bind(), clouds(5, 6), torch.randperm(6)
    torch.testing.assert_close(bound(x[:, order]), bound(x)[:, order])
    for row in range(5):
        torch.testing.assert_close(bound(x[row : row + 1])[0], bound(x)[row], rtol=1e-12, atol=1e-13)
    assert not torch.allclose(bound(x)[:, 0], bound(torch.cat((x[:, :1], 2 * x[:, 1:]), 1))[:, 0])  # but points meet


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_set_branch_is_zero_and_every_parameter_learns(kind):
    torch.manual_seed(0)
    fresh = AttentionBranch(3, 6) if kind == "attention" else set_branch(kind, 3, (4, 4), 0.9, "tanh", 2)
    given = None if kind == "attention" else rows(4, 2).float()
    assert not fresh.bind(given)(clouds(4, 6).float()).any()
    branch = made(kind, context=2)
    bind = (lambda: branch.bind()) if kind == "attention" else (lambda: branch.bind(rows(4, 2)))
    check_parameter_gradients(branch, lambda: (bind()(clouds(4, 6)) * clouds(4, 6, seed=1)).sum())


@pytest.mark.parametrize(("kind", "hidden"), [*product(("sandwich", "gram"), ((5,), (4, 6), (4, 3, 5))), ("attention", ())])
def test_a_block_of_sets_has_the_volume_of_its_jacobian(kind, hidden):
    branch = made(kind, 2, hidden)
    for points in (1, 4):
        check_inverse_logdet(Residual(branch), clouds(3, points, 2))
    bound, x = branch.bind(), clouds(3, 4, 2)
    at, truth = bound.linearize(x), jacobian(bound, x)
    vectors = clouds(6, 4, 2, 1).unflatten(0, (2, 3))
    torch.testing.assert_close(at.value, bound(x))
    torch.testing.assert_close(at.jvp(vectors).flatten(2), torch.einsum("bij,mbj->mbi", truth, vectors.flatten(2)))
    torch.testing.assert_close(at.vjp(vectors).flatten(2), torch.einsum("bij,mbi->mbj", truth, vectors.flatten(2)))
    assert (at.trace is not None) == (len(hidden) < 3)
    if at.trace is not None:
        torch.testing.assert_close(at.trace(), truth.diagonal(dim1=1, dim2=2).sum(1))
    check_logdet(PowerSeries(terms=3, probes=4), bound, x, repeats=100)
    check_logdet_gradient(Exact(), branch.bind, x, list(branch.parameters()), groups=1, repeats=1)


@pytest.mark.parametrize("kind", ("sandwich", "attention"))
def test_the_gradient_of_an_estimate_over_sets(kind):
    branch = made(kind, 2, (3,))
    check_logdet_gradient(PowerSeries(terms=30), branch.bind, clouds(2, 3, 2), list(branch.parameters()), groups=8, repeats=20)


@pytest.mark.parametrize("kind", ("sandwich", "gram", "attention"))
def test_a_block_of_sets_is_inverted_within_its_bound(kind):
    branch = made(kind, 2, (5,))
    y = clouds(4, 4, 2, scale=3.0)
    for dtype in DTYPES:
        check_solution(Picard(), Flat(branch.to(dtype).bind(), 4), y.flatten(1).to(dtype))
    branch.double()
    check_row_alone(Picard(), branch.bind(), y)
    check_implicit_gradient(Picard(tol=1e-9), lambda: Flat(branch.bind(), 4), y.flatten(1), tuple(branch.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_rounding_of_sets_is_bounded(kind):
    for scale, seed in product((0.1, 1.0, 30.0), range(2)):
        branch = made(kind, 3, (16, 16), 2, seed).float()
        given = None if kind == "attention" else rows(20, 2).float()
        for points in (1, 6):
            check_rounding(branch.bind(given), clouds(20, points, 3, 1, scale) + scale, f"{kind} x {scale:g}")


def test_a_context_and_batched_binding_of_sets():
    branches = [made("sandwich", context=2, seed=seed) for seed in range(3)] + [made("attention", seed=seed) for seed in range(2)]
    x, context = clouds(4, 5), rows(4, 2)
    for branch, bound in zip(branches, bind_all(branches, context), strict=True):
        alone = branch.bind(context)
        torch.testing.assert_close(bound(x), alone(x), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(bound.select(torch.tensor([2]))(x[2:3]), bound(x)[2:3])
        torch.testing.assert_close(bound.repeat(2)(x.repeat_interleave(2, 0)), bound(x).repeat_interleave(2, 0))
        assert bound.to(torch.float32).lipschitz >= 0.9 * (1 - 1e-3) or bound.to(torch.float32).certified is None
    found = penalty(torch.nn.ModuleList(branches))
    truth = [torch.linalg.matrix_norm(weight, 2).amax() ** 2 for branch in branches for weight in branch.constrain(*branch.raw())]
    assert torch.stack(truth).sum() <= found <= 1.03 * torch.stack(truth).sum()


def test_what_no_set_branch_can_be_is_refused_in_a_sentence():
    for call, words in (
        (lambda: set_branch("free", 3, (4,), 0.9, "elu"), "known are sandwich"),
        (lambda: NormalizedSetBranch(3, family="power"), "of branches for sets"),
        (lambda: AttentionBranch(3, 0), "sizes of at least one"),
        (lambda: AttentionBranch(3, 4, lipschitz=1.0), r"lie in \(0, 1\)"),
        (lambda: AttentionBranch(3, 4).bind()(torch.zeros(2, 5, 3)), "at most 4 points"),
        (lambda: point_flow(3, 0), "at least one block, point"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
