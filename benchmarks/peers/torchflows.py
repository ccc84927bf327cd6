"""torchflows: its ``InvertibleResNet`` (truncated series) and ``ResFlow`` (roulette) with its ``SpectralLinear`` layers and tanh.

Defaults kept: two terms of the series with one Gaussian probe and the graph of all products (``InvertibleResNet``), a geometric
roulette with p = 0.5 (``ResFlow``), 25 fixed-point iterations without a test of convergence. The branch is passed to the block,
since the library's own ``SpectralNeuralNetwork`` makes as many hidden layers as they are wide. Its coefficient c is stored and
not used: every layer is divided by an estimate of its norm, from a new random start at every call, so a branch is held near 1
from above, and two evaluations of it differ.

torchflows: a PyTorch library for normalizing flows (github.com/davidnabergoj/torchflows)
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torchflows.bijections.base import BijectiveComposition
from torchflows.bijections.finite.autoregressive.layers import ElementwiseAffine
from torchflows.bijections.finite.residual.iterative import InvertibleResNetBlock, ResFlowBlock, SpectralLinear
from torchflows.flows import Flow

from .base import Architecture, Peer

__all__ = ["Torchflows", "invertible_resnet", "res_flow"]


class Torchflows(Peer):
    """A ``Flow`` of blocks of one class between elementwise affine layers, as the library's ``ResidualArchitecture`` has them."""

    def __init__(self, name: str, block: type[InvertibleResNetBlock] | type[ResFlowBlock], architecture: Architecture) -> None:
        super().__init__()
        self.name = name
        shape = (architecture.features,)
        layers: list[Any] = [ElementwiseAffine(event_shape=shape)]
        for _ in range(architecture.blocks):
            layers += [block(shape, g=_branch(architecture)), ElementwiseAffine(event_shape=shape)]
        self.model: Any = Flow(BijectiveComposition(layers))

    def log_prob(self, x: Tensor) -> Tensor:
        return self.model.log_prob(x)

    def encode(self, x: Tensor) -> Tensor:
        for layer in self.model.bijection.layers:
            x = layer(x, skip_log_det=True)[0] if hasattr(layer, "g") else layer(x)[0]
        return x

    def decode(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            for layer in reversed(self.model.bijection.layers):
                z = layer.inverse(z, skip_log_det=True)[0] if hasattr(layer, "g") else layer.inverse(z)[0]
        return z

    def branches(self) -> list[Callable[[Tensor], Tensor]]:
        return [layer.g for layer in self.model.bijection.layers if hasattr(layer, "g")]


def _branch(architecture: Architecture) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(architecture.widths):
        layers += [SpectralLinear(inputs, outputs, c=architecture.share, n_iterations=architecture.iterations), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def invertible_resnet(architecture: Architecture) -> Torchflows:
    """The library's i-ResNet with this architecture."""
    return Torchflows("torchflows InvertibleResNet", InvertibleResNetBlock, architecture)


def res_flow(architecture: Architecture) -> Torchflows:
    """The library's Residual Flow with this architecture."""
    return Torchflows("torchflows ResFlow", ResFlowBlock, architecture)
