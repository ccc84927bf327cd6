"""One loop for all systems: the trainer of this package, with a budget of time in place of a number of steps.

Same optimiser (AdamW), clipping, warm-up, averaged weights and batches; the learning rate falls as a cosine of the *time* spent,
to zero at the end of the budget. The averaged weights that do best on the validation rows, looked at twenty times, are kept.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..guard import Diverged
from ..numerics.noise import Noise
from ..report.format import duration
from ..settings import Settings
from ..tasks.base import Judgement, Task
from ..tasks.density import figure_of_sums
from ..tasks.rows import Batch, Rows
from ..train import Trainer
from .catalogue import entry
from .domain import Domain
from .sklearn_models import Direct
from .system import System, seeded

__all__ = ["CLOCKS", "Budget", "Fitted", "Likelihood", "settings_for", "train"]

_LOOKS = 20  # at the validation rows
_OVER = 1.05  # times the budget, from which it is told
CLOCKS = {"cpu": time.process_time, "wall": time.monotonic}


@dataclass(frozen=True)
class Budget:
    """Seconds of training by a clock: "wall", or "cpu", the processor time of this process, which is fair on a busy machine."""

    seconds: float
    clock: str = "wall"

    def __post_init__(self) -> None:
        if not self.seconds > 0 or self.clock not in CLOCKS:
            told = f"{self.seconds:g} seconds by {self.clock!r}"
            raise UserError(f"a budget needs a positive time and a clock, {' or '.join(CLOCKS)}; got {told}")


@dataclass
class Fitted:
    """What training took: seconds by both clocks, and optimiser steps (candidates tried, where no gradients are taken)."""

    seconds: float
    processor_seconds: float
    steps: int
    notes: list[str] = field(default_factory=list)


class Watch:
    """Counts the time of training alone, by both clocks; the budget is of one of them."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.spent = dict.fromkeys(CLOCKS, 0.0)
        self.began: dict[str, float] | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        self.began = {name: clock() for name, clock in CLOCKS.items()}
        try:
            yield
        finally:
            self.spent = {name: self._spent(name) for name in CLOCKS}
            self.began = None

    def share(self) -> float:
        """How much of the budget is spent; 1 is all."""
        return self._spent(self.budget.clock) / self.budget.seconds

    def _spent(self, name: str) -> float:
        return self.spent[name] + (0.0 if self.began is None else CLOCKS[name]() - self.began[name])


@dataclass(frozen=True)
class _Timed(Settings):
    """Settings whose learning rate follows the time spent."""

    share: Callable[[], float] = lambda: 0.0

    @property
    def validation_period(self) -> int:
        return sys.maxsize  # looks are taken by time

    def rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, self.share())))


class Likelihood(Task):
    """Maximum likelihood of any system; figures in nats and in the user's units."""

    network: System

    def forward(self, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        self.network.settle()
        loss = -self.network.log_prob(batch.x, noise).sum()
        return loss, (loss.detach().double() - batch.log_jacobian.double().sum())[None]

    def measure(self, rows: Rows, seed: int) -> Tensor:
        self.network.settle(50)
        self.network.eval()
        found = []
        for places in torch.arange(len(rows)).split(1024):
            batch = rows.batch(places, Noise(seed), self.anchor)
            value = self.network.judge(batch.x, Noise(Noise(seed).at(0).seed, batch.rows))
            found.append(value.double() + batch.log_jacobian.double())
        values = torch.cat(found)
        return torch.tensor([len(values), values.sum(), values.square().sum(), 0.0, 0.0], dtype=torch.float64)

    def judge(self, sums: Tensor) -> Judgement:
        figure = figure_of_sums(sums)
        return Judgement(figure.value, {"log_prob": figure.value, "stderr_data": figure.stderr_data})


def settings_for(name: str, domain: Domain, seed: int = 0) -> Settings:
    """How a system is trained on such data: as ``iresnet train`` would, but for the learning rate, which is the system's own."""
    train = domain.config.train
    lr = train.lr if name == "iresnet" else entry(name).lr
    return Settings(
        batch_size=train.batch_size,
        lr=lr,
        warmup=train.warmup,
        weight_decay=train.weight_decay,
        clip=train.clip,
        ema=train.ema,
        seed=seed,
    )


def train(
    system: System,
    rows: Rows,
    validation: Rows,
    budget: Budget,
    settings: Settings,
    progress: Callable[[float, str], None] = lambda share, told: None,
) -> Fitted:
    """Initialise ``system`` on ``rows`` and train it in place for the budget; it ends in evaluation mode with its best weights.

    Only the time of optimiser steps counts, not that of validation. Training that meets a number that is not finite ends early,
    with the best weights until then and a note.

    Parameters
    ----------
    settings : learning rate, batch size, averaging, seed; steps and validation are the budget's.
    progress : called with the share of the budget spent and the figure of the last look.
    """
    watch, seed = Watch(budget), settings.seed
    some = rows.all(system.anchor.double(), Noise(seed).at(1), most=max(256, 50_000_000 // (rows.values[0].numel() * 100)))
    system.initialize(some.x)
    if isinstance(system, Direct):
        held = validation.all(system.anchor.double(), Noise(seed))
        everything = rows.all(system.anchor.double(), Noise(seed).at(1))
        with watch.running():
            tried = system.double().learn(everything.x, held.x, seed, lambda: watch.share() >= 1)
        fitted = Fitted(watch.spent["wall"], watch.spent["cpu"], tried)
        if watch.share() > _OVER:
            told = f"{duration(watch.spent[budget.clock])} of a budget of {duration(budget.seconds)}"
            fitted.notes.append(f"took {told}: a candidate that is begun is finished")
        return fitted
    last: list[str] = [""]

    def heard(record: dict[str, object]) -> None:
        if record["split"] == "validation":
            last[0] = f"held out {record['log_prob']:.4f} nats"
        progress(watch.share(), last[0])

    named: dict[str, Any] = {item.name: getattr(settings, item.name) for item in fields(Settings)}
    timed = _Timed(**{**named, "steps": sys.maxsize, "share": watch.share})
    trainer = Trainer(Likelihood(system), rows, validation, timed, [heard])
    fitted = Fitted(0.0, 0.0, 0)
    with seeded(seed):
        try:
            for look in range(1, _LOOKS + 1):
                with watch.running():
                    trainer.run(stop=lambda look=look: watch.share() >= look / _LOOKS)
                trainer.validate()
                if watch.share() >= 1:
                    break
        except Diverged as error:
            fitted.notes.append(str(error).partition(";")[0])
    system.load_state_dict(trainer.best_state or trainer.average)
    system.settle(50)
    system.eval()
    return replace(fitted, seconds=watch.spent["wall"], processor_seconds=watch.spent["cpu"], steps=trainer.step)
