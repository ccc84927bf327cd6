"""Residual blocks of a chain that were evaluated and wait, so that several log-determinants are found by the same calls."""

from __future__ import annotations

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
    """The blocks that wait for the estimator ``logdet``, if it can take several at once."""

    def __init__(self, logdet: LogDet) -> None:
        self._logdet: Any = logdet
        self._opened: list[tuple[Any, float, Noise]] = []
        self._estimates: list[Estimate] = []

    def takes(self, block: ResidualTransform, x: Tensor, noise: Noise) -> bool:
        """Whether that block may wait, and is small enough for it to be worth while."""
        joins = getattr(self._logdet, "joins", None)
        return joins is not None and not block.bf16 and joins(block.bound, x, noise) and _room(block.bound, x) > 1

    def take(self, block: ResidualTransform, x: Tensor, noise: Noise) -> Tensor:
        """g(x) of a block, which waits from now on."""
        bound: Any = block.bound
        opened = bound.open(x)
        if self._opened and (self._opened[0][0].kind != opened.kind or len(self._opened) >= _room(bound, x)):
            self._settle()
        self._opened.append((opened, lipschitz_of(bound), noise))
        return opened.value

    def finish(self) -> list[Estimate]:
        """The log-determinants of all that were taken, in sums."""
        if self._opened:
            self._settle()
        return self._estimates

    def _settle(self) -> None:
        opened, constants, noises = zip(*self._opened, strict=True)
        self._opened = []
        self._estimates.append(self._logdet.joint(opened[0].join(opened), max(constants), noises))


def _room(bound: Any, x: Tensor) -> int:
    """How many blocks may wait together; none of a batch without rows, which cannot be told apart."""
    return (_ENTRIES if x.device.type == "cpu" else _ENTRIES_ELSEWHERE) // (len(x) * bound.widest) if len(x) else 0
