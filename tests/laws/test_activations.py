"""Every activation's Lipschitz constant is true and tight, and its stated derivative is its derivative."""

from __future__ import annotations

import math

import pytest
import torch
from law_cases import ACTIVATIONS, MONOTONE

from iresnet.contract import activations
from iresnet.contract.activations import Activation, MaxMin, Sine, Softplus, activation
from iresnet.testing import check_activation


def test_the_cases_are_all_there_are():
    public = {name.lower() for name in activations.__all__} - {"activation"}
    assert public == set(ACTIVATIONS)
    assert {name for name in ACTIVATIONS if activation(name).monotone} == set(MONOTONE)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_constants_are_true_and_tight(name):
    check_activation(activation(name))


def test_the_law_sees_a_constant_that_is_wrong():
    class TooSmall(Sine):
        lipschitz = 0.999

    class TooLarge(Sine):
        lipschitz = 1.002

    class Jumps(Softplus):
        def __call__(self, x):
            return torch.nn.functional.softplus(x)  # of threshold 20

    with pytest.raises(AssertionError, match="TooSmall: slope"):
        check_activation(TooSmall())
    with pytest.raises(AssertionError, match="is not tight"):
        check_activation(TooLarge())
    with pytest.raises(AssertionError, match="Jumps: slope"):
        check_activation(Jumps())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_far_points_keep_the_constant_and_stay_finite(name):
    one = activation(name)
    x = torch.cat((torch.logspace(-150, 150, 600, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)))
    x = torch.cat((x, -x)).reshape(-1, 2)
    value = one(x)
    assert torch.isfinite(value).all()
    rounding = 8 * torch.finfo(torch.float64).eps * x.abs().clamp(min=1.0).amax(1)
    moved = (value[1:] - value[:-1]).norm(dim=1) - rounding[1:] - rounding[:-1]
    assert (moved <= one.lipschitz * (x[1:] - x[:-1]).norm(dim=1)).all()
    assert torch.isfinite(one(x.float().clamp(-1e38, 1e38))).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_widths_and_pairs(name):
    one = activation(name)
    x = torch.randn(7, 6, dtype=torch.float64)
    assert one(x).shape == (7, 6 * one.expand)
    # The Euclidean constant holds for vectors too, which is more than for each entry where entries mix or widen.
    y = x + 0.3 * torch.randn_like(x)
    assert ((one(x) - one(y)).norm(dim=1) <= one.lipschitz * (x - y).norm(dim=1) * (1 + 1e-12)).all()


def test_maxmin_sorts_neighbours():
    assert MaxMin()(torch.tensor([[1.0, 2.0, 4.0, 3.0]])).tolist() == [[2.0, 1.0, 4.0, 3.0]]


def test_the_swish_constant_is_the_root_of_its_equation():
    # x sigmoid(x) is steepest where 2 s' + x s'' = 0, with s' = s(1-s) and s'' = s'(1-2s).
    low, high = 2.0, 3.0
    for _ in range(200):
        x = (low + high) / 2
        gate = 1 / (1 + math.exp(-x))
        low, high = (x, high) if 2 + x * (1 - 2 * gate) > 0 else (low, x)
    slope = gate + x * gate * (1 - gate)
    assert activation("lipswish").lipschitz == pytest.approx(slope / 1.1, rel=1e-14)
    assert activation("clipswish").lipschitz == pytest.approx(math.hypot(slope, slope - 1) / 1.1, rel=1e-14)


def test_names_and_messages():
    assert isinstance(activation("MaxMin"), MaxMin)
    assert activation(MaxMin()) == MaxMin()
    with pytest.raises(ValueError, match="unknown activation 'gelu'; known are clipswish, elu, lipswish"):
        activation("gelu")
    with pytest.raises(TypeError, match="MaxMin does not act on each entry alone and has no slope"):
        MaxMin().with_slope(torch.zeros(1, 2))
    with pytest.raises(TypeError, match="Activation does not act"):
        Activation()(torch.zeros(1, 2))
