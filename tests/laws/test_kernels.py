"""Kernels in C++ against autograd and dense algebra in float64, and inverses by them against inverses that are not."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from law_cases import branch, rows
from test_joined import same

from iresnet import kernels
from iresnet.bijections import Residual
from iresnet.contract.activations import Tanh, activation
from iresnet.contract.base import bind_all
from iresnet.numerics.fixed_point import Picard
from iresnet.numerics.iteration import Plain, _iterate
from iresnet.numerics.noise import Noise
from iresnet.numerics.norms import gram_hold, gram_hold_each

SHAPES = ((2, (7, 5)), (4, (3,)), (3, (5, 4, 6)), (9, (2, 3)))


def random(*shape, gradient=False):
    return (0.5 * torch.randn(*shape, dtype=torch.float64)).requires_grad_(gradient)


def test_everything_on_the_list_has_kernels(run):
    for name, dtype in product(kernels.ACTIVATIONS, kernels.DTYPES):
        weights, nothing = [torch.ones(3, 2, dtype=dtype), torch.ones(2, 3, dtype=dtype)], [torch.empty(0, dtype=dtype)]
        x, offsets = torch.ones(4, 2, dtype=dtype), [torch.zeros(3, dtype=dtype), torch.zeros(2, dtype=dtype)]
        inputs, (hidden,), last = run.values(x, weights, offsets, nothing, nothing, name)
        torch.testing.assert_close(hidden[0], activation(name)(2 * torch.ones(4, 3, dtype=dtype)))
        assert torch.equal(inputs[0], x) and last.dtype == dtype
    with pytest.raises(RuntimeError, match="no kernels for the activation Sine"):
        run.values(x, weights, offsets, nothing, nothing, "Sine")


@pytest.mark.parametrize("name", kernels.ACTIVATIONS)
@pytest.mark.parametrize(("features", "hidden"), SHAPES)
def test_values_products_traces_and_gradients_are_those_of_dense_matrices(run, two_threads, name, features, hidden):
    blocks, depth = 3, len(hidden) + 1
    widths = [features, *hidden, features]
    for batch, probes, trace, context in product((1, 600), (1, 2), (False, depth < 4), (False, True)):
        x = random(batch, features, gradient=True)
        weights = [random(b, a, gradient=True) for _ in range(blocks) for a, b in zip(widths, widths[1:], strict=False)]
        shapes = [(batch, width) if context and width == widths[1] else (width,) for width in widths[1:]] * blocks
        offsets = [random(*shape, gradient=True) for shape in shapes]
        # No affine map stands before the second block.
        log_scales, shifts = ([random(features if block != 1 else 0, gradient=True) for block in range(blocks)] for _ in "ab")
        now, jacobians, inputs, values = x, [], [], []
        for block in range(blocks):
            now = now if block == 1 else now * log_scales[block].exp() + shifts[block]
            inputs.append(now)
            layer, jacobian = now, torch.eye(features, dtype=torch.float64)
            for place in range(depth):
                weight = weights[block * depth + place]
                layer, jacobian = layer @ weight.T + offsets[block * depth + place], weight @ jacobian
                if place < depth - 1:
                    layer, slope = activation(name).with_slope(layer)
                    jacobian = slope[:, :, None] * jacobian
                    values.append(layer)
            jacobians.append(jacobian.expand(batch, -1, -1))
            now = now + layer
        truth = torch.stack(jacobians)
        left, right = torch.randn(2, probes, blocks, batch, features, dtype=torch.float64)
        by_last, by_logdet = random(batch, features), random(blocks, batch)
        surrogate = torch.einsum("mgbi,gbij,mgbj->gb", left, truth, right) / probes
        surrogate = surrogate + (truth.diagonal(dim1=-2, dim2=-1).sum(-1) if trace else 0)
        tensors = [x, *weights, *offsets, *log_scales, *shifts]
        wanted = torch.autograd.grad((by_last * now).sum() + (by_logdet * surrogate).sum(), tensors, materialize_grads=True)

        found, units, last = run.values(x, weights, offsets, log_scales, shifts, name)
        same((found, last), (torch.stack(inputs), now))
        same(units, [torch.stack(values[place :: depth - 1]) for place in range(depth - 1)])
        vector = left.clone()
        vector[:, :, ::3] = 0  # rows of a roulette that has stopped
        vector[:, 0] = 0
        once = torch.einsum("mgbi,gbij->mgbj", vector, truth)
        twice = torch.einsum("mgbi,gbij->mgbj", once, truth)
        sums, shared, two = run.sums_from_left(weights, units, vector, [0.3, -0.7], [1.0, -0.5, 0.25], name)
        same([two, shared], [twice, vector - 0.5 * once + 0.25 * twice])
        same([sums], [0.3 * (once * vector).sum(-1) - 0.7 * (twice * vector).sum(-1)])
        same(run.sums_from_left(weights, units, vector, [0.0], [], name)[2:], [once])
        half = None
        if trace:
            traces, half = run.traces(weights, units, name)
            same([traces], [truth.diagonal(dim1=-2, dim2=-1).sum(-1)])
        parts = (weights, offsets, log_scales, shifts)
        same(run.gradients(found, units, *parts, by_last, by_logdet, left, right, half, name), wanted)


@pytest.mark.parametrize("dtype", kernels.DTYPES)
def test_weights_are_held_as_without_kernels_and_soundly(run, two_threads, dtype):
    for shape, scale in product(((5, 6, 6), (3, 4, 9), (3, 9, 4), (2, 1, 1)), (1e-30, 1e-3, 1.0, 1e25)):
        start = scale * torch.randn(*shape, dtype=dtype)
        start[0] = 0  # and one of rank one, where the bound is tight
        start[1] = scale * torch.outer(torch.randn(shape[1], dtype=dtype), torch.randn(shape[2], dtype=dtype))
        answers = []
        for by_kernels in (False, True):
            weight = start.clone().requires_grad_(True)
            held = torch.stack(gram_hold_each(weight.unbind(), 0.7)) if by_kernels else gram_hold(weight, 0.7)
            held.backward(torch.ones_like(held))
            answers.append((held.detach(), weight.grad))
        digits = torch.finfo(dtype).eps
        for one, other in zip(*answers, strict=True):
            torch.testing.assert_close(one, other, rtol=100 * digits, atol=100 * digits * float(other.abs().max()))
        assert float(torch.linalg.matrix_norm(answers[1][0].double(), ord=2).max()) <= 0.7


@pytest.mark.parametrize("place", ("layer", "output"))
def test_branches_are_bound_together_as_one_by_one(run, place):
    made = [branch("gram", 3, (8, 6), 0.9, "lipswish", seed=seed, place=place).train() for seed in (0, 1)]
    wanted = [one.bind().weights for one in made]
    for one in made:
        one.compiled = "kernels"
    for bound, weights in zip(bind_all(made), wanted, strict=True):
        same(bound.weights, weights)


def test_weights_that_are_not_finite_stay_so(run):
    weight = torch.ones(3, 4, 4)
    weight[1, 0, 0], weight[2, 1, 1] = torch.nan, torch.inf
    held = torch.stack(gram_hold_each(weight.unbind(), 0.5))
    assert torch.isnan(held[1:]).any((1, 2)).all()
    torch.testing.assert_close(held, gram_hold(weight, 0.5), equal_nan=True)


def test_a_factor_that_has_too_few_digits_is_none(run):
    """Weights near the largest number, held to a small share: the factor would be subnormal, and its rounding a third of it."""
    weight = torch.ones(3, 3) * 1e37
    for held in (gram_hold(weight, 1e-8), *gram_hold_each([weight], 1e-8)):
        assert float(torch.linalg.matrix_norm(held.double(), ord=2)) <= 1e-8


def test_signs_are_the_same_bits(run, monkeypatch):
    for dtype, shape in product(kernels.DTYPES, ((5, 2), (600, 43), (3, 1, 8, 8), (0, 4), (4, 0))):
        noise = Noise(2**63 + 12345, torch.arange(shape[0]) * 7919 - 2000)
        mine = noise.signs(torch.empty(shape, dtype=dtype))
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "at_hand", lambda: None)
            assert torch.equal(mine, noise.signs(torch.empty(shape, dtype=dtype)))


@pytest.mark.parametrize("dtype", kernels.DTYPES)
@pytest.mark.parametrize("name", kernels.ACTIVATIONS)
@pytest.mark.parametrize("hidden", ((5,), (8, 3), (4, 7, 5)))
def test_plain_steps_are_those_without_kernels(run, two_threads, hidden, name, dtype):
    for lipschitz, last, limit in product((0.5, 0.99), (False, True), (3, 400)):
        bound = branch("gram", 6, hidden, lipschitz, name).bind().to(dtype)
        fast = replace(bound, compiled="kernels")
        y, goal = rows(600, 6, scale=3.0).to(dtype), 10.0 ** torch.linspace(-1, -4, 600, dtype=dtype)
        y[7] = torch.nan
        start = torch.zeros_like(y) if last else y
        found = fast.plain_steps(y, start, goal, True, last, limit, 1 if last else 2, 4, 28)
        wanted = _iterate(bound, y, start, lipschitz, goal, limit, Plain(), last=last)
        digits = 1e-5 if dtype == torch.float32 else 1e-13
        assert bool(torch.isnan(found[1][7])) and math.isinf(float(wanted[1][7].detach())), (
            "a caller of the kernel says what this means"
        )
        found[1][7] = math.inf
        for one, other in zip(found[:2], wanted[:2], strict=True):
            torch.testing.assert_close(one, other, rtol=digits, atol=digits, equal_nan=True)
        assert found[2].dtype == torch.int64 and float((found[2] == wanted[2]).double().mean()) > 0.99
        assert int(found[2][7]) == min(4, limit), "a row that is no numbers is given up, the others are not"


@pytest.mark.parametrize("family", ("sandwich", "gram"))
def test_inverses_by_kernels_are_certified(run, two_threads, family):
    for dtype, lipschitz in product(kernels.DTYPES, (0.7, 0.98)):
        plain = Residual(branch(family, 4, (8, 6), lipschitz, "tanh")).to(dtype).bind()
        y = plain.forward(rows(300, 4).to(dtype)).detach()
        solution = replace(plain, bound=replace(plain.bound, compiled="kernels")).inverse(y, Picard(tol=1e-5))
        truth = plain.to(torch.float64).inverse(y.double(), Picard(tol=1e-13))
        error = (solution.value.double() - truth.value).norm(dim=1)
        assert solution.converged.all() and bool((error <= solution.error_bound.double() + truth.error_bound).all())
        torch.testing.assert_close(solution.steps, plain.inverse(y, Picard(tol=1e-5)).steps, rtol=0, atol=4)


def test_a_context_of_rows_is_inverted_the_plain_way(run):
    made = Residual(branch("gram", 3, (8, 6), 0.9, "elu", 2))
    y, context = rows(20, 3), rows(20, 2, 9)
    wanted = made.bind(context).inverse(y, Picard())
    made.branch.compiled = "kernels"
    assert torch.equal(made.bind(context).inverse(y, Picard()).value, wanted.value)


def test_few_steps_are_few(run):
    for steps in (1, 2, 3):
        plain = Residual(branch("gram", 3, (8, 6), 0.9, "tanh")).bind()
        fast = replace(plain, bound=replace(plain.bound, compiled="kernels"))
        y, solver = rows(20, 3), Picard(max_steps=steps)
        assert torch.equal(fast.inverse(y, solver).steps, plain.inverse(y, solver).steps)


class Half(Tanh):
    """Another function, by the name of its class's parent."""

    def __call__(self, x):
        return 0.5 * torch.tanh(x)


Half.__name__ = "Tanh"


def test_an_activation_of_somebodys_own_has_no_kernels_by_its_name(run):
    made = branch("gram", 3, (8, 6), 0.9, Half())
    wanted = Residual(made).bind().inverse(rows(20, 3), Picard()).value
    made.compiled = "kernels"
    assert not made.train().bind().fuses
    assert torch.equal(Residual(made.eval()).bind().inverse(rows(20, 3), Picard()).value, wanted)


def test_noise_that_does_not_fit_is_as_without_kernels(run):
    assert torch.equal(
        Noise(3, torch.tensor([5])).signs(torch.empty(4, 3)), Noise(3, torch.full((4,), 5)).signs(torch.empty(4, 3))
    )
    with pytest.raises(RuntimeError):
        Noise(3, torch.arange(4)).signs(torch.empty(3, 3))
    with pytest.raises(RuntimeError, match="a number for each row"):
        run.signs(torch.arange(4), 3, torch.empty(3, 3))


ASK = "from iresnet import kernels\ntry:\n    kernels.operations()\nexcept kernels.Unavailable as reason:\n    print(reason)"


def said(folder: Path, **environment: str) -> str:
    """What a new process says when it asks for kernels."""
    given = os.environ | {"IRESNET_CACHE": str(folder)} | environment
    return subprocess.run([sys.executable, "-c", ASK], env=given, capture_output=True, text=True, check=True).stdout


def test_without_a_compiler_it_is_told_why(tmp_path):
    assert "no C++ compiler was found: install g++" in said(tmp_path, CXX="no-such-compiler")
    assert "no C++ compiler was found: install g++" in said(tmp_path, CXX="", PATH=str(tmp_path))
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'a.cpp:1: error: not today' >&2\nexit 1\n")
    broken.chmod(0o755)
    assert "broken could not compile them: a.cpp:1: error: not today" in said(tmp_path / "cache", CXX=str(broken))
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert "no C++ compiler" not in said(tmp_path / "cache", CXX=f"{broken} -Wall")


@pytest.mark.slow
def test_processes_that_start_together_compile_once_and_without_a_cache_folder_each_for_itself(run, tmp_path):
    given = os.environ | {"IRESNET_CACHE": str(tmp_path / "cache")}
    started = [subprocess.Popen([sys.executable, "-c", ASK], env=given, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[0] for process in started] == [b"", b""]
    (made,) = (tmp_path / "cache").rglob("*.so")
    assert not [path for path in made.parent.iterdir() if path.name not in (made.name, made.with_suffix(".sha256").name, "lock")]
    before = made.stat().st_mtime_ns
    assert said(tmp_path / "cache") == "" and made.stat().st_mtime_ns == before
    made.write_bytes(made.read_bytes()[:1000])  # a power cut: loading half of a library would kill the process
    assert said(tmp_path / "cache") == "" and made.stat().st_size > 1000
    (tmp_path / "file").write_text("")
    assert said(tmp_path / "file", TMPDIR=str(tmp_path)) == "", "no folder can be made there"
    assert not list(tmp_path.glob("iresnet-kernels-*"))
