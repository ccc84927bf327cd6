"""Training from Python in one call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .flow import Flow
from .settings import Settings
from .tasks.rows import Rows
from .train import Callback, Record, Trainer

if TYPE_CHECKING:
    from .progress import TrainingProgress

__all__ = ["fit"]


def fit(
    flow: Flow,
    x: Tensor,
    context: Tensor | None = None,
    *,
    steps: int = 2000,
    batch_size: int = 512,
    lr: float = 5e-3,
    seed: int = 0,
    validation: Tensor | tuple[Tensor, Tensor] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
    **settings: Any,
) -> list[Record]:
    """Initialise ``flow`` on x (N, *) if it is not yet, train it in place by maximum likelihood, and return the history.

    Parameters
    ----------
    flow : left in evaluation mode with the best averaged weights.
    x, context : rows (N, *) and, for a conditional flow, (N, C).
    steps, batch_size, lr, seed : see :class:`Settings`, as for the further ``settings``.
    validation : rows, or (rows, context), that choose the best weights; None keeps the last averaged ones.
    callbacks : called with each record.
    progress : show a bar on standard error, or a line for each validation where that is no terminal.

    Raises
    ------
    Diverged
        If loss or gradient stop being finite.
    """
    held = validation if isinstance(validation, tuple) or validation is None else (validation, None)
    history: list[Record] = []
    x, context = torch.as_tensor(x), None if context is None else torch.as_tensor(context)
    flow.initialize(x, context)
    shown: list[TrainingProgress] = []
    if progress:
        from .progress import TrainingProgress

        shown.append(TrainingProgress(steps, lambda value, *errors: f"{value:.4f} ± {math.hypot(*errors):.2g} nats"))
    trainer = Trainer(
        flow,
        Rows(x.cpu(), None if context is None else context.cpu()),
        None if held is None else Rows(held[0].cpu(), None if held[1] is None else held[1].cpu()),
        Settings(steps=steps, batch_size=batch_size, lr=lr, seed=seed, **settings),
        [history.append, *shown, *callbacks],
    )
    try:
        trainer.run()
    finally:
        for bar in shown:
            bar.close()
    return history
