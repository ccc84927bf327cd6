"""Bounds of convolutions are never below the largest singular value of the matrix they are, and close to it."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from conv_cases import adversarial_kernels

from iresnet.numerics.convolution import (
    conv_bound,
    conv_power_iteration,
    dense_convolution,
    frequencies,
    tap_bound,
)
from iresnet.numerics.norms import gram_bound, spectral_norm

DTYPES = (torch.float32, torch.float64)
# (outputs, inputs, taps), (height, width)
CASES = (
    ((4, 2, 3), (4, 4)),
    ((2, 5, 3), (3, 6)),
    ((3, 3, 3), (7, 7)),
    ((1, 1, 3), (2, 1)),
    ((2, 2, 3), (1, 1)),
    ((2, 3, 5), (4, 3)),
    ((3, 2, 1), (4, 4)),
    ((2, 2, 7), (2, 5)),
)


def truth(kernel: torch.Tensor, size: tuple[int, int]) -> float:
    return float(spectral_norm(dense_convolution(kernel.double(), size)))


def check(bound, kernel: torch.Tensor, size: tuple[int, int], name: str, ratio: float = math.inf) -> None:
    found, true = float(bound), truth(kernel, size)
    assert found >= true * (1 - 1e-14), f"{name}: bound {found!r} is below the norm {true!r} ({found / true - 1:.2g})"
    assert found <= true * ratio or true == 0, f"{name}: bound {found:.6g} is more than {ratio} times the norm {true:.6g}"


def naive_bound(kernel: torch.Tensor, size: tuple[int, int], steps: int) -> torch.Tensor:
    """The definition: all frequencies of each torus, one at a time, with nothing rescaled; differentiable by autograd."""
    rows, columns = kernel.shape[-2:]
    sides, tori = (size[0] + rows // 2, size[1] + columns // 2), []
    places = torch.cartesian_prod(torch.arange(rows) - rows // 2, torch.arange(columns) - columns // 2).double()
    for phases in product((0.0, math.pi), repeat=2):
        values, early = [], []  # after all steps, and after those by which the torus is chosen
        for j, i in product(*map(range, sides)):
            angle = places @ torch.tensor(
                [(2 * math.pi * j + phases[0]) / sides[0], (2 * math.pi * i + phases[1]) / sides[1]], dtype=torch.float64
            )
            matrix = (kernel.flatten(-2) * torch.exp(-1j * angle)).sum(-1)
            gram = matrix.mH @ matrix if kernel.shape[1] <= kernel.shape[0] else matrix @ matrix.mH
            for step in range(steps):
                gram = gram @ gram if step else gram
                if step == min(steps, 3) - 1:
                    early.append(torch.linalg.matrix_norm(gram) ** (1 / 2 ** (step + 1)))
            values.append(torch.linalg.matrix_norm(gram) ** (1 / 2**steps))
        tori.append((torch.stack(early).max(), torch.stack(values).max()))
    return min(tori, key=lambda torus: float(torus[0].detach()))[1]


def test_the_dense_matrix_is_the_convolution():
    kernel, x = torch.randn(3, 2, 3, 5, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    expected = torch.zeros(3, 4, 5, dtype=torch.float64)
    for row, column, i, j in product(range(4), range(5), range(3), range(5)):
        if 0 <= row + i - 1 < 4 and 0 <= column + j - 2 < 5:
            expected[:, row, column] += kernel[:, :, i, j] @ x[:, row + i - 1, column + j - 2]
    torch.testing.assert_close(dense_convolution(kernel, (4, 5)) @ x.flatten(), expected.flatten(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bound_is_sound_for_hard_kernels_of_any_scale(dtype):
    for ((outputs, inputs, taps), size), seed in product(CASES, (0, 1)):
        for name, matrix in adversarial_kernels(outputs, inputs, taps, seed):
            for scale in (1e-30, 1e-3, 1.0, 1e3, 1e30):
                kernel = (scale * matrix).to(dtype)
                told = f"{name} ({outputs}, {inputs}, {taps}) at {size} x {scale:g}, {dtype}"
                check(conv_bound(kernel, size), kernel, size, told)
                check(tap_bound(kernel), kernel, size, f"taps: {told}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_kernels_where_the_bound_has_nothing_to_spare(dtype):
    """A blur of rank one is met exactly by the antiperiodic torus: only the margin for rounding is left."""
    generator = torch.Generator().manual_seed(3)
    line = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    for outputs, inputs, size in ((3, 4, (4, 6)), (12, 2, (5, 5)), (1, 1, (9, 3))):
        left, right = (torch.randn(60, count, generator=generator, dtype=torch.float64) for count in (outputs, inputs))
        kernels = torch.einsum("bo,bi,u,v->boiuv", left, right, line, line).to(dtype)
        true = torch.stack([spectral_norm(dense_convolution(kernel.double(), size)) for kernel in kernels])
        for steps in (1, 2, 6, 9):
            ratio = conv_bound(kernels, size, steps).double() / true
            assert ratio.min() >= 1 - 1e-14
            assert ratio.max() <= 1 + (1e-4 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize(("side", "ratio"), ((4, 1.16), (7, 1.045), (10, 1.025)))
def test_the_bound_is_close_for_random_kernels(side, ratio):
    for seed, (outputs, inputs) in product(range(3), ((8, 3), (3, 6))):
        kernel = torch.randn(outputs, inputs, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        check(conv_bound(kernel, (side, side)), kernel, (side, side), f"random {seed}", ratio)


def test_the_bound_is_that_of_its_definition_and_so_is_its_gradient():
    for (outputs, inputs, taps), size in (((3, 2, 3), (4, 5)), ((2, 4, 3), (3, 3)), ((2, 2, 5), (4, 3))):
        for seed, steps in product(range(4), (1, 3, 6)):
            kernel = torch.randn(outputs, inputs, taps, taps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            kernel.requires_grad_(True)
            value, twin = conv_bound(kernel, size, steps), naive_bound(kernel, size, steps)
            torch.testing.assert_close(value, twin, rtol=1e-11, atol=0)
            (found,), (expected,) = torch.autograd.grad(value, kernel), torch.autograd.grad(twin, kernel)
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    kernel = torch.randn(2, 3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: conv_bound(k, (4, 3)), (kernel,))


def test_half_of_the_frequencies_are_all_of_them():
    for size, taps in (((4, 5), (3, 3)), ((1, 2), (1, 3)), ((3, 3), (5, 3))):
        cosines, sines = frequencies(size, taps)
        places = math.prod(length + tap // 2 for length, tap in zip(size, taps, strict=True))
        for cosine, sine in zip(cosines, sines, strict=True):
            angles = {
                tuple(row)
                for sign in (1.0, -1.0)
                for row in torch.cat((cosine, sign * sine), 1).add(0.0).mul(1e6).round().add(0.0).tolist()
            }
            assert len(angles) == places or min(taps) == 1


def test_taps_that_only_read_beyond_the_image_do_not_count():
    kernel = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    alone = torch.zeros_like(kernel)
    alone[:, :, 2, 2] = kernel[:, :, 2, 2]
    torch.testing.assert_close(conv_bound(kernel, (1, 1)), gram_bound(kernel[:, :, 2, 2]), rtol=1e-12, atol=0)
    assert float(conv_bound(kernel, (1, 1))) < float(conv_bound(kernel, (2, 2)))


def test_a_kernel_of_one_tap_is_a_matrix():
    kernel = torch.randn(4, 3, 2, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(conv_bound(kernel, (5, 6)), gram_bound(kernel[..., 0, 0]), rtol=0, atol=0)


def test_a_kernel_reshaped_to_a_matrix_is_no_bound():
    kernel = torch.ones(2, 2, 3, 3, dtype=torch.float64)
    assert float(gram_bound(kernel.flatten(1))) < 0.5 * truth(kernel, (7, 7)) < truth(kernel, (7, 7)) <= float(tap_bound(kernel))


def test_a_larger_image_can_be_stretched_more():
    kernel = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    found = [float(conv_bound(kernel, (side, side))) for side in (1, 2, 4, 8, 16)]
    assert found == sorted(found) and found[0] == pytest.approx(1.0) and found[-1] < 9


def test_the_gradient_is_zero_at_zero_and_does_not_depend_on_scale():
    kernel = torch.zeros(3, 2, 3, 3, requires_grad=True)
    conv_bound(kernel, (4, 4)).backward()
    assert kernel.grad is not None and not kernel.grad.any()
    base, gradients = torch.randn(3, 2, 3, 3, dtype=torch.float64), []
    for scale in (1e-200, 1.0, 1e200):
        scaled = (scale * base).requires_grad_(True)
        gradients.append(torch.autograd.grad(conv_bound(scaled, (4, 4)), scaled)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients[2], gradients[1], rtol=1e-9, atol=1e-12)


def test_batches_equal_single_kernels():
    kernel = torch.randn(2, 3, 4, 2, 3, 3)
    for bound in (lambda k: conv_bound(k, (5, 4)), tap_bound):
        alone = torch.stack([torch.stack([bound(one) for one in row]) for row in kernel])
        torch.testing.assert_close(bound(kernel), alone, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precisions_are_bounded_in_float32(dtype):
    for name, kernel in adversarial_kernels(3, 2):
        value = conv_bound(kernel.to(dtype), (4, 4))
        assert value.dtype == torch.float32
        check(value, kernel.to(dtype), (4, 4), f"{name} in {dtype}")


def test_the_bound_is_sound_under_autocast_and_reduced_float32_products():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            for name, kernel in adversarial_kernels(4, 3):
                check(conv_bound(kernel.float(), (4, 5)), kernel.float(), (4, 5), f"{name} under autocast")
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("bad", (math.nan, math.inf, -math.inf))
def test_kernels_that_are_not_finite_have_no_bound(bad):
    for scale in (1e-20, 1.0):
        kernel = scale * torch.randn(3, 2, 3, 3)
        kernel[1, 0, 2, 1] = bad
        assert not math.isfinite(float(conv_bound(kernel, (4, 4))))


def test_subnormal_kernels_have_a_finite_bound():
    kernel = torch.full((2, 2, 3, 3), 1e-41)
    value = conv_bound(kernel, (4, 4))
    assert torch.isfinite(value) and float(value) >= truth(kernel, (4, 4)) * (1 - 1e-4)


def test_power_iteration_is_never_above_the_truth_and_goes_on_from_its_start():
    kernel, last, start = torch.randn(4, 3, 3, 3, dtype=torch.float64), 0.0, None
    true = truth(kernel, (5, 6))
    for _ in range(6):
        sigma, start = conv_power_iteration(kernel, (5, 6), 40, start=start)
        assert last * (1 - 1e-12) <= float(sigma) <= true * (1 + 1e-12)
        last = float(sigma)
    assert last == pytest.approx(true, rel=1e-3)


def test_messages():
    for call, match in (
        (lambda: conv_bound(torch.ones(2, 2, 2, 3), (4, 4)), "has odd taps, got 2 x 3"),
        (lambda: conv_bound(torch.ones(2, 2, 3, 3), (0, 4)), r"an image of at least 1 x 1 and steps >= 1, got \(0, 4\) and 6"),
        (lambda: conv_bound(torch.ones(2, 2, 3, 3), (4, 4), 0), "steps >= 1, got"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_tables_made_in_any_mode_serve_in_every_other():
    kernel = torch.randn(3, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def frozen(size):
        with torch.inference_mode():
            return conv_bound(kernel, size)

    def by_autograd(size):
        leaf = kernel.clone().requires_grad_(True)
        return torch.autograd.grad(conv_bound(leaf, size).sum(), leaf)[0]

    def by_transform(size):
        return torch.func.grad(lambda k: conv_bound(k, size).sum())(kernel)

    def mapped(size):
        return torch.func.vmap(lambda k: conv_bound(k, size))(kernel)

    # Tables of a resolution are kept by whoever asks first, so each asks first for a resolution of its own.
    for first, size in ((frozen, (11, 6)), (by_transform, (11, 7)), (mapped, (11, 8)), (by_autograd, (11, 9))):
        first(size)
        torch.testing.assert_close(mapped(size), frozen(size), rtol=1e-13, atol=0)
        torch.testing.assert_close(by_transform(size), by_autograd(size), rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(frozen(size)[0], naive_bound(kernel[0], size, 6), rtol=1e-11, atol=0)


@pytest.mark.parametrize("first", ["traced", "real"])
def test_a_tracer_gets_the_bound_and_leaves_nothing_behind(first: str) -> None:
    """Exported, the bound is that of other kernels too, be its tables new or kept; no stand-in for a tensor is kept."""
    size = {"traced": (5, 9), "real": (9, 5)}[first]  # of no other test: tables are kept for a resolution

    class Bounded(torch.nn.Module):
        def forward(self, kernel: torch.Tensor) -> torch.Tensor:
            return conv_bound(kernel, size)

    kernel, other = torch.randn(2, 3, 2, 3, 3).unbind()
    wanted = conv_bound(other, size) if first == "real" else None
    traced = torch.export.export(Bounded(), (kernel,)).module()
    found = conv_bound(other, size)
    assert type(found) is torch.Tensor and (wanted is None or torch.equal(found, wanted))
    torch.testing.assert_close(traced(other), found)
    assert float(found) >= (1 - 1e-5) * truth(other, size)
