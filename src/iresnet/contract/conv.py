r"""The bound form of every convolution branch: g(x) = K_n * s( ... s(K_1 * x + b_1) ... ) + b_n, and its derivatives.

Convolutions have stride 1 and keep the size by zero padding. Products with the Jacobian are convolutions with the slopes in
between. So is the trace, for 3x3 - 1x1 - 3x3 (or 3x3 - 3x3) with nothing before K_1: a place q of the hidden layers is reached
from q + o and goes back there by the tap -o, so

.. math:: \operatorname{tr} J = \sum_q d_2(q)^T \Big( W_2 \circ \sum_{o:\, q+o \text{ inside}} (K_{1,o} K_{3,-o})^T \Big) d_1(q),

d the slopes: the composite kernel at offset zero, less those offsets that leave the image at its border. It costs one 1x1
convolution.

Layers, products and trace are in :mod:`iresnet.contract.conv_layers`, gradients of log-determinants in
:mod:`iresnet.contract.conv_pullback`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from ..numerics.convolution import conv_bound, tap_bound
from ..numerics.linearize import Linearization, linearize
from .base import LayeredBound
from .conv_layers import ConvLayers, channels_last, convolve, pull, push, run_layers, trace
from .conv_pullback import pull_back

__all__ = ["ConvBound"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ConvBound(LayeredBound):
    """A stack of convolutions with explicit tensors, a function of images (B, C, H, W) of one size.

    Its weights are kernels (h_1, C, k, k), ..., (C, h_(n-1), k, k) of odd sizes; an activation acts on the channels. The rest is
    as in :class:`~iresnet.contract.base.LayeredBound`.

    Parameters
    ----------
    shape : (C, H, W) of the images; the Lipschitz bound holds at this size only.
    preactivate : apply the activation to x first, as the papers do. There is then no exact trace.
    """

    shape: tuple[int, int, int]
    preactivate: bool = False

    @property
    def kernels(self) -> tuple[Tensor, ...]:
        return self.weights

    def norm(self, weight: Tensor, steps: int = 6) -> Tensor:
        return conv_bound(weight, self.shape[1:], steps)

    @property
    def bends(self) -> int:
        return len(self.weights) - (not self.preactivate)

    def __call__(self, x: Tensor) -> Tensor:
        hidden = self._image(x)
        if self.preactivate:
            hidden = self._activated(hidden)
        for kernel, offset in zip(self.kernels[:-1], self.offsets[:-1], strict=True):
            hidden = self._activated(convolve(hidden, kernel, offset))
        return convolve(hidden, self.kernels[-1], self.offsets[-1])

    def _image(self, x: Tensor) -> Tensor:
        """x itself, channels last, if it is of the size that was bounded."""
        if x.dim() != 4 or tuple(x.shape[1:]) != self.shape:
            wanted, got = ", ".join(map(str, self.shape)), tuple(x.shape)
            raise ValueError(
                f"this branch takes images (B, {wanted}), got {got}: its Lipschitz bound holds at one resolution; "
                "build it for the size it is to run at"
            )
        return channels_last(x)

    def _activated(self, hidden: Tensor) -> Tensor:
        if self.activation.elementwise:
            return self.activation(hidden)
        return self.activation(hidden.movedim(1, -1)).movedim(-1, 1)

    def linearize(self, x: Tensor) -> Linearization:
        """Value and Jacobian products at x (B, C, H, W); see :class:`~iresnet.numerics.linearize.Linearization`."""
        if not self.activation.elementwise:
            return linearize(self.__call__, x)
        layers = ConvLayers(self.kernels, self.offsets, self.activation, self.preactivate)
        at = run_layers(layers, self._image(x))
        hidden = tuple(slope for slope in at.slopes[1:] if slope is not None)
        exact = partial(trace, self.kernels, hidden) if self.traceable else None
        attach = partial(pull_back, layers, x, at) if self.attaches else None
        return Linearization(at.value, partial(pull, layers, at), partial(push, layers, at), exact, None, attach)

    @property
    def traceable(self) -> bool:
        """Whether the trace of the Jacobian has a cheap exact form."""
        ends = self.kernels[0].shape[2:] == self.kernels[-1].shape[2:]
        middle = len(self.kernels) == 2 or (len(self.kernels) == 3 and self.kernels[1].shape[2:] == (1, 1))
        return ends and middle and not self.preactivate and self.activation.elementwise

    @property
    def attaches(self) -> bool:
        """Whether :meth:`linearize` offers ``attach``."""
        return self.activation.curved

    @cached_property
    def _sizes(self) -> list[tuple[float, float]]:
        """(spectral bound, sum of the taps' Frobenius norms) of each kernel, for the rounding analysis."""
        return [(float(self.norm(kernel)), float(tap_bound(kernel))) for kernel in self.kernels]

    def rounding(self, x: Tensor) -> Tensor:
        r"""Bound (B,) of the 2-norm rounding error of one evaluation at x (B, C, H, W), by running error analysis.

        As :meth:`DenseBound.rounding <iresnet.contract.dense.DenseBound.rounding>`, once in norms and once entry by entry; a sum
        over taps and channels errs like one of as many terms. Accelerators may sum by Winograd's algorithm, whose error is a
        small multiple, and in TF32 where the process allows it.
        """
        with torch.no_grad():
            eps, constant = _unit(x), self.activation.lipschitz
            hidden, error = self._image(x), torch.zeros(x.shape[0], dtype=x.dtype, device=x.device)
            entries = torch.zeros_like(hidden)
            for index, (kernel, offset) in enumerate(zip(self.kernels, self.offsets, strict=True)):
                if index or self.preactivate:
                    hidden = self._activated(hidden)
                    if not self.activation.elementwise:  # where entries mix, none errs by more than all did
                        entries = _norm(entries)[:, None, None, None].expand_as(hidden)
                    entries, error = constant * entries + 4 * eps * hidden.abs(), constant * error + 4 * eps * _norm(hidden)
                spectral, taps = self._sizes[index]
                share = 0.5 * eps * (math.prod(kernel.shape[1:]) + 1)
                entries = convolve(entries + share * hidden.abs(), kernel.abs(), share * offset.abs())
                added = _norm(offset) * math.sqrt(math.prod(self.shape[1:]))
                error = spectral * error + share * (taps * _norm(hidden) + added)
                hidden = convolve(hidden, kernel, offset)
                entries, error = entries + eps * hidden.abs(), error + eps * _norm(hidden)
            return torch.minimum(error, _norm(entries))


def _unit(x: Tensor) -> float:
    """Rounding unit of a convolution's products, in the units of eps."""
    eps = torch.finfo(x.dtype).eps
    if x.device.type == "cpu":
        return eps
    return 2.0**-9 if x.dtype == torch.float32 and _rounded_products() else 32 * eps


def _rounded_products() -> bool:
    """Whether cuDNN may round what it multiplies to TF32."""
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:  # set by torch's newer, finer switches, of which it refuses to name one
        return True


def _norm(x: Tensor) -> Tensor:
    """2-norms (B,) of (B, *); of an offset (h,) or (B, h) over its channels."""
    return torch.linalg.vector_norm(x.flatten(1) if x.dim() > 1 else x, dim=-1)
