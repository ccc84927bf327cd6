"""The classification task: cross-entropy of classes, and the error rate of held-out rows.

The error rate carries the standard error of a binomial count, the cross-entropy that of a mean over rows; both are of a finite
set of rows, and there is no other error: nothing is estimated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..flow import evaluating
from ..numerics.noise import Noise
from .base import Judgement, Task
from .rows import Batch, Rows

__all__ = ["Classify", "class_figures", "class_sums", "predict"]


def class_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Sums over rows (4,) in float64: of 1, of wrong rows, of the cross-entropy in nats, and of its square."""
    with torch.no_grad():
        each = cross_entropy(logits.double(), labels, reduction="none")
        wrong = (logits.argmax(1) != labels).double()
        return torch.stack((torch.ones_like(each), wrong, each, each.square())).sum(1)


def class_figures(sums: Tensor) -> dict[str, float]:
    """Error rate and cross-entropy, with their standard errors, of the sums of :func:`class_sums`."""
    count, wrong, first, second = sums.tolist()
    error, mean = wrong / count, first / count
    # One wrong row is the least that could have been seen: no error among N rows does not make the rate certain.
    rate = min(max(wrong, 1.0), count - 1.0) / count if count > 1 else 0.5
    return {
        "error": error,
        "stderr_error": math.sqrt(rate * (1 - rate) / count),
        "cross_entropy": mean,
        "stderr_cross_entropy": math.sqrt(max(second / count - mean**2, 0.0) / (count - 1)) if count > 1 else math.nan,
    }


class Classify(Task):
    """Cross-entropy of a classifier, in nats; its goodness is the number of rows classified rightly, ties by cross-entropy.

    Parameters
    ----------
    network : from x (B, *) to logits (B, K).
    smoothing : share of each label that is spread evenly over all classes. What is told of training is without it.
    """

    told = ("loss", "error")

    def __init__(self, network: Any, smoothing: float = 0.0) -> None:
        super().__init__(network)
        if not 0 <= smoothing < 1:
            raise ValueError(f"label smoothing must lie in [0, 1), got {smoothing}")
        self.smoothing = smoothing

    def forward(self, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        logits = self.network(batch.x, batch.context)
        loss = cross_entropy(logits, batch.classes, label_smoothing=self.smoothing, reduction="sum")
        _, wrong, nats, _ = class_sums(logits, batch.classes)
        return loss, torch.stack((nats, wrong))

    def measure(self, rows: Rows, seed: int) -> Tensor:
        total = torch.zeros(4, dtype=torch.float64)
        for batch, logits in predict(self.network, rows, seed=seed):
            total += class_sums(logits, batch.classes.cpu())
        return total

    def judge(self, sums: Tensor) -> Judgement:
        count, wrong, nats, _ = sums.tolist()
        mean = nats / count
        # Lexicographic in one number: the second term is below one.
        return Judgement(-(wrong + mean / (1 + mean)), class_figures(sums))


def predict(
    network: Any,
    rows: Rows,
    *,
    batch_size: int = 1024,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Batch, Tensor]]:
    """Batches with their logits (B, K) on the CPU, in evaluation mode and the network's own precision.

    Levels are taken at the middle of their cells: what is predicted of a row should not depend on noise.
    """
    rows = replace(rows, settled=True)
    with torch.no_grad(), evaluating(network):
        for start in range(0, len(rows), batch_size):
            batch = rows.batch(torch.arange(start, min(start + batch_size, len(rows))), Noise(seed), network.anchor)
            yield batch, network(batch.x, batch.context).cpu()
            if progress is not None:
                progress(len(batch.rows))
