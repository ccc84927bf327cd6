"""What is promised of numbers, on flows that were really trained: digits (64 columns) and moons, both sound families."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from iresnet import Anderson, Exact, Flow, Picard, PowerSeries, certify, dense_flow, fit
from iresnet.bijections.chain import ChainTransform
from iresnet.data import load
from iresnet.numerics.linearize import linearize
from iresnet.numerics.logdet import dense_jacobian
from iresnet.numerics.noise import Noise
from iresnet.runs.folder import rows_of

CASES = [(name, family) for name in ("moons", "digits") for family in ("sandwich", "gram")]


@cache
def trained(name: str, family: str) -> tuple[Flow, Tensor]:
    """A flow after a few hundred steps on real data, and held-out rows (200, d) in float64."""
    dataset = load(name, seed=0)
    like = torch.zeros((), dtype=torch.float64)
    train, test = (rows_of(dataset, split).all(like, Noise(1), most=most).x for split, most in (("train", None), ("test", 100)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = dense_flow(train.shape[1], blocks=6, hidden=(32, 32), lipschitz=0.97, family=family)
    fit(flow, train, steps=150, batch_size=256, lr=1e-2, seed=0)
    return flow, test


@pytest.mark.parametrize(("name", "family"), CASES)
@pytest.mark.parametrize("solver", [Picard(), Anderson()], ids=["picard", "anderson"])
def test_there_and_back_is_the_identity(name: str, family: str, solver: Picard | Anderson) -> None:
    flow, x = trained(name, family)
    with torch.no_grad():
        narrow = flow.decode(flow.encode(x.float()), solver=solver)
        wide = flow.double()
        exact = wide.decode(wide.encode(x), solver=solver)
    flow.float()
    assert (narrow - x.float()).norm(dim=1).max() < 1e-5
    assert (exact - x).norm(dim=1).max() < 1e-9


@pytest.mark.parametrize(("name", "family"), CASES)
def test_every_block_is_inverted_within_its_bound(name: str, family: str) -> None:
    """Block by block, with the true point at hand: the stated bound is never below the true error."""
    flow, x = trained(name, family)
    transform = flow.bind().transform
    assert isinstance(transform, ChainTransform) and certify(flow, x).holds
    with torch.no_grad():
        for part in transform.parts:
            image = part.to(torch.float64).forward(x)
            found = part.inverse(image, Picard())
            assert ((found.value - x).norm(dim=1) <= found.error_bound).all()
            x = image


@pytest.mark.parametrize(("name", "family"), CASES)
def test_estimators_agree_with_the_dense_determinant(name: str, family: str) -> None:
    flow, x = trained(name, family)
    bound = flow.bind().to(torch.float64)
    with torch.no_grad():
        jacobian = dense_jacobian(linearize(bound.encode, x), x)
        truth = torch.linalg.slogdet(jacobian).logabsdet + flow.base.log_prob(bound.encode(x))
        rows = Noise(7, torch.arange(len(x)))
        exact = bound.estimate(x, logdet=Exact())
        series = bound.estimate(x, logdet=PowerSeries(probes=16), noise=rows)
        free = PowerSeries(terms=2, roulette="adaptive")
        means = torch.stack([bound.log_prob(x, logdet=free, noise=rows.at(draw)).mean() for draw in range(200)])
    torch.testing.assert_close(exact.value, truth, rtol=0, atol=1e-9)
    standard = (series.value - truth) / (series.stderr + series.bias)
    assert standard.square().mean() < 1.6 and standard.abs().max() < 6
    # One decision to go on is shared by a batch, so only draws of the whole batch are independent.
    assert (means.mean() - truth.mean()).abs() < 4 * means.std() / len(means) ** 0.5 + 1e-6
