"""Residual blocks of a chain that were evaluated and wait, so that several log-determinants are found by the same calls."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ..numerics.logdet import Estimate, LogDet, lipschitz_of
from ..numerics.noise import Noise
from .residual import ResidualTransform

__all__ = ["Waiting"]

# Numbers of one layer of all blocks that wait. On a CPU more of them would fall out of the cache between two products; elsewhere
# they are what one call should have to do.
_ENTRIES, _ENTRIES_ELSEWHERE = 2**18, 2**22


class Waiting:
    """Blocks of a chain whose log-determinants the estimator ``logdet`` finds, of several at once where it can.

    How many wait together depends on the machine and on the rows that a process has of a batch. No number does: a roulette that
    may be played for several blocks draws once for all of a chain: ``luck``.
    """

    def __init__(self, logdet: LogDet, luck: float) -> None:
        self._logdet: Any = logdet
        self._luck = luck
        self._opened: list[tuple[Any, float, Noise]] = []
        self._estimates: list[Estimate] = []

    def take(self, block: ResidualTransform, x: Tensor, noise: Noise) -> Tensor:
        """What that block makes of x; its log-determinant may have to wait until :meth:`finish`."""
        joins = getattr(self._logdet, "joins", None)
        if joins is None or block.bf16 or not joins(block.bound, x, noise):
            return self._alone(block, x, noise, self._logdet)
        room = _room(block.bound, x)
        if room < 2:  # large enough for a node of its own, which is a little faster
            return self._alone(block, x, noise, partial(self._logdet, luck=self._luck))
        bound: Any = block.bound
        opened, constant = bound.open(x), lipschitz_of(bound)
        if self._opened:
            first, its_constant, _ = self._opened[0]
            if len(self._opened) >= room or (first.kind, its_constant) != (opened.kind, constant):
                self._settle()
        self._opened.append((opened, constant, noise))
        return x + opened.value

    def _alone(self, block: ResidualTransform, x: Tensor, noise: Noise, logdet: LogDet) -> Tensor:
        value, estimate = block.forward_and_logdet(x, logdet, noise)
        self._estimates.append(estimate)
        return value

    def finish(self) -> list[Estimate]:
        """The log-determinants of all blocks taken, some of them in sums."""
        if self._opened:
            self._settle()
        return self._estimates

    def _settle(self) -> None:
        opened, constants, noises = zip(*self._opened, strict=True)
        self._opened = []
        self._estimates.append(self._logdet.joint(opened[0].join(opened), constants[0], noises, self._luck)[1])


def _room(bound: Any, x: Tensor) -> int:
    """How many blocks may wait together; none of a batch without rows, which cannot be told apart."""
    return (_ENTRIES if x.device.type == "cpu" else _ENTRIES_ELSEWHERE) // (len(x) * bound.widest) if len(x) else 0
