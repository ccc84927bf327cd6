"""Convolution branches expand by no more than they claim, and know their derivatives, at the borders of an image too."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from conv_cases import SHAPES, SOUND, conv, dense_twin, images

from iresnet.contract import CONV_FAMILIES, bind_all, conv_branch, penalty
from iresnet.contract.activations import activation
from iresnet.numerics.convolution import dense_convolution
from iresnet.testing import check_branch, check_rounding, rescaled, worst_slopes

DTYPES = (torch.float32, torch.float64)
MONOTONE = ("relu", "elu", "tanh", "softplus")
OTHERS = ("lipswish", "clipswish", "maxmin", "sine")


def check_conv_branch(made, x, context=None, *, ascent: int = 1, name: str = "") -> float:
    """:func:`check_branch`, and the worst slopes of the branch written as matrices."""
    found = check_branch(made, x, context, ascent=ascent, name=name)
    bound = made.bind(context).to(torch.float64)
    if bound.activation.elementwise and not bound.preactivate:
        worst = worst_slopes(dense_twin(bound).weights, bound.activation.slope, starts=4, steps=4)
        assert worst <= bound.lipschitz * (1 + 1e-12), f"{name}: the worst slopes expand by {worst!r}, claims {bound.lipschitz!r}"
        found = max(found, worst)
    return found


@pytest.mark.parametrize(("family", "name"), [(f, n) for f in CONV_FAMILIES for n in (*MONOTONE, *OTHERS)])
def test_every_family_activation_and_shape(family, name):
    for (shape, hidden), conditional in product(SHAPES[:4], (0, 2)):
        if family == "sandwich" and name in OTHERS or any(width % activation(name).group for width in hidden):
            continue
        made = conv(family, shape, hidden, 0.9, name, conditional)
        check_conv_branch(made, images(3, shape), images(3, (2,)) if conditional else None)


@pytest.mark.parametrize("family", SOUND[1:])
def test_preactivated_branches_are_bounded_too(family):
    for name in ("elu", "lipswish", "clipswish", "maxmin"):
        made = conv(family, (2, 3, 4), (6, 4), 0.9, name, preactivate=True)
        check_conv_branch(made, images(3, (2, 3, 4)), ascent=2)
        at = made.bind().linearize(images(2, (2, 3, 4)))
        assert at.trace is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", SOUND)
def test_weights_chosen_to_break_the_bound(family, dtype):
    for shape, hidden, name in (((2, 3, 3), (4, 3), "elu"), ((1, 2, 4), (3,), "relu")):
        made = conv(family, shape, hidden, 0.97, name)
        for case in rescaled(made, dtype):
            check_conv_branch(made, images(2, shape), ascent=0, name=case)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", SOUND)
def test_weights_chosen_to_break_the_bound_at_every_shape(family, dtype):
    for (shape, hidden), seed in product((*SHAPES, ((2, 7, 7), (8, 8))), range(2)):
        made = conv(family, shape, hidden, 0.97, "relu" if seed else "elu")
        for case in rescaled(made, dtype, seed, (1e-6, 1e-3, 1.0, 1e3, 1e6)):
            check_conv_branch(made, images(2, shape), name=case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", ("layer", "output"))
def test_a_branch_at_its_bound(place, dtype):
    """Blurs of rank one, aligned, where the bound of each layer is met: nothing is left but what borders cost twice over."""
    line = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    for name in ("relu", "lipswish"):
        made = conv("gram", (1, 12, 12), (1, 1), 0.97, name, place=place).to(dtype)
        with torch.no_grad():
            for kernel in made.kernels:
                kernel.fill_(10.0)
                if kernel.shape[-1] == 3:
                    kernel.copy_(10.0 * torch.outer(line, line))
        first, second, third = dense_twin(made.bind().to(torch.float64)).weights
        length = float(torch.linalg.matrix_norm(third @ second @ first, 2)) * made.activation.lipschitz**2
        assert 0.97 * (1 - 1e-3) <= length <= 0.97


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("psi", (0.0, 20.0))
def test_a_sandwich_branch_at_its_bound(psi, dtype):
    """With A^T B = I / 2, slopes of one and one tap the layers are orthonormal, whatever Psi cancels on the way."""
    shrink = (1 - math.sqrt(0.5)) / (1 + math.sqrt(0.5))
    for size, depth in product((1, 4), (1, 2, 3)):
        made = conv("sandwich", (size, 3, 3), (size,) * depth, 0.97, "relu").to(dtype)
        with torch.no_grad():
            for square, rest, scaling in zip(made.square, made.rest, made.psi, strict=True):
                square.zero_()
                rest.copy_(math.sqrt(shrink) * torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q)
                scaling.copy_(psi * torch.randn(size))
            for kernel in (made.first, made.last):
                kernel.zero_()
                kernel[:, :, 1, 1] = 7.0 * torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q
        whole = torch.eye(9 * size, dtype=torch.float64)
        for matrix in dense_twin(made.bind().to(torch.float64)).weights:
            whole = matrix @ whole
        length = float(torch.linalg.matrix_norm(whole, 2))
        # Gram iteration is loosest for equal singular values: size^(1/128) for each convolution.
        assert 0.97 * size ** (-1 / 64) * (1 - 1e-3) <= length <= 0.97


@pytest.mark.parametrize("family", CONV_FAMILIES)
def test_a_new_branch_is_zero(family):
    made = conv(family, (2, 4, 5), (6, 4), 0.9, "tanh", 2, seed=None)
    assert not made.bind(images(5, (2,)))(images(5)).any()


def test_small_kernels_are_never_scaled_up_and_zero_is_safe():
    for family in ("gram", "frobenius", "power", "free"):
        made = conv(family, (2, 4, 4), (3,), 0.9, "tanh")
        with torch.no_grad():
            for kernel in made.kernels:
                kernel.mul_(1e-4)
        for kernel, held in zip(made.kernels, made.bind().kernels, strict=True):
            torch.testing.assert_close(held, kernel, rtol=1e-12, atol=0)
    for family in SOUND:
        made = conv(family, (2, 4, 4), (3,), 0.9, "tanh")
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.zero_()
        assert torch.isfinite(made.bind()(images(2, (2, 4, 4)))).all()


def test_guarantees_are_what_the_table_says():
    said = {family: conv(family).guarantee for family in CONV_FAMILIES}
    assert said == {"sandwich": "sound", "gram": "sound", "frobenius": "sound", "power": "estimate", "free": "none"}
    for family in CONV_FAMILIES:
        made = conv(family)
        assert (made.bind().lipschitz == made.lipschitz) == (family in SOUND)
    assert conv("free", scale=60.0).bind().lipschitz > 1


def test_power_iteration_estimates_the_convolution_and_moves_in_training_only():
    made = conv("power", steps=200).train()
    before = {name: value.clone() for name, value in made.named_buffers()}
    made.eval().bind()
    assert all(torch.equal(before[name], value) for name, value in made.named_buffers())
    made.train().bind()
    assert any(not torch.equal(before[name], value) for name, value in made.named_buffers())
    for kernel in made.bind().kernels:
        norm = float(torch.linalg.matrix_norm(dense_convolution(kernel.detach(), (4, 5)), 2))
        assert norm == pytest.approx(0.9 ** (1 / 3), rel=1e-3)


def test_what_the_coefficient_means():
    each = conv_branch("gram", (2, 4, 4), 5, 0.9, place="each")
    assert each.lipschitz == pytest.approx(0.729) and each.hidden == (5, 5)
    assert conv_branch("sandwich", (2, 4, 4), (5,), 0.9, place="each").lipschitz == pytest.approx(0.81)
    for place in ("layer", "output"):
        assert conv_branch("gram", (2, 4, 4), 5, 0.9, "elu", place=place).lipschitz == 0.9


def test_rows_are_selected_and_repeated_with_their_context():
    context, x = images(4, (2,)), images(4)
    bound = conv("gram", context=2).bind(context)
    whole = bound(x)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(bound.select(rows)(x[rows]), whole[rows], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bound.select(torch.tensor([True, False, False, True]))(x[[0, 3]]), whole[[0, 3]])
    torch.testing.assert_close(bound.repeat(3)(x.repeat_interleave(3, 0)), whole.repeat_interleave(3, 0))
    shared = conv("gram", context=2).bind(context[0])
    assert shared.select(rows) is shared and shared.repeat(2) is shared
    torch.testing.assert_close(shared(x[:1]), whole[:1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", CONV_FAMILIES)
def test_bound_together_as_one_by_one(family):
    made = [conv(family, hidden=(5, 4), nonlinearity="tanh", context=2, seed=seed) for seed in range(3)]
    made += [conv(family, hidden=(4, 4), lipschitz=0.8, context=2), conv("gram", hidden=(5, 4), nonlinearity="tanh", context=2)]
    context, x = images(4, (2,)), images(4)
    together = bind_all(made, context)
    for one, bound in zip(made, together, strict=True):
        alone = one.bind(context)
        assert alone.lipschitz == pytest.approx(bound.lipschitz, rel=1e-12)
        torch.testing.assert_close(bound(x), alone(x), rtol=1e-10, atol=1e-12)
    for one in made:
        loss = sum(bound(x).square().sum() for bound in bind_all(made, context))
        found = torch.autograd.grad(loss, list(one.parameters()), materialize_grads=True)
        expected = torch.autograd.grad(one.bind(context)(x).square().sum(), list(one.parameters()), materialize_grads=True)
        for left, right in zip(found, expected, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("family", SOUND)
def test_the_rounding_of_an_evaluation_is_bounded(family):
    for name, scale in product(("elu", "tanh"), (0.1, 1.0, 1e3)):
        for (shape, hidden), more in product((*SHAPES, ((3, 7, 7), (32, 32))), ({}, {"preactivate": True})):
            if family == "sandwich" and more:
                continue
            made = conv(family, shape, hidden, 0.9, name, 2, scale=3.0, **more).float()
            x = images(20, shape, 1, scale)
            check_rounding(made.bind(images(20, (2,)).float()), x, f"{family} {name} {shape} {hidden} x {scale:g} {more}")
    for name in ("clipswish", "maxmin"):
        check_rounding(conv("gram", (2, 4, 4), (6, 4), 0.9, name).float().bind(), images(20, (2, 4, 4)), name)


def test_a_narrower_precision_loses_the_certificate():
    made = conv("gram").bind()
    narrow = made.to(torch.float32)
    assert narrow.lipschitz != 0.9 and narrow.lipschitz >= worst_slopes(dense_twin(narrow.to(torch.float64)).weights, (0.0, 1.0))
    assert conv("gram").float().bind().to(torch.float64).lipschitz == 0.9


def test_a_bound_holds_at_one_resolution():
    bound = conv("gram").bind()
    for shape in ((2, 5, 4), (2, 4, 6), (3, 4, 5)):
        for call in (bound, bound.linearize, bound.rounding):
            with pytest.raises(ValueError, match=r"takes images \(B, 2, 4, 5\), got .*holds at one resolution; build it for"):
                call(images(3, shape))
    with pytest.raises(ValueError, match=r"takes images \(B, 2, 4, 5\), got \(2, 4, 5\)"):
        bound(images(1)[0])


def test_the_memory_format_of_the_images_does_not_matter():
    bound, x = conv("sandwich").bind(), images(3)
    for other in (x.contiguous(memory_format=torch.channels_last), x.flip(-1).flip(-1), x[:, [1, 0]][:, [1, 0]]):
        torch.testing.assert_close(bound(other), bound(x), rtol=1e-13, atol=1e-14)


def test_the_penalty_is_the_sum_of_the_squared_norms_of_the_convolutions():
    made = torch.nn.ModuleList([conv("free"), conv("free", seed=1)])
    truth = sum(torch.linalg.matrix_norm(dense_convolution(k.detach(), (4, 5)), 2) ** 2 for one in made for k in one.kernels)
    found = penalty(made)
    assert truth <= found.detach() <= 1.2 * truth
    found.backward()
    assert all(kernel.grad is not None and kernel.grad.any() for one in made for kernel in one.kernels)


def test_messages():
    for call, match in (
        (lambda: conv_branch("gram", (2, 4)), r"needs a shape \(C, H, W\) and hidden channels, all >= 1, got \(2, 4\)"),
        (lambda: conv_branch("gram", (2, 4, 0)), "hidden channels, all >= 1"),
        (lambda: conv_branch("sandwich", (2, 4, 4), ()), "hidden channels, all >= 1"),
        (lambda: conv_branch("gram", (2, 4, 4), 0), "hidden channels, all >= 1"),
        (lambda: conv_branch("gram", (2, 4, 4), lipschitz=1.0), r"lipschitz must lie in \(0, 1\)"),
        (lambda: conv_branch("bjorck", (2, 4, 4)), "unknown family 'bjorck'; known are sandwich, gram"),
        (lambda: conv_branch("gram", (2, 4, 4), 3, nonlinearity="maxmin"), "MaxMin needs numbers of channels that are multiples"),
        (lambda: conv("gram", (3, 4, 4), nonlinearity="maxmin", preactivate=True), r"multiples of 2, got \(6, 4, 3\)"),
        (lambda: conv_branch("sandwich", (2, 4, 4), place="output"), "bounded as a whole: it takes neither"),
        (lambda: conv_branch("sandwich", (2, 4, 4), preactivate=True), "bounded as a whole: it takes neither"),
        (lambda: conv_branch("sandwich", (2, 4, 4), nonlinearity="lipswish"), "sandwich layers need a monotone activation"),
        (lambda: conv("none"), "unknown family 'none'; known are free, frobenius"),
        (lambda: conv("gram", place="input"), "place must be 'layer' or 'output', got 'input'"),
        (lambda: conv("gram", taps=2), "odd taps, got 2"),
        (lambda: conv("gram", context=2).bind(), "this branch is conditional: it needs a context of width 2"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_repr_tells_what_differs():
    told = repr(conv("gram", context=2, taps=5, preactivate=True))
    for part in ("(2, 4, 5), hidden=(6, 4)", "preactivate=True", "taps=5", "context=2", "family='gram'"):
        assert part in told
    assert conv("gram").signature() != conv("gram", taps=5).signature()
    assert replace(conv("gram").bind(), certified=None).lipschitz <= 0.9
