"""What soundness costs: a training step with bounded weights against one of the same network with its weights taken as they are.

16 blocks of D-128-128-D, batch 512, float32, three terms and the exact first trace on both sides, so that both do the same work
but for the bounds: one batched call for all weights of a shape, with the exact gradient. The sandwich family pays for Cayley
transforms instead, and is judged by time to quality.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import iresnet
from iresnet.contract import NormalizedBranch

from .harness import Options, Row, compare, interleaved

__all__ = ["rows", "training_step"]

BATCH, BLOCKS, HIDDEN = 512, 16, (128, 128)
TARGET = 1.15


class Unbounded(NormalizedBranch):
    """The branch that a library without bounds would have: it claims its constant and computes nothing for it."""

    def constrain(self, *raw: Tensor) -> tuple[Tensor, ...]:
        return raw

    def signature(self) -> Any:
        return id(self)  # nothing to batch


def training_step(features: int, family: str, bounded: bool = True) -> Callable[[], None]:
    """A step on random data."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, features)
    flow = iresnet.dense_flow(features, blocks=BLOCKS, hidden=HIDDEN, family=family)
    for part in flow.modules():
        if isinstance(part, NormalizedBranch) and not bounded:
            part.__class__ = Unbounded
    flow.initialize(x)
    flow.train()
    # New blocks are the identity, and so small a rate keeps unbounded ones near it: contractive.
    optimizer = torch.optim.AdamW(flow.parameters(), lr=1e-5, fused=True)
    logdet = iresnet.PowerSeries(terms=3)

    def step() -> None:
        optimizer.zero_grad()
        (-flow.log_prob(x, logdet=logdet).mean()).backward()
        optimizer.step()

    return step


def rows(options: Options) -> list[Row]:
    """The families that bound all weights, against unbounded weights, in 2 and 43 columns."""
    found = []
    for features in (2, 43):
        tasks = {family: training_step(features, family) for family in ("gram", "sandwich")}
        times = interleaved({"none": training_step(features, "gram", False), **tasks}, options)
        for family, target in (("gram", TARGET), ("sandwich", None)):
            ours, none = ([1e3 * value for value in times[name]] for name in (family, "none"))
            told = f"{features} columns, {family}"
            found.append(compare(told, "no bounds", "ms", ours, none, target=target, at_least=False, features=features))
    return found
