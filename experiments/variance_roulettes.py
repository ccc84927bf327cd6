"""What a series that stops at random adds to the noise that a training step has from its minibatch; a part of variance.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import torch
from torch import Tensor

import iresnet
from iresnet.data import toy
from iresnet.numerics.logdet import LogDet
from iresnet.numerics.noise import Noise

__all__ = ["roulettes"]

ESTIMATORS: dict[str, LogDet] = {
    "Exact()": iresnet.Exact(),
    **{f"PowerSeries(terms={n})": iresnet.PowerSeries(terms=n) for n in (2, 10)},
    'PowerSeries(2, roulette="geometric")': iresnet.PowerSeries(2, roulette="geometric"),
    **{
        f'PowerSeries({terms}, roulette="adaptive", tail={tail})': iresnet.PowerSeries(terms, roulette="adaptive", tail=tail)
        for terms, tail in ((2, 1), (2, 3), (2, 10), (4, 3))
    },
}
BATCH, DRAWS = 256, 150


def roulettes(digits_flow: Callable[..., tuple[iresnet.Flow, Tensor]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Flows of the digits, and of four pairs of moons beside one another, whose branches shrink their probes slowly."""
    found = []
    for data, family in (("digits", "sandwich"), ("digits", "gram"), ("8 columns", "gram")):
        for seed in seeds:
            flow, x = digits_flow(seed, family) if data == "digits" else moons_flow(seed)
            found.append({"data": data, "family": family, "seed": seed, "estimators": measure(flow.float().train(), x.float())})
    return found


def moons_flow(seed: int) -> tuple[iresnet.Flow, Tensor]:
    """A flow of 8 columns, trained, and new rows."""
    values = [toy.sample("moons", 8000, seed=8 * seed + k).float() for k in range(4)]
    x = torch.cat(values, 1)
    torch.manual_seed(seed)
    flow = iresnet.dense_flow(8, family="gram", lipschitz=0.97)
    iresnet.fit(flow, x[:4000], steps=600, batch_size=256, seed=seed)
    return flow, x[4000:]


def measure(flow: iresnet.Flow, x: Tensor) -> dict[str, dict[str, float]]:
    """Standard deviations of the loss's gradient and of its value, and processor milliseconds of both: means, as training pays.

    *draws alone* is of the estimator on one batch, *in all* with a new batch each time; both in percent of what new batches alone
    do to the gradient, by the exact determinant.
    """
    parameters = [parameter for parameter in flow.parameters() if parameter.requires_grad]
    found, data = dict[str, dict[str, float]](), 1.0
    for name, logdet in ESTIMATORS.items():
        alone, milliseconds, values = gradients(flow, parameters, x, logdet, fresh=False)
        in_all = gradients(flow, parameters, x, logdet, fresh=True)[0]
        data = in_all if name == "Exact()" else data
        found[name] = {
            "draws alone, %": 100 * alone / data,
            "in all, %": 100 * in_all / data,
            "value, nats": values,
            "ms": milliseconds,
        }
    return found


def gradients(
    flow: iresnet.Flow, parameters: list[Tensor], x: Tensor, logdet: LogDet, *, fresh: bool
) -> tuple[float, float, float]:
    """The standard deviation of the gradient as a vector, milliseconds a step, and the deviation of the batch's mean log p."""
    found, values, seconds, generator = list[Tensor](), list[Tensor](), list[float](), torch.Generator().manual_seed(0)
    some = torch.arange(BATCH)
    for draw in range(DRAWS):
        rows = torch.randint(len(x), (BATCH,), generator=generator) if fresh else some
        began = time.process_time()
        value = flow.log_prob(x[rows], logdet=logdet, noise=Noise(draw, some)).mean()
        by_parameters = torch.autograd.grad(value, parameters, materialize_grads=True)
        seconds.append(time.process_time() - began)
        found.append(torch.cat([gradient.flatten() for gradient in by_parameters]))
        values.append(value.detach())
    return float(torch.stack(found).var(0).sum().sqrt()), 1e3 * mean(seconds), float(torch.stack(values).std())
