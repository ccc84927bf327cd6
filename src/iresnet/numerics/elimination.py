"""Inverses and determinants of many matrices by LU factorisation, which torch gets wrong on a CPU where they are large.

There the matrices of a batch are shared out among threads, and MKL's factorisation of about 150 rows or more, threaded itself,
does not bear that: it hangs, or finds something else (issues 141358 and 142815 of PyTorch). One matrix at a time is safe, has
all threads to itself, and at that size takes no longer. Transforms of torch.func and torch's compiler hide how many there are: in
them, torch is believed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .linearize import transforming

__all__ = ["LARGEST_TOGETHER", "inverse", "log_abs_det", "solve"]

LARGEST_TOGETHER = 128  # rows of matrices that are safe together


def inverse(matrix: Tensor) -> Tensor:
    """The inverse of each matrix (*, n, n). That of a singular one is not finite, or any: nothing is raised."""
    # inv itself would look at the outcome, for which the host has to wait for a GPU.
    return _each(lambda one: torch.linalg.inv_ex(one).inverse, matrix)


def log_abs_det(matrix: Tensor) -> Tensor:
    """log abs det (*) of each matrix (*, n, n), minus infinity where it is singular."""
    return _each(lambda one: torch.linalg.slogdet(one).logabsdet, matrix)


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """A^-1 b (*, n) of matrices A (*, n, n) and vectors b (*, n)."""
    return _each(lambda one, vector: torch.linalg.solve_ex(one, vector[..., None]).result[..., 0], matrix, right)


def _each(function: Callable[..., Tensor], matrix: Tensor, *others: Tensor) -> Tensor:
    """``function`` of all matrices (*, n, n) at once where that is safe, with ``others`` (*, ...)."""
    batch = matrix.shape[:-2]
    safe = matrix.device.type != "cpu" or matrix.shape[-1] <= LARGEST_TOGETHER or batch.numel() < 2
    if safe or torch.get_num_threads() == 1 or transforming() or torch.compiler.is_compiling():
        return function(matrix, *others)
    alone = zip(*(tensor.reshape(-1, *tensor.shape[len(batch) :]) for tensor in (matrix, *others)), strict=True)
    found = torch.stack([function(*one) for one in alone])
    return found.reshape(*batch, *found.shape[1:])
