"""Convolution branches, kernels and small images that the laws run over, and their dense twins."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from iresnet.bases import StandardNormal
from iresnet.bijections import ActNorm, Chain, Residual
from iresnet.contract import ConvBound, NormalizedConvBranch, SandwichConvBranch
from iresnet.contract.dense import DenseBound
from iresnet.flow import Flow
from iresnet.numerics.convolution import dense_convolution
from iresnet.testing import adversarial_matrices, randomized

SOUND = ("sandwich", "gram", "frobenius")
# (shape, hidden): usual, one hidden layer, one channel, narrow, images of one row and of one pixel.
SHAPES = (
    ((2, 4, 5), (6, 5)),
    ((3, 4, 4), (4,)),
    ((1, 5, 3), (12, 2)),
    ((4, 1, 6), (3, 3)),
    ((2, 1, 1), (4, 4)),
    ((2, 2, 3), (4, 6, 2)),
)


def conv(
    family: str,
    shape: Sequence[int] = (2, 4, 5),
    hidden: Sequence[int] = (6, 4),
    lipschitz: float = 0.9,
    nonlinearity: str = "elu",
    context: int = 0,
    *,
    seed: int | None = 0,
    scale: float = 1.5,
    **more: Any,
) -> Any:
    """A convolution branch in float64 with random parameters (its own initial ones for ``seed=None``), of any family."""
    torch.manual_seed(1 if seed is None else seed)
    if family == "sandwich":
        made: Any = SandwichConvBranch(shape, hidden, lipschitz, nonlinearity, context, **more)
    else:
        made = NormalizedConvBranch(shape, hidden, lipschitz, nonlinearity, context, family=family, **more)
    made.double()
    if seed is not None:
        randomized(made, scale, seed)
        if family == "free":  # contractive all the same, so that series converge, but nothing says so
            with torch.no_grad():
                for kernel in made.kernels:
                    kernel.mul_(0.1)
    return made.eval()


def images(count: int, shape: Sequence[int] = (2, 4, 5), seed: int = 0, scale: float = 1.5) -> Tensor:
    """Random images (count, *shape) in float64."""
    return scale * torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv_flow(family: str = "sandwich", shape: Sequence[int] = (2, 3, 4), context: int = 0, blocks: int = 2, **more: Any) -> Flow:
    """A flow in float64 of ActNorm and convolution blocks with random parameters."""
    parts: list[Any] = []
    for index in range(blocks):
        parts += [ActNorm(shape[0], context), Residual(conv(family, shape, (6, 4), 0.8, context=context, seed=index, **more))]
    made = Flow(Chain(parts), StandardNormal(tuple(shape)), context=context).double()
    made.initialize(images(50, shape), images(50, (context,)) if context else None)
    return made.eval()


def dense_twin(bound: ConvBound) -> DenseBound:
    """The same function of flattened images, as matrices: what every product, trace and bound must agree with."""
    size = bound.shape[1:]
    area = math.prod(size)
    matrices = tuple(dense_convolution(kernel.detach(), size) for kernel in bound.kernels)
    offsets = tuple(offset.detach().repeat_interleave(area, -1) for offset in bound.offsets)
    return DenseBound(matrices, offsets, bound.activation)


def adversarial_kernels(outputs: int, inputs: int, taps: int = 3, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Kernels (O, I, k, k) in float64 that are hard for some way of bounding a convolution."""
    generator = torch.Generator().manual_seed(seed)
    middle = taps // 2
    for name, matrix in adversarial_matrices(outputs, inputs * taps * taps, seed=seed):
        yield name, matrix.reshape(outputs, inputs, taps, taps)
    for name, matrix in adversarial_matrices(outputs, inputs, seed=seed):
        identity = torch.zeros(outputs, inputs, taps, taps, dtype=torch.float64)
        identity[:, :, middle, middle] = matrix
        yield f"{name}, middle tap", identity
        shifted = torch.zeros_like(identity)
        shifted[:, :, 0, -1] = matrix
        yield f"{name}, corner tap", shifted
        line = torch.linspace(-1, 1, taps, dtype=torch.float64) if taps > 1 else torch.ones(1, dtype=torch.float64)
        yield f"{name}, blur", matrix[:, :, None, None] * torch.outer(1.5 - line.abs(), 1.5 - line.abs())
        yield f"{name}, edge", matrix[:, :, None, None] * torch.outer(1.5 - line.abs(), line)
        signs = torch.where(torch.arange(taps) % 2 == 0, 1.0, -1.0).double()
        yield f"{name}, checkerboard", matrix[:, :, None, None] * torch.outer(signs, signs)
        noise = 1e-3 * torch.randn(outputs, inputs, taps, taps, generator=generator, dtype=torch.float64)
        yield f"{name}, nearly the middle tap", identity + noise
