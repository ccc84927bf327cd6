"""A roulette for a luck that is given is a weighted sum of terms: the naive one, term by term and row by row, says which."""

import pytest
import torch

from iresnet.numerics.noise import Noise
from iresnet.numerics.probes import draw_probes
from iresnet.numerics.series import PowerSeries

ROWS, FEATURES, LIPSCHITZ = 5, 3, 0.9


class Linear:
    """x J^T for a given J."""

    lipschitz = LIPSCHITZ

    def __init__(self, jacobian: torch.Tensor) -> None:
        self.jacobian = jacobian

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.jacobian.mT


def naive(estimator: PowerSeries, jacobian: torch.Tensor, probe: torch.Tensor, luck: float) -> float:
    """The estimate of one row by one probe: each term divided by the probability to come to it."""
    power, come, total = probe, 1.0, 0.0
    for step in range(1, 1000):
        power = jacobian.mT @ power
        total += (-1) ** (step + 1) / step * float(power @ probe) / come
        if step < estimator.terms:
            continue
        if estimator.roulette == "geometric":
            come *= estimator.tail
        else:
            come = min(come, estimator.tail * float(power.norm() / probe.norm()))
        if luck >= come:
            return total
    raise AssertionError("the roulette has not stopped")


@pytest.mark.parametrize("terms", (1, 3, 8, 9, 12))
@pytest.mark.parametrize(("roulette", "tail"), (("geometric", 0.8), ("adaptive", 2.0)))
def test_a_roulette_with_given_luck_is_the_naive_sum(roulette, tail, terms):
    torch.manual_seed(0)
    jacobian = LIPSCHITZ * torch.linalg.qr(torch.randn(FEATURES, FEATURES, dtype=torch.float64))[0]  # shrinks slowly
    estimator = PowerSeries(terms, roulette=roulette, tail=tail, first_trace=False)
    x, noise = torch.randn(ROWS, FEATURES, dtype=torch.float64), Noise(3, torch.arange(ROWS))
    (probes,) = draw_probes("rademacher", 1, x, noise)
    told = set()
    for luck in (0.97, 0.5, 0.1, 0.01, 1e-3):
        wanted = [naive(estimator, jacobian, probe, luck) for probe in probes]
        found = estimator(Linear(jacobian), x, noise, luck=luck)[1].value
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
        told.add(tuple(wanted))
    assert len(told) > 2  # some lucks go further than others
