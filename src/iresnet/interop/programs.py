r"""What is exported of a flow, as modules that a tracer can follow: encode, log p, decode.

Decoding iterates x <- z - g(x) in each block in a loop that stops by tolerance: a row is done where Banach's bound
:math:`\frac{L}{1-L} \|x^+ - x\|` is below it or where steps no longer shrink, and then stays as it is, so that its result does
not depend on other rows. Determinants are found by elimination where the runtime has no factorisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop

from ..bijections.base import Transform
from ..bijections.chain import ChainTransform
from ..bijections.reshape import SplitTransform
from ..flow import Flow
from ..numerics.fixed_point import Solution, lengths
from ..numerics.linearize import linearize
from ..numerics.logdet import Estimate, LogDet, dense_jacobian
from ..numerics.noise import Noise

__all__ = ["Decode", "Determinant", "Encode", "LogProb", "Looped", "Program", "Units", "eliminate"]

_PATIENCE = 32  # steps in a row that are no shorter than the shortest: the floor of the precision


def _loop(goes_on: Callable[..., Tensor], advance: Callable[..., tuple[Tensor, ...]], start: tuple[Tensor, ...]) -> Any:
    """``advance`` while ``goes_on``: a loop of the graph while one is traced, else one of Python's."""
    if torch.compiler.is_exporting():
        return while_loop(goes_on, advance, start)
    while bool(goes_on(*start)):
        start = advance(*start)
    return start


class Units(nn.Module):
    """The map between the user's columns and the flow's numbers, as :class:`iresnet.data.Schema` has it, in a graph.

    Columns that hold levels are taken and given as they are once noise has spread them.

    Parameters
    ----------
    low, high, center, scale : (d,).
    positive, bounded : (d,) of bool, which columns are.
    """

    def __init__(self, low: Tensor, high: Tensor, center: Tensor, scale: Tensor, positive: Tensor, bounded: Tensor) -> None:
        super().__init__()
        self.some_positive, self.some_bounded = bool(positive.any()), bool(bounded.any())
        volume = -scale.log().sum() + torch.where(bounded, (high - low).log(), 0.0).sum()
        tensors = {"low": low, "high": high, "center": center, "scale": scale, "volume": volume}
        for name, value in (tensors | {"positive": positive, "bounded": bounded}).items():
            self.register_buffer(name, value)

    def encode(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The flow's numbers (B, d) of v (B, d), and log abs det of the map (B,)."""
        get, one, t = self.get_buffer, torch.ones_like(v), v
        volume = get("volume").to(v.dtype).expand(v.shape[0])
        if self.some_positive:
            logs = torch.where(get("positive"), v, one).log()
            t, volume = torch.where(get("positive"), logs, t), volume - logs.sum(1)
        if self.some_bounded:
            below = torch.where(get("bounded"), v - get("low"), one).log()
            above = torch.where(get("bounded"), get("high") - v, one).log()
            t, volume = torch.where(get("bounded"), below - above, t), volume - (below + above).sum(1)
        return (t - get("center")) / get("scale"), volume

    def decode(self, x: Tensor) -> Tensor:
        """The user's numbers (B, d) of the flow's."""
        get = self.get_buffer
        t = x * get("scale") + get("center")
        v = t
        if self.some_positive:
            v = torch.where(get("positive"), torch.where(get("positive"), t, torch.zeros_like(t)).exp(), v)
        if self.some_bounded:
            v = torch.where(get("bounded"), get("low") + (get("high") - get("low")) * torch.sigmoid(t), v)
        return v


class Program(nn.Module):
    """A frozen flow and the units of its data, None for the flow's own; ``inputs`` and ``outputs`` are named."""

    inputs: tuple[str, ...] = ("x", "context")
    outputs: tuple[str, ...]

    def __init__(self, flow: Flow, units: Units | None = None) -> None:
        super().__init__()
        self.flow, self.units = flow, units


class Encode(Program):
    """x (B, *shape), and the context (B, C) of a conditional flow, to its latent ``z``."""

    outputs = ("z",)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        x = self.units.encode(x)[0] if self.units is not None else x
        return (self.flow.bind(context).encode(x),)


class LogProb(Program):
    """x (B, *shape) to ``log_prob``, its standard error over the fixed probes ``stderr``, and ``bias``, each (B,), in nats."""

    outputs = ("log_prob", "stderr", "bias")

    def __init__(self, flow: Flow, units: Units | None, logdet: LogDet, noise: Noise) -> None:
        super().__init__(flow, units)
        self.logdet, self.noise = logdet, noise

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        volume: Tensor | float = 0.0
        if self.units is not None:
            x, volume = self.units.encode(x)
        estimate = self.flow.bind(context).estimate(x, logdet=self.logdet, noise=self.noise) + volume
        return estimate.value, estimate.stderr, estimate.bias


class Decode(Program):
    """z (B, *shape) to ``x``, with two errors (B,) in the flow's units.

    ``block_bound`` is the largest guaranteed error of one block's inverse, infinite for a row that is no number; ``latent_error``
    is the distance of encode(x) from z, computed.
    """

    inputs = ("z", "context")
    outputs = ("x", "block_bound", "latent_error")

    def __init__(self, flow: Flow, units: Units | None, solver: Looped) -> None:
        super().__init__(flow, units)
        self.solver = solver

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        flow = self.flow.bind(context)
        bounds = [z.new_zeros(z.shape[0])]
        x = _inverse(flow.transform, z, self.solver, bounds)
        back = lengths(flow.encode(x) - z)
        bound = torch.stack(bounds).amax(0)
        bound = torch.where(back < math.inf, bound, torch.full_like(bound, math.inf))  # ONNX's maximum passes over NaN
        return self.units.decode(x) if self.units is not None else x, bound, back


def _inverse(part: Transform, z: Tensor, solver: Looped, bounds: list[Tensor]) -> Tensor:
    """x of z; each solution's error bound is appended to ``bounds``."""
    if isinstance(part, ChainTransform):
        for inner in reversed(part.parts):
            z = _inverse(inner, z, solver, bounds)
        return z
    if isinstance(part, SplitTransform):
        kept, moved = z.chunk(2, 1)
        return torch.cat((kept, _inverse(part.inner, moved, solver, bounds)), 1)
    solution = part.inverse(z, solver)
    bounds.append(solution.error_bound)
    return solution.value


@dataclass(frozen=True)
class Looped:
    """Picard's iteration as a loop of the graph.

    Parameters
    ----------
    tol : error asked for of each block, relative to max(1, \\|x\\|).
    max_steps : after which a row is given up; its bound says so.
    """

    tol: float
    max_steps: int = 2000

    def __call__(self, function: Any, y: Tensor, start: Tensor | None = None) -> Solution:
        constant, eps = function.lipschitz, torch.finfo(y.dtype).eps
        goal = max(0.5 * self.tol * (1 - constant) / max(constant, 1e-12), 0.5 * eps)

        def active(x: Tensor, step: Tensor, idle: Tensor, steps: Tensor) -> Tensor:
            return (step > goal * lengths(x).clamp(min=1.0)) & (idle < _PATIENCE) & (steps < self.max_steps)

        def goes_on(x: Tensor, step: Tensor, least: Tensor, idle: Tensor, steps: Tensor) -> Tensor:
            return active(x, step, idle, steps).to(torch.int64).sum() > 0  # a maximum of no rows would be true in ONNX

        def advance(x: Tensor, step: Tensor, least: Tensor, idle: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
            image, on = y - function(x), active(x, step, idle, steps)
            new = lengths(image - x)
            waited = torch.where(new < least, torch.zeros_like(idle), idle + 1)
            return (
                torch.where(on.reshape(-1, *[1] * (x.dim() - 1)), image, x),
                torch.where(on, new, step),
                torch.where(on, torch.minimum(least, new), least),
                torch.where(on, waited, idle),
                torch.where(on, steps + 1, steps),
            )

        far = torch.full_like(lengths(y), torch.finfo(y.dtype).max)
        zero = torch.zeros_like(far, dtype=torch.int64)
        x, step, _, _, steps = _loop(goes_on, advance, (y.clone(), far, far.clone(), zero, zero.clone()))
        own = function.rounding(x) if hasattr(function, "rounding") else 64 * eps * x[0].numel() ** 0.5 * lengths(x)
        bound = (constant * step + own + 4 * eps * (lengths(y) + lengths(x))) / (1 - constant)
        return Solution(x, bound, steps, bound <= self.tol * lengths(x).clamp(min=1.0))


@dataclass(frozen=True)
class Determinant:
    """:class:`~iresnet.numerics.logdet.Exact` for a tracer, with ``logabsdet`` (B, n, n) to (B,) in place of LAPACK's."""

    logabsdet: Callable[[Tensor], Tensor]

    def __call__(self, function: Any, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Estimate]:
        at = linearize(function, x)
        found = at.core or at.jacobian
        jacobian = found() if found is not None else dense_jacobian(at, x)
        size = jacobian.shape[-1]
        value = self.logabsdet(torch.eye(size, dtype=x.dtype) + jacobian)
        rounding = 8 * size * torch.finfo(x.dtype).eps * torch.exp((-value / size).clamp(min=0.0))
        return at.value, Estimate(value, torch.zeros_like(value), rounding)


def eliminate(matrix: Tensor) -> Tensor:
    """log abs det (B,) of (B, n, n) by elimination with partial pivoting; rows are not swapped but marked as used."""
    size = matrix.shape[-1]
    places = torch.arange(size)

    def goes_on(rest: Tensor, free: Tensor, total: Tensor, step: Tensor) -> Tensor:
        return step < size

    def advance(rest: Tensor, free: Tensor, total: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        column = rest.index_select(2, step.reshape(1)).squeeze(2)
        chosen = torch.where(free, column.abs(), -torch.ones_like(column)).argmax(1)
        here = places == chosen[:, None]
        pivot = torch.where(here, column, torch.zeros_like(column)).sum(1)
        row = torch.where(here[:, :, None], rest, torch.zeros_like(rest)).sum(1)
        free = free & ~here
        factor = torch.where(free, column / pivot[:, None], torch.zeros_like(column))
        return rest - factor[:, :, None] * row[:, None, :], free, total + pivot.abs().log(), step + 1

    free = torch.ones_like(matrix[:, :, 0], dtype=torch.bool)
    start = (matrix.clone(), free, torch.zeros_like(matrix[:, 0, 0]), torch.zeros((), dtype=torch.int64))
    return _loop(goes_on, advance, start)[2]
