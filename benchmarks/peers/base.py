"""What a benchmark asks of a flow of another library, and its exact density, which none of them offers in all dimensions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Architecture", "Peer", "exact_log_prob", "jacobian"]


@dataclass(frozen=True)
class Architecture:
    """Blocks of features - hidden - ... - features, each with an elementwise affine layer as its neighbour; base N(0, I).

    ``lipschitz`` is the bound c of a branch; peers that bound layers are given c^(1/n) for each of its n layers. What else a
    library lets one choose is its own default, but for ``iterations`` of power iteration a step.
    """

    features: int
    blocks: int = 16
    hidden: tuple[int, ...] = (128, 128)
    lipschitz: float = 0.97
    iterations: int = 5

    @property
    def widths(self) -> list[int]:
        return [self.features, *self.hidden, self.features]

    @property
    def share(self) -> float:
        """Bound of one layer."""
        return self.lipschitz ** (1 / (len(self.hidden) + 1))


class Peer(nn.Module, ABC):
    """A flow of another library behind one interface; x and z are (B, features)."""

    name: str

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) (B,) as the library estimates it in its present mode, with its own graph of gradients."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """The latents of x, without a log-determinant, differentiable in x."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """The library's own inverse with its own stopping rule."""

    def settle(self) -> None:
        """What the library needs after every optimiser step to hold its Lipschitz constant."""

    def initialize(self, x: Tensor) -> None:
        """Data-dependent initialisation, where there is one: it happens at the first evaluation of the density."""
        self.train()
        self.log_prob(x)

    def branches(self) -> list[Callable[[Tensor], Tensor]]:
        """The residual functions g, from data to latent; none for a flow that has none."""
        return []


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Value (B, d) and Jacobian (B, d, d) of a row-wise function by one backward pass for each output."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        value = function(x)
        rows = [torch.autograd.grad(value[:, index].sum(), x, retain_graph=True)[0] for index in range(value.shape[1])]
    return value.detach(), torch.stack(rows, 1)


def exact_log_prob(encode: Callable[[Tensor], Tensor], x: Tensor, batch: int = 5000) -> Tensor:
    """log p(x) (B,) of a flow with base N(0, I) by the full Jacobian of its encoder, in the precision of x."""
    found = []
    for part in x.split(batch):
        z, slopes = jacobian(encode, part)
        base = -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))
        found.append(base + torch.linalg.slogdet(slopes).logabsdet)
    return torch.cat(found)
