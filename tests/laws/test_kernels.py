"""Kernels in C++ against autograd and dense algebra in float64, and chains that train by them against chains that do not."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from law_cases import branch, rows
from test_joined import ESTIMATORS, ROULETTES, answers, chain, same

from iresnet import kernels
from iresnet.bijections import ActNorm, Chain, Residual, fused
from iresnet.contract.activations import activation
from iresnet.numerics.noise import Noise
from iresnet.numerics.norms import gram_hold
from iresnet.numerics.series import PowerSeries

SHAPES = ((2, (7, 5)), (4, (3,)), (3, (5, 4, 6)), (9, (2, 3)))


@pytest.fixture(scope="module")
def run():
    """torch's operations of the kernels, without which there is nothing to test."""
    try:
        return kernels.operations()
    except kernels.Unavailable as reason:
        pytest.skip(f"no kernels here: {reason}")


@pytest.fixture
def two_threads():
    """Rows and blocks are shared out among threads."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


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
        same([run.from_left(weights, units, vector, name)], [torch.einsum("mgbi,gbij->mgbj", vector, truth)])
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
            held = gram_hold(weight, 0.7, fused=by_kernels)
            held.backward(torch.ones_like(held))
            answers.append((held.detach(), weight.grad))
        digits = torch.finfo(dtype).eps
        for one, other in zip(*answers, strict=True):
            torch.testing.assert_close(one, other, rtol=100 * digits, atol=100 * digits * float(other.abs().max()))
        assert float(torch.linalg.matrix_norm(answers[1][0].double(), ord=2).max()) <= 0.7


def test_weights_that_are_not_finite_stay_so(run):
    weight = torch.ones(3, 4, 4)
    weight[1, 0, 0], weight[2, 1, 1] = torch.nan, torch.inf
    held = gram_hold(weight, 0.5, fused=True)
    assert torch.isnan(held[1:]).any((1, 2)).all()
    torch.testing.assert_close(held, gram_hold(weight, 0.5), equal_nan=True)


def test_signs_are_the_same_bits(run, monkeypatch):
    for dtype, shape in product(kernels.DTYPES, ((5, 2), (600, 43), (3, 1, 8, 8), (0, 4), (4, 0))):
        noise = Noise(2**63 + 12345, torch.arange(shape[0]) * 7919 - 2000)
        mine = noise.signs(torch.empty(shape, dtype=dtype))
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "at_hand", lambda: None)
            assert torch.equal(mine, noise.signs(torch.empty(shape, dtype=dtype)))


@pytest.fixture
def runs(run, monkeypatch):
    """How many blocks went together in each fused run."""
    seen, plain = [], fused.FusedRun.forward_and_logdet

    def counted(self, *given):
        seen.append(len(self.blocks))
        return plain(self, *given)

    monkeypatch.setattr(fused.FusedRun, "forward_and_logdet", counted)
    return seen


def by_kernels(made):
    for part in made.parts:
        if isinstance(part, Residual):
            part.branch.train().compiled = "kernels"
    return made


EVERY = (*ESTIMATORS, *(PowerSeries(2, **roulette) for roulette in ROULETTES), PowerSeries(1, first_trace=False, **ROULETTES[1]))


@pytest.mark.parametrize("name", ("relu", "elu", "tanh", "sigmoid"))
@pytest.mark.parametrize("family", ("sandwich", "gram"))
def test_a_chain_by_kernels_is_the_chain(family, name, runs, two_threads):
    for hidden, context, estimator in product(((5,), (8, 6), (4, 7, 5)), (0, 2), EVERY):
        made = chain(family, (hidden,) * 4, name, context)
        x, given = rows(300, 3), rows(300, context, 9) if context else None
        wanted = answers(made, estimator, x, given)
        same(answers(by_kernels(made), estimator, x, given), wanted)
    assert set(runs) == {4}


def test_blocks_that_differ_are_in_other_runs(runs):
    shapes = ((8, 6), (8, 6), (5,), (5,), (8, 6))
    made, x = chain(shapes=shapes), rows(7, 3)
    wanted = answers(made, PowerSeries(3), x)
    same(answers(by_kernels(made), PowerSeries(3), x), wanted)
    assert runs == [2, 2, 1]
    runs.clear()
    other = Chain([*chain().parts, Residual(branch("gram", 3, (8, 6), 0.5, "tanh")), ActNorm(3).double()]).double()
    wanted = answers(other, PowerSeries(3), x)
    same(answers(by_kernels(other), PowerSeries(3), x), wanted)
    assert runs == [5, 1]
    found = answers(by_kernels(chain()), PowerSeries(3), x[:0])
    assert found[0].shape == (0, 3) and all(float(one.abs().sum()) == 0 for one in found[4:])


def test_what_kernels_do_not_do_goes_the_plain_way(runs):
    x = rows(6, 3)
    for made, estimator in ((chain(name="softplus"), PowerSeries(3)), (chain(), PowerSeries(3, gradient="series"))):
        wanted = answers(made, estimator, x)
        same(answers(by_kernels(made), estimator, x), wanted)
    made = by_kernels(chain()).eval()
    answers(made, PowerSeries(3), x)
    with torch.no_grad():
        made.train().bind().forward_and_logdet(x, PowerSeries(3), Noise(0, torch.arange(6)))
    assert not runs


def test_the_gradient_of_the_gradient_is_refused(runs):
    made, x = by_kernels(chain()), rows(6, 3).requires_grad_(True)
    z, estimate = made.bind().forward_and_logdet(x, PowerSeries(3), Noise(0, torch.arange(6)))
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(estimate.value.sum() + z.sum(), x, create_graph=True)
    assert runs == [5]


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


@pytest.mark.slow
def test_processes_that_start_together_compile_once_and_without_a_cache_folder_each_for_itself(run, tmp_path):
    given = os.environ | {"IRESNET_CACHE": str(tmp_path / "cache")}
    started = [subprocess.Popen([sys.executable, "-c", ASK], env=given, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[0] for process in started] == [b"", b""]
    (made,) = (tmp_path / "cache").rglob("*.so")
    assert not [path for path in made.parent.iterdir() if path.name not in (made.name, "lock")]
    before = made.stat().st_mtime_ns
    assert said(tmp_path / "cache") == "" and made.stat().st_mtime_ns == before
    (tmp_path / "file").write_text("")
    assert said(tmp_path / "file") == "", "no folder can be made there"
