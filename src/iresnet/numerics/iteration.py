r"""The loop of every solver of x + g(x) = y: points as the method proposes them, in the end a certified plain step.

For Lip(g) <= L < 1 and x+ = y - g(x), Banach's theorem bounds the error however x was found,

.. math:: \|x^+ - x^*\| \le \frac{L}{1-L} \|x^+ - x\| + \frac{\rho}{1-L},

with :math:`\rho` a bound of the rounding of one evaluation. Iterations run in float32 while that helps and then in float64,
because float32 alone could not promise better than about 1e-4. Every row is treated as if it were alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .logdet import lipschitz_of

__all__ = ["Method", "Plain", "certified", "lengths"]

# Evaluations without a shorter step after which a contraction is at the floor of the precision; looked at every so many.
_PATIENCE, _WINDOW = 28, 4

# A tolerance that nobody gave yields to rounding, but not without limit: what is left must still be an inverse.
_LARGEST = 1000.0

# Float32 is left at steps of so many units of its rounding: its noise is below them, and does not yet lead astray a method that
# remembers; plain steps may go nearer.
_NEAR, _NEAR_PLAIN = 32, 8

# Evaluations between two looks at the lengths of plain steps, which cost nearly as much as one in a small branch.
_LOOK = 2

# Rows that have stopped are dropped from the batch when they are this share of it: dropping copies all others.
_WORTH_DROPPING = 0.4


class Method(Protocol):
    """How the next point of each row is chosen; one object for one call of a solver, with what it remembers of each row."""

    guarded: bool  # whether a point may be worse than the plain one, and must be shown not to be
    products: int  # Jacobian products in a proposal, each of which counts as an evaluation

    def guess(self, function: Any, y: Tensor) -> Tensor | None:
        """Where to start (B, *) for y (B, *), or None for y itself."""
        ...

    def begin(self, function: Any, x: Tensor) -> None:
        """Rows x (B, *) are to be iterated: anew, or from where :meth:`keep` left each of them, in another precision."""
        ...

    def evaluate(self, function: Any, x: Tensor) -> Tensor:
        """g(x)."""
        ...

    def propose(self, x: Tensor, image: Tensor, residual: Tensor, refused: Tensor | None) -> Tensor:
        """The next point after x, with ``image`` y - g(x) and ``residual`` image - x; ``refused`` rows (indices) were worse."""
        ...

    def select(self, rows: Tensor) -> None:
        """Go on with these rows (indices) only."""
        ...

    def keep(self, rows: Tensor, places: Tensor) -> None:
        """Keep what is known of ``rows`` (indices) as those at ``places``, for the next :meth:`begin`."""
        ...


class Plain:
    """The plain iteration."""

    guarded, products = False, 0

    def guess(self, function: Any, y: Tensor) -> Tensor | None:
        return None

    def begin(self, function: Any, x: Tensor) -> None:
        return

    def evaluate(self, function: Any, x: Tensor) -> Tensor:
        return function(x)

    def propose(self, x: Tensor, image: Tensor, residual: Tensor, refused: Tensor | None) -> Tensor:
        return image

    def select(self, rows: Tensor) -> None:
        return

    def keep(self, rows: Tensor, places: Tensor) -> None:
        return


def _plain(method: Method) -> bool:
    return not (method.guarded or method.products)


def lengths(x: Tensor) -> Tensor:
    """2-norms (B,) of (B, *)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def certified(
    function: Any, y: Tensor, start: Tensor | None, tol: float | None, max_steps: int, method: Method
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value (B, *), bound of its error (B,), evaluations (B,) and whether the tolerance is met (B,); see :class:`Method`."""
    native = getattr(function, "dtype", y.dtype)
    final = torch.promote_types(y.dtype, native)
    # Autocast would round products.
    with torch.no_grad(), torch.autocast(y.device.type, enabled=False):
        movable = hasattr(function, "to") and y.device.type != "mps"
        wide, target = (function.to(torch.float64), y.double()) if movable else (function, y.to(native))
        wanted = tol if tol is not None else 1e-10 if native == torch.float64 else 1e-6
        aim = _Aim(wide, target, wanted, torch.finfo(final).eps if final != target.dtype else 0.0)
        x, steps = None if start is None else start.to(target.dtype), torch.zeros(len(y), dtype=torch.int64, device=y.device)
        if movable and start is None:
            units = _NEAR_PLAIN if _plain(method) else _NEAR
            near = aim.step().float().clamp(min=units * torch.finfo(torch.float32).eps)
            narrow = function.to(torch.float32)
            x, _, steps = _iterate(narrow, y.float(), None, aim.lipschitz, near, max_steps // 2, method, last=False)
            lost = ~torch.isfinite(lengths(x))[(...,) + (None,) * (y.dim() - 1)]  # beyond the range of float32
            x, max_steps = torch.where(lost, target, x.double()), max_steps - max_steps // 2
        x, step, taken = _iterate(wide, target, x, aim.lipschitz, aim.step(x), max_steps, method, last=True)
        value = x.to(final)
        bound, allowed = aim.judge(x, step, lengths(value.to(x.dtype) - x), bend=tol is None)
        return value, bound, taken + steps, (bound <= allowed) & torch.isfinite(bound)


@dataclass(frozen=True)
class _Aim:
    """How short a step must be for the error to be within ``tol * max(1, |x|)``, rounding included, and what was reached.

    ``cast`` is the relative rounding of the solution to the precision in which it is given.
    """

    function: Any
    y: Tensor
    tol: float
    cast: float

    @property
    def lipschitz(self) -> float:
        return lipschitz_of(self.function)

    def step(self, x: Tensor | None = None) -> Tensor:
        """Length (B,) relative to max(1, |x|): half of the tolerance for certain; with x, more where rounding needs less."""
        rest, constant = 1 - self.lipschitz, max(self.lipschitz, 1e-12)
        half = torch.full((len(self.y),), 0.5 * self.tol * (rest / constant if rest > 0 else 1.0)).to(self.y)
        if x is None or rest <= 0:
            return half
        rounding = self.rounding(x) / lengths(x).clamp(min=1.0) + rest * self.cast
        return torch.maximum(half, (0.98 * rest * self.tol - 1.02 * rounding) / constant)

    def judge(self, x: Tensor, step: Tensor, cast: Tensor, *, bend: bool) -> tuple[Tensor, Tensor]:
        """Bound of the error of x, whose step was ``step``, and what is allowed, which may ``bend`` to rounding."""
        rest, rounding = 1 - self.lipschitz, self.rounding(x)
        allowed = self.tol * lengths(x).clamp(min=1.0)
        if rest <= 0:
            return torch.full_like(step, math.inf), allowed
        # Rounding is bounded coarsely, and finely only for rows where it decides.
        poor = (self.lipschitz * step + rounding > rest * (allowed - cast)).nonzero()[:, 0]
        if len(poor):
            rounding[poor] = torch.minimum(rounding[poor], self.rounding(x, poor))
        if bend:
            allowed = torch.maximum(allowed, (3 * rounding / rest).minimum(_LARGEST * allowed))
        return ((self.lipschitz * step + rounding) / rest + cast).nan_to_num(nan=math.inf, posinf=math.inf), allowed

    def rounding(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """A bound (B,) of the rounding of one step y - g(x); finer for some ``rows``; an estimate if the function has none."""
        function, y = self.function, self.y
        if rows is not None:
            function, y, x = (function.select(rows) if hasattr(function, "select") else function), y[rows], x[rows]
        eps, size = torch.finfo(x.dtype).eps, lengths(x)
        if rows is None and hasattr(function, "coarse_rounding"):
            own = function.coarse_rounding(size)
        else:
            own = function.rounding(x) if hasattr(function, "rounding") else 64 * eps * math.sqrt(x.shape[1:].numel()) * size
        return own + 4 * eps * (lengths(y) + size)  # the difference y - g(x), and the length of the step


def _iterate(
    function: Any, y: Tensor, start: Tensor | None, lipschitz: float, goal: Tensor, max_steps: int, method: Method, *, last: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps until each row's is at most ``goal * max(1, |x|)``: x+ (B, *), |x+ - x| (B,), evaluations (B,).

    Before the ``last`` precision a row also stops where its steps no longer shrink, and x+ is where the next one goes on.
    """
    count, device = y.shape[0], y.device
    x, safe = (y, y) if start is None else (start, start)
    blind = _plain(method) and not last  # in float64, which only finishes, an evaluation costs more than looking
    if _plain(method) and max_steps > 0 and hasattr(function, "plain_steps"):
        looks = _LOOK if blind else 1
        done = function.plain_steps(y, x, goal.to(y), lipschitz < 1, last, max_steps, looks, _WINDOW, _PATIENCE)
        if done is not None:
            return done[0], done[1].nan_to_num(nan=math.inf), done[2]
    # The step at the last accepted point of each row; ``safe`` is that point's image, from which a refused row goes on.
    shortest = torch.full((count,), math.inf, dtype=y.dtype, device=device)
    shrink = min(lipschitz, 1.0) * (1 + min(1e-3, 0.1 * max(1 - lipschitz, 0.0)))  # room for rounding, and still below one
    if start is None and (guess := method.guess(function, y)) is not None:
        # A guess must be nearer to its image than to y, where its row starts otherwise.
        x, shortest = guess, lengths(guess - y) / max(shrink, 1e-3)
    found, found_step = x.clone(), torch.full_like(shortest, math.inf)
    taken, rows = torch.zeros(count, dtype=torch.int64, device=device), torch.arange(count, device=device)
    over, ended = torch.zeros(count, dtype=torch.bool, device=device), 0
    least, before, idle = found_step, found_step, torch.zeros_like(taken)
    method.begin(function, x)
    limit = (max_steps + (method.products if last else 0)) // (1 + method.products)
    for number in range(1, limit + 1):
        image = y - method.evaluate(function, x)
        if blind and number % _LOOK and number < limit:
            x = image
            continue
        residual = image - x
        step, size = lengths(residual), lengths(image).clamp_(min=1.0)
        stops, refused = step <= goal * size, None
        least = torch.fmin(least, step)
        if method.guarded and lipschitz < 1:
            worse = ~(step <= shrink * shortest) & (shortest < math.inf)
            stops &= ~worse
            if bool((worse & ~over).any()):
                refused = worse.nonzero()[:, 0]
        if number % _WINDOW == 0:
            idle, before = torch.where(least < before, 0, idle + _WINDOW), least
            stops |= ~(step < math.inf)
            if not last:
                stops |= (idle > 0) & (step < 1e-2 * size)
            if lipschitz < 1:  # a contraction's steps shrink, until they are rounding
                stops |= idle >= _PATIENCE
        new = (~over if number == limit else stops & ~over).nonzero()[:, 0]
        ended += len(new)
        # What nobody goes on from is not computed.
        proposal = image if last and ended == len(rows) else method.propose(x, image, residual, refused)
        if refused is not None:
            image[refused], step[refused] = safe[refused], shortest[refused] if number > 1 else math.inf
            proposal[refused] = safe[refused]
        safe, shortest = image, step
        if len(new):
            places = rows[new]
            found[places], found_step[places] = (image if last else proposal)[new], step[new]
            taken[places] = number + method.products * (number - 1 if last else number)
            if not last:
                method.keep(new, places)
            over[new] = True
        x = proposal
        if ended == len(rows):
            break
        if ended and ended >= _WORTH_DROPPING * len(rows):
            left, ended = (~over).nonzero()[:, 0], 0
            rows, x, y, over, safe, shortest = (part[left] for part in (rows, x, y, over, safe, shortest))
            least, before, idle, goal = least[left], before[left], idle[left], goal[left]
            function = function.select(left) if hasattr(function, "select") else function
            method.select(left)
    return found, found_step.nan_to_num(nan=math.inf), taken
