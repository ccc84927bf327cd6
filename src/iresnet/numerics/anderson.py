r"""Anderson's acceleration of x <- y - g(x), with a preconditioner from an affine model of the branch.

With f = y - g(x) - x, the last changes of x and f as columns of :math:`\Delta X, \Delta F`, and
:math:`\gamma = \arg\min |f - \Delta F \gamma|`, the next point is

.. math:: x - \Delta X \gamma + M (f - \Delta F \gamma), \qquad M \approx (I + J)^{-1},

each row for itself. M is the one of :mod:`iresnet.numerics.affine`, or the identity. The small least-squares problem is kept as
its Gram matrix, of which each step renews one row.

References
----------
| Iterative Procedures for Nonlinear Integral Equations (Anderson, 1965), doi 10.1145/321296.321305
| Anderson Acceleration for Fixed-Point Iterations (Walker and Ni, 2011), doi 10.1137/10078356X
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .affine import AffineInverse, affine_inverse
from .fixed_point import Function, Solution, check_solver
from .iteration import certified

__all__ = ["Anderson"]


@dataclass(frozen=True)
class Anderson:
    """Anderson's acceleration: the next point extrapolates the last ``memory`` steps, each row for itself.

    A point is kept only if its step is as short as the plain iteration guarantees; otherwise that row takes the plain step. So it
    needs at most twice the evaluations that are guaranteed to suffice for :class:`~iresnet.numerics.fixed_point.Picard`, and on
    trained flows little more than half of those that Picard in fact takes.

    Parameters
    ----------
    tol, max_steps : as for Picard.
    memory : steps that are extrapolated; in few dimensions d no more than d / 2 + 1, since old steps then are soon wrong.
    precondition : start from, and precondition with, an affine model of the branch, where it offers a cheap one (``surrogate``).
        Its fit costs an evaluation of 128 rows for each call, whatever the batch.

    Raises
    ------
    ValueError
        As Picard, and for a memory below one.
    """

    tol: float | None = None
    max_steps: int = 2000
    memory: int = 5
    precondition: bool = True

    def __post_init__(self) -> None:
        check_solver(self.tol, self.max_steps)
        if self.memory < 1:
            raise ValueError(f"Anderson needs memory >= 1, got {self.memory}; Picard is the plain iteration")

    def __call__(self, function: Function, y: Tensor, start: Tensor | None = None) -> Solution:
        return Solution(*certified(function, y, start, self.tol, self.max_steps, Mixing(self.memory, self.precondition)))


class Mixing:
    """What Anderson's acceleration remembers: a :class:`~iresnet.numerics.iteration.Method`.

    All of it is in tensors (k, B, w) or (k, l, B, w), so that rows are taken and put in one way.
    """

    guarded, products = True, 0

    def __init__(self, memory: int, precondition: bool) -> None:
        self.memory, self.precondition = memory, precondition
        self.model: AffineInverse | None = None
        self.doubted: Tensor | None = None  # rows whose affine model has misled them: they go on without it
        self.state: tuple[Tensor, ...] = ()
        self.kept: list[tuple[Tensor, tuple[Tensor, ...]]] = []
        self.pushed, self.filled, self.primed = 0, 0, False

    def guess(self, function: Any, y: Tensor) -> Tensor | None:
        if not self.precondition:
            return None
        self.model = affine_inverse(function, y)
        return None if self.model is None else self.model(y - self.model.offset)

    def begin(self, function: Any, x: Tensor) -> None:
        rows, width = x.shape[0], x.shape[1:].numel()
        if self.kept:
            order = torch.cat([places for places, _ in self.kept]).argsort()
            parts = zip(*(parts for _, parts in self.kept), strict=True)
            self.state = tuple(torch.cat(part, -2).index_select(-2, order).to(x.dtype) for part in parts)
            self.kept, self.filled, self.primed = [], self.memory, True
            self._look_for_doubts()
        else:
            m = self.memory = min(self.memory, max((width + 2) // 2, 1))
            large = (x.new_empty(shape) for shape in ((m, rows, width), (m, rows, width), *[(rows, width)] * 3))
            small = (x.new_zeros(shape) for shape in ((m, m, rows, 1), (m, rows, 1), (1, rows, 1)))
            self.state = (*large, *small)
            if self.precondition and self.model is None:
                self.model = affine_inverse(function, x)
        self.model = None if self.model is None else self.model.to(x.dtype)

    def evaluate(self, function: Any, x: Tensor) -> Tensor:
        return function(x)

    def propose(self, x: Tensor, image: Tensor, residual: Tensor, refused: Tensor | None) -> Tensor:
        changes, moves, old_x, old_f, old_push, gram, right, doubts = self.state
        x, f = x.flatten(1), residual.flatten(1)
        if refused is not None:
            doubts[:, refused] = 1.0
            self._look_for_doubts()
        push = f if self.model is None else self.model(f)
        if self.doubted is not None and self.model is not None:
            push[self.doubted] = f[self.doubted]
        if refused is not None and self.primed:
            # A refused point says that what is known of its row is wrong: go on from the last accepted one, with nothing else.
            x, f, push = x.clone(), f.clone(), push.clone()
            x[refused], f[refused], push[refused] = old_x[refused], old_f[refused], old_f[refused]
            old_push[refused] = old_f[refused]
            for part in (changes, moves, gram, right):
                part[..., refused, :] = 0.0
        proposal = x + push
        if self.primed:
            slot = self.pushed % self.memory
            self.pushed += 1
            self.filled = n = max(self.filled, min(self.pushed, self.memory))
            change = torch.sub(f, old_f, out=changes[slot])
            torch.sub(proposal, old_x, out=moves[slot]).sub_(old_push)
            now = (changes[:n] * f).sum(-1, keepdim=True)
            # dF_j . (f - f_last) is the difference of two such products, the older of which is known.
            renewed = now - right[:n]
            renewed[slot] = change.square().sum(-1, keepdim=True)
            gram[slot, :n] = gram[:n, slot] = renewed
            right[:n] = now
            for move, weight in zip(moves[:n], _least_squares(gram[:n, :n], now), strict=True):
                proposal.addcmul_(move, weight, value=-1)
        self.state = (changes, moves, x, f, push, gram, right, doubts)
        self.primed = True
        return proposal.reshape(image.shape)

    def select(self, rows: Tensor) -> None:
        self.state = tuple(part.index_select(-2, rows) for part in self.state)
        self._look_for_doubts()

    def keep(self, rows: Tensor, places: Tensor) -> None:
        for part in self.state[:2]:
            part[self.filled :] = 0.0
        self.kept.append((places, tuple(part.index_select(-2, rows) for part in self.state)))

    def _look_for_doubts(self) -> None:
        found = self.state[-1][0, :, 0].nonzero()[:, 0]
        self.doubted = found if len(found) else None


def _least_squares(gram: Tensor, right: Tensor) -> list[Tensor]:
    r"""The n entries (B, 1) of gamma in ``gram`` (n, n, B, 1) gamma = ``right`` (n, B, 1); a change without length gets 0.

    By :math:`L D L^T`, unrolled over the few columns: every entry is a vector over the rows of the batch. A change that the
    earlier ones explain, to rounding, gets 0 too.
    """
    n, least = len(gram), 10 * torch.finfo(gram.dtype).eps
    entries: dict[tuple[int, int], Tensor] = {}
    lower: dict[tuple[int, int], Tensor] = {}
    inverse: list[Tensor] = []
    solved: list[Tensor] = []
    for i in range(n):
        pivot, value = gram[i, i], right[i]
        for j in range(i):
            entry = gram[i, j]
            for k in range(j):
                entry = entry - entries[i, k] * lower[j, k]
            entries[i, j], lower[i, j] = entry, entry * inverse[j]
            pivot, value = pivot - lower[i, j] * entry, value - lower[i, j] * solved[j]
        inverse.append(torch.where(pivot > least * gram[i, i], 1 / pivot, 0.0))
        solved.append(value)
    gamma = [value * factor for value, factor in zip(solved, inverse, strict=True)]
    for i in reversed(range(n)):
        for j in range(i + 1, n):
            gamma[i] = gamma[i] - lower[j, i] * gamma[j]
    return gamma
