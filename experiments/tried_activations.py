"""Activations that experiments/contractions.py and convolutions.py try beside those of iresnet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from iresnet.contract.activations import Activation

__all__ = ["ACTIVATIONS", "Skip"]


class Arctan(Activation):
    """arctan x; with v its value, the second derivative is -sin(2 v) times the slope."""

    curved: ClassVar[bool] = True

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.atan(x), 1 / (1 + x * x)

    def gradient(self, value: Tensor, slope: Tensor, by_value: Tensor, by_slope: Tensor) -> Tensor:
        return (by_value - torch.sin(2 * value) * by_slope) * slope


class Asinh(Activation):
    """arsinh x, which grows as a logarithm; the second derivative is -tanh(v) times the square of the slope."""

    curved: ClassVar[bool] = True

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.asinh(x), torch.rsqrt(1 + x * x)

    def gradient(self, value: Tensor, slope: Tensor, by_value: Tensor, by_slope: Tensor) -> Tensor:
        return (by_value - torch.tanh(value) * slope * by_slope) * slope


class Hardtanh(Activation):
    """x cut off at -1 and 1."""

    curved: ClassVar[bool] = True

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.clamp(-1, 1), (x.abs() < 1).to(x.dtype)

    def gradient(self, value: Tensor, slope: Tensor, by_value: Tensor, by_slope: Tensor) -> Tensor:
        return by_value * slope


class Erf(Activation):
    """The integral of e^(-x^2), which saturates sooner than tanh; the second derivative is -2 x times the slope."""

    curved: ClassVar[bool] = True

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.erf(x) * (math.sqrt(math.pi) / 2), torch.exp(-x * x)

    def gradient(self, value: Tensor, slope: Tensor, by_value: Tensor, by_slope: Tensor) -> Tensor:
        x = torch.sqrt(-torch.log(slope.clamp(min=torch.finfo(slope.dtype).tiny))) * value.sign()
        return (by_value - 2 * x * by_slope) * slope


class ClippedSine(Activation):
    """sin x between -pi/2 and pi/2, and constant beyond: the second derivative is minus the value inside."""

    curved: ClassVar[bool] = True

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clamp(-math.pi / 2, math.pi / 2)
        return torch.sin(x), torch.cos(x).clamp(min=0.0)

    def gradient(self, value: Tensor, slope: Tensor, by_value: Tensor, by_slope: Tensor) -> Tensor:
        return by_value * slope - torch.where(slope > 1e-6, value, torch.zeros_like(value)) * by_slope


ACTIVATIONS: dict[str, Activation] = {
    "arctan": Arctan(),
    "asinh": Asinh(),
    "hardtanh": Hardtanh(),
    "erf": Erf(),
    "clipped sine": ClippedSine(),
}


@dataclass(frozen=True)
class Skip(Activation):
    """``inner`` on the last ``width`` units, or channels for ``dim=1``; the identity on those before, which so skip the layer."""

    inner: Activation
    width: int
    dim: int = -1

    @property
    def lipschitz(self) -> float:  # type: ignore[override]
        return max(1.0, self.inner.lipschitz)

    @property
    def slope(self) -> tuple[float, float]:  # type: ignore[override]
        return self.inner.slope[0], max(1.0, self.inner.slope[1])

    @property
    def elementwise(self) -> bool:  # type: ignore[override]
        return self.inner.elementwise

    @property
    def curved(self) -> bool:  # type: ignore[override]
        return self.inner.curved

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        size = x.shape[self.dim]
        return x.narrow(self.dim, 0, size - self.width), x.narrow(self.dim, size - self.width, self.width)

    def __call__(self, x: Tensor) -> Tensor:
        plain, rest = self._parts(x)
        return torch.cat((plain, self.inner(rest)), self.dim)

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        plain, rest = self._parts(x)
        value, slope = self.inner.with_slope(rest)
        return torch.cat((plain, value), self.dim), torch.cat((torch.ones_like(plain), slope), self.dim)

    def gradient(self, value: Tensor, slope: Tensor, by_value: Tensor, by_slope: Tensor) -> Tensor:
        rest = [self._parts(one) for one in (value, slope, by_value, by_slope)]
        return torch.cat((rest[2][0], self.inner.gradient(*(one[1] for one in rest))), self.dim)
