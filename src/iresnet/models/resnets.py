"""Ordinary pre-activation ResNets, to compare with: no constraint, no inverse.

References
----------
Identity Mappings in Deep Residual Networks (He et al., 2016), arXiv 1603.05027
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..recipes import remembered

__all__ = ["ResNet", "dense_resnet", "image_resnet", "resnet164"]


class ResNet(nn.Module):
    """A network of ordinary residual blocks, x (B, *shape) to logits (B, K); it takes no context.

    Parameters
    ----------
    layers : from x to logits.
    """

    anchor: Tensor

    def __init__(self, shape: Sequence[int], classes: int, layers: nn.Module) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"a classifier needs at least two classes, got {classes}")
        self.shape, self.classes, self.layers = tuple(shape), classes, layers
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Nothing of it depends on data."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Logits (B, K) of x (B, *shape)."""
        if context is not None:
            raise ValueError("an ordinary ResNet takes no context")
        return self.layers(x)


class _Sum(nn.Module):
    """shortcut(x) + branch(x)."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(x)


class _Pixels(nn.Module):
    """Levels in [0, levels) to about [-2, 2]."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return 4 * x / self.levels - 2

    def extra_repr(self) -> str:
        return f"{self.levels}"


@remembered
def dense_resnet(features: int, classes: int, blocks: int = 8, hidden: Sequence[int] = (64, 64)) -> ResNet:
    """For vectors: ``blocks`` times x + branch, of batch normalisation, ReLU and linear layers through ``hidden`` and back.

    It has the depth and the widths of :func:`~iresnet.models.dense_classifier` with the same arguments.
    """
    hidden = (hidden,) if isinstance(hidden, int) else tuple(hidden)

    def branch() -> nn.Module:
        parts: list[nn.Module] = []
        for inputs, outputs in pairwise((features, *hidden, features)):
            parts += [nn.BatchNorm1d(inputs), nn.ReLU(), nn.Linear(inputs, outputs)]
        return nn.Sequential(*parts)

    head = (nn.BatchNorm1d(features), nn.ReLU(), nn.Linear(features, classes))
    return ResNet((features,), classes, nn.Sequential(*(_Sum(branch()) for _ in range(blocks)), *head))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.normal_(convolution.weight, std=math.sqrt(2 / (kernel * kernel * outputs)))
    return convolution


def _branch(*layers: tuple[int, int, int, int]) -> nn.Module:
    """Batch normalisation, ReLU and a convolution (inputs, outputs, kernel, stride), for each of ``layers``."""
    parts = [(nn.BatchNorm2d(inputs), nn.ReLU(), _convolution(inputs, *rest)) for inputs, *rest in layers]
    return nn.Sequential(*(part for group in parts for part in group))


def _head(channels: int, classes: int) -> tuple[nn.Module, ...]:
    return nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)


@remembered
def image_resnet(
    shape: Sequence[int],
    classes: int,
    blocks: Sequence[int] = (4, 4, 4),
    hidden: Sequence[int] = (64, 64),
    pad: int = 0,
    levels: int = 256,
) -> ResNet:
    """For images (C, H, W): the depth and widths of :func:`~iresnet.models.image_classifier` with the same arguments.

    Like it, it widens the image by ``pad`` channels, here learned, squeezes where that does, and has branches of 3x3, 1x1 and 3x3
    convolutions with ``hidden`` channels between.
    """
    hidden = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    channels, height, width = shape[0] + pad, shape[1], shape[2]
    parts: list[nn.Module] = [_Pixels(levels)]
    if pad:
        parts.append(_convolution(shape[0], channels, 1))
    for count in blocks:
        if height % 2 == width % 2 == 0 and min(height, width) >= 8:
            parts.append(nn.PixelUnshuffle(2))
            channels, height, width = 4 * channels, height // 2, width // 2
        widths = [(*pair, 1, 1) for pair in pairwise(hidden)]
        layers = ((channels, hidden[0], 3, 1), *widths, (hidden[-1], channels, 3, 1))
        parts += [_Sum(_branch(*layers)) for _ in range(count)]
    return ResNet(shape, classes, nn.Sequential(*parts, *_head(channels, classes)))


@remembered
def resnet164(shape: Sequence[int], classes: int, levels: int = 256, depth: int = 164) -> ResNet:
    """The bottleneck ResNet for small images (C, H, W): 164 layers in three stages of 18 blocks, 16, 32 and 64 channels wide.

    Parameters
    ----------
    depth : 9 n + 2 layers, with n blocks a stage.
    """
    if depth < 11 or (depth - 2) % 9:
        raise ValueError(f"a bottleneck ResNet has 9 n + 2 layers, got {depth}")
    parts: list[nn.Module] = [_Pixels(levels), _convolution(shape[0], 16, 3)]
    channels = 16
    for stage, width in enumerate((16, 32, 64)):
        for block in range((depth - 2) // 9):
            stride = 2 if stage and not block else 1
            layers = ((channels, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1))
            shortcut = None if block else _branch((channels, 4 * width, 1, stride))
            parts.append(_Sum(_branch(*layers), shortcut))
            channels = 4 * width
    return ResNet(shape, classes, nn.Sequential(*parts, *_head(channels, classes)))
