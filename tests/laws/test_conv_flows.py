"""Flows of convolution blocks: log-determinants, inverses, certificates, copies, and the same numbers in every mode of torch."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from conv_cases import SOUND, conv, conv_flow, images
from torch.func import functional_call, grad, vmap

from iresnet import Anderson, certify
from iresnet.bases import StandardNormal
from iresnet.bijections import ActNorm, Chain, Residual
from iresnet.contract import CONV_FAMILIES
from iresnet.flow import Flow
from iresnet.numerics.fixed_point import Picard
from iresnet.numerics.logdet import Exact
from iresnet.numerics.noise import Noise
from iresnet.numerics.series import PowerSeries
from iresnet.testing import (
    check_branch,
    check_copies,
    check_logdet,
    check_logdet_gradient,
    check_parameter_gradients,
    check_roulette,
    check_unchanged,
    jacobian,
    true_logdet,
)

SHAPE = (2, 3, 4)
LOGDETS = (Exact(), PowerSeries(probes=3), PowerSeries(terms=4, product="jvp"), PowerSeries(terms=2, roulette="adaptive"))


@pytest.mark.parametrize("more", ({}, {"context": 2}, {"preactivate": True}, {"nonlinearity": "clipswish"}, {"hidden": (5,)}))
def test_log_determinants(more):
    made = conv("gram", SHAPE, **({"hidden": (6, 4), "scale": 4.0, "nonlinearity": "tanh"} | more))
    x = images(2, SHAPE)
    bound = made.bind(images(2, (2,)) if "context" in more else None)
    torch.testing.assert_close(Exact()(bound, x)[1].value, true_logdet(bound, x), rtol=1e-9, atol=1e-10)
    check_logdet(PowerSeries(probes=2), bound, x, repeats=800)
    check_logdet(PowerSeries(probes=2, terms=2), bound, x, repeats=800)
    check_logdet(PowerSeries(probes=2, terms=3, product="jvp", first_trace=False), bound, x, repeats=800)
    if not more:
        check_roulette(PowerSeries(terms=2, roulette="adaptive"), bound, x, batches=200, rows=32)


def test_an_exact_trace_lowers_the_variance():
    """Residual Flows' branch, activation first, has none."""
    x, noise = images(4, (3, 6, 6)), Noise(0, torch.arange(4))
    spread = []
    for estimator in (PowerSeries(probes=64), PowerSeries(probes=64, first_trace=False)):
        bound = conv("gram", (3, 6, 6), (16, 16), 0.9, "tanh", scale=3.0).bind()
        with torch.no_grad():
            spread.append(float(estimator(bound, x, noise)[1].stderr.mean()))
    assert spread[0] < 0.5 * spread[1]


@pytest.mark.parametrize("family", ("gram", "sandwich"))
def test_gradients_of_log_determinants(family):
    made = conv(family, SHAPE, (5, 4), 0.8, "tanh", 2, scale=2.0)
    x, context = images(2, SHAPE), images(2, (2,)).requires_grad_(True)
    wanted = [parameter for parameter in made.parameters() if parameter.numel()]
    for estimator in (PowerSeries(terms=24), PowerSeries(terms=24, gradient="series"), Exact()):
        exact = isinstance(estimator, Exact)
        groups, repeats = (1, 1) if exact else (16, 60)
        check_logdet_gradient(
            estimator,
            lambda: made.bind(context),
            x,
            [context, *wanted],
            groups=groups,
            repeats=repeats,
            tolerance=1e-8 if exact else 1e-3,
        )


@pytest.mark.parametrize("more", ({}, {"context": 2}, {"preactivate": True}, {"preactivate": True, "context": 2}))
@pytest.mark.parametrize("hidden", ((6,), (5, 4), (4, 5, 3)))
def test_the_closed_gradient_is_that_of_autograd(hidden, more):
    for name, probes, product_, recompute in product(("tanh", "elu", "sine"), (1, 3), ("vjp", "jvp"), (False, True)):
        made = conv("gram", SHAPE, hidden, 0.9, name, scale=3.0, **more)
        x = images(3, SHAPE).requires_grad_(True)
        context = images(3, (2,)).requires_grad_(True) if "context" in more else None
        wanted = [x, *([context] if context is not None else []), *made.parameters()]
        estimator = PowerSeries(terms=4, probes=probes, product=product_, recompute=recompute)
        gradients = []
        for attached in (True, False):
            bound = made.bind(context)
            if not attached:  # an activation that does not tell its curvature: autograd differentiates every product
                plain = type("Plain", (type(bound.activation),), {"curved": False})()
                bound = replace(bound, activation=plain)
            assert bound.attaches == attached
            value, estimate = estimator(bound, x, Noise(1, torch.arange(3)))
            loss = (torch.tensor([1.0, -2.0, 0.5]) * estimate.value).sum() + (images(3, SHAPE, 7) * value).sum()
            gradients.append(torch.autograd.grad(loss, wanted))
        for left, right in zip(*gradients, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-11)


def test_memory_of_a_training_step_does_not_grow_with_terms():
    """Bytes kept for the backward pass: about those of a plain one, and next to nothing when recomputed."""

    def kept(terms: int, recompute: bool = False, plain: bool = False) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        bound, x = conv("sandwich", (2, 8, 8), (16, 16)).bind(), images(32, (2, 8, 8)).requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            held = bound(x) if plain else PowerSeries(terms=terms, recompute=recompute)(bound, x)
        assert held is not None
        return sum(sizes.values())

    base = kept(1, plain=True)
    assert kept(40) == kept(2) < 1.3 * base
    assert kept(40, recompute=True) == kept(2, recompute=True) < 0.3 * base


@pytest.mark.parametrize("family", SOUND)
def test_inverses_and_their_bounds(family):
    for context, solver in product((0, 2), (Picard(), Anderson())):
        made = conv_flow(family, context=context)
        given, x = images(5, (2,)) if context else None, images(5, SHAPE)
        found = made.invert(made.encode(x, given).detach(), given, solver=solver)
        error = (found.value - x).flatten(1).norm(dim=1)
        assert found.converged.all() and (error <= found.error_bound).all() and float(error.max()) < 1e-7
        single = made.float()
        z = single.encode(x.float(), given).detach()
        back = single.invert(z, given, solver=solver)
        wide = single.bind(given).to(torch.float64)
        truth = wide.invert(z.double(), solver=Picard(tol=1e-13), throw=False).value
        assert ((truth - back.value.double()).flatten(1).norm(dim=1) <= back.error_bound).all()


def test_an_inverse_is_differentiable():
    made = conv_flow(context=2)
    z, context = images(3, SHAPE).requires_grad_(True), images(3, (2,))
    (found,) = torch.autograd.grad(made.decode(z, context).sum(), z)
    x = made.decode(z, context).detach()
    matrix = jacobian(lambda point: made.encode(point, context), x)
    expected = torch.linalg.solve(matrix.mT, torch.ones(3, 24, 1, dtype=torch.float64))[..., 0]
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("family", CONV_FAMILIES)
def test_certificates(family):
    for context, shape in product((0, 2), (SHAPE, (3, 7, 7))):
        made = conv_flow(family, shape, context)
        for told in (certify(made, points=16), certify(made, images(20, shape), points=8), certify(made.float(), points=16)):
            assert len(told.blocks) == 2 and told.holds == all(block.bound < 1 for block in told.blocks)
            for block in told.blocks:
                assert 0 < block.measured <= block.bound and block.family == family, block


@pytest.mark.parametrize("family", SOUND)
def test_every_parameter_gets_a_gradient_and_nothing_changes_in_evaluation(family):
    made = conv_flow(family, context=2)
    given = images(4, (2,))
    for logdet in LOGDETS:
        check_parameter_gradients(made, lambda logdet=logdet: -made.log_prob(images(4, SHAPE), given, logdet=logdet).sum())
    check_unchanged(made, images(4, SHAPE), given)


def test_a_new_flow_can_learn_though_its_branches_are_zero():
    for family in CONV_FAMILIES:
        made = Flow(Chain([ActNorm(2), Residual(conv(family, SHAPE, (4, 3), seed=None))]), StandardNormal(SHAPE)).double()
        optimizer = torch.optim.SGD(made.parameters(), lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            (-made.log_prob(images(8, SHAPE), logdet=Exact()).mean()).backward()
            optimizer.step()
        made.eval()
        check_parameter_gradients(made, lambda made=made: -made.log_prob(images(8, SHAPE), logdet=Exact()).mean())


@pytest.mark.parametrize("family", CONV_FAMILIES)
def test_copies_agree_bit_for_bit(family):
    for context, dtype in ((0, torch.float64), (2, torch.float32)):

        def build(context=context):
            branch = conv(family, SHAPE, (4, 3), context=context, seed=None).float()
            return Flow(Chain([ActNorm(2, context), Residual(branch)]), StandardNormal(SHAPE), context=context)

        made = build().to(dtype)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        check_copies(made, build, images(3, SHAPE).to(dtype), images(3, (2,)).to(dtype) if context else None)


@pytest.mark.parametrize("family", SOUND)
def test_no_grad_and_inference_mode(family):
    made, x, context = conv_flow(family, context=2), images(4, SHAPE), images(4, (2,))
    for logdet in LOGDETS:
        expected = made.estimate(x, context, logdet=logdet)
        for mode in (torch.no_grad(), torch.inference_mode()):
            with mode:
                found = made.estimate(x, context, logdet=logdet)
                assert not found.value.requires_grad
                torch.testing.assert_close(found.value, expected.value.detach(), rtol=1e-12, atol=1e-12)
                torch.testing.assert_close(made.decode(made.encode(x, context), context), x, rtol=1e-8, atol=1e-8)
                assert made.sample(3, context[0]).shape == (3, *SHAPE)


@pytest.mark.parametrize("family", SOUND)
def test_functional_gradients_of_parameters(family):
    made = conv_flow(family)
    parameters = dict(made.named_parameters())
    for logdet in (Exact(), PowerSeries(terms=3, gradient="series")):

        def loss(values, logdet=logdet):
            return functional_call(made, {**values, **dict(made.named_buffers())}, (images(2, SHAPE),)).sum()

        made.eval_logdet = logdet
        found = grad(loss)({name: value.detach() for name, value in parameters.items()})
        made.zero_grad()
        made.log_prob(images(2, SHAPE)).sum().backward()
        for name, value in parameters.items():
            expected = value.grad if value.grad is not None else torch.zeros_like(value)
            torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("family", SOUND)
def test_per_sample_scores_by_vmap(family):
    made, x = conv_flow(family), images(3, SHAPE).requires_grad_(True)
    (expected,) = torch.autograd.grad(made.log_prob(x, logdet=Exact()).sum(), x)
    bound = made.bind()
    found = vmap(grad(lambda row: bound.log_prob(row[None], logdet=Exact())[0]))(x.detach())
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("family", SOUND)
def test_bounds_hold_for_weights_bound_under_autocast(family, dtype):
    for scale in (0.1, 3.0, 100.0):
        made = conv(family, SHAPE, (6, 4), 0.97, scale=scale).to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            bound = made.bind()
        assert bound.dtype == dtype, f"weights bound under autocast became {bound.dtype}"

        class Kept:
            """What :func:`check_branch` asks of a branch, with the weights that autocast made."""

            guarantee, lipschitz = made.guarantee, made.lipschitz

            def bind(self, context=None, bound=bound):
                return bound

        check_branch(Kept(), images(3, SHAPE), ascent=1, name=f"{family} x {scale} {dtype} under autocast")  # type: ignore[arg-type]


def test_autocast_gives_nearly_the_same_numbers_and_sound_inverses():
    for family in SOUND:
        made, x = conv_flow(family).float(), images(10, SHAPE).float()
        expected = made.log_prob(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = made.log_prob(x)
            inverse = made.invert(made.encode(x).float())
        torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.5)
        assert inverse.converged.all()


def test_float32_and_float64_agree():
    for family, logdet in product(SOUND, LOGDETS[:3]):
        made, x, context = conv_flow(family, context=2), images(6, SHAPE), images(6, (2,))
        wide = made.log_prob(x, context, logdet=logdet)
        single = made.float().log_prob(x.float(), context.float(), logdet=logdet)
        torch.testing.assert_close(single.double(), wide, rtol=1e-3, atol=1e-3)


def test_a_rows_density_does_not_depend_on_its_batch():
    made, x, context = conv_flow(context=2), images(12, SHAPE), images(12, (2,))
    whole = made.estimate(x, context)
    for row in (0, 11):
        alone = made.estimate(x[row : row + 1], context[row : row + 1])
        torch.testing.assert_close(alone.value, whole.value[row : row + 1], rtol=1e-11, atol=1e-11)
