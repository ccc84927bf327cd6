"""Runs of dense residual blocks, with the affine maps before them, trained by :mod:`iresnet.kernels`: one node of a graph.

In a narrow chain the calls of single operations, and what autograd keeps of each, take as long as the operations. Here one call
evaluates all blocks, one multiplies by all their Jacobians, and one finds all gradients, by the formulas of
:mod:`iresnet.contract.pullback`. Numbers are those of the parts one by one, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import kernels
from ..contract.dense import DenseBound
from ..contract.pullback import Layers, from_right
from ..numerics.linearize import Linearization, Probed, refuse_second_derivatives
from ..numerics.logdet import Estimate, LogDet, lipschitz_of
from ..numerics.noise import Noise
from .actnorm import AffineTransform
from .residual import ResidualTransform

__all__ = ["FusedRun", "fused_run"]


def fused_run(parts: Sequence[Any], x: Tensor, logdet: LogDet, noise: Noise) -> FusedRun | None:
    """The longest run that ``parts`` begin with, for x (B, d), or None if the first of them is in none."""
    blocks: list[DenseBound] = []
    affine: list[AffineTransform | None] = []
    places: list[int] = []
    place, joins = 0, getattr(logdet, "joins", None)
    while joins and place < len(parts):
        before = parts[place] if isinstance(parts[place], AffineTransform) else None
        block = parts[min(place + (before is not None), len(parts) - 1)]
        if not (_fits(block, before, x) and joins(block.bound, x, noise)) or (blocks and _kind(block.bound) != _kind(blocks[0])):
            break
        blocks.append(block.bound)
        affine.append(before)
        places.append(place + (before is not None))
        place = places[-1] + 1
    return FusedRun(tuple(blocks), tuple(affine), tuple(places)) if blocks else None


def _fits(block: Any, before: AffineTransform | None, x: Tensor) -> bool:
    if not isinstance(block, ResidualTransform) or not isinstance(block.bound, DenseBound) or block.bf16 or not block.bound.fuses:
        return False
    bound = block.bound
    alike = x.dtype == bound.dtype and x.shape[1:] == bound.weights[0].shape[1:]
    alike = alike and all(offset.dim() == 1 or len(offset) == len(x) for offset in bound.offsets)
    return alike and (before is None or (before.shift.shape == x.shape[1:] and before.shift.dtype == x.dtype))


def _kind(bound: DenseBound) -> Any:
    """What blocks of a run have in common."""
    return tuple(weight.shape for weight in bound.weights), bound.activation, lipschitz_of(bound)


@dataclass(frozen=True)
class FusedRun:
    """G blocks, each after an affine map or None, in the order of a chain; ``places`` are those of the blocks in the run."""

    blocks: tuple[DenseBound, ...]
    affine: tuple[AffineTransform | None, ...]
    places: tuple[int, ...]

    def __len__(self) -> int:
        """The number of parts."""
        return self.places[-1] + 1

    def forward_and_logdet(self, x: Tensor, logdet: Any, noises: Sequence[Noise], luck: float) -> tuple[Tensor, Estimate]:
        """z (B, d) and the log-determinant of x (B, d), with a noise for each block; see ``PowerSeries.joint``."""
        nothing = x.new_empty(0)
        log_scales = [nothing if one is None else one.log_scale.contiguous() for one in self.affine]
        shifts = [nothing if one is None else one.shift.contiguous() for one in self.affine]
        weights = [weight for block in self.blocks for weight in block.weights]
        offsets = [offset for block in self.blocks for offset in block.offsets]
        tensors = _Tensors(x.contiguous(), weights, offsets, log_scales, shifts)
        value, estimate = logdet.joint(_linearize(tensors, self.blocks[0]), lipschitz_of(self.blocks[0]), noises, luck)
        volume = torch.cat(log_scales).sum().expand(len(x))
        return value, Estimate.total([estimate, Estimate.sure(volume)])


class _Tensors(NamedTuple):
    """What a run is a function of: x (B, d), G L weights and offsets, and of each block log_scale and shift (d) or (0)."""

    x: Tensor
    weights: list[Tensor]
    offsets: list[Tensor]
    log_scales: list[Tensor]
    shifts: list[Tensor]


class _Pass(NamedTuple):
    """What one evaluation leaves behind: what enters the blocks (G, B, d), hidden values (G, B, h) and what leaves (B, d)."""

    inputs: Tensor
    hidden: list[Tensor]
    last: Tensor


def _linearize(tensors: _Tensors, first: DenseBound) -> Linearization:
    """The blocks of a run as one function of batches (G B, d), which attaches what leaves the last of them, (B, d)."""
    name = type(first.activation).__name__
    with torch.no_grad():
        at = _Pass(*kernels.operations().values(*tensors, name))
    count, weights = len(at.inputs), tensors.weights

    def sums(vector: Tensor, by_power: Sequence[float], shares: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
        probes = vector.reshape(vector.shape[:-2].numel(), count, *at.last.shape)
        summed, shared, last = kernels.operations().sums_from_left(weights, at.hidden, probes, by_power, shares, name)
        return summed.flatten(1), shared.reshape_as(vector) if shares else shared, last.reshape_as(vector)

    def vjp(vector: Tensor) -> Tensor:
        return sums(vector, [0.0], [])[2]

    def jvp(vector: Tensor) -> Tensor:
        depth = len(first.weights)
        layers = Layers(tuple(torch.stack(weights[layer::depth]) for layer in range(depth)), (), first.activation)
        slopes = tuple(first.activation.slope_of(values) for values in at.hidden)
        return from_right(layers, slopes, vector.unflatten(-2, (count, -1))).flatten(-3, -2)

    @cache
    def traces() -> tuple[Tensor, Tensor]:
        return kernels.operations().traces(weights, at.hidden, name)

    def trace() -> Tensor:
        return traces()[0].flatten()

    def attach(probed: Probed) -> tuple[Tensor, Tensor]:
        half = traces()[1] if probed.trace else None
        flat = (tensors.x, *tensors.weights, *tensors.offsets, *tensors.log_scales, *tensors.shifts)
        return _Run.apply(name, at, half, probed, *flat)

    return Linearization(at.inputs.flatten(0, 1), vjp, jvp, trace if len(at.hidden) <= 2 else None, None, attach, sums=sums)


class _Run(torch.autograd.Function):
    """From x and the tensors of a run to what leaves it (B, d), and its log-determinants (G B,). Differentiable once."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, name: str, at: _Pass, half: Tensor | None, probed: Probed, *flat: Tensor
    ) -> tuple[Tensor, Tensor]:
        kept = () if probed.recompute else (at.inputs, half, *at.hidden)
        ctx.save_for_backward(probed.left, probed.right, *flat, *kept)
        ctx.name, ctx.trace, ctx.blocks, ctx.count = name, probed.trace, len(at.inputs), len(flat)
        return at.last, probed.total

    @staticmethod
    def backward(ctx: Any, by_last: Tensor, by_logdet: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_second_derivatives()
        left, right, *rest = ctx.saved_tensors
        tensors, kept = _split(rest[: ctx.count], ctx.blocks), rest[ctx.count :]
        run, name = kernels.operations(), ctx.name
        if kept:
            inputs, half, *hidden = kept
        else:
            inputs, hidden, _ = run.values(*tensors, name)
            half = run.traces(tensors.weights, hidden, name)[1] if ctx.trace else None
        left, right = (one.reshape(len(one), *inputs.shape).contiguous() for one in (left, right))
        by_logdet = by_logdet.reshape(inputs.shape[:2]).contiguous()
        found = run.gradients(inputs, hidden, *tensors[1:], by_last.contiguous(), by_logdet, left, right, half, name)
        return None, None, None, None, *found


def _split(flat: Sequence[Tensor], blocks: int) -> _Tensors:
    x, rest = flat[0], list(flat[1:])
    layers = len(rest) // 2 - blocks
    return _Tensors(x, rest[:layers], rest[layers : 2 * layers], rest[2 * layers : -blocks], rest[-blocks:])
