r"""The gradient of a dense branch's value and log-determinant in closed form, as one node of autograd's graph.

Every estimator's gradient ends in the same surrogate, :math:`s = \langle w, J v \rangle` for fixed w and v, perhaps with tr J
(:mod:`iresnet.numerics.series`). With :math:`\sigma_l` the slopes of layer l, the probes run through the layers from both sides,
:math:`t_l = W_l (\sigma_{l-1} \circ t_{l-1})` from v, and :math:`r_l = W_{l+1}^T (\sigma_{l+1} \circ r_{l+1})` from w. Then

.. math:: \frac{\partial s}{\partial \sigma_l} = r_l \circ t_l, \qquad
          \frac{\partial s}{\partial W_l} = (\sigma_l \circ r_l) (\sigma_{l-1} \circ t_{l-1})^T,

and the activation's second derivative carries the former on to the pre-activations, where it joins the gradient of the value.
Autograd would differentiate value, trace and product one by one, by more products and many more small operations. The probes run
in the backward pass only, where w is scaled by the gradient of each row, so nothing that is kept depends on terms or probes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..numerics.linearize import Probed, refuse_second_derivatives, transforming
from .activations import Activation

__all__ = [
    "Layers",
    "Pass",
    "affine",
    "call",
    "from_left",
    "from_right",
    "pull_back",
    "run_forward",
    "run_values",
    "surrogate_gradients",
    "trace_half",
    "value_gradients",
]


class Layers(NamedTuple):
    """The tensors of a dense branch and its activation; offsets are (h,) or, with a per-row context, (B, h).

    ``compiled`` asks for kernels made by ``torch.compile``, one for all branches of the same shapes and activation.
    """

    weights: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...]
    activation: Activation
    compiled: bool = False


class Pass(NamedTuple):
    """What one evaluation leaves behind: values (B, h) and slopes (B, h) of the hidden layers, and g(x) (B, d)."""

    hidden: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]
    value: Tensor


def affine(x: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """W x + b in one fused call."""
    return linear(x, weight, offset) if offset.dim() == 1 else torch.addmm(offset, x, weight.mT)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


@cache
def _same(activation: Activation) -> Activation:
    """One object for all activations that are equal, since compiled code is made for objects."""
    return activation


def call(function: Callable[..., Any], layers: Layers, *others: Any) -> Any:
    """``function(layers, *others)``, compiled where that is asked for and no graph is recorded."""
    if layers.compiled and not torch.is_grad_enabled():
        return _compiled(function)(layers._replace(activation=_same(layers.activation)), *others)
    return function(layers, *others)


def run_forward(layers: Layers, x: Tensor) -> Pass:
    """Values and slopes at x (B, d)."""
    return call(_forward, layers, x)


def run_values(layers: Layers, x: Tensor) -> tuple[Tensor, ...]:
    """Values of the hidden layers and g(x), at x (B, d)."""
    return call(_values, layers, x)


def _values(layers: Layers, x: Tensor) -> tuple[Tensor, ...]:
    values = [x]
    for weight, offset in zip(layers.weights[:-1], layers.offsets[:-1], strict=True):
        values.append(layers.activation(affine(values[-1], weight, offset)))
    return *values[1:], affine(values[-1], layers.weights[-1], layers.offsets[-1])


def from_left(layers: Layers, slopes: tuple[Tensor, ...], vector: Tensor) -> Tensor:
    """The product J^T v, of v (*, B, d)."""
    return call(_from_left, layers, slopes, vector)


def _from_left(layers: Layers, slopes: tuple[Tensor, ...], vector: Tensor) -> Tensor:
    for weight, slope in zip(layers.weights[:0:-1], slopes[::-1], strict=True):
        vector = _times(vector @ weight, slope)
    return vector @ layers.weights[0]


def from_right(layers: Layers, slopes: tuple[Tensor, ...], vector: Tensor) -> Tensor:
    """The product J v, of v (*, B, d)."""
    for weight, slope in zip(layers.weights[:-1], slopes, strict=True):
        vector = _times(vector @ weight.mT, slope)
    return vector @ layers.weights[-1].mT


def _times(fresh: Tensor, factor: Tensor) -> Tensor:
    """``fresh * factor``, in the memory of ``fresh``, still in the cache, where neither a graph nor autocast forbids it."""
    if torch.is_grad_enabled() or fresh.dtype != factor.dtype or transforming():
        return fresh * factor
    return fresh.mul_(factor)


def _forward(layers: Layers, x: Tensor) -> Pass:
    hidden, values, slopes = x, [], []
    for weight, offset in zip(layers.weights[:-1], layers.offsets[:-1], strict=True):
        hidden, slope = layers.activation.with_slope(affine(hidden, weight, offset))
        values.append(hidden)
        slopes.append(slope)
    return Pass(tuple(values), tuple(slopes), affine(hidden, layers.weights[-1], layers.offsets[-1]))


def trace_half(weights: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    r"""T with tr J the sum of :math:`T \circ s_1` over the units, (1, h) for one hidden layer, (B, h_1) for two."""
    if len(weights) == 2:
        return (weights[0] * weights[1].mT).sum(-1).unsqueeze(-2)
    return slopes[1] @ _kernel(weights)


def _kernel(weights: Sequence[Tensor]) -> Tensor:
    r"""K (h_2, h_1) with :math:`\operatorname{tr} J = s_2^T K s_1`, for two hidden layers."""
    return weights[1] * (weights[0] @ weights[2]).mT


def pull_back(layers: Layers, x: Tensor, at: Pass, half: Callable[[], Tensor], probed: Probed) -> tuple[Tensor, Tensor]:
    """g(x) (B, d) and the log-determinant (B,), differentiable by x and by all tensors of the layers.

    The numbers are those of ``at``, the pass at x without a graph, and of ``probed``; the gradient is that of the surrogate.
    ``half`` gives what :func:`trace_half` does.
    """
    known = half() if probed.trace and not probed.recompute else None
    return _PullBack.apply((layers.activation, layers.compiled), at, known, probed, x, *layers.weights, *layers.offsets)


class _PullBack(torch.autograd.Function):
    """See :func:`pull_back`. Differentiable once: w is a constant of the first derivative only."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, kind: tuple[Activation, bool], at: Pass, half: Tensor | None, probed: Probed, x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        kept = () if probed.recompute else (*at.hidden, *at.slopes)
        ctx.save_for_backward(x, probed.left, probed.right, half, *tensors, *kept)
        ctx.kind, ctx.count, ctx.trace = kind, len(tensors) // 2, probed.trace
        return at.value.clone(), probed.total.clone()

    @staticmethod
    def backward(ctx: Any, by_value: Tensor, by_logdet: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_second_derivatives()
        x, left, right, half, *rest = ctx.saved_tensors
        tensors, kept = rest[: 2 * ctx.count], rest[2 * ctx.count :]
        layers, depth = Layers(tuple(tensors[: ctx.count]), tuple(tensors[ctx.count :]), *ctx.kind), ctx.count - 1
        at = Pass(tuple(kept[:depth]), tuple(kept[depth:]), x) if kept else run_forward(layers, x)
        if ctx.trace and half is None:
            half = trace_half(layers.weights, at.slopes)
        return None, None, None, None, *call(_gradients, layers, x, at[:2], by_value, by_logdet, left, right, half)


def _gradients(
    layers: Layers,
    x: Tensor,
    at: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
    by_value: Tensor,
    by_logdet: Tensor,
    left: Tensor,
    right: Tensor,
    half: Tensor | None,
) -> tuple[Tensor, ...]:
    """Gradients by x, weights and offsets of ``by_value . g(x) + by_logdet (mean <left, J right> + tr J)``, summed over rows."""
    hidden, slopes = at
    by_slopes, more = surrogate_gradients(layers.weights, slopes, by_logdet[:, None], left, right, half)

    def bend(index: int, delta: Tensor) -> Tensor:
        return layers.activation.gradient(hidden[index], slopes[index], delta, by_slopes[index])

    found = value_gradients(layers, x, hidden, by_value, bend)
    for mine, also in zip(found[1 : 1 + len(more)], more, strict=True):
        mine += also
    return found


def surrogate_gradients(
    weights: Sequence[Tensor], slopes: Sequence[Tensor], scale: Tensor, left: Tensor, right: Tensor, half: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients by slopes and by weights of ``scale (mean <left, J right> + tr J)``, summed over rows.

    Weights (*, h, d), slopes (*, B, h) and ``scale`` (*, B, 1) may have a dimension more, of several branches at once, and then
    ``left`` and ``right`` (m, *, B, d) have it too. ``half`` is what :func:`trace_half` gave, or None to leave out tr J. What was
    just computed is overwritten where it can be: the tensors of a pass do not fit into a cache.
    """
    left, entering, pushed = left * (scale / len(left)), [right], []  # what v is when it enters each layer, and when it leaves it
    for weight, slope in zip(weights[:-1], slopes, strict=True):
        pushed.append(entering[-1] @ weight.mT)
        entering.append(pushed[-1] * slope)
    by_weights, by_slopes = [_outer(_rows(left), _rows(entering.pop()))], []
    for index in range(len(slopes) - 1, -1, -1):
        left = left @ weights[index + 1]
        by_slope = pushed[index].mul_(left)
        by_slope, left = by_slope[0] if len(left) == 1 else by_slope.sum(0), left.mul_(slopes[index])
        if half is not None and index == 0:
            by_slope = by_slope.addcmul_(half, scale)
        elif half is not None:
            by_slope += (slopes[0] * scale) @ _kernel(weights).mT
        by_slopes.insert(0, by_slope)
        by_weights.insert(0, _outer(_rows(left), _rows(entering.pop())))
    if half is not None:
        for mine, more in zip(by_weights, _trace_gradients(weights, slopes, scale), strict=True):
            mine += more
    return by_slopes, by_weights


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """The products of the rows of left (*, B, h) and right (*, B, h'), summed: left^T right, (*, h, h').

    The narrow factor comes first, and so has its columns read as rows: the other way took up to three times as long on a CPU.
    """
    return (right.mT @ left).mT if right.shape[-1] < left.shape[-1] else left.mT @ right


def _rows(vectors: Tensor) -> Tensor:
    """(m, *, B, d) as (*, m B, d)."""
    return vectors.transpose(0, -3).flatten(-3, -2)


def value_gradients(
    layers: Layers, x: Tensor, hidden: tuple[Tensor, ...], by_value: Tensor, bend: Callable[[int, Tensor], Tensor]
) -> tuple[Tensor, ...]:
    """Gradients by x, weights and offsets, summed over rows, of what has the gradient ``by_value`` by g(x).

    ``bend(index, delta)`` carries the gradient by the values of that hidden layer on to its pre-activations, in place.
    """
    inputs, delta, by_weights, by_offsets = (x, *hidden), by_value, [], []
    for index in range(len(hidden), -1, -1):
        by_weights.insert(0, _outer(delta, inputs[index]))
        by_offsets.insert(0, delta.sum(0) if layers.offsets[index].dim() == 1 else delta)
        delta = delta @ layers.weights[index]
        if index:
            delta = bend(index - 1, delta)
    return (delta, *by_weights, *by_offsets)


def _trace_gradients(weights: Sequence[Tensor], slopes: Sequence[Tensor], scale: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the sum over rows of ``scale`` (*, B, 1) times tr J, by the weights."""
    if len(weights) == 2:
        by_kernel = (scale.mT @ slopes[0]).mT
        return by_kernel * weights[1].mT, (by_kernel * weights[0]).mT
    by_kernel = slopes[1].mT @ (slopes[0] * scale)
    by_inner = (by_kernel * weights[1]).mT
    return by_inner @ weights[2].mT, by_kernel.mul_((weights[0] @ weights[2]).mT), weights[0].mT @ by_inner
