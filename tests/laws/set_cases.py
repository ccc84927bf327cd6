"""Branches for sets of points that the laws run over, small and in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from law_cases import rows
from torch import Tensor

from iresnet.contract import SET_FAMILIES, AttentionBranch, set_branch
from iresnet.testing import randomized

KINDS = (*SET_FAMILIES, "attention")


def clouds(count: int, points: int, features: int = 3, seed: int = 0, scale: float = 1.5) -> Tensor:
    return rows(count, points * features, seed, scale).reshape(count, points, features)


def made(kind: str, features: int = 3, hidden=(6, 5), context: int = 0, seed: int = 0, nonlinearity: str = "elu"):
    """A branch of that kind with random parameters in float64, for at most 6 points."""
    torch.manual_seed(seed)
    if kind == "attention":
        branch = AttentionBranch(features, 6, heads=2, width=3, lipschitz=0.9)
    else:
        branch = set_branch(kind, features, hidden, 0.9, nonlinearity, context)
    return randomized(branch, 1.5, seed).double().eval()


def dense(weight: Tensor, points: int) -> Tensor:
    """The whole matrix (N h', N h) of a layer, the naive way: A and S on the two spaces of the mean."""
    mean = torch.full((points, points), 1 / points, dtype=weight.dtype)
    own, of_mean = (part.contiguous() for part in weight)
    return torch.kron(torch.eye(points, dtype=weight.dtype) - mean, own) + torch.kron(mean, of_mean)


@dataclass(frozen=True)
class Flat:
    """A bound branch on rows (B, N d): what the reference solver reads."""

    bound: Any
    points: int

    def __call__(self, x: Tensor) -> Tensor:
        return self.bound(x.unflatten(1, (self.points, -1))).flatten(1)

    def rounding(self, x: Tensor) -> Tensor:
        return self.bound.rounding(x.unflatten(1, (self.points, -1)))

    def select(self, rows: Tensor) -> Flat:
        return Flat(self.bound.select(rows), self.points)

    def to(self, dtype: torch.dtype) -> Flat:
        return Flat(self.bound.to(dtype), self.points)

    def __getattr__(self, name: str) -> Any:
        if name not in ("lipschitz", "tensors", "dtype"):
            raise AttributeError(name)
        return getattr(self.bound, name)
