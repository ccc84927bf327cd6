r"""Elementwise and pairwise nonlinearities with their Lipschitz constants.

===========  ======================================  ==================================  =========
class        function                                Lipschitz constant                  slope
===========  ======================================  ==================================  =========
ReLU         max(x, 0)                               1                                   [0, 1]
ELU          x for x > 0, e^x - 1 below              1                                   (0, 1]
Tanh         tanh x                                  1                                   (0, 1]
Sigmoid      1 / (1 + e^-x)                          1/4                                 (0, 1/4]
Softplus     ln(1 + e^x)                             1                                   (0, 1)
LipSwish     x sigmoid(x) / 1.1                      1.09984 / 1.1                       not monotone
CLipSwish    [LipSwish(x), LipSwish(-x)]             1.00395 (Euclidean)                 widens by 2
MaxMin       (max, min) of neighbouring pairs        1                                   permutation
Sine         sin x                                   1                                   [-1, 1]
===========  ======================================  ==================================  =========

References
----------
| Fast and Accurate Deep Network Learning by Exponential Linear Units (Clevert et al., 2016), arXiv 1511.07289
| Residual Flows for Invertible Generative Modeling (Chen et al., 2019), arXiv 1906.02735 (LipSwish)
| Invertible DenseNets with Concatenated LipSwish (Perugachi-Diaz et al., 2021), arXiv 2102.02694
| Sorting out Lipschitz function approximation (Anil et al., 2019), arXiv 1811.05381 (MaxMin)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

__all__ = [
    "ELU",
    "Activation",
    "CLipSwish",
    "LipSwish",
    "MaxMin",
    "ReLU",
    "Sigmoid",
    "Sine",
    "Softplus",
    "Tanh",
    "activation",
]

# The largest slope of x sigmoid(x), at the root of 2 sigmoid'(x) + x sigmoid''(x), x = 2.39936...
_SWISH_SLOPE = 1.099839320128867

# Where e^-x is far below the rounding of x in float64, and e^x still finite in float32.
_SOFTPLUS_THRESHOLD = 40.0


@dataclass(frozen=True)
class Activation:
    """A nonlinearity on the last dimension, (B, n) to (B, ``expand`` * n).

    ``lipschitz`` is its Euclidean Lipschitz constant; ``slope`` the range of its derivative if it acts on each entry alone
    (``elementwise``). ``monotone``, slope within [0, 1], is what sandwich layers ask for. n must be a multiple of ``group``.
    ``curved`` says that the second derivative is known from value and slope, which makes gradients of log-determinants cheap;
    ``told`` that the slope is a function of the value, :meth:`slope_of`, so that it need not be kept.
    """

    lipschitz: ClassVar[float] = 1.0
    slope: ClassVar[tuple[float, float]] = (0.0, 1.0)
    elementwise: ClassVar[bool] = True
    curved: ClassVar[bool] = False
    told: ClassVar[bool] = False
    expand: ClassVar[int] = 1
    group: ClassVar[int] = 1

    @property
    def monotone(self) -> bool:
        return self.elementwise and self.slope[0] >= 0 and self.slope[1] <= 1

    def __call__(self, x: Tensor) -> Tensor:
        """The value; through :meth:`with_slope` unless there is a shorter way."""
        return self.with_slope(x)[0]

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value and derivative, each of the shape of ``x``; only where ``elementwise``."""
        if not self.told:
            raise TypeError(f"{type(self).__name__} does not act on each entry alone and has no slope")
        value = self(x)
        return value, self.slope_of(value)

    def slope_of(self, value: Tensor, out: Tensor | None = None) -> Tensor:
        """The derivative where the function has that value, written to ``out`` if it is given; only where ``told``."""
        raise TypeError(f"{type(self).__name__} does not tell its slope from its value")

    def through_slope(self, value: Tensor, slope: Tensor, by_slope: Tensor) -> Tensor:
        """Gradient by the value of a function of its :meth:`slope_of`, from that by the slope, which may be overwritten."""
        raise TypeError(f"{type(self).__name__} does not tell its slope from its value")

    def gradient(self, value: Tensor, slope: Tensor, by_value: Tensor, by_slope: Tensor) -> Tensor:
        """Gradient by x of a function of value and slope, from its gradients by these; only where ``curved``.

        Both may be overwritten.
        """
        if not self.told:
            raise TypeError(f"{type(self).__name__} does not tell its second derivative from its value and slope")
        return by_value.add_(self.through_slope(value, slope, by_slope)).mul_(slope)


class ReLU(Activation):
    """max(x, 0). Its derivative jumps, and with it a flow's density; prefer a smooth one for densities."""

    curved: ClassVar[bool] = True
    told: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def slope_of(self, value: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.gt(value, 0, out=out).to(value.dtype)

    def through_slope(self, value: Tensor, slope: Tensor, by_slope: Tensor) -> Tensor:
        return by_slope.zero_()

    def gradient(self, value: Tensor, slope: Tensor, by_value: Tensor, by_slope: Tensor) -> Tensor:
        return by_value.mul_(slope)


class ELU(Activation):
    """x for x > 0 and e^x - 1 below: the activation of i-ResNets."""

    curved: ClassVar[bool] = True
    told: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        return torch.nn.functional.elu(x)

    def slope_of(self, value: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.clamp(value, max=0.0, out=out).add_(1.0)  # e^x below zero

    def through_slope(self, value: Tensor, slope: Tensor, by_slope: Tensor) -> Tensor:
        return by_slope.mul_(value < 0)


class Tanh(Activation):
    """tanh x: smooth, bounded, monotone."""

    curved: ClassVar[bool] = True
    told: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def slope_of(self, value: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.addcmul(torch.ones((), dtype=value.dtype, device=value.device), value, value, value=-1.0, out=out)

    def through_slope(self, value: Tensor, slope: Tensor, by_slope: Tensor) -> Tensor:
        return by_slope.mul_(value).mul_(-2.0)


class Sigmoid(Activation):
    """1 / (1 + e^-x), with Lipschitz constant 1/4."""

    lipschitz: ClassVar[float] = 0.25
    slope: ClassVar[tuple[float, float]] = (0.0, 0.25)
    curved: ClassVar[bool] = True
    told: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def slope_of(self, value: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.addcmul(value, value, value, value=-1.0, out=out)

    def through_slope(self, value: Tensor, slope: Tensor, by_slope: Tensor) -> Tensor:
        return by_slope.mul_(1.0 - 2.0 * value)


class Softplus(Activation):
    """ln(1 + e^x)."""

    curved: ClassVar[bool] = True
    told: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        # torch goes over to x beyond a threshold; at its own of 20 that is a jump of 2e-9, which no Lipschitz function has.
        return torch.nn.functional.softplus(x, threshold=_SOFTPLUS_THRESHOLD)

    def slope_of(self, value: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.neg(torch.expm1(-value), out=out)

    def through_slope(self, value: Tensor, slope: Tensor, by_slope: Tensor) -> Tensor:
        return by_slope.mul_(1.0 - slope)


class LipSwish(Activation):
    """x sigmoid(x) / 1.1, with slopes of both signs: the activation of Residual Flows, without its learned temperature."""

    lipschitz: ClassVar[float] = _SWISH_SLOPE / 1.1
    slope: ClassVar[tuple[float, float]] = ((1.0 - _SWISH_SLOPE) / 1.1, _SWISH_SLOPE / 1.1)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.nn.functional.silu(x) / 1.1

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate = torch.sigmoid(x)
        return x * gate / 1.1, (gate + x * gate * (1.0 - gate)) / 1.1


class CLipSwish(Activation):
    """[LipSwish(x), LipSwish(-x)]: with s the slope of x sigmoid(x), those of the two halves are s and s - 1 over 1.1."""

    lipschitz: ClassVar[float] = math.hypot(_SWISH_SLOPE, _SWISH_SLOPE - 1.0) / 1.1
    elementwise: ClassVar[bool] = False
    expand: ClassVar[int] = 2

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat((torch.nn.functional.silu(x), torch.nn.functional.silu(-x)), -1) / 1.1


class MaxMin(Activation):
    """Each pair of neighbours sorted, largest first; needs an even width. Preserves the gradient's norm."""

    elementwise: ClassVar[bool] = False
    group: ClassVar[int] = 2

    def __call__(self, x: Tensor) -> Tensor:
        pairs = x.unflatten(-1, (-1, 2))
        return torch.stack((pairs.amax(-1), pairs.amin(-1)), -1).flatten(-2)


class Sine(Activation):
    """sin x: not monotone, slopes in [-1, 1]."""

    slope: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    curved: ClassVar[bool] = True

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sin(x), torch.cos(x)

    def gradient(self, value: Tensor, slope: Tensor, by_value: Tensor, by_slope: Tensor) -> Tensor:
        return by_value.mul_(slope).addcmul_(value, by_slope, value=-1.0)


_KNOWN = {name.lower(): globals()[name] for name in __all__ if name not in ("Activation", "activation")}


def activation(name: str | Activation) -> Activation:
    """The activation of that name in any case, such as "tanh" or "MaxMin".

    Raises
    ------
    ValueError
        For a name that is none of those in the table above.
    """
    if isinstance(name, Activation):
        return name
    if name.lower() not in _KNOWN:
        raise ValueError(f"unknown activation {name!r}; known are {', '.join(sorted(_KNOWN))}")
    return _KNOWN[name.lower()]()
