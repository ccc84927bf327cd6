"""Random crops and flips of whole batches of images, as a function of (seed, step, row): nothing is drawn from a generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...numerics.noise import Noise

__all__ = ["Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """Shift each image by up to ``crop`` pixels in either direction, zeros coming in, and mirror every other one if ``flip``."""

    crop: int = 0
    flip: bool = False

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """Images (B, C, H, W) of any dtype, on their device; ``noise`` has the rows' numbers."""
        count, _, height, width = images.shape
        drawn = noise.uniforms(torch.empty(count, 3, device=images.device))
        rows = torch.arange(height, device=images.device).expand(count, height)
        columns = torch.arange(width, device=images.device).expand(count, width)
        if self.flip:
            columns = torch.where(drawn[:, 2:] < 0.5, width - 1 - columns, columns)
        if self.crop:
            images = pad(images, [self.crop] * 4)
            shift = (drawn[:, :2] * (2 * self.crop + 1)).long()
            rows, columns = rows + shift[:, :1], columns + shift[:, 1:]
        batch = torch.arange(count, device=images.device)[:, None, None]
        # Indexed dimensions come first: (B, H, W, C).
        return images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
