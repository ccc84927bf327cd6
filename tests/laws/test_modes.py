"""The same numbers in every mode of torch: no_grad, inference_mode, torch.func, autocast, other precisions."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from law_cases import SOUND, branch, flow, rows
from torch.func import functional_call, grad, vmap

from iresnet.numerics.krylov import Krylov
from iresnet.numerics.logdet import Exact
from iresnet.numerics.series import PowerSeries
from iresnet.testing import check_branch

LOGDETS = (
    Exact(),
    PowerSeries(probes=3),
    Krylov(probes=3),
    PowerSeries(terms=4, product="jvp"),
    PowerSeries(terms=2, roulette="adaptive"),
)


@pytest.mark.parametrize("family", SOUND)
def test_no_grad_and_inference_mode(family):
    made = flow(3, 2, 2, family)
    x, context = rows(5, 3), rows(5, 2, 3)
    for logdet in LOGDETS:
        expected = made.estimate(x, context, logdet=logdet)
        for mode in (torch.no_grad(), torch.inference_mode()):
            with mode:
                found = made.estimate(x, context, logdet=logdet)
                assert not found.value.requires_grad
                torch.testing.assert_close(found.value, expected.value.detach(), rtol=1e-12, atol=1e-12)
                torch.testing.assert_close(found.bias, expected.bias.detach(), rtol=1e-9, atol=1e-12)
                z = made.encode(x, context)
                torch.testing.assert_close(made.decode(z, context), x, rtol=1e-8, atol=1e-8)
                assert made.sample(3, context[0]).shape == (3, 3)


def test_what_inference_mode_made_can_be_given_to_training():
    made = flow(2)
    with torch.inference_mode():
        x = made.sample(4)
    made.train()
    made.log_prob(x.clone()).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


@pytest.mark.parametrize("family", SOUND)
def test_functional_gradients_of_parameters(family):
    """torch.func.grad over functional_call: exact and truncated series, whose number of terms does not depend on data."""
    made = flow(2, 0, 2, family)
    parameters = dict(made.named_parameters())
    for logdet in (Exact(), PowerSeries(terms=3, gradient="series"), Krylov(steps=2)):

        def loss(values, logdet=logdet):
            return functional_call(made, {**values, **dict(made.named_buffers())}, (rows(4, 2),)).sum()

        made.eval_logdet = logdet
        found = grad(loss)({name: value.detach() for name, value in parameters.items()})
        made.zero_grad()
        made.log_prob(rows(4, 2)).sum().backward()
        for name, value in parameters.items():
            expected = value.grad if value.grad is not None else torch.zeros_like(value)
            torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("family", SOUND)
def test_per_sample_scores_by_vmap(family):
    """vmap(grad(log_prob)) over rows, with the weights bound once outside: the score of each row."""
    made = flow(2, 0, 2, family)
    x = rows(5, 2).requires_grad_(True)
    (expected,) = torch.autograd.grad(made.log_prob(x, logdet=Exact()).sum(), x)
    bound = made.bind()
    found = vmap(grad(lambda row: bound.log_prob(row[None], logdet=Exact())[0]))(x.detach())
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("family", SOUND)
def test_bounds_hold_for_weights_bound_under_autocast(family, dtype):
    for scale in (0.1, 3.0, 100.0):
        made = branch(family, 4, (8, 6), 0.97, "elu", scale=scale).to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            bound = made.bind()
        assert bound.dtype == dtype, f"weights bound under autocast became {bound.dtype}"

        class Kept:
            """What :func:`check_branch` asks of a branch, with the weights that autocast made."""

            guarantee, lipschitz = made.guarantee, made.lipschitz

            def bind(self, context=None, bound=bound):
                return bound

        check_branch(Kept(), rows(8, 4), ascent=2, name=f"{family} x {scale} {dtype} under autocast")  # type: ignore[arg-type]


def test_autocast_gives_nearly_the_same_numbers_and_sound_inverses():
    for family in SOUND:
        made = flow(3, 0, 2, family).float()
        x = rows(20, 3).float()
        expected = made.log_prob(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = made.log_prob(x)
            inverse = made.invert(made.encode(x).float())
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.3)
        assert inverse.converged.all()


def test_float32_and_float64_agree():
    for family, logdet in product(SOUND, LOGDETS[:4]):
        made = flow(3, 2, 2, family)
        x, context = rows(20, 3), rows(20, 2, 3)
        wide = made.log_prob(x, context, logdet=logdet)
        single = made.float().log_prob(x.float(), context.float(), logdet=logdet)
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), wide, rtol=1e-3, atol=1e-3)


def test_input_of_another_precision_is_taken_into_the_flows_own():
    made = flow(2)
    assert made.log_prob(rows(3, 2).float()).dtype == torch.float64
    assert made.float().log_prob(rows(3, 2)).dtype == torch.float32
