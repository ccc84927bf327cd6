"""What was tried against the variance of the trace: the standard deviation of one probe, computed from full Jacobians.

A part of ``experiments/variance.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import iresnet
from iresnet.numerics.linearize import linearize
from iresnet.numerics.logdet import Estimate, dense_jacobian
from iresnet.numerics.noise import Noise


def ideas(trained: Callable[[int, str], tuple[iresnet.Flow, Tensor]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """By what is done to lower it, over all blocks of flows that ``trained`` makes from a seed and a family."""
    found = []
    for family in ("sandwich", "gram"):
        for seed in seeds:
            flow, x = trained(seed, family)
            sums: dict[str, Tensor] = {}
            for jacobian, at_zero in jacobians(flow, x[:200]):
                for name, matrix in variants(jacobian, at_zero).items():
                    sums[name] = sums.get(name, torch.zeros(())) + variance(matrix)
            found.append({"family": family, "seed": seed, "std": {name: float(s.mean().sqrt()) for name, s in sums.items()}})
    return found


def jacobians(flow: iresnet.Flow, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each block, J (B, d, d) where x meets it and J (d, d) at zero."""
    found = []

    class Keeping:
        def __call__(self, function: Any, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Estimate]:
            zero = torch.zeros_like(x[:1])
            found.append((dense_jacobian(linearize(function, x), x), dense_jacobian(linearize(function, zero), zero)[0]))
            return iresnet.Exact()(function, x)

    with torch.no_grad():
        flow.bind().estimate(x, logdet=Keeping())
    return found


def variants(jacobian: Tensor, at_zero: Tensor) -> dict[str, Tensor]:
    """Matrices whose quadratic form is what is left to a probe."""
    eye = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype)
    rest = log(jacobian) - jacobian
    average, found = jacobian.mean(0), {"nothing": log(jacobian), "exact tr J": rest}
    found["exact tr J and tr J^2"] = rest + jacobian @ jacobian / 2
    found["exact tr J of (I + J(0))^-1 (J - J(0))"] = after(jacobian, at_zero)
    found["exact tr J of (I + mean J)^-1 (J - mean J)"] = after(jacobian, average)
    for rank in (1, 4, 16):
        kept = torch.linalg.svd(rest)[0][..., :rank]
        left = eye - kept @ kept.mT
        found[f"exact tr J, deflated by its {rank} largest singular vectors"] = left @ rest @ left
    for name, matrix in (("J(0)", at_zero), ("mean J", average)):
        form = log(matrix) - matrix
        turn = torch.linalg.eigh(form + form.mT)[1]
        found[f"exact tr J, probes in the eigenbasis of {name}"] = turn.mT @ rest @ turn
    return found


def after(jacobian: Tensor, reference: Tensor) -> Tensor:
    step = torch.linalg.solve(torch.eye(len(reference), dtype=reference.dtype) + reference, jacobian - reference)
    return log(step) - step


def log(matrix: Tensor) -> Tensor:
    """log(I + M) of (*, d, d) by eigenvalues."""
    values, vectors = torch.linalg.eig(matrix)
    return (vectors @ torch.diag_embed(torch.log1p(values)) @ torch.linalg.inv(vectors)).real


def variance(matrix: Tensor) -> Tensor:
    """Of v^T M v for Rademacher v: twice the squares off the diagonal of the symmetric part."""
    part = (matrix + matrix.mT) / 2
    return 2 * (part.square().sum((-1, -2)) - part.diagonal(dim1=-2, dim2=-1).square().sum(-1))
