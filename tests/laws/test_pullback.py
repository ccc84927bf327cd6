"""The gradient in closed form is autograd's; with recomputation it is the same bit for bit and keeps less."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from law_cases import SHAPES, branch, rows

from iresnet.contract.activations import activation
from iresnet.numerics.logdet import Exact
from iresnet.numerics.noise import Noise
from iresnet.numerics.series import PowerSeries

CURVED = ("relu", "elu", "tanh", "sigmoid", "softplus", "sine")
ESTIMATORS = (PowerSeries(4), PowerSeries(3, probes=3), PowerSeries(2, product="jvp"), PowerSeries(3, first_trace=False))


class Plain:
    """A bound that offers everything but its gradient in closed form: the naive twin, differentiated by autograd."""

    def __init__(self, bound):
        self.bound, self.lipschitz, self.tensors = bound, bound.lipschitz, bound.tensors

    def __call__(self, x):
        return self.bound(x)

    def linearize(self, x):
        return replace(self.bound.linearize(x), attach=None)


def gradients(estimator, made, x, context, *, plain=False):
    """Value of g, log-determinant, and gradients of a random combination of both by x, context and parameters."""
    x, context = x.clone().requires_grad_(True), None if context is None else context.clone().requires_grad_(True)
    bound = made.bind(context)
    value, estimate = estimator(Plain(bound) if plain else bound, x, Noise(3, torch.arange(len(x))))
    weights = rows(len(x), value.shape[1] + 1, 5)
    loss = (weights[:, 1:] * value).sum() + (weights[:, 0] * estimate.value).sum()
    wanted = [x, *([] if context is None else [context]), *made.parameters()]
    found = torch.autograd.grad(loss, wanted, materialize_grads=True)
    return (value.detach(), estimate.value.detach(), *found)


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("family", ("sandwich", "gram"))
def test_closed_form_is_autograds_gradient(family, name):
    if family == "sandwich" and not activation(name).monotone:
        pytest.skip("sandwich layers need a monotone activation")
    for (features, hidden), context, estimator in product(SHAPES, (0, 2), ESTIMATORS):
        made = branch(family, features, hidden, 0.8, name, context)
        x, given = rows(7, features), rows(7, context, 9) if context else None
        naive = gradients(estimator, made, x, given, plain=True)
        for mine, other in zip(gradients(estimator, made, x, given), naive, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


def test_a_trace_asked_without_a_graph_leaves_the_later_ones_gradient_whole():
    made, x = branch("gram", 3, (5, 4), 0.8, "tanh", 0), rows(7, 3)
    wanted = torch.autograd.grad(made.bind().linearize(x).trace().sum(), list(made.parameters()), materialize_grads=True)
    at = made.bind().linearize(x)
    with torch.no_grad():
        at.trace()
    found = torch.autograd.grad(at.trace().sum(), list(made.parameters()), materialize_grads=True)
    assert all(map(torch.equal, found, wanted)) and any(part.any() for part in wanted)


def test_activations_say_truly_whether_they_are_curved():
    x = torch.linspace(-3, 3, 41, dtype=torch.float64).requires_grad_(True)
    for name in (*CURVED, "lipswish"):
        made = activation(name)
        if not made.curved:
            with pytest.raises(TypeError, match="second derivative"):
                made.gradient(x, x, x, x)
            continue
        value, slope = made.with_slope(x)
        first, second = torch.rand(2, 41, dtype=torch.float64)
        (wanted,) = torch.autograd.grad((first * value + second * slope).sum(), x)
        torch.testing.assert_close(made.gradient(value, slope, first.clone(), second.clone()), wanted, rtol=1e-12, atol=1e-12)
        if made.told:
            value = value.detach().requires_grad_(True)
            (wanted,) = torch.autograd.grad((second * made.slope_of(value)).sum() + 0.0 * value.sum(), value)
            torch.testing.assert_close(made.through_slope(value.detach(), slope.detach(), second.clone()), wanted)


@pytest.mark.parametrize("estimator", (Exact(), PowerSeries(2, roulette="adaptive"), PowerSeries(3, probes=2)), ids=repr)
@pytest.mark.parametrize("name", ("tanh", "lipswish", "maxmin"))
def test_recomputation_changes_no_gradient(estimator, name):
    made = branch("gram", 3, (8, 6), 0.8, name, 2)
    x, context = rows(6, 3), rows(6, 2, 4)
    plain = gradients(estimator, made, x, context)
    again = gradients(replace(estimator, recompute=True), made, x, context)
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        assert isinstance(estimator, Exact) or torch.equal(one, other)


def kept(estimator, made, x) -> int:
    """Numbers that autograd keeps for the backward pass."""
    seen: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: seen.append(tensor.numel()) or tensor, lambda tensor: tensor):
        estimator(made.bind(), x.requires_grad_(True))
    return sum(seen)


@pytest.mark.parametrize("family", ("sandwich", "gram"))
def test_memory_is_flat_and_recomputation_keeps_less(family):
    made, x = branch(family, 3, (32, 32), 0.8, "tanh"), rows(200, 3)
    for recompute in (False, True):
        counts = {terms: kept(PowerSeries(terms, recompute=recompute), made, x) for terms in (2, 10, 40)}
        assert len(set(counts.values())) == 1, f"memory depends on the number of terms: {counts}"
    plain = kept(PowerSeries(4), made, x)
    slim = kept(PowerSeries(4, recompute=True), made, x)
    assert plain - slim == 5 * 32 * 200, "values and slopes of two layers and half of the trace are what recomputation saves"
