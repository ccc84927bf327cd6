r"""Base distributions of a flow: what the latent should look like.

References
----------
Polar Generation of Random Variates with the t-Distribution (Bailey, 1994), doi 10.1090/S0025-5718-1994-1219702-8
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .numerics.noise import Noise

__all__ = ["Base", "DiagonalNormal", "StandardNormal", "StudentT"]


class Base(nn.Module):
    """A distribution of latents of ``shape``: ``log_prob`` (B, *) to (B,), and ``sample`` from stateless noise."""

    anchor: Tensor

    def __init__(self, shape: tuple[int, ...] | int) -> None:
        super().__init__()
        self.shape = tuple(shape) if isinstance(shape, Sequence) else (int(shape),)
        # Carries dtype and device for a base that has no parameters; never saved.
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density (B,) in nats at z (B, *shape)."""
        raise NotImplementedError

    def sample(self, noise: Noise, count: int) -> Tensor:
        """``count`` draws (count, *shape), row i a function of (seed, ``noise.rows[i]``) alone."""
        raise NotImplementedError

    def _blank(self, count: int) -> Tensor:
        return torch.empty(count, *self.shape, dtype=self.anchor.dtype, device=self.anchor.device)

    def extra_repr(self) -> str:
        return f"{self.shape}"


class StandardNormal(Base):
    """N(0, I)."""

    def log_prob(self, z: Tensor) -> Tensor:
        flat = z.flatten(1)
        return -0.5 * flat.square().sum(1) - 0.5 * flat.shape[1] * math.log(2 * math.pi)

    def sample(self, noise: Noise, count: int) -> Tensor:
        return noise.normals(self._blank(count))


class DiagonalNormal(Base):
    """Independent normals with learned mean and scale; N(0, I) to begin with."""

    def __init__(self, shape: tuple[int, ...] | int) -> None:
        super().__init__(shape)
        self.mean = nn.Parameter(torch.zeros(self.shape))
        self.log_scale = nn.Parameter(torch.zeros(self.shape))

    def log_prob(self, z: Tensor) -> Tensor:
        flat = ((z - self.mean) * torch.exp(-self.log_scale)).flatten(1)
        return -0.5 * flat.square().sum(1) - self.log_scale.sum() - 0.5 * flat.shape[1] * math.log(2 * math.pi)

    def sample(self, noise: Noise, count: int) -> Tensor:
        return self.mean + self.log_scale.exp() * noise.normals(self._blank(count))


class StudentT(Base):
    """Independent Student t with learned degrees of freedom, for heavy tails, scaled to unit variance where that exists.

    Parameters
    ----------
    shape : of the latent.
    degrees : to begin with, above 2, for each entry; they stay above 2.
    """

    def __init__(self, shape: tuple[int, ...] | int, degrees: float = 10.0) -> None:
        super().__init__(shape)
        if not degrees > 2:
            raise ValueError(f"StudentT needs more than 2 degrees of freedom for a variance, got {degrees}")
        self.raw_degrees = nn.Parameter(torch.full(self.shape, math.log(degrees - 2)))

    def _degrees(self) -> tuple[Tensor, Tensor]:
        """Degrees of freedom and the scale that makes the variance one."""
        degrees = 2 + self.raw_degrees.exp()
        return degrees, torch.sqrt((degrees - 2) / degrees)

    def log_prob(self, z: Tensor) -> Tensor:
        degrees, scale = self._degrees()
        half = (degrees + 1) / 2
        constant = torch.lgamma(half) - torch.lgamma(degrees / 2) - 0.5 * torch.log(degrees * math.pi) - torch.log(scale)
        return (constant - half * torch.log1p((z / scale).square() / degrees)).flatten(1).sum(1)

    def sample(self, noise: Noise, count: int) -> Tensor:
        degrees, scale = self._degrees()
        blank = self._blank(count).double() if self.anchor.device.type != "mps" else self._blank(count)
        angle = 2 * math.pi * noise.at(1).uniforms(blank)
        radius = torch.sqrt(degrees * torch.expm1(-2 / degrees * torch.log(noise.at(0).uniforms(blank))))
        return (scale * radius * torch.cos(angle)).to(self.anchor.dtype)
