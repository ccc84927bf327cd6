"""The training loop: one that a reader understands, and that goes on after a crash as if nothing had been.

All randomness is a function of (seed, step, global row): which rows make a batch, their dequantisation, the probes. So resuming
needs no generator's state, only the step, and the result is the same bit for bit on the same number of ranks (on a CPU).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .contract.branches import penalty
from .flow import Flow
from .guard import Diverged, first_bad
from .numerics.logdet import LogDet
from .numerics.noise import Noise
from .numerics.series import PowerSeries
from .parallel import Ranks
from .settings import Settings
from .tasks.density import DensityLoss, Figure, evaluate
from .tasks.rows import Rows

__all__ = ["Diverged", "Settings", "Trainer"]

Record = dict[str, Any]
Callback = Callable[[Record], None]

_BATCHES, _PROBES = 2, 3  # places of a step's noise
_CHECK_EVERY = 16  # on a GPU: looking at the loss makes the host wait


class Trainer:
    """Trains a flow on rows; :func:`iresnet.fit` and the command line are thin clothes around it.

    Parameters
    ----------
    flow : set up by ``flow.initialize``; trained in place. At the end it holds the best averaged weights.
    train, validation : rows; without validation the last averaged weights are kept.
    settings : how.
    callbacks : each is called with every record: a dict with "split" ("train" or "validation"), "step", and numbers.
    ranks : this process among others.
    """

    def __init__(
        self,
        flow: Flow,
        train: Rows,
        validation: Rows | None,
        settings: Settings,
        callbacks: Sequence[Callback] = (),
        ranks: Ranks | None = None,
    ) -> None:
        if len(train) < 1:
            raise ValueError("there are no rows to train on")
        self.flow, self.rows, self.validation, self.settings = flow, train, validation, settings
        self.callbacks = list(callbacks)
        self.ranks = ranks or Ranks(0, 1, flow.base.anchor.device)
        loss = DensityLoss(flow)
        alone = self.ranks.count == 1
        self.loss: nn.Module = loss if alone else DistributedDataParallel(loss)
        self.parameters = [parameter for parameter in flow.parameters() if parameter.numel() > 0]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay)
        self.step, self.best, self.since_best, self.seconds = 0, -math.inf, 0, 0.0
        self.window: Tensor | float = 0.0  # losses added up, and their number, since the last training record
        self.counted = 0
        self.average = {key: value.detach().clone() for key, value in flow.state_dict().items()}
        self.best_state: dict[str, Tensor] | None = None
        self.logdet: LogDet | None = (
            flow.train_logdet if not isinstance(flow.train_logdet, PowerSeries) else PowerSeries(probes=2, tol=1e-3)
        )
        self._order: tuple[int, Tensor] | None = None
        self.stopped_early = False
        self.remember()

    def remember(self) -> None:
        """Take the present weights as good: what is gone back to if training diverges."""
        self._good = {key: value.detach().clone() for key, value in self.flow.state_dict().items()}

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

        ``stop`` is asked after each step. Returns whether training is complete; the flow then holds the best averaged weights.

        Raises
        ------
        Diverged
            If loss or gradient stop being finite; the flow then holds the last state known to be good.
        """
        settings, last = self.settings, min(until or self.settings.steps, self.settings.steps)
        began = time.monotonic() - self.seconds
        while self.step < last and not self.stopped_early:
            loss, norm, halt = self._advance(stop())
            self.window, self.counted = self.window + loss, self.counted + 1
            look = self.ranks.device.type == "cpu" or self.step % _CHECK_EVERY == 0 or self.step == last
            if look and not (math.isfinite(float(norm)) and math.isfinite(float(loss))):
                self._diverged(self.step)
            self.seconds = time.monotonic() - began
            if self.step % settings.log_every == 0 or self.step == settings.steps:
                record = {"loss": float(self.window) / self.counted, "grad_norm": float(norm), "lr": settings.rate(self.step - 1)}
                self._tell("train", record)
                self.window, self.counted = 0.0, 0
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
            self.flow.load_state_dict(self.best_state or self.average)
            self.flow.eval()
        return complete

    def best_flow(self) -> Flow:
        """A copy of the flow with the best averaged weights so far, in evaluation mode."""
        flow = copy.deepcopy(self.flow)
        flow.load_state_dict(self.best_state or self.average)
        return flow.eval()

    def _advance(self, stop: bool) -> tuple[Tensor, Tensor, bool]:
        """One optimiser step: the mean loss in nats (user's units), the gradient's norm, and whether any rank wants to stop."""
        settings, step = self.settings, self.step
        self.flow.train()
        everywhere = self.places(step)
        key = Noise(settings.seed).at(_PROBES, step)
        like = self.flow.base.anchor
        batch = self.rows.batch(self.ranks.part(everywhere), key, like)
        # The whole batch's mean on every rank: DDP averages over ranks, so each adds its share times their number.
        total = self.loss(batch.x, batch.context, Noise(key.at(0).seed, batch.rows)) / len(everywhere)
        objective = total * self.ranks.count
        if settings.penalty:
            objective = objective + settings.penalty * penalty(self.flow)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        objective.backward()
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        if self.ranks.device.type == "cpu" and not math.isfinite(float(norm)):
            self._diverged(step + 1)  # before the step, which would spread it to every weight
        torch.nn.utils.clip_grads_with_norm_(self.parameters, settings.clip, norm)
        self.optimizer.step()
        self.step += 1
        self._follow()
        loss = total.detach().double() - batch.log_jacobian.double().sum() / len(everywhere)
        if self.ranks.count == 1:
            return loss, norm, stop
        told = self.ranks.add(torch.stack([loss, torch.full_like(loss, float(stop))]))
        return told[0], norm, bool(told[1] > 0)

    def _follow(self) -> None:
        """Move the averaged weights; what is not a float (flags, counters) is copied, not averaged."""
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step)) if self.settings.ema else 0.0
        with torch.no_grad():
            mine, theirs = [], []
            for key, value in self.flow.state_dict().items():
                if value.is_floating_point():
                    mine.append(self.average[key])
                    theirs.append(value)
                else:
                    self.average[key].copy_(value)
            torch._foreach_lerp_(mine, theirs, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def validate(self) -> None:
        """Figures of the averaged weights on the validation rows, shared among ranks; keeps the best."""
        if self.validation is None or len(self.validation) == 0:
            self.remember()
            self.best_state = {key: value.clone() for key, value in self.average.items()}
            return
        current = {key: value.detach().clone() for key, value in self.flow.state_dict().items()}
        self.flow.load_state_dict(self.average)
        figure = self._figure()
        better = figure.value > self.best
        if better:
            self.best, self.since_best = figure.value, 0
            self.best_state = {key: value.clone() for key, value in self.average.items()}
        else:
            self.since_best += 1
        self.flow.load_state_dict(current)
        if math.isfinite(figure.value):
            self.remember()
        record = {"log_prob": figure.value, "stderr_estimator": figure.stderr_estimator}
        self._tell("validation", record | {"stderr_data": figure.stderr_data, "bias": figure.bias, "best": better})

    def _figure(self) -> Figure:
        assert self.validation is not None
        rows = self.validation
        if self.ranks.count > 1:
            mine = self.ranks.part(torch.arange(len(rows)))
            numbers = mine if rows.numbers is None else rows.numbers[mine]
            rows = Rows(rows.values[mine], None if rows.context is None else rows.context[mine], rows.schema, numbers)
        figure, values = evaluate(self.flow, rows, logdet=self.logdet, seed=self.settings.seed, dtype=self.flow.base.anchor.dtype)
        if self.ranks.count == 1:
            return figure
        count = len(values)
        sums = torch.tensor(
            [count, values.sum(), values.square().sum(), (figure.stderr_estimator * count) ** 2, figure.bias * count],
            dtype=torch.float64,
            device=self.ranks.device,
        )
        total, first, second, squares, bias = self.ranks.add(sums).tolist()
        mean = first / total
        spread = math.sqrt(max(second / total - mean**2, 0.0) / max(total - 1, 1))
        return Figure(mean, math.sqrt(squares) / total, spread, bias / total, int(total))

    def _tell(self, split: str, numbers: Record) -> None:
        record = {"split": split, "step": self.step, "seconds": round(self.seconds, 3), **numbers}
        for callback in self.callbacks:
            callback(record)

    def _diverged(self, step: int) -> None:
        where = first_bad(self.flow, self.rows.batch(self.places(step - 1), Noise(), self.flow.base.anchor))
        self.flow.load_state_dict(self._good)
        self.average = {key: value.clone() for key, value in self._good.items()}
        raise Diverged(
            f"training met a number that is not finite at step {step}, {where}; the last good weights are kept: "
            f"lower the learning rate (now {self.settings.lr:g}) or look at the data for extreme values"
        )
