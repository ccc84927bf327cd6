"""zuko: ``CNF``, a continuous flow, which does the same job (an unrestricted Jacobian, density and samples) by another way.

One network of the same hidden widths instead of blocks, ELU. Defaults kept: adaptive Runge-Kutta with tolerances 1e-6 and 1e-5,
gradients by the checkpointed adjoint. The trace is exact up to ``EXACT`` features and Hutchinson's beyond, where the exact one
costs as many backward passes as there are features for each evaluation of the ordinary differential equation.

zuko (Rozet et al., 2022), doi 10.5281/zenodo.7625672; FFJORD (Grathwohl et al., 2019), arXiv 1810.01367
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from zuko.flows import CNF

from .base import Architecture, Peer

__all__ = ["EXACT", "Zuko", "cnf"]

EXACT = 8


class Zuko(Peer):
    """A ``CNF`` over R^d with a standard normal base."""

    name = "zuko CNF"

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        exact = architecture.features <= EXACT
        self.model: Any = CNF(architecture.features, hidden_features=architecture.hidden, exact=exact)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.model().log_prob(x)

    def encode(self, x: Tensor) -> Tensor:
        return self.model().transform(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.model().transform.inv(z)


def cnf(architecture: Architecture) -> Zuko:
    """The library's continuous flow with these hidden widths; there are no blocks and no Lipschitz constant."""
    return Zuko(architecture)
