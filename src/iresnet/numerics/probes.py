"""What estimators with random probes share: the vectors v with E[v v^T] = I, inner products, and the mean of several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .linearize import transforming
from .noise import Noise

__all__ = ["DISTRIBUTIONS", "draw_probes", "inner", "length", "plus", "power_sums", "split_probes", "stderr_of_mean", "times"]

DISTRIBUTIONS = ("rademacher", "gaussian")


def draw_probes(distribution: str, count: int, x: Tensor, *noises: Noise) -> Tensor:
    """Random vectors (count, B, *) for x (B, *), of mean zero and unit covariance. Of several sources each has its part of x."""
    probes = [_draw(distribution, [noise.at(index) for noise in noises], x) for index in range(count)]
    return torch.stack(probes) if count > 1 else probes[0][None]


def _draw(distribution: str, places: list[Noise], x: Tensor) -> Tensor:
    if distribution == "gaussian":
        return torch.cat([place.normals(part) for place, part in zip(places, x.chunk(len(places)), strict=True)])
    return (places[0] if len(places) == 1 else Noise.joined(places)).signs(x)


def split_probes(probes: Tensor, step: int) -> Tensor:
    r"""Probes (m, B, *) cut into n parts each, (m n, B, *), scaled so that their mean square stays one.

    An image (C, H, W) is cut into its channels and each of these into the places that are ``step`` apart in both directions, so
    that n = C ``step``^2; a vector into every ``step``-th entry, n = ``step``. In v^T A v only entries of the same part meet: if
    A couples what is near, as convolutions do, little is left of the variance. In the literature this is called probing.

    References
    ----------
    A probing method for computing the diagonal of a matrix inverse (Tang and Saad, 2012), doi 10.1002/nla.779
    """
    shape = probes.shape[2:]
    if len(shape) == 3:
        channels, height, width = shape
        rows, columns = min(step, height), min(step, width)
        place = torch.arange(height)[:, None] % rows * columns + torch.arange(width) % columns
        part = torch.arange(channels)[:, None, None] * rows * columns + place
        count = channels * rows * columns
    else:
        count = min(step, shape.numel())
        part = (torch.arange(shape.numel()) % count).reshape(shape)
    mask = torch.nn.functional.one_hot(part.to(probes.device), count).movedim(-1, 0).to(probes.dtype) * math.sqrt(count)
    return (probes[:, None] * mask[:, None]).flatten(0, 1)


def inner(left: Tensor, right: Tensor) -> Tensor:
    """Inner products (m, B) of (m, B, *)."""
    return (left * right).flatten(2).sum(-1)


def stderr_of_mean(values: Tensor) -> Tensor:
    """Standard error (B,) of the mean over independent values (m, B); NaN for a single one, which does not tell its spread."""
    if len(values) < 2 or values.numel() == 0:
        return torch.full_like(values[0], math.nan)
    return values.std(0) / math.sqrt(len(values))


def length(vectors: Tensor) -> Tensor:
    """Euclidean norms (m, B) of (m, B, *)."""
    return torch.linalg.vector_norm(vectors.flatten(2), dim=-1)


def times(vectors: Tensor, factors: Tensor) -> Tensor:
    """Vectors (m, B, *) times factors (m, B), of which some are zero.

    Rows that have stopped are set to zero so that they no longer shrink: of numbers near the smallest there are, a CPU takes ten
    times as long for each.
    """
    return vectors * factors.reshape(*factors.shape, *[1] * (vectors.dim() - 2))


def plus(total: Tensor, vector: Tensor, share: float) -> Tensor:
    """``total + share * vector``, in the memory of ``total`` where no graph forbids it."""
    in_place = not torch.is_grad_enabled() and not transforming()
    return total.add_(vector, alpha=share) if in_place else total.add(vector, alpha=share)


def power_sums(
    product: Callable[[Tensor], Tensor], probes: Tensor, by_power: Sequence[float], shares: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """The ``sums`` of a :class:`~iresnet.numerics.linearize.Linearization`, product by product, for v = ``probes`` (m, B, *)."""
    vector, summed = probes, torch.zeros_like(probes)  # the series before its inner product with the probes
    shared = probes * shares[0] if shares[0] != 1 else probes.clone()
    for factor, share in zip(by_power, shares[1:], strict=True):
        vector = product(vector)
        summed = plus(summed, vector, factor) if factor else summed
        shared = plus(shared, vector, share) if share else shared
    return inner(summed, probes), shared, vector
