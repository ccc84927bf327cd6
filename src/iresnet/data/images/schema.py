"""The schema of images: shape and levels, and the map between bytes and what a flow sees.

The flow lives on [0, levels)^d: level v becomes v + u with u uniform on (0, 1) (Theis, van den Oord and Bethge, 2016,
arXiv 1511.01844), so log p(x) needs no Jacobian here and minus its base-2 logarithm over d is bits per dimension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ..context import Conditioned, ContextColumn
from ..schema import Schema

__all__ = ["ImageSchema", "read_schema"]


@dataclass(frozen=True)
class ImageSchema(Conditioned):
    """Images of ``shape`` (C, H, W) with ``levels`` values a channel, and the context they are conditioned on."""

    shape: tuple[int, int, int]
    levels: int = 256
    context: tuple[ContextColumn, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of columns, of which images have none."""
        return ()

    @property
    def features(self) -> int:
        """The number d of dimensions."""
        return math.prod(self.shape)

    @property
    def dequantized(self) -> tuple[str, ...]:
        """What holds levels: the pixels."""
        return ("pixels",)

    @property
    def discrete(self) -> bool:
        """Whether bits per dimension have a meaning: for images always."""
        return True

    @property
    def size(self) -> str:
        """The shape in words."""
        channels, height, width = self.shape
        return f"{height} x {width} pixels, {channels} channel{'s' if channels != 1 else ''} of {self.levels} levels"

    def describe(self) -> list[str]:
        """What the pixels and the context are, in lines."""
        return [f"images of {self.size}, dequantised by uniform noise", *self.describe_context()]

    def bits_per_dim(self, log_prob: Tensor) -> Tensor:
        """Bits per dimension of log p in nats: an upper bound, in the mean over the noise, on the code length of the levels."""
        return -log_prob / (self.features * math.log(2))

    def encode(
        self, values: Tensor, noise: Tensor | None = None, *, continuous: bool = False, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Levels (N, C, H, W) plus ``noise`` in (0, 1) of that shape, in the noise's precision; and zeros (N,).

        ``continuous=True`` says that noise is in the values already.

        Raises
        ------
        UserError
            If the images have another shape, or need noise and there is none.
        """
        if tuple(values.shape[1:]) != self.shape:
            raise UserError(f"expected images of shape {self.shape}, got {tuple(values.shape[1:])}")
        if noise is None and not continuous:
            raise UserError("pixels hold levels: give noise in (0, 1) to dequantise them, or say continuous=True if that is done")
        x = values.double() if noise is None else values.to(noise.dtype) + noise
        # Where 255 + u rounds to 256 the image would leave the domain.
        top = torch.nextafter(torch.tensor(float(self.levels), dtype=x.dtype), torch.tensor(0.0, dtype=x.dtype))
        return x.clamp(max=float(top)), x.new_zeros(len(x))

    def decode(self, z: Tensor, *, continuous: bool = False) -> Tensor:
        """x (N, C, H, W) to levels, uint8; as it is, float64, if ``continuous``."""
        if continuous:
            return z.double().cpu()
        return z.cpu().floor().clamp(0, self.levels - 1).to(torch.uint8)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"shape": list(self.shape), "levels": self.levels, "context": [column.to_dict() for column in self.context]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ImageSchema:
        """The inverse of :meth:`to_dict`."""
        context = [ContextColumn(**(item | {"levels": tuple(item["levels"])})) for item in content["context"]]
        channels, height, width = content["shape"]
        return cls((channels, height, width), content["levels"], tuple(context))


def read_schema(content: Mapping[str, Any]) -> Schema | ImageSchema:
    """The schema that ``to_dict`` of either kind wrote.

    Raises
    ------
    UserError
        If a key is unknown or missing.
    """
    return ImageSchema.from_dict(content) if "shape" in content else Schema.from_dict(content)
