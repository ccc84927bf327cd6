r"""The inverse of x + g(x): the fixed point of x <- y - g(x), with a bound of its error.

For Lip(g) <= L < 1 Banach's theorem gives one solution x*, and for x+ = y - g(x) the a posteriori bound

.. math:: \|x^+ - x^*\| \le \frac{L}{1-L} \|x^+ - x\| + \frac{\rho}{1-L},

with :math:`\rho` a bound of the rounding of one evaluation. Every solver here ends with such a plain step, so the bound holds
however x was found. Iterations run in the precision of the branch; the last ones in float64, because float32 alone could not
promise better than about 1e-4. Gradients are in :mod:`iresnet.numerics.implicit`.

References
----------
| Invertible Residual Networks (Behrmann et al., 2019), arXiv 1811.00995
| Iterative Procedures for Nonlinear Integral Equations (Anderson, 1965), doi 10.1145/321296.321305
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .anderson import History
from .logdet import lipschitz_of

__all__ = ["Anderson", "NotConverged", "Picard", "Solution", "Solver", "a_priori_steps", "lengths"]

Function = Callable[[Tensor], Tensor]

# Evaluations without a shorter step after which a contraction is at the floor of the precision.
_PATIENCE = 30

# A tolerance that nobody gave yields to rounding, but not without limit: what is left must still be an inverse.
_LARGEST = 1000.0


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


def _check(tol: float | None, max_steps: int) -> None:
    if (tol is not None and not tol > 0) or max_steps < 1:
        raise ValueError(f"a solver needs tol > 0 and max_steps >= 1, got {tol} and {max_steps}")


@dataclass(frozen=True)
class Picard:
    """The plain iteration x <- y - g(x), whose error shrinks by L or better at each step.

    Parameters
    ----------
    tol : error asked for, per row: at most ``tol * max(1, |x|)``. None: 1e-6 for float32 and 1e-10 for float64, or what rounding
        leaves possible if that is more, up to a thousand times that; either way the solution states its bound.
    max_steps : evaluations of the branch in float64 after which a row is given up; in a narrower precision up to half as many
        go before them.

    Raises
    ------
    ValueError
        For a tolerance that is not positive, or no steps.
    """

    tol: float | None = None
    max_steps: int = 2000

    def __post_init__(self) -> None:
        _check(self.tol, self.max_steps)

    def __call__(self, function: Function, y: Tensor, start: Tensor | None = None) -> Solution:
        return _solve(function, y, start, self.tol, self.max_steps, memory=0)


@dataclass(frozen=True)
class Anderson:
    """Anderson's acceleration: the next point extrapolates the last ``memory`` steps, each row for itself.

    A point is kept only if its step is as short as the plain iteration guarantees; otherwise that row takes the plain step. So it
    needs at most twice the evaluations that are guaranteed to suffice for :class:`Picard`, and on trained flows about two thirds
    of those that Picard in fact takes. Each costs a small least-squares problem more, so it pays where a branch is expensive.
    Parameters as there.

    References
    ----------
    Anderson Acceleration for Fixed-Point Iterations (Walker and Ni, 2011), doi 10.1137/10078356X
    """

    tol: float | None = None
    max_steps: int = 2000
    memory: int = 5

    def __post_init__(self) -> None:
        _check(self.tol, self.max_steps)
        if self.memory < 1:
            raise ValueError(f"Anderson needs memory >= 1, got {self.memory}; Picard is the plain iteration")

    def __call__(self, function: Function, y: Tensor, start: Tensor | None = None) -> Solution:
        return _solve(function, y, start, self.tol, self.max_steps, memory=self.memory)


def lengths(x: Tensor) -> Tensor:
    """2-norms (B,) of (B, *)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def _solve(function: Any, y: Tensor, start: Tensor | None, tol: float | None, max_steps: int, memory: int) -> Solution:
    """Iterate in the precision of the branch while that helps, then in float64 until the bound meets the tolerance."""
    narrow = getattr(function, "dtype", y.dtype)
    given, lipschitz = tol is not None, lipschitz_of(function)
    tol = tol if tol is not None else 1e-10 if narrow == torch.float64 else 1e-6
    # Autocast would round products, and there is no solving of small systems in bfloat16.
    with torch.no_grad(), torch.autocast(y.device.type, enabled=False):
        wide_type = torch.float64 if hasattr(function, "to") and y.device.type != "mps" else narrow
        wide = function.to(wide_type) if hasattr(function, "to") else function
        target, x = y.to(wide_type), (y if start is None else start).to(wide_type)
        # The step that a certified row must have: L / (1 - L) |x+ - x| <= tol / 2. The other half is for rounding; where that
        # asks for more, twice rounding's share is above the bound: no row falls between the two tests of convergence below.
        factor = lipschitz / (1 - lipschitz) if lipschitz < 1 else 1.0
        goal = 0.5 * tol / max(factor, 1e-12)
        steps = torch.zeros(y.shape[0], dtype=torch.int64, device=y.device)
        if narrow != wide_type:
            floor = max(goal, 64 * torch.finfo(narrow).eps)
            x, _, taken = _iterate(
                function, target.to(narrow), x.to(narrow), lipschitz, floor, max_steps // 2, memory, stall=True
            )
            x, steps = x.to(wide_type), steps + taken
        x, step, taken = _iterate(wide, target, x, lipschitz, goal, max_steps, memory, stall=False)
        steps += taken
        rounding = _rounding(wide, target, x)
        bound = (lipschitz * step + rounding) / (1 - lipschitz) if lipschitz < 1 else torch.full_like(step, math.inf)
        value = x.to(torch.promote_types(y.dtype, narrow))
        if value.dtype != x.dtype:
            bound = bound + lengths(value.to(x.dtype) - x)
        bound = bound.nan_to_num(nan=math.inf, posinf=math.inf)
        allowed = tol * lengths(x).clamp(min=1.0)
        if not given and lipschitz < 1:
            allowed = torch.maximum(allowed, (3 * rounding / (1 - lipschitz)).minimum(_LARGEST * allowed))
        return Solution(value, bound, steps, bound <= allowed)


def _rounding(function: Any, y: Tensor, x: Tensor) -> Tensor:
    """A bound (B,) of the rounding of one step x+ = y - g(x); an estimate for a callable that does not bound its own."""
    eps = torch.finfo(x.dtype).eps
    own = function.rounding(x) if hasattr(function, "rounding") else 64 * eps * math.sqrt(x[0].numel()) * lengths(x)
    return own + 4 * eps * (lengths(y) + lengths(x))  # the difference y - g(x), and the length of the step


def _iterate(
    function: Any, y: Tensor, x: Tensor, lipschitz: float, goal: float, max_steps: int, memory: int, *, stall: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Plain or accelerated steps until each row's step is at most ``goal * max(1, |x|)``: x+ (B, *), |x+ - x| (B,), steps (B,).

    Every row is treated as if it were alone: it stops by itself, and rows that have stopped are dropped from the batch.
    With ``stall`` a row also stops when its steps no longer shrink, as they do at the floor of the precision.
    """
    found, found_step = x.clone(), torch.full_like(lengths(x), math.inf)
    taken = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    rows = torch.arange(x.shape[0], device=x.device)
    # A safe row has the last accepted image and its step's length to fall back on.
    safe_image, safe_step = x, found_step
    stale = torch.zeros_like(taken)
    history = History(memory)
    for _ in range(max_steps):
        image = y - function(x)
        step = lengths(image - x)
        taken[rows] += 1
        # An extrapolated point whose step is longer than L times the last is refused: the plain step from there is shorter.
        refused = (
            step > min(lipschitz, 1.0) * safe_step * (1 + 1e-3)
            if memory and lipschitz < 1
            else torch.zeros_like(step, dtype=torch.bool)
        )
        kept = ~refused
        shorter = step < safe_step
        found[rows[kept]], found_step[rows[kept]] = image[kept], step[kept]
        done = kept & ((step <= goal * lengths(image).clamp(min=1.0)) | ~torch.isfinite(step))
        if lipschitz < 1:  # a contraction's steps shrink, until they are rounding
            stale = torch.where(kept & shorter, 0, stale + 1)
            done |= stale >= _PATIENCE
        if stall:
            done |= kept & ~shorter & (step < 1e-2 * lengths(image).clamp(min=1.0))
        mask = _like(refused, x)
        history.push(x, image - x, refused)
        proposal = history.propose(image) if memory else image
        x = torch.where(mask, safe_image, proposal)
        safe_image, safe_step = torch.where(mask, safe_image, image), torch.where(refused, safe_step, step)
        remaining = int((~done).sum())
        if remaining == 0:
            break
        if remaining < done.numel():
            left = ~done
            rows, x, y, stale = rows[left], x[left], y[left], stale[left]
            safe_image, safe_step = safe_image[left], safe_step[left]
            function = function.select(left) if hasattr(function, "select") else function
            history.select(left)
    return found, found_step, taken


def _like(mask: Tensor, x: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (x.dim() - 1))
