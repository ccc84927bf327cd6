"""A flow trained on weighted rows of a table, with its units: what the estimators hold and ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bases import NormalMixture
from ..explain import Attribution, attribute, nearest
from ..fitting import start
from ..flow import Flow, evaluating
from ..models import dense_flow
from ..numerics.logdet import Estimate
from ..numerics.noise import Noise
from ..parallel import Ranks, choose_device
from ..tasks.base import Judgement
from ..tasks.density import Density, score
from ..tasks.rows import Batch, Rows
from ..train import Settings, Trainer
from .preparing import Units, distinct, find_units, gaussian_of

__all__ = ["FittedFlow", "Plan", "train_flow"]

_HELD_OUT = 20  # distinct rows from which some are held out; fewer would judge by a row or two
_FEWEST = 10  # steps
_ROWS = 2**14  # that are float64 at once, whatever the size of the table


@dataclass(frozen=True)
class Plan:
    """What an estimator's constructor says of training, by the same names."""

    max_steps: int
    blocks: int
    hidden: Sequence[int]
    lipschitz: float
    base: str
    learning_rate: float
    weight_decay: float
    batch_size: int
    trim: float
    dequantize: bool
    validation_fraction: float
    patience: int | None
    device: str
    verbose: bool


class WeightedDensity(Density):
    """Maximum likelihood with weights (N,) by row number; of each batch the ``trim`` share of lowest density has no say.

    Learning with Bad Training Data via Iterative Trimmed Loss Minimization (Shen and Sanghavi, 2019), arXiv 1810.11874.
    """

    weights: Tensor

    def __init__(self, network: Flow, weights: Tensor, trim: float) -> None:
        super().__init__(network)
        self.trim = trim
        self.register_buffer("weights", weights)

    def _kept(self, weights: Tensor, log_prob: Tensor) -> Tensor:
        """The weights (B,), less that of the lowest rows, and in all as much as before.

        A row at the limit keeps what of its weight is above it, as some of its copies would if it stood there several times.
        """
        if not self.trim:
            return weights
        order, kept = log_prob.argsort(), torch.empty_like(weights)
        above = weights[order].cumsum(0) - self.trim * weights.sum()
        kept[order] = above.clamp(min=0).minimum(weights[order])
        return kept / (1 - self.trim)

    def forward(self, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        log_prob = self.network.log_prob(batch.x, noise=noise)
        weights = self.weights[batch.rows].to(log_prob)
        own = log_prob.detach().double() + batch.log_jacobian.double()
        kept = self._kept(weights, own)
        return -(kept * log_prob).sum(), -(kept * own).sum()[None]

    def measure(self, rows: Rows, seed: int) -> Tensor:
        found = score(self.network, rows, logdet=self.logdet, seed=seed, dtype=self.anchor.dtype)
        values, stderrs = (torch.cat(column) for column in list(zip(*found, strict=True))[1:3])
        numbers = rows.numbers if rows.numbers is not None else torch.arange(len(rows))
        kept = self._kept(self.weights.cpu()[numbers].double(), values)
        square = kept.square()
        sums = (kept.sum(), kept @ values, square.sum(), square @ values, square @ values.square(), square @ stderrs.square())
        return torch.stack(sums)

    def judge(self, sums: Tensor) -> Judgement:
        """The weighted mean m; its variance over rows is sum w^2 (v - m)^2 / (sum w)^2, that of a ratio of two sums."""
        total, first, zeroth, linear, quadratic, variance = sums.tolist()
        mean = first / total
        spread = max(quadratic - 2 * mean * linear + mean**2 * zeroth, 0.0)
        return Judgement(mean, {"log_prob": mean, "stderr_data": spread**0.5 / total, "stderr_estimator": variance**0.5 / total})


@dataclass(eq=False)
class FittedFlow:
    """A flow in the units of a table; rows (n, d) are numpy arrays, float32 or float64, in the user's units."""

    flow: Flow
    units: Units
    history: list[dict[str, Any]] = field(default_factory=list)

    def estimate(self, x: np.ndarray, *, seed: int = 0, batch_size: int = 1024) -> Estimate:
        """log p of each row with its errors, each (n,) float64, levels at the middle of their cells."""
        found = []
        for first in range(0, len(x), _ROWS):
            values = torch.from_numpy(np.array(x[first : first + _ROWS], dtype=np.float64))
            rows = Rows(values, schema=self.units, numbers=torch.arange(first, first + len(values)), settled=True)
            found += [item[1:] for item in score(self.flow, rows, batch_size=batch_size, seed=seed)]
        return Estimate(*(torch.cat(column) for column in zip(*found, strict=True)))

    def explain(self, x: np.ndarray, background: np.ndarray, *, tol: float = 1e-2) -> tuple[Attribution, np.ndarray]:
        """The share of each column in -log p(x) (n, d), compared with the nearest ordinary row of ``background`` (m, d).

        Nearest and straight are meant in the flow's units. Also which row of ``background`` that was (n,).
        """
        known = self.estimate(background).value
        with torch.no_grad(), evaluating(self.flow):
            bound = self.flow.bind().to(torch.float64)
        z, rows = (self.units.encode(torch.from_numpy(np.array(part, dtype=np.float64)))[0] for part in (x, background))
        constant = float(self.units.scale.log().sum())
        chosen = nearest(z, rows, -known)

        def surprise(at: Tensor) -> Tensor:
            return constant - bound.log_prob(at.to(self.flow.anchor.device)).cpu()

        return attribute(surprise, z, rows[chosen], tol=tol), chosen.numpy()

    def sample(self, count: int, seed: int) -> np.ndarray:
        """``count`` draws (count, d) float64; the flow is inverted in float64."""
        noise = Noise(seed, torch.arange(count, device=self.flow.anchor.device))
        return self.units.decode(self.flow.sample(count, noise=noise)).numpy()


def train_flow(x: np.ndarray, weight: np.ndarray, plan: Plan, seed: int, units: Units | None = None) -> FittedFlow:
    """A flow of the rows x (n, d) with weights (n,), n >= 1, in ``units`` or in units of its own.

    It starts as the Gaussian of the rows and is trained for as many steps as there are distinct rows, at least 10 and at most
    ``plan.max_steps``. Of 20 distinct rows or more a share is held out, and the weights that suit them best are kept, those of
    the start among them.
    """
    values, weights = distinct(np.asarray(x, dtype=np.float64), weight)
    units = units or find_units(values, weights, dequantize=plan.dequantize)
    count, device = len(values), choose_device(plan.device)
    generator = torch.Generator().manual_seed(seed)
    held = round(plan.validation_fraction * count) if count >= _HELD_OUT else 0
    order = torch.randperm(count, generator=generator)
    whole = Rows(torch.from_numpy(values), schema=units, numbers=torch.arange(count))
    train = whole.take(order[held:].sort().values)
    validation = whole.take(order[:held].sort().values) if held else None

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = dense_flow(values.shape[1], blocks=plan.blocks, hidden=plan.hidden, lipschitz=plan.lipschitz, base=plan.base)
    places = torch.from_numpy(weights)
    z = train.all(torch.empty((), dtype=torch.float64), Noise(seed)).x
    points = gaussian_of(z, places[train.numbers], plan.trim)
    flow.double().initialize(points)
    if isinstance(flow.base, NormalMixture):
        start(flow, z, seed=seed)
    flow.float().to(device)

    settings = Settings(
        steps=min(plan.max_steps, max(_FEWEST, count)),
        batch_size=plan.batch_size,
        lr=plan.learning_rate,
        weight_decay=plan.weight_decay,
        seed=seed,
        patience=plan.patience if held else None,
    )
    history: list[dict[str, Any]] = []
    task = WeightedDensity(flow, places.to(device), plan.trim)
    bar = _bar(settings.steps) if plan.verbose else None
    trainer = Trainer(task, train, validation, settings, [history.append, *([bar] if bar else [])], Ranks(0, 1, device))
    try:
        trainer.validate()  # the start is a candidate too
        trainer.run()
    finally:
        if bar:
            bar.close()
    return FittedFlow(flow, units, history)


def _bar(steps: int) -> Any:
    from ..progress import TrainingProgress, told_in

    return TrainingProgress(steps, told_in(lambda value, error: f"{value:.4f} ± {error:.2g} nats"))
