"""How each toy set is drawn and scored; scales and references are told in :mod:`iresnet.data.toy`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .curves import Curve, box_gaussian, circle_log_density, curve_log_density, gaussian, quadrature

__all__ = ["SHAPES", "Shape", "roll_noise", "roll_points"]

_MOON_NOISE = 0.1
_CIRCLES = (3.0, 1.5), 0.24  # radii, noise
_RINGS = (3.0, 2.25, 1.5, 0.75), 0.08
_ROLL = (1.5 * math.pi, 4.5 * math.pi), 0.2  # angles, noise; divided by 5
_SPIRAL = 3 * math.pi, 0.5 / 3, 0.1  # largest angle, width of the uniform noise, Gaussian noise; divided by 3
_GAUSSIANS = 4 / math.sqrt(2), 0.5 / math.sqrt(2)  # radius of the centres, noise
_BLADES, _BLADE_NOISE, _TWIST = 5, (0.3, 0.1), 0.25  # before scaling by 2


@dataclass(frozen=True)
class Shape:
    """How to draw and to score one set; all classes are equally likely."""

    label: str
    classes: int  # 0: the label is a number, drawn uniformly from ``angles``
    extent: tuple[float, float, float, float]
    step: float  # of the grid on which the entropy is integrated
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray]  # labels (n,) -> points (n, 2)
    components: Callable[[Tensor], Tensor]  # points (B, 2) -> log p(x | class) (B, classes), or log p(x) (B, 1)
    angles: tuple[float, float] = (0.0, 0.0)


def _moon_points(t: np.ndarray, moon: np.ndarray | int) -> np.ndarray:
    """The two half circles of scikit-learn's make_moons at angles ``t`` in [0, pi]."""
    outer = np.stack([np.cos(t), np.sin(t)], -1)
    inner = np.stack([1 - np.cos(t), 0.5 - np.sin(t)], -1)
    return np.where(np.asarray(moon)[..., None] == 0, outer, inner)


@cache
def _moon(moon: int) -> Curve:
    return quadrature(lambda t: _moon_points(t, moon), np.linspace(0, math.pi, math.ceil(math.pi / _MOON_NOISE) + 1))


def _draw_moons(rng: np.random.Generator, moon: np.ndarray) -> np.ndarray:
    points = _moon_points(rng.uniform(0, math.pi, len(moon)), moon)
    return points + _MOON_NOISE * rng.standard_normal(points.shape)


def _score_moons(x: Tensor) -> Tensor:
    return torch.stack([curve_log_density(x, _moon(moon), gaussian(_MOON_NOISE)) for moon in (0, 1)], -1)


def _draw_circles(radii: tuple[float, ...], noise: float) -> Callable[[np.random.Generator, np.ndarray], np.ndarray]:
    def draw(rng: np.random.Generator, which: np.ndarray) -> np.ndarray:
        angle = rng.uniform(0, 2 * math.pi, len(which))
        points = np.asarray(radii)[which, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
        return points + noise * rng.standard_normal(points.shape)

    return draw


def _score_circles(radii: tuple[float, ...], noise: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.stack([circle_log_density(x, radius, noise) for radius in radii], -1)


def _draw_checkerboard(rng: np.random.Generator, square: np.ndarray) -> np.ndarray:
    column, row = square // 2, 2 * (square % 2) + (square // 2) % 2
    corner = np.stack([column, row], -1) * 2.0 - 4.0
    return corner + 2 * rng.random(corner.shape)


def _score_checkerboard(x: Tensor) -> Tensor:
    column, row = torch.floor(x / 2 + 2).unbind(-1)
    inside = (column >= 0) & (column < 4) & (row >= 0) & (row < 4) & ((column + row) % 2 == 0)
    square = 2 * column + torch.floor(row / 2)
    hit = inside[:, None] & (square[:, None] == torch.arange(8))
    return torch.full(hit.shape, -math.inf, dtype=x.dtype).masked_fill(hit, -math.log(4.0))


def _centres() -> np.ndarray:
    angle = np.arange(8) * (math.pi / 4)
    return _GAUSSIANS[0] * np.stack([np.cos(angle), np.sin(angle)], -1)


def _draw_gaussians(rng: np.random.Generator, which: np.ndarray) -> np.ndarray:
    return _centres()[which] + _GAUSSIANS[1] * rng.standard_normal((len(which), 2))


def _score_gaussians(x: Tensor) -> Tensor:
    return gaussian(_GAUSSIANS[1])(x[:, None, :] - torch.from_numpy(_centres()))


def _rotate(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * points[..., 0] - sin * points[..., 1], sin * points[..., 0] + cos * points[..., 1]], -1)


def _draw_pinwheel(rng: np.random.Generator, blade: np.ndarray) -> np.ndarray:
    straight = np.asarray(_BLADE_NOISE) * rng.standard_normal((len(blade), 2)) + (1.0, 0.0)
    twist = _TWIST * np.exp(np.linalg.norm(straight, axis=-1))
    return 2 * _rotate(straight, blade * (2 * math.pi / _BLADES) + twist)


def _score_pinwheel(x: Tensor) -> Tensor:
    # Undo the twist blade by blade: rotations keep the volume, the factor 2 costs log 4.
    r = torch.linalg.vector_norm(x, dim=-1) / 2
    angle = torch.atan2(x[:, 1], x[:, 0]) - _TWIST * torch.exp(r.clamp(max=700.0))  # exp overflows beyond, far away
    angle = angle[:, None] - torch.arange(_BLADES, dtype=x.dtype) * (2 * math.pi / _BLADES)
    along, across = _BLADE_NOISE
    squares = ((r[:, None] * angle.cos() - 1) / along) ** 2 + ((r[:, None] * angle.sin()) / across) ** 2
    return -squares / 2 - math.log(2 * math.pi * along * across) - math.log(4)


def _spiral_points(t: np.ndarray) -> np.ndarray:
    return np.stack([-np.cos(t) * t, np.sin(t) * t], -1) / 3


@cache
def _spiral() -> Curve:
    largest, _, noise = _SPIRAL
    t = np.linspace(0, largest, 1000)
    length = (t * np.sqrt(1 + t**2) + np.arcsinh(t)) / 6
    panels = math.ceil(length[-1] / (1.5 * noise))  # the uniform noise smooths further, so wider than elsewhere
    edges = np.interp(np.linspace(0, length[-1], panels + 1), length, t)
    return quadrature(_spiral_points, edges, weight=lambda t: t)


def _draw_spirals(rng: np.random.Generator, arm: np.ndarray) -> np.ndarray:
    largest, width, noise = _SPIRAL
    points = _spiral_points(largest * np.sqrt(rng.random(len(arm))))
    points = (points + width * rng.random(points.shape)) * (1 - 2 * arm[:, None])
    return points + noise * rng.standard_normal(points.shape)


def _score_spirals(x: Tensor) -> Tensor:
    width, noise = _SPIRAL[1:]
    both = torch.cat([x, -x])  # the second arm is the first one turned by half a turn
    score = curve_log_density(both, _spiral(), box_gaussian(width, noise))
    far = ~(score > -600)  # where terms underflow
    score = score.masked_scatter(far, curve_log_density(both[far], _spiral(), box_gaussian(width, noise, far=True)))
    return score.reshape(2, -1).T


def roll_points(t: np.ndarray) -> np.ndarray:
    """The middle of the roll at angles ``t`` (n,), as points (n, 2)."""
    return np.stack([t * np.cos(t), t * np.sin(t)], -1) / 5


@cache
def _roll() -> Curve:
    (first, last), noise = _ROLL
    panels = math.ceil((last**2 - first**2) / 10 / noise)
    return quadrature(roll_points, np.sqrt(np.linspace(first**2, last**2, panels + 1)))


def roll_noise(offset: Tensor) -> Tensor:
    """The log-density of the roll's noise: (*, 2) -> (*)."""
    return gaussian(_ROLL[1])(offset)


def _draw_roll(rng: np.random.Generator, angle: np.ndarray) -> np.ndarray:
    points = roll_points(angle)
    return points + _ROLL[1] * rng.standard_normal(points.shape)


def _score_roll(x: Tensor) -> Tensor:
    return curve_log_density(x, _roll(), roll_noise)[:, None]


_SQUARE = (-4.0, 4.0, -4.0, 4.0)
SHAPES = {
    "checkerboard": Shape("square", 8, _SQUARE, 0.5, _draw_checkerboard, _score_checkerboard),
    "circles": Shape("circle", 2, _SQUARE, 0.08, _draw_circles(*_CIRCLES), _score_circles(*_CIRCLES)),
    "eight_gaussians": Shape("gaussian", 8, (-4.5, 4.5, -4.5, 4.5), 0.12, _draw_gaussians, _score_gaussians),
    "moons": Shape("moon", 2, (-1.5, 2.5, -1.0, 1.5), 0.04, _draw_moons, _score_moons),
    "pinwheel": Shape("blade", _BLADES, (-5.0, 5.0, -5.0, 5.0), 0.06, _draw_pinwheel, _score_pinwheel),
    "rings": Shape("ring", 4, (-3.5, 3.5, -3.5, 3.5), 0.03, _draw_circles(*_RINGS), _score_circles(*_RINGS)),
    "spirals": Shape("arm", 2, _SQUARE, 0.08, _draw_spirals, _score_spirals),
    "swiss_roll": Shape("angle", 0, _SQUARE, 0.08, _draw_roll, _score_roll, _ROLL[0]),
}
