"""Whole image flows (pixels, squeezes, splits, classes, dense blocks): volume, gradients, copies, and every mode of torch."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from test_image_flows import images, small
from torch.func import functional_call, grad

from iresnet import Exact
from iresnet.bases import StandardNormal
from iresnet.bijections import Chain, Pixels, Residual
from iresnet.contract.conv_branches import conv_branch
from iresnet.flow import Flow
from iresnet.models import image_flow
from iresnet.numerics.noise import Noise
from iresnet.numerics.series import PowerSeries
from iresnet.testing import check_copies, check_parameter_gradients, check_unchanged, randomized

SHAPE = (1, 8, 8)
VARIANTS = {
    "two stages": {},
    "classes": {"classes": 3},
    "dense, no split": {"dense": 1, "split": False, "base": "diagonal"},
    "the papers' branch": {"family": "gram", "nonlinearity": "lipswish", "preactivate": True},
}
LOGDETS = (Exact(), PowerSeries(probes=2), PowerSeries(terms=2, roulette="adaptive"))
variants = pytest.mark.parametrize("more", VARIANTS.values(), ids=VARIANTS.keys())


def made(more: dict[str, Any]) -> Flow:
    return cast(Flow, small(SHAPE, **more))


def context_of(flow: Flow, count: int) -> torch.Tensor | None:
    return torch.eye(flow.context, dtype=torch.float64)[torch.arange(count) % flow.context] if flow.context else None


@pytest.mark.parametrize("shape", ((1, 1, 1), (1, 1, 2), (2, 1, 1)))
def test_densities_of_one_and_two_pixels_integrate_to_one(shape: tuple[int, int, int]) -> None:
    """Over all levels that the logit maps to the line: alpha leaves a margin on either side of black and white."""
    alpha, levels, count = 0.05, 4, 3001 if math.prod(shape) == 1 else 241
    flow = image_flow(shape, blocks=(2,), hidden=6, alpha=alpha, levels=levels).double()
    flow.initialize(images(64, shape, 3, levels))
    randomized(flow, 0.5, 1).eval()
    margin = levels * alpha / (1 - 2 * alpha)
    side = (torch.arange(count, dtype=torch.float64) + 0.5) / count * (levels + 2 * margin) - margin
    grid = torch.cartesian_prod(*[side] * math.prod(shape)).reshape(-1, *shape)
    cell = ((levels + 2 * margin) / count) ** math.prod(shape)
    with torch.no_grad():
        total = sum(float(flow.log_prob(part, logdet=Exact()).exp().sum()) * cell for part in grid.split(50_000))
    assert total == pytest.approx(1, abs=2e-3)


def test_without_a_logit_the_density_of_a_pixel_integrates_to_one() -> None:
    branch = conv_branch("sandwich", (1, 1, 1), 6, 0.9).double()
    randomized(branch, 1.0, 0)
    flow = Flow(Chain([Pixels(4, None), Residual(branch)]), StandardNormal((1, 1, 1))).double()
    grid = torch.linspace(-40, 40, 8001, dtype=torch.float64)
    with torch.no_grad():
        density = flow.eval().log_prob(grid.reshape(-1, 1, 1, 1), logdet=Exact()).exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-5)


@variants
def test_every_parameter_gets_a_gradient_and_nothing_changes_in_evaluation(more: dict[str, Any]) -> None:
    flow, x = made(more), images(4, SHAPE)
    context = context_of(flow, 4)
    for logdet in LOGDETS:
        check_parameter_gradients(flow, lambda logdet=logdet: -flow.log_prob(x, context, logdet=logdet).sum())
    check_unchanged(flow, x, context)


@variants
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_copies_agree_bit_for_bit(more: dict[str, Any], dtype: torch.dtype) -> None:
    flow = made(more).to(dtype)
    context = context_of(flow, 3)
    given = {"blocks": (1, 1), "hidden": 6, "lipschitz": 0.8} | more
    check_copies(
        flow, lambda: image_flow(SHAPE, **given), images(3, SHAPE).to(dtype), None if context is None else context.to(dtype)
    )


@variants
def test_no_grad_inference_mode_and_functional_calls(more: dict[str, Any]) -> None:
    flow, x = made(more), images(3, SHAPE)
    context = context_of(flow, 3)
    expected = flow.log_prob(x, context, logdet=Exact()).detach()
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            torch.testing.assert_close(flow.log_prob(x, context, logdet=Exact()), expected, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(flow.decode(flow.encode(x, context), context), x, rtol=0, atol=1e-6)
            assert flow.sample(2, None if context is None else context[0]).shape == (2, *SHAPE)
    state = {name: value.detach() for name, value in flow.state_dict().items()}
    names = [name for name, _ in flow.named_parameters()][:4]

    def loss(values: dict) -> torch.Tensor:
        return functional_call(flow, state | values, (x, context)).sum()

    flow.eval_logdet = PowerSeries(terms=3, gradient="series")
    found = grad(loss)({name: state[name] for name in names})
    flow.zero_grad()
    flow.log_prob(x, context).sum().backward()
    for name in names:
        told = flow.get_parameter(name).grad
        expected = torch.zeros_like(found[name]) if told is None else told
        torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-9)


@variants
def test_a_rows_figures_do_not_depend_on_its_batch_and_hardly_on_the_precision(more: dict[str, Any]) -> None:
    flow, x = made(more), images(7, SHAPE)
    context, rows = context_of(flow, 7), torch.arange(7)
    for logdet in (Exact(), PowerSeries(probes=2), None):
        whole = flow.estimate(x, context, logdet=logdet, noise=Noise(3, rows))
        for row in (0, 6):
            one = slice(row, row + 1)
            mine = None if context is None else context[one]
            alone = flow.estimate(x[one], mine, logdet=logdet, noise=Noise(3, rows[one]))
            torch.testing.assert_close(alone.value, whole.value[one], rtol=1e-11, atol=1e-9)
    wide = flow.log_prob(x, context, logdet=Exact()).detach()
    narrow = flow.float().log_prob(x.float(), None if context is None else context.float(), logdet=Exact())
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=2e-2)
