"""Convolution branches know their derivatives: products with the Jacobian and its trace, at the borders of an image too."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from conv_cases import SHAPES, SOUND, conv, dense_twin, images

from iresnet.testing import jacobian

LINEAR = [
    (shape, hidden, context, more)
    for shape, hidden in SHAPES
    for context, more in ((0, {}), (2, {}), (0, {"taps": 5}), (2, {"preactivate": True}))
]


@pytest.mark.parametrize(("shape", "hidden", "context", "more"), LINEAR)
def test_derivatives_are_those_of_autograd(shape, hidden, context, more):
    for name in ("elu", "lipswish", "clipswish"):
        made = conv("free", shape, hidden, 0.9, name, context, **more)
        x, given = images(3, shape), images(3, (context,)) if context else None
        bound = made.bind(given)
        at, matrix = bound.linearize(x), jacobian(bound, x)
        torch.testing.assert_close(at.value, bound(x), rtol=1e-12, atol=1e-14)
        one, many = images(3, shape, 5), images(12, shape, 6).reshape(4, 3, *shape)
        for vectors in (one, many):
            flat = vectors.flatten(-3)
            left = torch.einsum("...bi,bij->...bj", flat, matrix).reshape(vectors.shape)
            right = torch.einsum("bij,...bj->...bi", matrix, flat).reshape(vectors.shape)
            torch.testing.assert_close(at.vjp(vectors), left, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(at.jvp(vectors), right, rtol=1e-9, atol=1e-12)
        exact = len(hidden) <= 2 and not more.get("preactivate") and name != "clipswish"
        assert (at.trace is not None) == exact
        if at.trace is not None:
            torch.testing.assert_close(at.trace(), matrix.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("hidden", ((6, 5), (4,)))
def test_the_trace_and_its_gradient(hidden):
    made = conv("free", (2, 3, 4), hidden, 0.9, "tanh", 2)
    x, context = images(3, (2, 3, 4)), images(3, (2,)).requires_grad_(True)
    wanted = [x.requires_grad_(True), context, *made.parameters()]
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    at = made.bind(context).linearize(x)
    assert at.trace is not None
    found = torch.autograd.grad((weights * at.trace()).sum(), wanted, materialize_grads=True)
    truth = jacobian(made.bind(context), x, graph=True).diagonal(dim1=1, dim2=2).sum(1)
    expected = torch.autograd.grad((weights * truth).sum(), wanted, materialize_grads=True)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-11)


def test_a_dense_branch_of_the_same_matrices_is_the_same_function():
    for (shape, hidden), context in product(SHAPES, (0, 2)):
        bound = conv("free", shape, hidden, 0.9, "tanh", context).bind(images(3, (context,)) if context else None)
        x, twin = images(3, shape), dense_twin(bound)
        torch.testing.assert_close(bound(x).flatten(1), twin(x.flatten(1)), rtol=1e-10, atol=1e-12)
        assert twin.lipschitz <= bound.lipschitz * 1.05
        if len(hidden) < 3:
            trace, same = bound.linearize(x).trace, twin.linearize(x.flatten(1)).trace
            assert trace is not None and same is not None
            torch.testing.assert_close(trace(), same(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", SOUND)
def test_constrained_weights_have_the_gradient_of_finite_differences(family):
    made = conv(family, (2, 3, 4), (5, 4), 0.9, "tanh", scale=3.0)
    x, wanted = images(2, (2, 3, 4)), list(made.parameters())
    found = torch.autograd.grad(made.bind()(x).square().sum(), wanted)
    generator = torch.Generator().manual_seed(1)
    for parameter, gradient in zip(wanted, found, strict=True):
        if not parameter.numel():
            continue
        way, ends = torch.randn(parameter.shape, generator=generator, dtype=torch.float64), []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                parameter.add_(sign * 1e-6 * way)
                ends.append(float(made.bind()(x).square().sum()))
                parameter.sub_(sign * 1e-6 * way)
        difference = (ends[0] - ends[1]) / 2e-6
        assert difference == pytest.approx(float((gradient * way).sum()), rel=1e-4, abs=1e-7)
