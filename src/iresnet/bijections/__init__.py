"""Floor 1: bijections. Data to latent is forward; log-determinants have shape (B,)."""

from .actnorm import ActNorm
from .base import Bijection, Transform
from .chain import Chain
from .pixels import Pixels
from .points import PointNorm
from .reshape import Flatten, Split, Squeeze, Unflatten, Unsqueeze
from .residual import Residual
from .whiten import Whiten

__all__ = [
    "ActNorm",
    "Bijection",
    "Chain",
    "Flatten",
    "Pixels",
    "PointNorm",
    "Residual",
    "Split",
    "Squeeze",
    "Transform",
    "Unflatten",
    "Unsqueeze",
    "Whiten",
]
