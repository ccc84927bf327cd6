r"""The layers of a convolution branch: one evaluation, products with its Jacobian, and its trace.

Images and probes are channels-last inside, which is up to twice as fast on processors as well as on accelerators; a 1 x 1
convolution is the matrix product that it is.
"""

from __future__ import annotations

from itertools import groupby, product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, linear

from .activations import Activation

__all__ = ["ConvLayers", "ConvPass", "channels_last", "convolve", "padding", "pull", "push", "run_layers", "times", "trace"]


class ConvLayers(NamedTuple):
    """The tensors of a convolution branch; see :class:`~iresnet.contract.conv.ConvBound`."""

    kernels: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...]
    activation: Activation
    preactivate: bool


class ConvPass(NamedTuple):
    """What one evaluation leaves behind: what each convolution read, the slopes before it (None for a plain first), g(x)."""

    inputs: tuple[Tensor, ...]
    slopes: tuple[Tensor | None, ...]
    value: Tensor


def run_layers(layers: ConvLayers, x: Tensor) -> ConvPass:
    """Inputs and slopes at images x (B, C, H, W), for activations that act on each entry alone."""
    hidden, slope = layers.activation.with_slope(x) if layers.preactivate else (x, None)
    inputs, slopes = [hidden], [slope]
    for kernel, offset in zip(layers.kernels[:-1], layers.offsets[:-1], strict=True):
        hidden, slope = layers.activation.with_slope(convolve(hidden, kernel, offset))
        inputs.append(hidden)
        slopes.append(slope)
    return ConvPass(tuple(inputs), tuple(slopes), convolve(hidden, layers.kernels[-1], layers.offsets[-1]))


def pull(layers: ConvLayers, at: ConvPass, vector: Tensor) -> Tensor:
    """J^T v for v (B, C, H, W) or (m, B, C, H, W)."""
    shape, vector = vector.shape, channels_last(vector.flatten(0, -4))
    for kernel, slope in zip(layers.kernels[::-1], at.slopes[::-1], strict=True):
        if kernel.shape[-2:] == (1, 1):
            vector = (vector.movedim(1, -1) @ kernel[:, :, 0, 0]).movedim(-1, 1)
        else:
            vector = conv_transpose2d(vector, kernel, padding=padding(kernel))
        vector = times(vector, slope)
    return vector.reshape(shape)


def push(layers: ConvLayers, at: ConvPass, vector: Tensor) -> Tensor:
    """J v for v (B, C, H, W) or (m, B, C, H, W)."""
    shape, vector = vector.shape, channels_last(vector.flatten(0, -4))
    for kernel, slope in zip(layers.kernels, at.slopes, strict=True):
        vector = convolve(times(vector, slope), kernel)
    return vector.reshape(shape)


def trace(kernels: tuple[Tensor, ...], slopes: tuple[Tensor, ...]) -> Tensor:
    """tr J (B,) from the slopes (B, h, H, W) of the one or two hidden layers; see :mod:`iresnet.contract.conv`."""
    first, last = kernels[0], kernels[-1].flip(-2, -1)
    if len(slopes) == 1:
        table = torch.einsum("bcij,cbij->ijb", first, last)
    else:
        table = torch.einsum("bcij,caij->ijab", first, last) * kernels[1][:, :, 0, 0]
    rows, columns = (_bands(length, taps) for length, taps in zip(slopes[0].shape[2:], first.shape[2:], strict=True))
    # Split, not sliced: the gradient of a split is one concatenation, that of each slice a full tensor of zeros.
    tiles = [
        [
            tile
            for band in slope.movedim(1, -1).split([length for length, _ in rows], 1)
            for tile in band.split([length for length, _ in columns], 2)
        ]
        for slope in slopes
    ]
    total = slopes[0].new_zeros(slopes[0].shape[0])
    for place, ((_, taps), (_, others)) in enumerate(product(rows, columns)):
        core, inner = table[taps, others].sum((0, 1)), tiles[0][place]  # (h_2, h_1) or (h_1,), and (B, r, c, h_1)
        if len(slopes) == 1:
            total = total + (inner @ core).sum((1, 2))
        else:
            total = total + ((inner @ core.mT) * tiles[1][place]).sum((1, 2, 3))
    return total


def _bands(length: int, taps: int) -> list[tuple[int, slice]]:
    """Lengths of runs of places, and for each run the taps that do not leave the image from there."""
    reach = taps // 2
    inside = [(max(reach - place, 0), min(taps, length - place + reach)) for place in range(length)]
    return [(len(list(run)), slice(*ends)) for ends, run in groupby(inside)]


def convolve(x: Tensor, kernel: Tensor, offset: Tensor | None = None) -> Tensor:
    """K * x + b, in one fused call where the offset is shared by all rows."""
    bias = offset if offset is not None and offset.dim() == 1 else None
    if kernel.shape[-2:] == (1, 1):
        value = linear(x.movedim(1, -1), kernel[:, :, 0, 0], bias).movedim(-1, 1)
    else:
        value = conv2d(x, kernel, bias, padding=padding(kernel))
    return value if offset is bias else value + offset[:, :, None, None]  # type: ignore[index]


def padding(kernel: Tensor) -> tuple[int, int]:
    """The zero padding that keeps the size."""
    return kernel.shape[-2] // 2, kernel.shape[-1] // 2


def times(vectors: Tensor, slope: Tensor | None) -> Tensor:
    """Products (m B, h, H, W) with slopes (B, h, H, W), if there are any."""
    if slope is None:
        return vectors
    count = slope.shape[0]  # not len(), which a tracer takes for a constant
    if vectors.shape[0] == count:
        return vectors * slope
    return (vectors.unflatten(0, (-1, count)) * slope).flatten(0, 1)


def channels_last(x: Tensor) -> Tensor:
    """Images (B, C, H, W) with their channels next to each other in memory."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)  # vmap knows no memory formats
