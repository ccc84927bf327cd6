"""Flows of clouds of points: normalisation counts every point, and all laws of flows hold."""

from __future__ import annotations

import pytest
import torch
from law_cases import rows
from set_cases import clouds, made

import iresnet
from iresnet.bijections import Chain, PointNorm, Residual
from iresnet.models import point_flow
from iresnet.testing import (
    check_chain_rule,
    check_copies,
    check_inverse_logdet,
    check_parameter_gradients,
    check_unchanged,
    jacobian,
    randomized,
)


def test_the_norm_of_points_counts_all_of_them():
    norm, x = PointNorm(3).double(), 3 * clouds(20, 5) + 1
    z = norm.initialize(x)
    torch.testing.assert_close(z.flatten(0, 1).std(0, correction=0), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(z.flatten(0, 1).mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    check_inverse_logdet(norm, x[:3])
    parts = [norm, Residual(made("gram")), PointNorm(3).double()]
    check_chain_rule(parts, Chain(parts), x[:3])


@pytest.mark.parametrize("attention", (False, True))
def test_a_flow_of_points_is_a_flow(attention):
    def build():
        return point_flow(2, 4, 2, blocks=2, hidden=(5,), lipschitz=0.9, attention=attention, heads=2)

    torch.manual_seed(0)
    flow, x, context = build().double(), clouds(6, 4, 2), rows(6, 2)
    flow.initialize(clouds(50, 4, 2), rows(50, 2))
    randomized(flow.bijection, 0.7)
    flow.eval()
    check_copies(flow, build, x, context)
    check_unchanged(flow, x, context)
    check_parameter_gradients(flow, lambda: flow.log_prob(x, context).sum())
    order = torch.randperm(4)
    torch.testing.assert_close(flow.log_prob(x[:, order], context), flow.log_prob(x, context))
    truth = torch.linalg.slogdet(jacobian(flow.bind(context).encode, x)).logabsdet + flow.base.log_prob(flow.encode(x, context))
    torch.testing.assert_close(flow.log_prob(x, context), truth)
    found = flow.invert(flow.encode(x, context).detach(), context)
    assert float((found.value - x).flatten(1).norm(dim=1).sub(found.error_bound).max()) <= 1e-12
    if not attention:  # nothing else knows of the number of points
        larger = point_flow(2, 9, 2, blocks=2, hidden=(5,), lipschitz=0.9).double()
        larger.load_state_dict(flow.state_dict(), strict=True)


def test_a_flow_of_points_is_saved_and_loaded(tmp_path):
    flow = point_flow(2, 4, blocks=1, hidden=(5,), attention=True)
    randomized(flow.bijection)
    flow.eval()
    iresnet.save(flow, tmp_path / "flow")
    x = clouds(3, 4, 2).float()
    torch.testing.assert_close(iresnet.load(tmp_path / "flow").log_prob(x), flow.log_prob(x), rtol=0, atol=0)
