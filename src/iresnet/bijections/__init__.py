"""Floor 1: bijections. Data to latent is forward; log-determinants have shape (B,)."""

from .actnorm import ActNorm
from .base import Bijection, Transform
from .chain import Chain
from .residual import Residual
from .whiten import Whiten

__all__ = ["ActNorm", "Bijection", "Chain", "Residual", "Transform", "Whiten"]
