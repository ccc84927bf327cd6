"""Every estimator's mean is the log-determinant up to the bias it states, with the spread it states."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from itertools import product

import pytest
import torch
from law_cases import ACTIVATIONS, MONOTONE, SHAPES, branch, rows

from iresnet.contract import FAMILIES
from iresnet.contract.activations import activation
from iresnet.numerics.linearize import linearize
from iresnet.numerics.logdet import Estimate, Exact, series_tail, truncation_bias
from iresnet.numerics.noise import Noise
from iresnet.numerics.series import PowerSeries
from iresnet.testing import check_logdet, check_roulette, jacobian

OPTIONS = list(product(("rademacher", "gaussian"), (True, False), ("vjp", "jvp"), ("neumann", "series")))
ROULETTES = ("geometric", "poisson", "adaptive")


def roulette(kind: str, **more) -> PowerSeries:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Poisson's, which has a test of its own
        return PowerSeries(terms=2, roulette=kind, **more)


class Plain:
    """A function with a certificate and nothing else: what a part of someone else's would be."""

    def __init__(self, bound):
        self.bound, self.lipschitz, self.dtype = bound, bound.lipschitz, bound.dtype

    def __call__(self, x):
        return self.bound(x)

    def repeat(self, times):
        return Plain(self.bound.repeat(times))


@pytest.mark.parametrize(
    ("family", "name"), [pair for pair in product(FAMILIES, ACTIVATIONS) if pair[0] != "sandwich" or pair[1] in MONOTONE]
)
def test_exact_is_slogdet(family, name):
    for (features, hidden), context in product(SHAPES, (0, 2)):
        if all(width % activation(name).group == 0 for width in hidden):
            bound = branch(family, features, hidden, 0.9, name, context).bind(rows(6, 2, 5) if context else None)
            check_logdet(Exact(), bound, rows(6, features), repeats=2)
            check_logdet(Exact(), Plain(bound), rows(6, features), repeats=2)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_closed_form_derivatives_are_the_derivatives(name):
    for (features, hidden), context in product(SHAPES, (0, 2)):
        if any(width % activation(name).group for width in hidden):
            continue
        bound = branch("gram", features, hidden, 0.9, name, context).bind(rows(5, 2, 5) if context else None)
        x, vectors = rows(5, features), torch.stack([rows(5, features, seed) for seed in (1, 2, 3)])
        truth = jacobian(bound, x)
        for at in (linearize(bound, x), linearize(Plain(bound), x)):
            torch.testing.assert_close(at.value, bound(x), rtol=1e-12, atol=1e-13)
            left, right = torch.einsum("bij,mbi->mbj", truth, vectors), torch.einsum("bij,mbj->mbi", truth, vectors)
            torch.testing.assert_close(at.vjp(vectors), left, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(at.jvp(vectors), right, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(at.vjp(vectors[0]), left[0], rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(at.jvp(vectors[0]), right[0], rtol=1e-9, atol=1e-11)
        at = linearize(bound, x)
        assert (at.trace is not None) == (activation(name).elementwise and len(hidden) <= 2)
        if at.trace is not None:
            torch.testing.assert_close(at.trace(), truth.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-9, atol=1e-11)
        if at.jacobian is not None:
            torch.testing.assert_close(at.jacobian(), truth, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("distribution", "first_trace", "product", "gradient"), OPTIONS)
def test_series_with_every_option(distribution, first_trace, product, gradient):
    options = {"distribution": distribution, "first_trace": first_trace, "product": product, "gradient": gradient}
    for seed, family, context in ((0, "sandwich", 0), (1, "gram", 2)):
        bound = branch(family, 3, (8, 6), 0.85, "tanh", context, seed=seed).bind(rows(4, 2) if context else None)
        for terms, probes in ((None, 4), (40, 2), (3, 3)):
            check_logdet(PowerSeries(terms, probes, **options), bound, rows(4, 3, seed))
            check_logdet(PowerSeries(terms, probes, **options), Plain(bound), rows(4, 3, seed))


@pytest.mark.parametrize("features", (1, 2, 5))
def test_a_truncation_that_matters_is_within_its_stated_bias(features):
    made = branch("gram", features, (6,), 0.95, "sine", scale=8.0)
    with torch.no_grad():
        made.biases[0].mul_(0.1)
    x = rows(6, features, scale=0.3)
    for terms, sign in product((1, 2, 3), (1.0, -1.0)):
        with torch.no_grad():
            made.weights[1].copy_(sign * 4 * made.weights[0].T)
        bound = made.bind()
        check_logdet(PowerSeries(terms, 2, first_trace=False), bound, x, repeats=4000, biased=True)
        if terms > 1:
            check_logdet(PowerSeries(terms, 2), bound, x, repeats=4000, biased=True)


@pytest.mark.parametrize("kind", ROULETTES)
def test_roulettes_are_unbiased(kind):
    for family, context, first_trace in (("sandwich", 0, True), ("gram", 2, False)):
        bound = branch(family, 3, (8, 6), 0.85, "tanh", context).bind(rows(4, 2) if context else None)
        check_roulette(roulette(kind, first_trace=first_trace), bound, rows(4, 3))
        check_roulette(roulette(kind, first_trace=first_trace, probes=2, product="jvp"), bound, rows(4, 3), batches=200)


def test_roulettes_with_a_tail_of_their_own():
    bound = branch("gram", 3, (8, 6), 0.85, "tanh").bind()
    for kind, tail in (("geometric", 0.3), ("geometric", 0.9), ("adaptive", 0.5), ("adaptive", 1.5)):
        check_roulette(PowerSeries(1, roulette=kind, tail=tail), bound, rows(4, 3))


@pytest.mark.parametrize("kind", ("truncated", "tolerance", *ROULETTES))
def test_a_zero_branch_has_a_zero_log_determinant(kind):
    estimator = {"truncated": PowerSeries(3), "tolerance": PowerSeries()}.get(kind) or roulette(kind)
    _, estimate = estimator(branch("sandwich", seed=None).bind(), rows(4, 3))
    assert not estimate.value.any() and not estimate.bias.any()


def test_the_law_sees_a_missing_bias_and_a_wrong_spread():
    class Careless(PowerSeries):
        def __call__(self, function, x, noise=None):
            value, estimate = super().__call__(function, x, noise)
            return value, Estimate(estimate.value, estimate.stderr, 0 * estimate.bias)

    class Boastful(PowerSeries):
        def __call__(self, function, x, noise=None):
            value, estimate = super().__call__(function, x, noise)
            return value, Estimate(estimate.value, estimate.stderr / 2, estimate.bias)

    made = branch("gram", 3, (6,), 0.95, "sine", scale=8.0)
    with torch.no_grad():
        made.weights[1].copy_(4 * made.weights[0].T)
    with pytest.raises(AssertionError, match="off by"):
        check_logdet(Careless(1, 2, first_trace=False), made.bind(), rows(4, 3, scale=0.1))
    with pytest.raises(AssertionError, match="states variances"):
        check_logdet(Boastful(30, 2, first_trace=False), made.bind(), rows(4, 3, scale=0.1))


@pytest.mark.parametrize("family", ("sandwich", "gram"))
def test_float32_is_within_the_stated_rounding(family):
    for features, hidden in (*SHAPES, (16, (32, 32))):
        made = branch(family, features, hidden, 0.9, "elu").float()
        x = rows(64, features).float()
        wide = Exact()(made.bind().to(torch.float64), x.double())[1].value
        estimate = Exact()(made.bind(), x)[1]
        assert ((estimate.value.double() - wide).abs() <= estimate.bias).all()


@pytest.mark.parametrize("sign", (1.0, -1.0))
def test_float32_is_within_the_stated_rounding_where_digits_are_lost(sign):
    """g(x) close to -c x near zero: I + J is nearly singular."""
    for lipschitz, features in product((0.9, 0.97, 0.999), (1, 2, 3, 16, 64)):
        made = branch("gram", features, (features, features), lipschitz, "tanh")
        with torch.no_grad():
            for index, weight in enumerate(made.weights):
                weight.copy_(50.0 * torch.eye(features) * (sign if index == 0 else 1.0))
            for bias in made.biases:
                bias.zero_()
        made.float()
        x = rows(200, features, scale=0.3).float()
        estimate = Exact()(made.bind(), x)[1]
        wide = Exact()(made.bind().to(torch.float64), x.double())[1].value
        assert ((estimate.value.double() - wide).abs() <= estimate.bias).all()


def test_exact_is_the_absolute_determinant_of_maps_that_turn_over():
    for features in (1, 2, 3):
        bound = branch("free", features, (4,), 0.9, "sine", scale=60.0).bind()
        check_logdet(Exact(), bound, rows(6, features), repeats=2)
        assert (torch.linalg.det(torch.eye(features) + jacobian(bound, rows(6, features))) < 0).any()


def test_the_tail_of_the_series():
    for c in (0.0, 1e-3, 0.5, 0.97, 0.999):
        for terms in (0, 1, 5, 50):
            direct = math.fsum(c**k / k for k in range(terms + 1, 60_000))
            assert series_tail(c, terms) >= direct * (1 - 1e-12)
            assert series_tail(c, terms) <= direct * 1.4 + 1e-300
            assert truncation_bias(c, terms, 7) == 7 * series_tail(c, terms)
    # The design's closed form, where it does not cancel.
    closed = -(math.log(1 - 0.9) + sum(0.9**k / k for k in range(1, 6)))
    assert series_tail(0.9, 5) == pytest.approx(closed, rel=1e-12)
    assert series_tail(1.0, 5) == math.inf and series_tail(math.nan, 5) == math.inf


def test_estimates_add_up():
    one = Estimate(torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([0.1]))
    two = Estimate(torch.tensor([2.0]), torch.tensor([4.0]), torch.tensor([0.2]))
    total = one + two + 10.0
    assert (float(total.value), float(total.stderr), float(total.bias)) == pytest.approx((13.0, 5.0, 0.3))
    unknown = one + Estimate(torch.tensor([0.0]), torch.tensor([math.nan]), torch.tensor([0.0]))
    assert unknown.stderr.isnan().all()


def test_one_probe_states_no_standard_error():
    bound = branch("gram").bind()
    assert PowerSeries(5, 1)(bound, rows(3, 3))[1].stderr.isnan().all()
    assert torch.isfinite(PowerSeries(5, 2)(bound, rows(3, 3))[1].stderr).all()


def test_without_a_certificate_the_bias_is_infinite():
    estimate = PowerSeries(5, 2)(lambda x: 0.5 * torch.sin(x), rows(3, 2))[1]
    assert (estimate.bias == math.inf).all() and torch.isfinite(estimate.value).all()


def test_no_rows_have_no_estimates():
    bound = branch("sandwich", 3).bind()
    for estimator in (Exact(), PowerSeries(probes=2), PowerSeries(3), PowerSeries(2, roulette="adaptive")):
        value, estimate = estimator(bound, rows(0, 3))
        assert value.shape == (0, 3) and estimate.value.shape == estimate.stderr.shape == estimate.bias.shape == (0,)


def test_a_rows_estimate_does_not_depend_on_its_batch():
    bound = branch("sandwich", 3, (8, 6), 0.9, "elu", 2).bind(rows(20, 2))
    x, numbers = rows(20, 3), torch.arange(100, 120)
    adaptive = PowerSeries(1, 2, roulette="adaptive", tail=0.9)
    for estimator in (PowerSeries(), PowerSeries(probes=4, first_trace=False), PowerSeries(7, 2), adaptive, Exact()):
        whole = estimator(bound, x, Noise(3, numbers))[1]
        for row in (0, 7, 19):
            mask = torch.tensor([row])
            alone = estimator(bound.select(mask), x[mask], Noise(3, numbers[mask]))[1]
            torch.testing.assert_close(alone.value, whole.value[mask], rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(alone.bias, whole.bias[mask], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", (PowerSeries(200), PowerSeries(100, roulette="geometric", tail=0.9)), ids=repr)
def test_what_is_left_of_a_probe_ends_as_zero(estimator):
    """Not as subnormal numbers, which a processor takes many times as long for."""
    bound, seen = branch("gram", 3, (8, 6), 0.5, "tanh").bind(), []

    def watched(product):
        def multiply(vector):
            seen.append(vector.abs())
            return product(vector)

        return multiply

    class Watched:
        lipschitz = bound.lipschitz

        def __call__(self, x):
            return bound(x)

        def linearize(self, x):
            at = bound.linearize(x)
            return replace(at, vjp=watched(at.vjp), attach=None)

    with torch.no_grad():
        found = estimator(Watched(), rows(6, 3), Noise(0, torch.arange(6)))[1]
        plain = PowerSeries(60)(bound, rows(6, 3), Noise(0, torch.arange(6)))[1]
    torch.testing.assert_close(found.value, plain.value, rtol=1e-12, atol=1e-14)
    assert len(seen) >= 100 and not seen[-1].any()
    assert min(float(vector[vector > 0].min()) for vector in seen if vector.any()) > 1e-100


def test_messages():
    for arguments, match in (
        ({"roulette": "russian"}, "roulette is one of"),
        ({"distribution": "cauchy"}, "distribution is one of"),
        ({"gradient": "none"}, "gradient is one of"),
        ({"product": "full"}, "product is one of"),
        ({"terms": 0}, "needs terms >= 1 and probes >= 1, got 0 and 1"),
        ({"probes": 0}, "needs terms >= 1 and probes >= 1, got None and 0"),
        ({"tol": 0.0}, "needs tol > 0, got 0.0"),
        ({"roulette": "geometric", "tail": 1.0}, "tail is a probability"),
        ({"roulette": "geometric", "tail": 0.0}, "tail is a probability"),
        ({"roulette": "adaptive", "tail": math.inf}, "both finite"),
        ({"roulette": "adaptive", "tail": math.nan}, "both finite"),
    ):
        with pytest.raises(ValueError, match=match):
            PowerSeries(**arguments)
    with pytest.warns(UserWarning, match="its variance is infinite"):
        PowerSeries(roulette="poisson")
