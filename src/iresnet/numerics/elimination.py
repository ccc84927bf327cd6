"""Inverses and determinants of many matrices by LU factorisation, which torch gets wrong on a CPU where they are large.

There the matrices of a batch are shared out among threads, and MKL's factorisation of about 150 rows or more, threaded itself,
does not bear that: it hangs, or finds something else (issues 141358 and 142815 of PyTorch). One matrix at a time is safe, has
all threads to itself, and at that size takes no longer. Transforms of torch.func, torch's compiler and its exported programs hide
how many there are: there QR takes LU's place, which torch factors one matrix at a time, in twice the operations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .linearize import transforming

__all__ = ["inverse", "log_abs_det", "solve"]

_LARGEST_TOGETHER = 128  # rows of matrices that are safe together


def inverse(matrix: Tensor) -> Tensor:
    """The inverse of each matrix (*, n, n). That of a singular one is not finite, or any: nothing is raised."""

    def by_qr(one: Tensor) -> Tensor:
        q, r = torch.linalg.qr(one)
        return torch.linalg.solve_triangular(r, q.mT, upper=True)

    # inv itself would look at the outcome, for which the host has to wait for a GPU.
    return _each(lambda one: torch.linalg.inv_ex(one).inverse, by_qr, matrix)


def log_abs_det(matrix: Tensor) -> Tensor:
    """log abs det (*) of each matrix (*, n, n), minus infinity where it is singular."""

    def by_qr(one: Tensor) -> Tensor:
        return torch.linalg.qr(one).R.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)

    return _each(lambda one: torch.linalg.slogdet(one).logabsdet, by_qr, matrix)


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """A^-1 b (*, n) of matrices A (*, n, n) and vectors b (*, n)."""

    def by_qr(one: Tensor, vector: Tensor) -> Tensor:
        q, r = torch.linalg.qr(one)
        return torch.linalg.solve_triangular(r, q.mT @ vector[..., None], upper=True)[..., 0]

    return _each(lambda one, vector: torch.linalg.solve_ex(one, vector[..., None]).result[..., 0], by_qr, matrix, right)


def _each(by_lu: Callable[..., Tensor], by_qr: Callable[..., Tensor], matrix: Tensor, *others: Tensor) -> Tensor:
    """What these find of all matrices (*, n, n), with ``others`` (*, ...), the way that is safe."""
    batch = matrix.shape[:-2]
    if matrix.device.type != "cpu" or matrix.shape[-1] <= _LARGEST_TOGETHER:
        return by_lu(matrix, *others)
    if transforming() or torch.compiler.is_compiling():
        return by_qr(matrix, *others)
    if batch.numel() < 2 or torch.get_num_threads() == 1:
        return by_lu(matrix, *others)
    alone = zip(*(tensor.reshape(-1, *tensor.shape[len(batch) :]) for tensor in (matrix, *others)), strict=True)
    found = torch.stack([by_lu(*one) for one in alone])
    return found.reshape(*batch, *found.shape[1:])
