"""FrEIA: ``IResNetLayer`` and its ``ActNorm`` in a ``SequenceINN``.

Defaults kept: ELU, 20 terms of the series with one Rademacher probe, 50 fixed-point iterations without a test of convergence.
Its Jacobian products are taken without a graph: the log-determinant of a residual layer has *no gradient*, so what training
maximises is the base density of the latents alone.

Framework for Easily Invertible Architectures (Ardizzone et al., 2018-2022), github.com/vislearn/FrEIA
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from FrEIA.framework import SequenceINN
from FrEIA.modules import ActNorm, IResNetLayer
from torch import Tensor

from .base import Architecture, Peer

__all__ = ["Freia", "iresnet"]


class Freia(Peer):
    """A ``SequenceINN`` of pairs (ActNorm, IResNetLayer)."""

    name = "FrEIA"

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, *others = architecture.hidden
        if any(other != width for other in others):
            raise ValueError("IResNetLayer has hidden layers of one width")
        self.model: Any = SequenceINN(architecture.features)
        for _ in range(architecture.blocks):
            self.model.append(ActNorm)
            self.model.append(
                IResNetLayer,
                internal_size=width,
                n_internal_layers=len(others),
                lipschitz_iterations=architecture.iterations,
                spectral_norm_max=architecture.share,
            )

    def log_prob(self, x: Tensor) -> Tensor:
        with torch.enable_grad():  # its Jacobian products fail under no_grad
            z, logdet = self.model(x)
        return logdet - 0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))

    def encode(self, x: Tensor) -> Tensor:
        for layer in self.model.module_list:  # SequenceINN itself fails with jac=False: it adds up what one layer leaves None
            (x,), _ = layer((x,), jac=False)
        return x

    def decode(self, z: Tensor) -> Tensor:
        for layer in reversed(self.model.module_list):
            (z,), _ = layer((z,), rev=True, jac=False)
        return z

    def settle(self) -> None:
        for layer in self.model.module_list:
            if isinstance(layer, IResNetLayer):
                layer.lipschitz_correction()

    def initialize(self, x: Tensor) -> None:
        self.settle()  # weights start as torch.nn.Linear draws them
        super().initialize(x)

    def branches(self) -> list[Callable[[Tensor], Tensor]]:
        return [layer.residual for layer in self.model.module_list if isinstance(layer, IResNetLayer)]


def iresnet(architecture: Architecture) -> Freia:
    """The library's layers with this architecture."""
    return Freia(architecture)
