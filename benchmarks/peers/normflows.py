"""normflows: ``Residual`` of a ``LipschitzMLP``, as in the library's own example of a residual flow.

Defaults kept: Swish before every layer, a geometric roulette (p = 0.5) after two exact terms, one Gaussian probe, in evaluation
20 exact terms and the full Jacobian in two dimensions, the Neumann gradient with the backward pass computed in the forward pass.

| normflows: A PyTorch Package for Normalizing Flows (Stimper et al., 2023), arXiv 2302.12014
| Residual Flows for Invertible Generative Modeling (Chen et al., 2019), arXiv 1906.02735, whose code it contains
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import normflows as nf
from torch import Tensor, nn

from .base import Architecture, Peer

__all__ = ["Normflows", "residual_flow"]


class Normflows(Peer):
    """``NormalizingFlow`` of pairs (Residual, ActNorm), built by ``branch`` for each residual function."""

    name = "normflows"

    def __init__(self, features: int, branches: Sequence[nn.Module], iterations: int) -> None:
        super().__init__()
        flows: list[nn.Module] = []
        for branch in branches:
            flows += [nf.flows.Residual(branch, reduce_memory=True), nf.flows.ActNorm(features)]
        self.model: Any = nf.NormalizingFlow(nf.distributions.DiagGaussian(features, trainable=False), flows)
        self.iterations = iterations

    def log_prob(self, x: Tensor) -> Tensor:
        return self.model.log_prob(x)

    def encode(self, x: Tensor) -> Tensor:
        for flow in reversed(self.model.flows):  # the library's forward direction is latent to data
            x = flow.iresblock(x) if isinstance(flow, nf.flows.Residual) else flow.inverse(x)[0]
        return x

    def decode(self, z: Tensor) -> Tensor:
        for flow in self.model.flows:
            block: Any = getattr(flow, "iresblock", None)
            z = flow(z)[0] if block is None else block.inverse(z)
        return z

    def settle(self) -> None:
        nf.utils.update_lipschitz(self.model, self.iterations)

    def branches(self) -> list[Callable[[Tensor], Tensor]]:
        return [flow.iresblock.nnet for flow in reversed(self.model.flows) if isinstance(flow, nf.flows.Residual)]


def residual_flow(architecture: Architecture) -> Normflows:
    """The library's example with this architecture."""
    branches = [
        nf.nets.LipschitzMLP(architecture.widths, init_zeros=True, lipschitz_const=architecture.share)
        for _ in range(architecture.blocks)
    ]
    return Normflows(architecture.features, branches, architecture.iterations)
