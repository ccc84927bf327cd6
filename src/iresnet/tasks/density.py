"""The density task: its loss, and figures of held-out rows with all their errors.

A figure says two errors apart: the *estimator's*, of the log-determinants (its probes' standard error and its bias), and the
*data's*, of a finite test set. Both are of the mean over rows, in nats per row and in the user's own units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..flow import Flow, evaluating
from ..numerics.logdet import Exact, LogDet
from ..numerics.noise import Noise
from ..numerics.series import PowerSeries
from ..parallel import Ranks
from .base import Judgement, Task
from .rows import Batch, Rows

__all__ = ["Density", "Figure", "evaluate", "figure_of_sums", "score"]

_DRAW = 2  # place of a row's further draws of noise, apart from probes (0) and dequantisation (1)


@dataclass(frozen=True)
class Figure:
    """A mean over rows with its errors: ``stderr_estimator`` and ``bias`` of the estimator, ``stderr_data`` of the finite set."""

    value: float
    stderr_estimator: float
    stderr_data: float
    bias: float
    rows: int

    def scaled(self, factor: float, offset: float = 0.0) -> Figure:
        """In another unit: ``value * factor + offset``."""
        size = abs(factor)
        errors = (self.stderr_estimator * size, self.stderr_data * size, self.bias * size)
        return Figure(self.value * factor + offset, *errors, self.rows)


def figure_of_sums(sums: Tensor) -> Figure:
    """The figure of the sums over rows (5,) of 1, log p, its square, the estimator's variance, and the bias."""
    count, first, second, variance, bias = sums.tolist()
    mean = first / count
    spread = math.sqrt(max(second / count - mean**2, 0.0) / (count - 1)) if count > 1 else math.nan
    return Figure(mean, math.sqrt(variance) / count, spread, bias / count, round(count))


class Density(Task):
    """Maximum likelihood of a flow: the loss of a row is -log p(x | context), in nats and in the user's units."""

    network: Flow

    def __init__(self, network: Flow, logdet: LogDet | None = None) -> None:
        super().__init__(network)
        train = network.train_logdet
        # Validation needs the order of figures more than their digits; up to ten dimensions the exact ones are cheaper still.
        rough = Exact() if math.prod(network.shape) <= 10 else PowerSeries(probes=2, tol=1e-3)
        self.logdet = logdet or (rough if isinstance(train, PowerSeries) else train)

    def forward(self, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        loss = -self.network.log_prob(batch.x, batch.context, noise=noise).sum()
        return loss, (loss.detach().double() - batch.log_jacobian.double().sum())[None]

    def measure(self, rows: Rows, seed: int) -> Tensor:
        figure, values = evaluate(self.network, rows, logdet=self.logdet, seed=seed, dtype=self.anchor.dtype)
        count, square = figure.rows, float(values.square().sum())
        parts = [count, float(values.sum()), square, (figure.stderr_estimator * count) ** 2, figure.bias * count]
        return torch.tensor(parts, dtype=torch.float64)

    def judge(self, sums: Tensor) -> Judgement:
        figure = figure_of_sums(sums)
        errors = {"stderr_estimator": figure.stderr_estimator, "stderr_data": figure.stderr_data, "bias": figure.bias}
        return Judgement(figure.value, {"log_prob": figure.value} | errors)


def score(
    flow: Flow,
    rows: Rows,
    *,
    logdet: LogDet | None = None,
    batch_size: int = 1024,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    draws: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Batch, Tensor, Tensor, Tensor]]:
    """Batches with log p in the user's units, its standard error and its bias, each (B,) float64 on the CPU.

    Noise is a function of (seed, global row), so a row's numbers are the same alone, in any batch and on any rank.

    Parameters
    ----------
    draws : of the noise that dequantises columns of levels; without such columns there is one. From two on, log p is the mean
        over them and the standard error that of this mean, by the spread of the draws. With one draw the standard error is that
        of the log-determinant alone, and the noise, which may move a row by nats, shows only in the spread of the rows.
    dtype : in which the flow is computed, with the weights it has. None for float64 where the device has it: a latent of many
        dimensions rounded in float32 costs 1e-2 nats, which would be an error that no estimate states.
    """
    own, noise = flow.base.anchor, Noise(seed)
    like = own.to(dtype or (torch.float64 if own.device.type != "mps" else own.dtype))
    with torch.no_grad(), evaluating(flow):
        bound = flow.bind().to(like.dtype) if flow.context == 0 else None
        for start in range(0, len(rows), batch_size):
            places = torch.arange(start, min(start + batch_size, len(rows)))
            batch, target, drawn = rows.batch(places, noise, like), bound, []
            for key in (noise, *(noise.at(_DRAW, draw) for draw in range(1, draws if rows.random else 1))):
                part = batch if key is noise else rows.batch(places, key, like)
                target = target if target is not None else flow.bind(part.context).to(like.dtype)
                found = target.estimate(part.x, logdet=logdet, noise=Noise(key.at(0).seed, part.rows))
                drawn.append((found.value.double() + part.log_jacobian, found.stderr.double(), found.bias.double()))
            values, stderrs, biases = (torch.stack(column).cpu() for column in zip(*drawn, strict=True))
            stderr = values.std(0) / math.sqrt(len(drawn)) if len(drawn) > 1 else stderrs[0]
            yield batch, values.mean(0), stderr, biases.mean(0)
            if progress is not None:
                progress(len(batch.rows))


def evaluate(
    flow: Flow,
    rows: Rows,
    *,
    logdet: LogDet | None = None,
    batch_size: int = 1024,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    progress: Callable[..., None] | None = None,
    ranks: Ranks | None = None,
) -> tuple[Figure, Tensor]:
    """The mean of log p over ``rows`` in nats and in the user's units, and each row's log p (N,); parameters as in :func:`score`.

    ``ranks`` share the rows in whole batches, and all know the result, which is that of one process bit for bit.

    Rows' estimator errors are independent, so that of the mean is their root mean square over sqrt(N). The data's error is the
    spread of the rows' values, and so contains the estimator's noise.

    Raises
    ------
    ValueError
        If there are no rows.
    """
    if len(rows) == 0:
        raise ValueError("there are no rows to evaluate")
    count, options = len(rows), {"logdet": logdet, "batch_size": batch_size, "seed": seed, "dtype": dtype}
    if ranks is None or ranks.count == 1:
        parts = [part[1:] for part in score(flow, rows, progress=progress, **options)]
        value, stderr, bias = (torch.cat(column) for column in zip(*parts, strict=True))
    else:
        mine = ranks.part(torch.arange(count), batch_size)
        if progress is not None:
            progress(0, len(mine))
        found = torch.zeros(3, count, dtype=torch.float64)
        for batch, *three in score(flow, rows.take(mine), progress=progress, **options):
            found[:, mine[: len(batch.rows)]] = torch.stack(three)
            mine = mine[len(batch.rows) :]
        value, stderr, bias = ranks.add(found)
    spread = float(value.std()) / math.sqrt(count) if count > 1 else math.nan
    figure = Figure(float(value.mean()), float(stderr.square().sum().sqrt()) / count, spread, float(bias.mean()), count)
    return figure, value
