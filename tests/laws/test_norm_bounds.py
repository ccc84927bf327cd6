"""Bounds of operator norms are never below the truth, rounding included; the Gram bound is tight and its gradient exact."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from iresnet.numerics.norms import frobenius_bound, gram_bound, gram_hold, orthogonal_bound, power_iteration, spectral_norm
from iresnet.testing import adversarial_matrices, check_norm_bound

BOUNDS = (gram_bound, frobenius_bound, orthogonal_bound)
DTYPES = (torch.float32, torch.float64)
SHAPES = ((1, 1), (1, 7), (6, 1), (5, 5), (8, 3), (4, 33), (64, 64))


def naive_gram(weight: torch.Tensor, steps: int) -> torch.Tensor:
    """The definition, with nothing rescaled and no gradient of its own."""
    gram = weight.mT @ weight
    for _ in range(steps - 1):
        gram = gram.mT @ gram
    return torch.linalg.matrix_norm(weight @ gram) ** (1 / (2**steps + 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.__name__)
def test_bounds_are_sound_for_hard_matrices_of_any_scale(bound, dtype):
    for rows, columns in SHAPES:
        for seed in (0, 1):
            for name, matrix in adversarial_matrices(rows, columns, torch.float64, seed):
                for scale in (1e-30, 1e-3, 1.0, 1e3, 1e30):
                    weight = (scale * matrix).to(dtype)
                    check_norm_bound(bound, weight, f"{bound.__name__} of {name} ({rows}, {columns}) x {scale:g}, {dtype}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_rank_one_matrices_where_the_gram_bound_has_nothing_to_spare(dtype):
    generator = torch.Generator().manual_seed(3)
    for rows, columns in ((3, 5), (64, 64), (17, 130)):
        left = torch.randn(200, rows, 1, generator=generator, dtype=torch.float64)
        right = torch.randn(200, 1, columns, generator=generator, dtype=torch.float64)
        weight = (left @ right).to(dtype)
        for steps in (1, 2, 6, 10):
            ratio = gram_bound(weight, steps).double() / spectral_norm(weight)
            assert ratio.min() >= 1 - 1e-14
            assert ratio.max() <= 1 + (2e-3 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", (64, 128, 192))
def test_gram_bound_is_within_five_per_cent_on_random_matrices(size, dtype):
    weight = torch.randn(4, size, size, dtype=dtype)
    for matrix in weight:
        check_norm_bound(gram_bound, matrix, f"random {size}", ratio=1.05)
    steps = [float((gram_bound(weight, step).double() / spectral_norm(weight)).mean()) for step in range(1, 9)]
    assert steps == sorted(steps, reverse=True)
    orthogonal = torch.linalg.qr(weight[0].double()).Q.to(dtype)
    check_norm_bound(orthogonal_bound, orthogonal, "orthonormal", ratio=1 + (3e-3 if dtype == torch.float32 else 1e-11))
    # r equal singular values are the worst case of Gram iteration: r^(1/128).
    assert float(gram_bound(orthogonal)) == pytest.approx(size ** (1 / 128), rel=2e-3)


@pytest.mark.parametrize("bound", (gram_bound, frobenius_bound), ids=lambda bound: bound.__name__)
def test_subnormal_weights_have_a_finite_bound(bound):
    # Weight decay on a layer without gradient ends there; a NaN would reach the whole flow.
    weight = torch.full((4, 4), 1e-41)
    value = bound(weight)
    assert torch.isfinite(value)
    assert float(value) >= float(spectral_norm(weight)) * (1 - 1e-4)  # the bound itself is rounded to a subnormal


@pytest.mark.parametrize("bad", (math.nan, math.inf, -math.inf))
@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.__name__)
def test_weights_that_are_not_finite_have_no_bound(bound, bad):
    weight = torch.randn(4, 3)
    weight[1, 2] = bad
    check_norm_bound(bound, weight, bound.__name__)


@pytest.mark.parametrize("shape", ((3, 3), (2, 5), (5, 2), (1, 4)))
def test_gram_gradient_is_exact(shape):
    weight = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: gram_bound(w, 3), (weight,))
    for steps in (1, 2, 4):
        value, (gradient,) = gram_bound(weight, steps), torch.autograd.grad(gram_bound(weight, steps).sum(), weight)
        twin = torch.stack([naive_gram(matrix, steps) for matrix in weight])
        (expected,) = torch.autograd.grad(twin.sum(), weight)
        torch.testing.assert_close(value, twin, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_gram_gradient_is_zero_at_zero_and_does_not_depend_on_scale():
    weight = torch.zeros(3, 2, requires_grad=True)
    gram_bound(weight).backward()
    assert weight.grad is not None and not weight.grad.any()
    base = torch.randn(4, 6, dtype=torch.float64)
    gradients = []
    for scale in (1e-200, 1.0, 1e200):
        scaled = (scale * base).requires_grad_(True)
        gradients.append(torch.autograd.grad(gram_bound(scaled), scaled)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients[2], gradients[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16))
@pytest.mark.parametrize("shape", ((3, 3), (2, 5), (5, 2), (1, 4), (6, 7, 4)))
def test_held_weights_are_those_of_the_bound_and_so_is_their_gradient(shape, dtype):
    for scale, share in ((3.0, 0.9), (0.1, 0.9), (0.0, 0.9), (1e-30, 0.9), (1e10, 1e-3)):
        weight = (scale * torch.randn(shape, dtype=torch.float64)).to(dtype).requires_grad_(True)
        by_held = torch.randn(shape, dtype=torch.float64).to(dtype)
        plain = weight * (share / gram_bound(weight, 5).clamp(min=share))[..., None, None]
        held = gram_hold(weight, share, 5)
        torch.testing.assert_close(held, plain, rtol=0, atol=0)
        (naive,) = torch.autograd.grad(plain, weight, by_held.to(plain.dtype))
        (mine,) = torch.autograd.grad(held, weight, by_held.to(held.dtype))
        close = 10 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps * float(naive.abs().max())
        torch.testing.assert_close(mine, naive, rtol=0, atol=close if dtype != torch.bfloat16 else 0)
    if dtype == torch.float64:
        raw = torch.randn(shape, dtype=dtype).requires_grad_(True)
        assert torch.autograd.gradcheck(lambda one: gram_hold(one, 0.5, 4), raw)


def test_batches_equal_single_matrices():
    weight = torch.randn(3, 2, 5, 4)
    for bound in BOUNDS:
        one_by_one = torch.stack([torch.stack([bound(matrix) for matrix in row]) for row in weight])
        torch.testing.assert_close(bound(weight), one_by_one, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precisions_are_bounded_in_float32(dtype):
    for name, matrix in adversarial_matrices(9, 7):
        for bound in BOUNDS:
            value = bound(matrix.to(dtype))
            assert value.dtype == torch.float32
            check_norm_bound(bound, matrix.to(dtype), f"{name} in {dtype}")


def test_bounds_are_sound_under_autocast_and_reduced_float32_products():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            for name, matrix in adversarial_matrices(12, 12, torch.float32):
                for bound in BOUNDS:
                    check_norm_bound(bound, matrix, f"{bound.__name__} of {name} under autocast")
    finally:
        torch.set_float32_matmul_precision(before)


def test_bounds_are_sound_where_one_backend_rounds_float32_products():
    backend: Any = torch.backends.mkldnn
    products = backend.matmul
    before = products.fp32_precision
    try:
        products.fp32_precision = "bf16"
        for name, matrix in adversarial_matrices(96, 96, torch.float32):
            for bound in BOUNDS:
                check_norm_bound(bound, matrix, f"{bound.__name__} of {name} with products in bfloat16")
    finally:
        products.fp32_precision = before
    assert torch.get_float32_matmul_precision() == "highest"


def test_power_iteration_is_never_above_the_truth_and_goes_on_from_its_start():
    weight = torch.randn(5, 20, 30, dtype=torch.float64)
    truth, start, last = spectral_norm(weight), None, torch.zeros(5, dtype=torch.float64)
    for _ in range(5):
        sigma, start = power_iteration(weight, 20, start=start)
        assert (sigma <= truth * (1 + 1e-12)).all() and (sigma >= last * (1 - 1e-12)).all()
        last = sigma
    torch.testing.assert_close(last, truth, rtol=1e-3, atol=0)


def test_power_iteration_starts_at_random_because_a_constant_start_can_fail():
    matrix = dict(adversarial_matrices(6, 6))["alternating"].mT.sign()
    failed, _ = power_iteration(matrix, 50, start=torch.ones(6, dtype=torch.float64))
    assert float(failed) == 0.0
    found, _ = power_iteration(matrix, 50, generator=torch.Generator().manual_seed(0))
    assert float(found) == pytest.approx(6.0)


def test_gram_bound_needs_a_step():
    with pytest.raises(ValueError, match="gram_bound needs steps >= 1, got 0"):
        gram_bound(torch.eye(2), 0)
