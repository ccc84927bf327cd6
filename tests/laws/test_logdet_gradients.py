"""Gradients of log-determinants are right in the mean, for parameters, inputs and contexts, under per-sample weights."""

from __future__ import annotations

import warnings
from itertools import product

import pytest
import torch
from law_cases import SHAPES, branch, rows

from iresnet.contract import FAMILIES
from iresnet.numerics.logdet import Exact
from iresnet.numerics.noise import Noise
from iresnet.numerics.series import PowerSeries
from iresnet.testing import check_logdet_gradient

WAYS = list(product(("neumann", "series"), ("vjp", "jvp"), (True, False)))


def case(family, features=3, hidden=(8, 6), name="tanh", context=2, seed=0):
    made = branch(family, features, hidden, 0.8, name, context, seed=seed)
    given = rows(4, context, 9).requires_grad_(True) if context else None
    wanted = [*made.parameters(), *([] if given is None else [given])]
    return (lambda: made.bind(given)), rows(4, features, seed), wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_exact(family):
    for (features, hidden), context, name in product(SHAPES, (0, 2), ("tanh", "elu")):
        bind, x, wanted = case(family, features, hidden, name, context)
        check_logdet_gradient(Exact(), bind, x, wanted, groups=1, repeats=1, tolerance=1e-7)


@pytest.mark.parametrize("name", ("clipswish", "maxmin", "lipswish", "sine"))
def test_exact_for_the_other_activations(name):
    bind, x, wanted = case("gram", 3, (4, 6), name)
    if name == "maxmin":  # its derivative is constant between its kinks: only the weights matter
        check_logdet_gradient(Exact(), bind, x, wanted, groups=1, repeats=1, tolerance=1e-7)
    check_logdet_gradient(PowerSeries(40), bind, x, wanted, tolerance=1e-4)


@pytest.mark.parametrize(("gradient", "product", "first_trace"), WAYS)
@pytest.mark.parametrize("family", ("sandwich", "gram"))
def test_series(family, gradient, product, first_trace):
    for probes, distribution in ((1, "rademacher"), (2, "gaussian")):
        bind, x, wanted = case(family)
        estimator = PowerSeries(
            40, probes, gradient=gradient, product=product, first_trace=first_trace, distribution=distribution
        )
        check_logdet_gradient(estimator, bind, x, wanted, tolerance=1e-4)


@pytest.mark.parametrize("kind", ("geometric", "poisson", "adaptive"))
def test_roulettes(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for gradient, first_trace in product(("neumann", "series"), (True, False)):
            bind, x, wanted = case("gram")
            estimator = PowerSeries(2, roulette=kind, gradient=gradient, first_trace=first_trace)
            check_logdet_gradient(estimator, bind, x, wanted, groups=150, repeats=16)


def test_the_law_sees_a_gradient_without_the_weights_of_its_samples():
    class Unweighted(PowerSeries):
        """The "memory-saving" gradient of the literature's code: right for a mean over the batch only."""

        def __call__(self, function, x, noise=None):
            value, estimate = super().__call__(function, x, noise)
            mean = estimate.value.mean()
            shared = estimate.value.detach() + (mean - mean.detach())
            return value, type(estimate)(shared, estimate.stderr, estimate.bias)

    bind, x, wanted = case("gram")
    with pytest.raises(AssertionError, match="gradient along direction"):
        check_logdet_gradient(Unweighted(40), bind, x, wanted)


def test_the_value_is_not_moved_by_the_surrogate():
    bind, x, _ = case("gram")
    for estimator in (PowerSeries(5), PowerSeries(probes=2), PowerSeries(5, first_trace=False)):
        with torch.no_grad():
            plain = estimator(bind(), x, Noise(1))[1].value
        traced = estimator(bind(), x, Noise(1))[1].value
        assert traced.requires_grad
        assert torch.equal(plain, traced.detach())


def test_memory_does_not_grow_with_the_terms():
    def saved(estimator) -> int:
        seen: list[int] = []
        bind, x, _ = case("gram")
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: seen.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            estimator(bind(), x.requires_grad_(True))
        return sum(seen)

    assert saved(PowerSeries(40)) == saved(PowerSeries(4))
    assert saved(PowerSeries(40, gradient="series")) > 2 * saved(PowerSeries(4, gradient="series"))


def test_log_prob_gradients_by_finite_differences():
    made = branch("sandwich", 2, (5, 4), 0.8, "tanh", 1)
    context, x = rows(3, 1), rows(3, 2)
    weights = rows(1, 3, 4)[0]

    def loss(*parameters):
        state = dict(zip((name for name, _ in made.named_parameters()), parameters[2:], strict=True))

        class Bound(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.branch = made

            def forward(self):
                value, estimate = Exact()(self.branch.bind(parameters[1]), parameters[0])
                return (weights * (estimate.value + value.square().sum(1))).sum()

        return torch.func.functional_call(Bound(), {f"branch.{name}": value for name, value in state.items()}, ())

    inputs = (x, context, *(parameter.detach() for parameter in made.parameters()))
    assert torch.autograd.gradcheck(loss, tuple(part.clone().requires_grad_(True) for part in inputs), atol=1e-6)
