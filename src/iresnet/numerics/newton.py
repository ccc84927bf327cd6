r"""Newton's method on x + g(x) = y, its linear systems solved by a few Krylov steps with Jacobian products only.

:math:`(I + J) \delta = f` with f = y - x - g(x) is solved for each row by the generalised conjugate residual method (GCR, with
the iterates of GMRES), preconditioned by the affine model of the branch where it offers one. No Jacobian is formed; in d
dimensions d products solve the system.

References
----------
| Variational Iterative Methods for Nonsymmetric Systems of Linear Equations (Eisenstat et al., 1983), doi 10.1137/0720023
| Jacobian-free Newton-Krylov methods (Knoll and Keyes, 2004), doi 10.1016/j.jcp.2003.08.010
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .affine import AffineInverse, affine_inverse
from .fixed_point import Function, Solution, check_solver
from .iteration import certified
from .linearize import Linearization, linearize

__all__ = ["NewtonKrylov"]


@dataclass(frozen=True)
class NewtonKrylov:
    """Newton's method with ``products`` Jacobian products a step, each row for itself, ended by a certified plain step.

    It needs no memory of earlier steps, but a product counts as an evaluation in ``steps`` (for dense branches it costs about
    three quarters of one, for a callable without derivatives of its own several), so that Anderson's acceleration, which learns
    from evaluations alone, needs fewer. A point whose step is longer than the plain iteration guarantees is refused, and that
    row takes the plain step.

    Parameters
    ----------
    tol, max_steps : as for :class:`~iresnet.numerics.fixed_point.Picard`, products included.
    products : Jacobian products a step, at most the number of entries of a row.

    Raises
    ------
    ValueError
        As Picard, and for less than one product.
    """

    tol: float | None = None
    max_steps: int = 2000
    products: int = 2

    def __post_init__(self) -> None:
        check_solver(self.tol, self.max_steps)
        if self.products < 1:
            raise ValueError(f"NewtonKrylov needs products >= 1, got {self.products}; Picard is the iteration without")

    def __call__(self, function: Function, y: Tensor, start: Tensor | None = None) -> Solution:
        products = min(self.products, max(y.shape[1:].numel(), 1))
        return Solution(*certified(function, y, start, self.tol, self.max_steps, _Newton(products)))


class _Newton:
    """What Newton's method remembers from the evaluation to the step: a :class:`~iresnet.numerics.iteration.Method`."""

    guarded = True

    def __init__(self, products: int) -> None:
        self.products = products
        self.model: AffineInverse | None = None
        self.at: Linearization | None = None

    def guess(self, function: Any, y: Tensor) -> Tensor | None:
        self.model = affine_inverse(function, y)
        return None if self.model is None else self.model(y - self.model.offset)

    def begin(self, function: Any, x: Tensor) -> None:
        self.model = self.model.to(x.dtype) if self.model is not None else affine_inverse(function, x)

    def evaluate(self, function: Any, x: Tensor) -> Tensor:
        self.at = linearize(function, x)
        return self.at.value

    def propose(self, x: Tensor, image: Tensor, residual: Tensor, refused: Tensor | None) -> Tensor:
        assert self.at is not None  # evaluate comes first
        return x + krylov_step(self.at.jvp, residual, self.products, self.model)

    def select(self, rows: Tensor) -> None:
        return

    def keep(self, rows: Tensor, places: Tensor) -> None:
        return


def krylov_step(jvp: Any, right: Tensor, products: int, model: AffineInverse | None = None) -> Tensor:
    r"""About :math:`(I + J)^{-1}` ``right`` (B, *), by ``products`` steps of GCR for each row."""
    shape, rest = right.shape, right.flatten(1)
    solution = torch.zeros_like(rest)
    past: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(products):
        move = rest if model is None else model(rest)
        change = move + jvp(move.reshape(shape)).flatten(1)
        for old_move, old_change, size in past:
            overlap = (change * old_change).sum(1, keepdim=True) / size
            move, change = move - overlap * old_move, change - overlap * old_change
        size = change.square().sum(1, keepdim=True).clamp(min=torch.finfo(right.dtype).tiny)
        weight = (rest * change).sum(1, keepdim=True) / size
        solution, rest = solution + weight * move, rest - weight * change
        past.append((move, change, size))
    return solution.reshape(shape)
