r"""The log-determinants of several dense branches of one shape, found together.

But for its x, nothing of a branch's Jacobian :math:`W_n D_{n-1} \cdots D_1 W_1` depends on what other branches do: a chain may
evaluate its branches one after the other, each at what the last one gave, and ask for all their log-determinants afterwards.
Products with J are then single calls for G branches at once. A step of a narrow flow makes thousands of small calls, which cost
about as much as what they compute.

The graph has two kinds of nodes: each branch's own, from x to g(x) and the values of its hidden layers, and one from weights and
hidden values of all branches, which tell their slopes, to the log-determinants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..numerics.linearize import Linearization, Probed, refuse_second_derivatives
from .activations import Activation
from .pullback import (
    Layers,
    call,
    from_left,
    from_right,
    run_forward,
    run_values,
    surrogate_gradients,
    trace_half,
    value_gradients,
)

__all__ = ["OpenedBranch", "open_branch"]


@dataclass(frozen=True, eq=False)
class OpenedBranch:
    """A branch that was evaluated, in the graph of x and its tensors: g(x) (B, d) and values (B, h) of its hidden layers.

    ``lent`` is how a backward pass hands these values on, see :class:`_LogDeterminants`.
    """

    layers: Layers
    x: Tensor
    value: Tensor
    hidden: tuple[Tensor, ...]
    lent: list[Any]

    @property
    def kind(self) -> Any:
        """What branches must have in common to be joined."""
        layers = self.layers
        return self.value.shape, tuple(weight.shape for weight in layers.weights), layers.activation, layers.compiled

    @staticmethod
    def join(branches: Sequence[OpenedBranch]) -> Linearization:
        """G branches of one kind as one function, of batches that have the rows of the first, then those of the second, ..."""
        count, first = len(branches), branches[0].layers
        with torch.no_grad():
            weights = tuple(_together(alike) for alike in zip(*(one.layers.weights for one in branches), strict=True))
            hidden = tuple(zip(*(one.hidden for one in branches), strict=True))
            slopes = tuple(_slopes(first.activation, each) for each in hidden)
            value = torch.cat([branch.value for branch in branches])
        layers = Layers(weights, (), first.activation, first.compiled)

        def apart(product: Callable[..., Tensor], vector: Tensor) -> Tensor:
            return product(layers, slopes, vector.unflatten(-2, (count, -1))).flatten(-3, -2)

        @cache
        def half() -> Tensor:
            return trace_half(weights, slopes)

        def trace() -> Tensor:
            return (half() * slopes[0]).sum(-1).flatten()

        def attach(probed: Probed) -> tuple[Tensor, Tensor]:
            known = _Known(hidden, slopes, half() if probed.trace else None)
            tensors = [tensor for branch in branches for tensor in (*branch.layers.weights, *branch.hidden)]
            return value, _LogDeterminants.apply(branches, layers, known, probed, *tensors)

        vjp, jvp = partial(apart, from_left), partial(apart, from_right)
        return Linearization(value, vjp, jvp, trace if len(slopes) <= 2 else None, None, attach)


def open_branch(layers: Layers, x: Tensor) -> OpenedBranch:
    """The branch at x (B, d)."""
    with torch.no_grad():
        values = run_values(layers, x)
    lent: list[Any] = []
    *hidden, value = _Opened.apply((layers.activation, layers.compiled), values, lent, x, *layers.weights, *layers.offsets)
    return OpenedBranch(layers, x, value, tuple(hidden), lent)


def _together(alike: Sequence[Tensor]) -> Tensor:
    """Tensors (*) as one (G, *): where they lie, if that is one after the other, as weights do that were constrained together."""
    first, size = alike[0], alike[0].numel()
    start, storage = first.storage_offset(), first.untyped_storage().data_ptr()
    for index, one in enumerate(alike):
        follows = one.is_contiguous() and one.storage_offset() == start + index * size
        if not follows or one.untyped_storage().data_ptr() != storage:
            return torch.stack(list(alike))
    return first.as_strided((len(alike), *first.shape), (size, *first.stride()))


def _slopes(activation: Activation, each: Sequence[Tensor]) -> Tensor:
    """The slopes (G, B, h) of hidden values (B, h), written where they are read: the values are not copied for it."""
    found = each[0].new_empty(len(each), *each[0].shape)
    for values, place in zip(each, found.unbind(0), strict=True):
        told = activation.slope_of(values, out=place)
        if told is not place:  # an activation of somebody's own need not write there
            place.copy_(told)
    return found


class _Known(NamedTuple):
    """For each layer the hidden values (B, h) of all branches, and their slopes (G, B, h); with what :func:`trace_half` gives, or
    None to leave out tr J."""

    hidden: tuple[tuple[Tensor, ...], ...]
    slopes: tuple[Tensor, ...]
    half: Tensor | None


class _Opened(torch.autograd.Function):
    """From x, weights and offsets to the values of all layers; those of hidden ones are kept by the other node."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, kind: tuple[Activation, bool], values: tuple[Tensor, ...], lent: list[Any], x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *tensors)
        ctx.kind, ctx.lent = kind, lent
        return values

    @staticmethod
    def backward(ctx: Any, *by_values: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_second_derivatives()
        x, *tensors = ctx.saved_tensors
        depth = len(tensors) // 2
        layers = Layers(tuple(tensors[:depth]), tuple(tensors[depth:]), *ctx.kind)
        if ctx.lent:
            hidden, slopes = ctx.lent.pop()
        else:  # nothing is lent if the log-determinants are not used
            hidden, slopes, _ = run_forward(layers, x)
        return None, None, None, *call(_value_gradients, layers, x, hidden, slopes, by_values)


class _LogDeterminants(torch.autograd.Function):
    """From weights and hidden values, branch by branch, to the log-determinants (G B,). Differentiable once.

    Hidden values and slopes of all branches are kept here, once, or what they are computed from. The branches' own nodes, whose
    backward passes come after this one's, need them too, and are lent them.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, branches: Sequence[OpenedBranch], layers: Layers, known: _Known, probed: Probed, *_: Tensor
    ) -> Tensor:
        ctx.kind, ctx.lent, ctx.trace = layers[2:], [branch.lent for branch in branches], probed.trace
        if probed.recompute:
            kept = [tensor for branch in branches for tensor in (branch.x, *branch.layers.weights, *branch.layers.offsets)]
        else:
            kept = [*layers.weights, *known.slopes, known.half, *chain.from_iterable(known.hidden)]
        ctx.save_for_backward(probed.left, probed.right, *kept)
        ctx.recompute, ctx.depth = probed.recompute, len(layers.weights)
        return probed.total

    @staticmethod
    def backward(ctx: Any, by_logdet: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_second_derivatives()
        left, right, *kept = ctx.saved_tensors
        count, found = len(ctx.lent), []
        scale, left, right = (one.unflatten(-2, (count, -1)) for one in (by_logdet[:, None], left, right))
        if ctx.recompute:  # branch by branch: what is computed again is less than what would be kept
            size = 1 + 2 * ctx.depth
            for index, lent in enumerate(ctx.lent):
                weights, known = _compute_again(kept[index * size : (index + 1) * size], ctx.kind, ctx.trace)
                part = slice(index, index + 1)
                found += _gradients_of_each(weights, ctx.kind, known, scale[part], left[:, part], right[:, part], [lent])
        else:
            middle = 2 * ctx.depth - 1
            hidden = tuple(tuple(kept[start : start + count]) for start in range(middle + 1, len(kept), count))
            known = _Known(hidden, tuple(kept[ctx.depth : middle]), kept[middle])
            found = _gradients_of_each(tuple(kept[: ctx.depth]), ctx.kind, known, scale, left, right, ctx.lent)
        return None, None, None, None, *(one for branch in found for one in branch)


def _compute_again(kept: list[Tensor], kind: tuple[Activation, bool], trace: bool) -> tuple[tuple[Tensor, ...], _Known]:
    """Weights of one branch, and what is known of it, of its x, weights and offsets; all as of a group of one."""
    x, tensors, depth = kept[0], kept[1:], len(kept) // 2
    hidden = run_values(Layers(tuple(tensors[:depth]), tuple(tensors[depth:]), *kind), x)[:-1]
    weights = tuple(weight[None] for weight in tensors[:depth])
    slopes = tuple(kind[0].slope_of(values)[None] for values in hidden)
    return weights, _Known(tuple((values,) for values in hidden), slopes, trace_half(weights, slopes) if trace else None)


def _gradients_of_each(
    weights: tuple[Tensor, ...],
    kind: tuple[Activation, bool],
    known: _Known,
    scale: Tensor,
    left: Tensor,
    right: Tensor,
    lent: list[Any],
) -> list[tuple[Tensor, ...]]:
    """For each branch its gradients by weights and hidden values; its hidden values and slopes are lent to its own node."""
    by_weights, by_hidden = call(_logdet_gradients, Layers(weights, (), *kind), known, scale, left, right)
    for index, one in enumerate(lent):
        one[:] = [tuple(tuple(values[index] for values in units) for units in known[:2])]
    return list(zip(*(tensor.unbind(0) for tensor in by_weights), *by_hidden, strict=True))


def _value_gradients(
    layers: Layers, x: Tensor, hidden: tuple[Tensor, ...], slopes: tuple[Tensor, ...], by_values: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Gradients by x, weights and offsets, from those by the values of all layers."""

    def bend(index: int, delta: Tensor) -> Tensor:
        return delta.add_(by_values[index]).mul_(slopes[index])

    return value_gradients(layers, x, hidden, by_values[-1], bend)


def _logdet_gradients(
    layers: Layers, known: _Known, scale: Tensor, left: Tensor, right: Tensor
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Gradients by weights (G, h, h') and hidden values, of G branches, from ``scale`` (G, B, 1) by their log-determinants."""
    by_slopes, by_weights = surrogate_gradients(layers.weights, known.slopes, scale, left, right, known.half)
    units = zip(known.hidden, known.slopes, by_slopes, strict=True)
    return by_weights, [[layers.activation.through_slope(*one) for one in zip(*three, strict=True)] for three in units]
