"""Training from Python in one call."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .bases import NormalMixture
from .errors import UserError
from .flow import Flow
from .settings import Settings
from .tasks.rows import Rows
from .train import Callback, Record, Trainer

if TYPE_CHECKING:
    from .progress import TrainingProgress

__all__ = ["fit", "start"]

_MOST = 50_000  # latents that EM sees


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
    start(flow, x, context, seed=seed)
    shown: list[TrainingProgress] = []
    if progress:
        from .progress import TrainingProgress, told_in

        shown.append(TrainingProgress(steps, told_in(lambda value, error: f"{value:.4f} ± {error:.2g} nats")))
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


def start(flow: Flow, x: Tensor, context: Tensor | None = None, *, seed: int = 0) -> None:
    """Set what depends on data x (N, *), once: ``flow.initialize``, and a mixture base by EM on the latents.

    New blocks are the identity, so a flow over a mixture starts at the mixture's density. EM is that of scikit-learn's
    ``GaussianMixture``, with its defaults and ``seed``, on at most 50,000 latents, evenly spaced. The base of a conditional flow
    knows no context: its mixture is that of all latents.

    Raises
    ------
    UserError
        If the mixture has more components than there are rows.
    """
    z, base = flow.initialize(x, context), flow.base
    if not isinstance(base, NormalMixture) or bool(base.initialized):
        return
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if len(z) < base.components:
        raise UserError(f"a mixture of {base.components} components needs as many rows, got {len(z)}; give fewer components")
    count = min(len(z), _MOST)
    places = torch.arange(count) * len(z) // count
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # training goes on where EM stopped
        found = GaussianMixture(base.components, random_state=seed % 2**32).fit(z.flatten(1).cpu().double()[places].numpy())
    base.set(torch.from_numpy(found.weights_), torch.from_numpy(found.means_), torch.from_numpy(found.covariances_))
