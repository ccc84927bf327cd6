"""Two-dimensional toy data with known densities, so that a fit is judged in nats above the truth.

All are drawn independently from a distribution with a density. Shapes and scales are those of the flow literature
(FFJORD, Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud, 2019, arXiv 1810.01367; Residual Flows, Chen, Behrmann,
Duvenaud and Jacobsen, 2019, arXiv 1906.02735) with two differences: ``moons`` is scikit-learn's
``make_moons(noise=0.1)`` unscaled, with angles drawn at random (scikit-learn lays them out evenly, so its rows are not
independent); and the twist of ``pinwheel`` depends on the radius instead of the first coordinate. That moves points by
about 0.003 radians and makes the twist preserve volume, so that the density is exact.

Each set has a label that says where a point comes from (which moon, ring, blade, ...): a class, all equally likely,
or, for ``swiss_roll``, the angle along the roll.
"""

from __future__ import annotations

import math
import zlib
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .shapes import SHAPES, Shape, roll_noise, roll_points

__all__ = [
    "NAMES",
    "Entropy",
    "entropy",
    "extent",
    "label_levels",
    "label_name",
    "log_density",
    "sample",
    "sample_labelled",
]

NAMES = tuple(sorted(SHAPES))


class Entropy(NamedTuple):
    """A differential entropy in nats and the numerical error of its integration."""

    value: float
    error: float


def _shape(name: str) -> Shape:
    if name not in SHAPES:
        raise UserError(f"there is no toy set named {name!r}; the toy sets are {', '.join(NAMES)}")
    return SHAPES[name]


def sample(name: str, n: int, seed: int) -> Tensor:
    """``n`` independent points (n, 2) float64; the same for the same ``seed``.

    Raises
    ------
    UserError
        If there is no such set, or ``n`` or ``seed`` is negative.
    """
    return sample_labelled(name, n, seed)[0]


def sample_labelled(name: str, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """As :func:`sample`, with the labels (n,): int64 classes, or float64 angles in radians for ``swiss_roll``."""
    shape = _shape(name)
    if n < 0 or seed < 0:
        raise UserError(f"the number of points and the seed must not be negative, got n={n}, seed={seed}")
    # The name is part of the seed: two sets drawn with one seed must not share their noise.
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    label = rng.integers(shape.classes, size=n) if shape.classes else rng.uniform(*shape.angles, n)
    return torch.from_numpy(shape.draw(rng, label)), torch.from_numpy(label)


def label_name(name: str) -> str:
    """What the label of a set is called: moon, circle, square, gaussian, blade, ring, arm or angle."""
    return _shape(name).label


def label_levels(name: str) -> int:
    """The number of classes of a set's label, 0 if the label is a number."""
    return _shape(name).classes


def extent(name: str) -> tuple[float, float, float, float]:
    """A box (left, right, bottom, top) that holds nearly all of the mass, for pictures."""
    return _shape(name).extent


def log_density(name: str, x: Tensor, label: Tensor | None = None) -> Tensor:
    """The true log-density (B,) in nats of points ``x`` (B, 2), or of x given ``label`` (B,) or (); float64.

    Exact to rounding for checkerboard, circles, eight_gaussians, pinwheel and rings. By quadrature for moons, spirals
    and swiss_roll: to 1e-8 nats where the log-density is above -50, to 1e-3 of its value however far away.
    Minus infinity off the checkerboard's squares.

    Raises
    ------
    UserError
        If there is no such set, ``x`` is not (B, 2) or a label is not one of the set's classes.
    """
    shape = _shape(name)
    if x.ndim != 2 or x.shape[1] != 2:
        raise UserError(f"{name} has two columns: x must have shape (B, 2), got {tuple(x.shape)}")
    x = x.to("cpu", torch.float64)
    if label is None:
        components = shape.components(x)
        return torch.logsumexp(components, -1) - math.log(components.shape[1])
    label = label.to("cpu").expand(len(x))
    if not shape.classes:
        return roll_noise(x - torch.from_numpy(roll_points(label.numpy().astype(np.float64))))
    if len(label) and not (0 <= int(label.min()) and int(label.max()) < shape.classes):
        raise UserError(f"the {shape.label} of {name} is a number from 0 to {shape.classes - 1}")
    return shape.components(x).gather(1, label.long()[:, None])[:, 0]


@cache
def entropy(name: str) -> Entropy:
    """The differential entropy in nats: log 32 for checkerboard, otherwise the integral of -p log p over a grid.

    The trapezoidal rule converges faster than any power of the step for smooth functions that vanish at the border,
    so the change from twice the step, which is the error stated, is far above the error there is.
    """
    shape = _shape(name)
    if name == "checkerboard":
        return Entropy(math.log(32), 0.0)
    left, right, bottom, top = shape.extent
    margin = 12 * shape.step
    x = torch.arange(left - margin, right + margin, shape.step, dtype=torch.float64)
    y = torch.arange(bottom - margin, top + margin, shape.step, dtype=torch.float64)
    log_p = log_density(name, torch.cartesian_prod(x, y)).reshape(len(x), len(y))
    integrand = -log_p.exp() * log_p
    fine, coarse = (float(integrand[::k, ::k].sum()) * (k * shape.step) ** 2 for k in (1, 2))
    return Entropy(fine, abs(fine - coarse))
