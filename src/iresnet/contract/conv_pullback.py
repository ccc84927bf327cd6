r"""The gradient of a convolution branch's value and log-determinant in closed form, as one node of autograd's graph.

As for dense branches (:mod:`iresnet.contract.pullback`): probes run through the layers from both sides, a kernel's gradient is
that of two convolutions, one of the values and one of the probes, and the activation's second derivative joins them. All of it is
in the backward pass, so nothing that is kept depends on terms or probes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..numerics.linearize import Probed, refuse_second_derivatives
from .activations import Activation
from .conv_layers import ConvLayers, ConvPass, channels_last, convolve, padding, run_layers, times, trace

__all__ = ["pull_back"]


def pull_back(layers: ConvLayers, x: Tensor, at: ConvPass, probed: Probed) -> tuple[Tensor, Tensor]:
    """g(x) (B, C, H, W) and the log-determinant (B,), differentiable by x and by all tensors of the layers.

    The numbers are those of ``at``, the pass at x without a graph, and of ``probed``; the gradient is that of the surrogate.
    """
    return _PullBack.apply(layers.activation, layers.preactivate, at, probed, x, *layers.kernels, *layers.offsets)


class _PullBack(torch.autograd.Function):
    """See :func:`pull_back`. Differentiable once: the probes are constants of the first derivative only."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, activation: Activation, preactivate: bool, at: ConvPass, probed: Probed, x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        kept = () if probed.recompute else (*at.inputs[1 - preactivate :], *at.slopes[1 - preactivate :])
        ctx.save_for_backward(x, probed.left, probed.right, *tensors, *kept)
        ctx.made, ctx.trace = (activation, preactivate), probed.trace
        return at.value.clone(), probed.total.clone()

    @staticmethod
    def backward(ctx: Any, by_value: Tensor, by_logdet: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_second_derivatives()
        x, left, right, *rest = ctx.saved_tensors
        activation, preactivate = ctx.made
        count = (len(ctx.needs_input_grad) - 5) // 2
        tensors, kept = rest[: 2 * count], rest[2 * count :]
        layers = ConvLayers(tuple(tensors[:count]), tuple(tensors[count:]), activation, preactivate)
        x = channels_last(x)
        if kept:
            plain, half = ((), ()) if preactivate else ((x,), (None,)), len(kept) // 2
            at = ConvPass((*plain[0], *kept[:half]), (*plain[1], *kept[half:]), x)
        else:
            at = run_layers(layers, x)
        scaled = left * (by_logdet / len(left)).reshape(-1, 1, 1, 1)
        found = _gradients(layers, at, channels_last(by_value), scaled, right, by_logdet if ctx.trace else None)
        return None, None, None, None, *found


def _gradients(
    layers: ConvLayers, at: ConvPass, by_value: Tensor, left: Tensor, right: Tensor, by_trace: Tensor | None
) -> tuple[Tensor, ...]:
    """Gradients by x, kernels and offsets of by_value . g(x) + <left, J right> + by_trace tr J, summed over rows and probes."""
    kernels, slopes = layers.kernels, at.slopes
    left, vector = (channels_last(probe.flatten(0, 1)) for probe in (left, right))
    pushed, entering = [], []  # what the right probe is before the slopes of each layer, and after them
    for index, kernel in enumerate(kernels):
        pushed.append(vector)
        entering.append(times(vector, slopes[index]))
        if index < len(kernels) - 1:
            vector = convolve(entering[-1], kernel)
    traced = None if by_trace is None else _trace_gradients(kernels, slopes[1:], by_trace)
    by_kernels, by_offsets, delta = [], [], by_value
    for index in range(len(kernels) - 1, -1, -1):
        slope, shared = slopes[index], layers.offsets[index].dim() == 1
        by_offsets.append(delta.sum((0, 2, 3)) if shared else delta.sum((2, 3)))
        delta, by_kernel = _back(delta, at.inputs[index], kernels[index], True)
        left, by_probes = _back(left, entering[index], kernels[index], slope is not None)
        by_kernel += by_probes
        if traced is not None:
            by_kernel += traced[index]
        by_kernels.append(by_kernel)
        if slope is not None:
            by_slope = left * pushed[index]
            by_slope = by_slope if len(by_slope) == len(slope) else by_slope.unflatten(0, (-1, len(slope))).sum(0)
            if traced is not None:
                by_slope += traced[len(kernels) + index - 1]
            delta, left = layers.activation.gradient(at.inputs[index], slope, delta, by_slope), times(left, slope)
    return (delta, *by_kernels[::-1], *by_offsets[::-1])


def _back(output: Tensor, x: Tensor, kernel: Tensor, deeper: bool) -> tuple[Tensor, Tensor]:
    """Gradients of <output, K * x> by x, only if ``deeper``, and by K."""
    if kernel.shape[-2:] == (1, 1):
        rows = output.movedim(1, -1)
        by_kernel = rows.flatten(0, 2).mT @ x.movedim(1, -1).flatten(0, 2)
        return (rows @ kernel[:, :, 0, 0]).movedim(-1, 1) if deeper else output, by_kernel[:, :, None, None]
    by_x, by_kernel, _ = torch.ops.aten.convolution_backward(
        output, x, kernel, None, [1, 1], padding(kernel), [1, 1], False, [0, 0], 1, [deeper, True, False]
    )
    return by_x, by_kernel


def _trace_gradients(kernels: tuple[Tensor, ...], slopes: tuple[Tensor | None, ...], scale: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the sum over rows of ``scale`` (B,) times tr J, by the kernels and by the slopes."""
    with torch.enable_grad():
        points = [tensor.detach().requires_grad_(True) for tensor in (*kernels, *slopes) if tensor is not None]
        total = (scale * trace(tuple(points[: len(kernels)]), tuple(points[len(kernels) :]))).sum()
    return torch.autograd.grad(total, points)
