r"""Convolution branches k x k - 1 x 1 - ... - k x k whose layers are normalised one by one, and the papers' own ways.

=============  =========  ===============================================================================================
family         guarantee  each kernel K, with t its share of the bound
=============  =========  ===============================================================================================
"sandwich"     sound      jointly bounded layers between two convolutions: :mod:`iresnet.contract.conv_sandwich`
"gram"         sound      K t / max(conv_bound(K), t), at the resolution the branch runs at
"frobenius"    sound      K t / max(sum over taps of \|K_o\|_F, t): at any resolution, and loose
"power"        estimate   K t / max(sigma, t), sigma by power iteration on the convolution, *from below*
"free"         none       K as it is
=============  =========  ===============================================================================================

References
----------
| Invertible Residual Networks (Behrmann et al., 2019), arXiv 1811.00995
| Residual Flows for Invertible Generative Modeling (Chen et al., 2019), arXiv 1906.02735
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..numerics.convolution import conv_bound, conv_power_iteration, tap_bound
from ..numerics.norms import power_iteration
from .activations import Activation, activation
from .base import Branch
from .conv import ConvBound

__all__ = ["CONV_FAMILIES", "ConvBranch", "NormalizedConvBranch", "conv_branch"]

CONV_FAMILIES = ("sandwich", "gram", "frobenius", "power", "free")
_GUARANTEES = {"gram": "sound", "frobenius": "sound", "power": "estimate", "free": "none"}


class ConvBranch(Branch):
    """What convolution branches share: biases, the shift of hidden channels by a context, and the bound form.

    Parameters
    ----------
    shape : (C, H, W) of x. The bound of a convolution holds at one resolution.
    hidden : channels of the hidden layers, at least one; the first and the last convolution are k x k, those between 1 x 1.
    lipschitz : bound c of the whole branch, in (0, 1).
    nonlinearity : name or instance, see :mod:`iresnet.contract.activations`.
    context : width C of the context vector, which shifts whole channels; unconstrained, since only x has to be contracted.
    preactivate : apply the nonlinearity to x first, as in the papers. There is then no exact trace, and estimates are noisier.
    taps : k, odd.
    """

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int],
        lipschitz: float,
        nonlinearity: str | Activation,
        context: int = 0,
        preactivate: bool = False,
        taps: int = 3,
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1 or not hidden or min(hidden) < 1:
            told = f"{tuple(shape)} and {tuple(hidden)}"
            raise ValueError(f"a convolution branch needs a shape (C, H, W) and hidden channels, all >= 1, got {told}")
        if not 0 < lipschitz < 1:
            raise ValueError(f"lipschitz must lie in (0, 1) for x + g(x) to be invertible, got {lipschitz}")
        if taps < 1 or taps % 2 == 0:
            raise ValueError(f"a convolution that keeps the size has odd taps, got {taps}")
        channels, height, width = map(int, shape)
        self.shape, self.hidden, self.lipschitz = (channels, height, width), tuple(map(int, hidden)), float(lipschitz)
        self.activation, self.context, self.preactivate, self.taps = activation(nonlinearity), context, preactivate, taps
        grouped = (*self.hidden, channels) if preactivate else self.hidden
        if any(count % self.activation.group for count in grouped):
            name, group = type(self.activation).__name__, self.activation.group
            raise ValueError(f"{name} needs numbers of channels that are multiples of {group}, got {grouped}")
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(count)) for count in (*self.hidden, channels))
        # One product gives the shifts of all layers. The output's shift starts at zero, so that a new block is the identity.
        self.shift = nn.Linear(context, sum(self.hidden) + channels, bias=False) if context else None
        if self.shift is not None:
            with torch.no_grad():
                self.shift.weight[sum(self.hidden) :].zero_()

    def kernel_shapes(self) -> list[tuple[int, int, int, int]]:
        """(outputs, inputs, k, k) of each layer; an activation such as CLipSwish widens what the next one reads."""
        shapes, last = [], len(self.hidden)
        for place, (inputs, outputs) in enumerate(pairwise((self.shape[0], *self.hidden, self.shape[0]))):
            taps = self.taps if place in (0, last) else 1
            inputs *= self.activation.expand if place or self.preactivate else 1
            shapes.append((outputs, inputs, taps, taps))
        return shapes

    def assemble(self, weights: tuple[Tensor, ...], context: Tensor | None) -> ConvBound:
        offsets = tuple(self.biases)
        if self.shift is not None:
            if context is None:
                raise ValueError(f"this branch is conditional: it needs a context of width {self.context}")
            shifts = self.shift(context).split((*self.hidden, self.shape[0]), -1)
            offsets = tuple(bias + shift for bias, shift in zip(offsets, shifts, strict=True))
        certified = self.lipschitz if self.guarantee == "sound" else None
        kernels = tuple(weight.contiguous(memory_format=torch.channels_last) for weight in weights)
        return ConvBound(kernels, offsets, self.activation, certified, shape=self.shape, preactivate=self.preactivate)

    def norms(self, weights: tuple[Tensor, ...]) -> list[Tensor]:
        return [conv_bound(weight, self.shape[1:]) for weight in weights]

    def signature(self) -> Any:
        like = self.biases[0]
        made = (self.shape, self.hidden, self.activation, self.lipschitz, self.preactivate, self.taps)
        return (type(self), *made, like.dtype, like.device)

    def extra_repr(self) -> str:
        name = type(self.activation).__name__
        told = f"{self.shape}, hidden={self.hidden}, lipschitz={self.lipschitz:g}, nonlinearity={name}"
        told += ", preactivate=True" if self.preactivate else ""
        told += f", taps={self.taps}" if self.taps != 3 else ""
        return told + (f", context={self.context}" if self.context else "")


class NormalizedConvBranch(ConvBranch):
    """A convolution branch whose kernels are normalised one by one; see the table of this module.

    Parameters
    ----------
    family : "gram", "frobenius", "power" or "free".
    place : "layer" shares c among the layers, "output" holds each layer to 1 and multiplies the output by c.
    steps : of Gram or power iteration; None for 6 or 5.

    The other parameters are those of :class:`ConvBranch`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int] = (64, 64),
        lipschitz: float = 0.97,
        nonlinearity: str | Activation = "elu",
        context: int = 0,
        preactivate: bool = False,
        taps: int = 3,
        *,
        family: str = "gram",
        place: Literal["layer", "output"] = "layer",
        steps: int | None = None,
    ) -> None:
        super().__init__(shape, hidden, lipschitz, nonlinearity, context, preactivate, taps)
        if family not in _GUARANTEES:
            raise ValueError(f"unknown family {family!r}; known are {', '.join(sorted(_GUARANTEES))}")
        if place not in ("layer", "output"):
            raise ValueError(f"place must be 'layer' or 'output', got {place!r}")
        self.family, self.place, self.guarantee = family, place, _GUARANTEES[family]  # type: ignore[assignment]
        self.steps = steps if steps is not None else {"power": 5}.get(family, 6)
        shapes = self.kernel_shapes()
        self.kernels = nn.ParameterList(nn.Parameter(torch.empty(*shape)) for shape in shapes)
        for kernel in self.kernels[:-1]:
            nn.init.orthogonal_(kernel)
        nn.init.zeros_(self.kernels[-1])  # a new block is the identity
        if family == "power":
            # The one family with state: u goes on from step to step, as in the papers' code. Random, see power_iteration.
            for index, (outputs, _, rows, _) in enumerate(shapes):
                size = (outputs,) if rows == 1 else (outputs, *self.shape[1:])
                self.register_buffer(f"left_{index}", torch.randn(size))

    def raw(self) -> tuple[Tensor, ...]:
        return tuple(self.kernels)

    def constrain(self, *raw: Tensor) -> tuple[Tensor, ...]:
        if self.family == "free":
            return raw
        gain = self.activation.lipschitz ** (len(raw) - (not self.preactivate))
        share = (self.lipschitz / gain) ** (1 / len(raw)) if self.place == "layer" else gain ** (-1 / len(raw))
        scales = [share / bound.clamp(min=share) for bound in self._bounds(raw)]
        if self.place == "output":
            scales[-1] = scales[-1] * self.lipschitz
        return tuple(kernel * scale[..., None, None, None, None] for kernel, scale in zip(raw, scales, strict=True))

    def _bounds(self, kernels: tuple[Tensor, ...]) -> list[Tensor]:
        """What each kernel is divided by."""
        if self.family == "frobenius":
            return [tap_bound(kernel) for kernel in kernels]
        if self.family == "power":
            return [self._estimate(index, kernel) for index, kernel in enumerate(kernels)]
        return together(kernels, self.shape[1:], self.steps)

    def _estimate(self, index: int, kernel: Tensor) -> Tensor:
        left = getattr(self, f"left_{index}")
        if kernel.shape[-1] == 1:
            sigma, updated = power_iteration(kernel[:, :, 0, 0], self.steps, start=left)
        else:
            sigma, updated = conv_power_iteration(kernel, self.shape[1:], self.steps, start=left)
        if self.training:
            with torch.no_grad():
                left.copy_(updated)
        return sigma

    def signature(self) -> Any:
        # A branch with state of its own shares no call.
        alike = super().signature() if self.family != "power" else id(self)
        return (alike, self.family, self.place, self.steps)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, family={self.family!r}, place={self.place!r}"


def together(kernels: Sequence[Tensor], size: tuple[int, int], steps: int = 6) -> list[Tensor]:
    """The bound of each kernel; the first and the last in one call if one has the shape of the other's transpose."""
    last = kernels[-1].transpose(-4, -3)
    if kernels[0].shape != last.shape:
        return [conv_bound(kernel, size, steps) for kernel in kernels]
    ends = conv_bound(torch.stack((kernels[0], last)), size, steps).unbind(0)
    return [ends[0], *(conv_bound(kernel, size, steps) for kernel in kernels[1:-1]), ends[1]]


def conv_branch(
    family: str,
    shape: Sequence[int],
    hidden: int | Sequence[int] = 64,
    lipschitz: float = 0.97,
    nonlinearity: str = "elu",
    context: int = 0,
    *,
    preactivate: bool = False,
    place: Literal["layer", "output", "each"] = "layer",
) -> ConvBranch:
    """The convolution branch of that family, one of :data:`CONV_FAMILIES`, for images (C, H, W).

    Parameters
    ----------
    hidden : h for 3x3 - 1x1 - 3x3 with h channels between; a sequence for other depths and widths.
    place : what ``lipschitz`` means and how it is kept. "layer": the branch's constant, shared by its layers. "output": the
        branch's, by layers of 1 and an output times c. "each": the coefficient of every layer, as in the public i-ResNet code;
        the branch's is its n-th power, 0.73 for 0.9 and three layers.

    Raises
    ------
    ValueError
        For an unknown family, and for a bound, a shape or a number of channels that no branch can have.
    """
    from .conv_sandwich import SandwichConvBranch

    widths = (hidden, hidden) if isinstance(hidden, int) else tuple(hidden)
    if place == "each":
        lipschitz, place = lipschitz ** (len(widths) + 1), "layer"
    if family == "sandwich":
        if place != "layer" or preactivate:
            raise ValueError("a sandwich branch is bounded as a whole: it takes neither place='output' nor preactivate")
        return SandwichConvBranch(shape, widths, lipschitz, nonlinearity, context)
    if family not in CONV_FAMILIES:
        raise ValueError(f"unknown family {family!r}; known are {', '.join(CONV_FAMILIES)}")
    return NormalizedConvBranch(shape, widths, lipschitz, nonlinearity, context, preactivate, family=family, place=place)
