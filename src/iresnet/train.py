"""The training loop: one that a reader understands, and that goes on after a crash as if nothing had been.

All randomness is a function of (seed, step, global row): which rows make a batch, their dequantisation, the probes. So resuming
needs no generator's state, only the step, and the result is the same bit for bit on the same number of ranks (on a CPU).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from . import compiling
from .allocation import keep_freed_memory
from .contract.branches import penalty
from .errors import UserError
from .flow import Flow
from .guard import Diverged, first_bad
from .numerics.noise import Noise
from .parallel import Ranks
from .settings import Settings
from .tasks.base import Judgement, Task
from .tasks.density import Density
from .tasks.rows import Rows

__all__ = ["Diverged", "Settings", "Trainer"]

Record = dict[str, Any]
Callback = Callable[[Record], None]

_BATCHES, _PROBES = 2, 3  # places of a step's noise
_CHECK_EVERY = 16  # on a GPU: looking at the loss makes the host wait


class Trainer:
    """Trains a network on rows; :func:`iresnet.fit` and the command line are thin clothes around it.

    Parameters
    ----------
    task : what to train for, with the network, which was set up by its ``initialize`` and is trained in place; a flow alone is
        trained for its density. At the end the network holds the best averaged weights.
    train, validation : rows; without validation the last averaged weights are kept.
    settings : how.
    callbacks : each is called with every record: a dict with "split" ("train" or "validation"), "step", and numbers.
    ranks : this process among others.
    """

    def __init__(
        self,
        task: Task | Flow,
        train: Rows,
        validation: Rows | None,
        settings: Settings,
        callbacks: Sequence[Callback] = (),
        ranks: Ranks | None = None,
    ) -> None:
        if len(train) < 1:
            raise ValueError("there are no rows to train on")
        self.task = task if isinstance(task, Task) else Density(task)
        self.network: Any = self.task.network
        if settings.compile:
            compiling.compile(self.network)
        if settings.recompute:
            try:
                compiling.recompute(self.network)
            except ValueError as error:
                raise UserError(f"train.recompute: {error}") from error
        if settings.precision == "bf16":
            try:
                compiling.bfloat16(self.network)
            except ValueError as error:
                raise UserError(f"train.precision: {error}") from error
        self.rows, self.validation, self.settings = train, validation, settings
        self.callbacks = list(callbacks)
        self.ranks = ranks or Ranks(0, 1, self.task.anchor.device)
        self.loss: nn.Module = self.task if self.ranks.count == 1 else DistributedDataParallel(self.task)
        self.parameters = [parameter for parameter in self.network.parameters() if parameter.numel() > 0]
        self.optimizer = settings.build_optimizer(self.parameters)
        self.step, self.best, self.since_best, self.seconds = 0, -math.inf, 0, 0.0
        # What was told of the training batches since the last record, added up, and their number.
        self.window = torch.zeros(len(self.task.told), dtype=torch.float64, device=self.ranks.device)
        self.counted = 0
        self.average = {key: value.detach().clone() for key, value in self.network.state_dict().items()}
        # Pairs of averaged and trained tensors, found once: both stay the same objects.
        pairs = [(self.average[key], value) for key, value in self.network.state_dict().items()]
        self._averaged = [pair for pair in pairs if pair[1].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[1].is_floating_point()]
        self.best_state: dict[str, Tensor] | None = None
        self._order: tuple[int, Tensor] | None = None
        self.stopped_early = False
        self.remember()

    def remember(self) -> None:
        """Take the present weights as good: what is gone back to if training diverges."""
        self._good = {key: value.detach().clone() for key, value in self.network.state_dict().items()}

    def places(self, step: int) -> Tensor:
        """Which rows make the batch of that step: each epoch in an order of its own, a function of (seed, epoch)."""
        size, count = min(self.settings.batch_size, len(self.rows)), len(self.rows)
        found, position = [], step * size
        while sum(map(len, found)) < size:
            epoch, offset = divmod(position, count)
            if self._order is None or self._order[0] != epoch:
                key = Noise(self.settings.seed).at(_BATCHES, epoch).seed
                self._order = (epoch, torch.randperm(count, generator=torch.Generator().manual_seed(key % 2**63)))
            part = self._order[1][offset : offset + size - sum(map(len, found))]
            found.append(part)
            position += len(part)
        return torch.cat(found)

    def run(
        self,
        until: int | None = None,
        save: Callable[[Trainer], None] | None = None,
        save_every: int | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train up to step ``until`` (None: to the end), calling ``save`` every ``save_every`` steps and when it ends.

        ``stop`` is asked after each step. Returns whether training is complete; the network then holds the best averaged weights.

        Raises
        ------
        Diverged
            If loss or gradient stop being finite; the network then holds the last state known to be good.
        """
        settings, last = self.settings, min(until or self.settings.steps, self.settings.steps)
        keep_freed_memory()
        began = time.monotonic() - self.seconds
        while self.step < last and not self.stopped_early:
            told, norm, halt = self._advance(stop())
            self.window, self.counted = self.window + told, self.counted + 1
            look = self.ranks.device.type == "cpu" or self.step % _CHECK_EVERY == 0 or self.step == last
            if look and not (math.isfinite(float(norm)) and math.isfinite(float(told[0]))):
                self._diverged(self.step)
            self.seconds = time.monotonic() - began
            if self.step % settings.log_every == 0 or self.step == settings.steps:
                means = dict(zip(self.task.told, (self.window / self.counted).tolist(), strict=True))
                self._tell("train", means | {"grad_norm": float(norm), "lr": settings.rate(self.step - 1)})
                self.window, self.counted = torch.zeros_like(self.window), 0
            if self.step % settings.validation_period == 0 or self.step == settings.steps:
                self.validate()
                self.seconds = time.monotonic() - began
                if settings.patience is not None and self.since_best >= settings.patience:
                    self.stopped_early = True
            if halt:
                break
            if save is not None and save_every and self.step % save_every == 0 and self.step < last:
                save(self)
        if save is not None:
            save(self)
        complete = self.step >= settings.steps or self.stopped_early
        if complete:
            self.network.load_state_dict(self.best_state or self.average)
            self.network.eval()
        return complete

    def best_network(self) -> Any:
        """A copy of the network with the best averaged weights so far, in evaluation mode."""
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.best_state or self.average)
        return network.eval()

    def _advance(self, stop: bool) -> tuple[Tensor, Tensor, bool]:
        """One optimiser step: means (k,) of what the task tells, the gradient's norm, and whether any rank wants to stop."""
        settings, step = self.settings, self.step
        self.network.train()
        everywhere = self.places(step)
        key = Noise(settings.seed).at(_PROBES, step)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        told = torch.zeros_like(self.window)
        mine = self.ranks.part(everywhere)  # no rows in a batch smaller than the number of ranks, which all the same wait
        parts = [part for part in mine.tensor_split(settings.accumulate) if len(part)] or [mine]
        for left, places in zip(reversed(range(len(parts))), parts, strict=True):
            batch = self.rows.batch(places, key, self.task.anchor)
            # Gradients of all parts add up; ranks wait for each other at the last only.
            with self.loss.no_sync() if left and isinstance(self.loss, DistributedDataParallel) else nullcontext():
                total, sums = self.loss(batch, Noise(key.at(0).seed, batch.rows))
                # The whole batch's mean on every rank: DDP averages over ranks, so each adds its share times their number.
                objective = total / len(everywhere) * self.ranks.count
                if settings.penalty and not left:
                    objective = objective + settings.penalty * penalty(self.network)
                objective.backward()
            told = told + sums
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        if self.ranks.device.type == "cpu" and not math.isfinite(float(norm)):
            self._diverged(step + 1)  # before the step, which would spread it to every weight
        torch.nn.utils.clip_grads_with_norm_(self.parameters, settings.clip, norm)
        self.optimizer.step()
        self.step += 1
        self._follow()
        told = told / len(everywhere)
        if self.ranks.count == 1:
            return told, norm, stop
        told = self.ranks.add(torch.cat((told, torch.full_like(told[:1], float(stop)))))
        return told[:-1], norm, bool(told[-1] > 0)

    def _follow(self) -> None:
        """Move the averaged weights; what is not a float (flags, counters) is copied, not averaged."""
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step)) if self.settings.ema else 0.0
        with torch.no_grad():
            for mine, theirs in self._copied:
                mine.copy_(theirs)
            mine, theirs = zip(*self._averaged, strict=True)
            torch._foreach_lerp_(mine, theirs, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def validate(self) -> None:
        """Figures of the averaged weights on the validation rows, shared among ranks; keeps the best."""
        if self.validation is None or len(self.validation) == 0:
            self.remember()
            self.best_state = {key: value.clone() for key, value in self.average.items()}
            return
        current = {key: value.detach().clone() for key, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        goodness, figures = self._judge(self.validation)
        better = goodness > self.best
        if better:
            self.best, self.since_best = goodness, 0
            self.best_state = {key: value.clone() for key, value in self.average.items()}
        else:
            self.since_best += 1
        self.network.load_state_dict(current)
        if math.isfinite(goodness):
            self.remember()
        self._tell("validation", figures | {"best": better})

    def _judge(self, rows: Rows) -> Judgement:
        """What held-out rows say, shared among ranks."""
        mine = rows if self.ranks.count == 1 else rows.take(self.ranks.part(torch.arange(len(rows))))
        # With fewer rows than ranks, one without rows measures the first for the shape of its zeros.
        sums = self.task.measure(mine if len(mine) else rows.take(torch.arange(1)), self.settings.seed) * bool(len(mine))
        return self.task.judge(self.ranks.add(sums.to(self.ranks.device)))

    def _tell(self, split: str, numbers: Record) -> None:
        record = {"split": split, "step": self.step, "seconds": round(self.seconds, 3), **numbers}
        for callback in self.callbacks:
            callback(record)

    def _diverged(self, step: int) -> None:
        where = first_bad(self.network, self.rows.batch(self.places(step - 1), Noise(), self.task.anchor))
        self.network.load_state_dict(self._good)
        for key, value in self._good.items():
            self.average[key].copy_(value)
        raise Diverged(
            f"training met a number that is not finite at step {step}, {where}; the last good weights are kept: "
            f"lower the learning rate (now {self.settings.lr:g}) or look at the data for extreme values"
        )
