"""Activation normalisation: an affine map of each feature or channel, set from data once, then learned; its context may move it.

References
----------
Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma and Dhariwal, 2018), arXiv 1807.03039
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..numerics.fixed_point import Solution, Solver
from ..numerics.logdet import Estimate, LogDet
from ..numerics.noise import Noise
from .base import Bijection, exactly

__all__ = ["ActNorm", "AffineTransform"]

# A feature that is constant on the initialising batch, such as a padded channel, says nothing of its scale.
_SMALLEST_STD = 1e-6


def _along(parameter: Tensor, x: Tensor) -> Tensor:
    """(d,) or (B, d) so that it meets x (B, d, *) at its features."""
    return parameter.reshape(*parameter.shape, *[1] * (x.dim() - 2))


class ActNorm(Bijection):
    """z = x * exp(log_scale) + shift for each of ``features``; the identity until :meth:`initialize`.

    x is (B, d), or (B, d, H, W) with one scale and shift for each channel.

    ``initialized`` is a buffer, so a loaded model is never set again. With ``context`` > 0, both log_scale and shift get a linear
    term in the context, which starts at zero.
    """

    initialized: Tensor

    def __init__(self, features: int, context: int = 0) -> None:
        super().__init__()
        self.features = features
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.shift = nn.Parameter(torch.zeros(features))
        self.by_context = nn.Linear(context, 2 * features, bias=False) if context else None
        if self.by_context is not None:
            nn.init.zeros_(self.by_context.weight)
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if not bool(self.initialized):
            with torch.no_grad():
                wide = x.double() if x.device.type != "mps" else x
                wide = wide.transpose(0, 1).flatten(1)  # (d, all of its numbers)
                std = wide.std(1, correction=0)
                scale = torch.where(std > _SMALLEST_STD, 1 / std, 1.0)
                self.log_scale.copy_(torch.log(scale))
                self.shift.copy_(-wide.mean(1) * scale)
                self.initialized.fill_(True)
        return super().initialize(x, context)

    def bind(self, context: Tensor | None = None) -> AffineTransform:
        log_scale, shift = self.log_scale, self.shift
        if self.by_context is not None:
            if context is None:
                raise ValueError(f"this ActNorm is conditional: it needs a context of width {self.by_context.in_features}")
            more_scale, more_shift = self.by_context(context).chunk(2, -1)
            log_scale, shift = log_scale + more_scale, shift + more_shift
        return AffineTransform(log_scale, shift)

    def extra_repr(self) -> str:
        return f"{self.features}" + (f", context={self.by_context.in_features}" if self.by_context is not None else "")


@dataclass(frozen=True)
class AffineTransform:
    """z = x * exp(log_scale) + shift, each (d,) or (B, d), along dimension 1 of x.

    See :class:`~iresnet.bijections.base.Transform`.
    """

    log_scale: Tensor
    shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(_along(self.shift, x), x, _along(self.log_scale.exp(), x))

    def forward_and_logdet(self, x: Tensor, logdet: LogDet, noise: Noise) -> tuple[Tensor, Estimate]:
        places = math.prod(x.shape[2:])
        return self.forward(x), Estimate.sure(places * self.log_scale.sum(-1).expand(x.shape[0]))

    def inverse(self, z: Tensor, solver: Solver) -> Solution:
        wide = z.to(torch.promote_types(z.dtype, self.shift.dtype))
        value = self.to(wide.dtype).attach(wide, wide)
        found = value.to(z.dtype)
        # One rounding each of the difference and the product, and the exponential's, all relative; and that of the cast.
        bound = 2 * torch.finfo(wide.dtype).eps * value.flatten(1).norm(dim=1)
        return exactly(found, (bound + (found.to(wide.dtype) - value).flatten(1).norm(dim=1)).to(z.dtype))

    def attach(self, z: Tensor, x: Tensor) -> Tensor:
        return (z - _along(self.shift, z)) * _along(torch.exp(-self.log_scale), z)

    def lipschitz(self) -> tuple[float, float]:
        low, high = torch.aminmax(
            self.log_scale.detach().double() if self.shift.device.type != "mps" else self.log_scale.detach()
        )
        return float(torch.exp(high)), float(torch.exp(-low))

    def select(self, rows: Tensor) -> AffineTransform:
        if self.shift.dim() == 1:
            return self
        return AffineTransform(self.log_scale[rows], self.shift[rows])

    def repeat(self, times: int) -> AffineTransform:
        if self.shift.dim() == 1:
            return self
        return AffineTransform(self.log_scale.repeat_interleave(times, 0), self.shift.repeat_interleave(times, 0))

    def to(self, dtype: torch.dtype) -> AffineTransform:
        return replace(self, log_scale=self.log_scale.to(dtype), shift=self.shift.to(dtype))
