"""Our kernels in C++ against our plain code: a training step, and samples, of flows as `iresnet train` makes them.

16 blocks of the default family with two hidden layers, the default estimators, batches of 512 rows and 1,000 samples in float32.
Weights are random, at a third of their bounds, so that roulettes go on for a while and inverses take some steps.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch

import iresnet
from iresnet.testing import randomized

from .harness import Options, Row, compare, interleaved

__all__ = ["rows"]

SHAPES = ((8, 32), (43, 32), (43, 128))  # columns, width


def made(columns: int, width: int) -> iresnet.Flow:
    """A flow with random weights."""
    torch.manual_seed(0)
    flow = iresnet.dense_flow(columns, blocks=16, hidden=(width, width))
    flow.initialize(torch.randn(512, columns))
    return randomized(flow, 0.3, 0)


def step(flow: iresnet.Flow, columns: int) -> Callable[[], None]:
    """A training step on one batch."""
    x, optimizer = torch.randn(512, columns), torch.optim.Adam(flow.train().parameters(), lr=1e-5, fused=True)

    def run() -> None:
        torch.manual_seed(0)  # of the roulette: both take as many terms
        optimizer.zero_grad()
        (-flow.log_prob(x).mean()).backward()
        optimizer.step()

    return run


def rows(options: Options) -> list[Row]:
    """Milliseconds of the plain code and of the kernels."""
    found: list[Row] = []
    for columns, width in SHAPES:
        plain = made(columns, width)
        flows = {"plain": plain, "kernels": iresnet.compile(deepcopy(plain))}
        tasks = {("a training step", name): step(deepcopy(flow), columns) for name, flow in flows.items()}
        bound = {name: flow.eval().bind() for name, flow in flows.items()}
        z = torch.randn(1000, columns)
        tasks |= {("1,000 inverses", name): lambda flow=flow, z=z: flow.decode(z) for name, flow in bound.items()}
        seconds = {key: [1e3 * second for second in taken] for key, taken in interleaved(tasks, options).items()}
        for what in ("a training step", "1,000 inverses"):
            case = f"{columns} columns, width {width}: {what}"
            found.append(compare(case, "plain", "ms", seconds[what, "kernels"], seconds[what, "plain"]))
    return found
