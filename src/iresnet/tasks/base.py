"""What a task is: the whole loss of a batch as one module, and the honest figures of held-out rows.

The training loop knows no task. It adds up what :meth:`Task.forward` and :meth:`Task.measure` return, over steps and over ranks,
and asks :meth:`Task.judge` what the sums say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from ..numerics.noise import Noise
from .rows import Batch, Rows

__all__ = ["Judgement", "Task"]


class Judgement(NamedTuple):
    """What held-out rows say of a network: ``goodness``, larger is better, and the figures with their errors by name."""

    goodness: float
    figures: dict[str, float]


class Task(nn.Module, ABC):
    """What ``network`` is trained for. A module, so that data-parallel training sees all of the loss.

    The network is a :class:`~iresnet.flow.Flow` or a classifier: a module with an ``anchor``, a tensor of the dtype and on the
    device in which it computes. ``told`` names what :meth:`forward` reports of a training batch; the first is "loss".
    """

    told: ClassVar[tuple[str, ...]] = ("loss",)

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    @property
    def anchor(self) -> Tensor:
        """The network's."""
        return self.network.anchor

    @abstractmethod
    def forward(self, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        """The sum over rows of the loss in nats, to be differentiated, and sums (k,) in float64 of what is ``told``.

        The two differ where the loss is a surrogate: what is told is what is meant.
        """

    @abstractmethod
    def measure(self, rows: Rows, seed: int) -> Tensor:
        """Sums over held-out rows (k,) in float64, which add up over ranks to what :meth:`judge` reads."""

    @abstractmethod
    def judge(self, sums: Tensor) -> Judgement:
        """What the sums of :meth:`measure` over all held-out rows say."""
