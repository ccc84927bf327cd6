r"""The inverse of x + g(x): the fixed point of x <- y - g(x), with a bound of its error.

For Lip(g) <= L < 1 Banach's theorem gives one solution x*, and for x+ = y - g(x) the a posteriori bound

.. math:: \|x^+ - x^*\| \le \frac{L}{1-L} \|x^+ - x\| + \frac{\rho}{1-L},

with :math:`\rho` a bound of the rounding of one evaluation. Every solver here ends with such a plain step, so the bound holds
however x was found: the loop that they share is :mod:`iresnet.numerics.iteration`. Others are in
:mod:`iresnet.numerics.anderson` and :mod:`iresnet.numerics.newton`, gradients in :mod:`iresnet.numerics.implicit`.

References
----------
Invertible Residual Networks (Behrmann et al., 2019), arXiv 1811.00995
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .iteration import Plain, certified, lengths

__all__ = ["NotConverged", "Picard", "Solution", "Solver", "a_priori_steps", "lengths"]

Function = Callable[[Tensor], Tensor]


class NotConverged(RuntimeError):
    """An inverse was asked for that could not be found with the error that was asked for. The message says what to try."""


@dataclass(frozen=True)
class Solution:
    """What a solver found for each row of a batch.

    ``value`` (B, *); ``error_bound`` (B,) is at least the 2-norm distance to the true solution (infinite where nothing is
    guaranteed); ``steps`` (B,) counts evaluations of the branch; ``converged`` (B,) tells whether the bound meets the tolerance.
    """

    value: Tensor
    error_bound: Tensor
    steps: Tensor
    converged: Tensor

    def check(self, where: str = "the map") -> Solution:
        """This solution, if every row converged.

        Raises
        ------
        NotConverged
            Naming ``where``, how many rows failed, the worst bound, and what to try.
        """
        failed = int((~self.converged).sum())
        if failed:
            worst = float(self.error_bound.nan_to_num(nan=math.inf, posinf=math.inf).max())
            told = (
                "its numbers are not finite, or nothing guarantees that it is contractive: train it with a constrained family, "
                "or pass throw=False"
                if math.isinf(worst)
                else f"worst error bound {worst:.2g} after {int(self.steps.max())} steps: raise max_steps or tol"
            )
            raise NotConverged(f"{where}: {failed} of {self.converged.numel()} rows not inverted; {told}")
        return self


class Solver(Protocol):
    """How x + g(x) = y is solved for x: a bound branch and y (B, *) in, a :class:`Solution` out."""

    def __call__(self, function: Function, y: Tensor, start: Tensor | None = None) -> Solution: ...


def a_priori_steps(lipschitz: float, first: float, tol: float) -> int:
    r"""Steps that suffice before any is taken: the least n with :math:`L^n \|x_1 - x_0\| / (1-L) \le` tol.

    Parameters
    ----------
    lipschitz : L in [0, 1).
    first : length of the first step, :math:`\|x_1 - x_0\|`.
    tol : error asked for, in the same units.

    Raises
    ------
    ValueError
        If L is not in [0, 1) or tol is not positive: no number of steps suffices.
    """
    if not (0 <= lipschitz < 1 and tol > 0):
        raise ValueError(f"no number of steps is known to suffice for a Lipschitz constant of {lipschitz} and tol {tol}")
    if first <= tol * (1 - lipschitz):
        return 0
    if lipschitz == 0:
        return 1
    return math.ceil(math.log(tol * (1 - lipschitz) / first) / math.log(lipschitz))


def check_solver(tol: float | None, max_steps: int) -> None:
    if (tol is not None and not tol > 0) or max_steps < 1:
        raise ValueError(f"a solver needs tol > 0 and max_steps >= 1, got {tol} and {max_steps}")


@dataclass(frozen=True)
class Picard:
    """The plain iteration x <- y - g(x), whose error shrinks by L or better at each step.

    Parameters
    ----------
    tol : error asked for, per row: at most ``tol * max(1, |x|)``. None: 1e-6 for float32 and 1e-10 for float64, or what rounding
        leaves possible if that is more, up to a thousand times that; either way the solution states its bound.
    max_steps : evaluations of the branch after which a row is given up; up to half of them in float32.

    Raises
    ------
    ValueError
        For a tolerance that is not positive, or no steps.
    """

    tol: float | None = None
    max_steps: int = 2000

    def __post_init__(self) -> None:
        check_solver(self.tol, self.max_steps)

    def __call__(self, function: Function, y: Tensor, start: Tensor | None = None) -> Solution:
        return Solution(*certified(function, y, start, self.tol, self.max_steps, Plain()))
