"""What a classifier of images reads of its latents before the linear map: nothing here bears on the inverse or the density."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

__all__ = ["HEADS", "Convolutions", "Pool"]

HEADS = ("linear", "pool", "convolution")


class Pool(nn.Module):
    """The mean over height and width of max(x, 0) and of max(-x, 0): (B, C, H, W) to (B, 2 * 4^squeezes * C).

    Parameters
    ----------
    squeezes : how often squares of two by two places become channels first: as often as a flow has made places of channels again,
        so that what is pooled are the channels of its last stage.
    """

    def __init__(self, squeezes: int = 0) -> None:
        super().__init__()
        self.squeezes = squeezes

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.squeezes):
            x = pixel_unshuffle(x, 2)
        return torch.cat((x.clamp(min=0).mean((2, 3)), (-x).clamp(min=0).mean((2, 3))), 1)

    def extra_repr(self) -> str:
        return f"squeezes={self.squeezes}"


class Convolutions(nn.Sequential):
    """A small ordinary convolution network: (B, C, H, W) to (B, ``width``), at a quarter of the height and width.

    Latents of a density are close to noise, and classes are not linear in them. An ordinary network finds them there, so that the
    flow need not be bent to make them so.

    Parameters
    ----------
    shape : (C, H, W).
    channels : of the layers; the first two of them halve height and width. Multiples of 8.
    """

    def __init__(self, shape: Sequence[int], channels: Sequence[int] = (32, 64, 64)) -> None:
        wide, height, width = shape
        layers: list[nn.Module] = []
        for index, narrow in enumerate(channels):
            stride = 2 if index < 2 else 1
            layers += [nn.Conv2d(wide, narrow, 3, stride, 1), nn.GroupNorm(8, narrow), nn.GELU()]
            wide, height, width = narrow, -(-height // stride), -(-width // stride)
        super().__init__(*layers, nn.Flatten())
        self.width = wide * height * width
