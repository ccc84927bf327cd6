r"""Branches for sets of points: x (B, N, d) to (B, N, d), permuted as x is permuted, jointly bounded for every N.

The linear maps of N points that commute with all permutations are :math:`h_i \mapsto A h_i + M \bar h` (Deep Sets). They act on
two orthogonal spaces alone, on what is left of the mean by A and on the mean by S = A + M,

.. math:: h_i \mapsto A (h_i - \bar h) + S \bar h, \qquad
          \|A \otimes (I - P) + S \otimes P\|_2 = \max(\|A\|_2, \|S\|_2), \quad P = 1 1^T / N,

so that a layer is two matrices (2, h', h), and what holds a dense weight holds each of them: the bound of the layer is exact in
terms of theirs and knows nothing of N. Sandwich layers ask :math:`A A^T + B B^T \preceq I` in each of the two spaces, with one
:math:`\Psi` for all points. Activations act on every point; biases and a context are the same for all of them.

References
----------
Deep Sets (Zaheer et al., 2017), arXiv 1703.06114
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..numerics.linearize import Linearization, linearize
from ..numerics.norms import gram_bound
from .activations import Activation
from .base import LayeredBound
from .branches import DenseBranch, NormalizedBranch
from .sandwich import SandwichBranch

__all__ = ["SET_FAMILIES", "NormalizedSetBranch", "SandwichSetBranch", "SetBound", "set_branch"]

SET_FAMILIES = ("sandwich", "gram", "frobenius", "bjorck")


def _layer(x: Tensor, weight: Tensor) -> Tensor:
    """A (x_i - mean) + S mean of x (*, N, h), with A and S in ``weight`` (2, h', h)."""
    mean = x.mean(-2, keepdim=True)
    return linear(x - mean, weight[0]) + linear(mean, weight[1])


def _shared(weight: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """K and L of the same layer as h_i -> K h_i + L (sum of all other h_j)."""
    across = (weight[1] - weight[0]) / points
    return weight[0] + across, across


@dataclass(frozen=True, eq=False)
class SetBound(LayeredBound):
    """A permutation-equivariant perceptron with explicit tensors: weights (2, h', h), the second of the mean.

    Offsets are (h,) or, with a per-row context, (B, h). The rest is as in :class:`~iresnet.contract.base.LayeredBound`.
    """

    def norm(self, weight: Tensor, steps: int = 6) -> Tensor:
        return gram_bound(weight, steps).amax(-1)

    def _affine(self, x: Tensor, index: int) -> Tensor:
        offset = self.offsets[index]
        return _layer(x, self.weights[index]) + (offset if offset.dim() == 1 else offset[:, None])

    def __call__(self, x: Tensor) -> Tensor:
        for index in range(self.bends):
            x = self.activation(self._affine(x, index))
        return self._affine(x, self.bends)

    def linearize(self, x: Tensor) -> Linearization:
        """Value and Jacobian products at x (B, N, d); the trace for one or two hidden layers."""
        if not self.activation.elementwise:
            return linearize(self.__call__, x)
        hidden, slopes = x, list[Tensor]()
        for index in range(self.bends):
            hidden, slope = self.activation.with_slope(self._affine(hidden, index))
            slopes.append(slope)

        def jvp(vector: Tensor) -> Tensor:
            for weight, slope in zip(self.weights[:-1], slopes, strict=True):
                vector = _layer(vector, weight) * slope
            return _layer(vector, self.weights[-1])

        def vjp(vector: Tensor) -> Tensor:
            for weight, slope in zip(self.weights[:0:-1], slopes[::-1], strict=True):
                vector = _layer(vector, weight.mT) * slope
            return _layer(vector, self.weights[0].mT)

        def trace() -> Tensor:
            return self._trace(slopes, x.shape[-2])

        return Linearization(self._affine(hidden, self.bends), vjp, jvp, trace if self.bends <= 2 else None)

    def _trace(self, slopes: list[Tensor], points: int) -> Tensor:
        r"""tr J (B,): with one bend :math:`\sum_i d_i^T \operatorname{diag} K`, K the block of a point in W_1 W_2; with two also
        what goes from one point to another and back."""
        around = self.weights[0] @ self.weights[-1]
        own, other = _shared(around, points)
        if len(slopes) == 1:
            return slopes[0].sum(-2) @ own.diagonal()
        own_between, other_between = _shared(self.weights[1], points)
        across = other_between * other.mT
        first, second = slopes
        same = ((second @ (own_between * own.mT - across)) * first).sum((-2, -1))
        return same + ((second.sum(-2) @ across) * first.sum(-2)).sum(-1)

    @cached_property
    def _sizes(self) -> list[tuple[float, float]]:
        """(spectral bound, sum of both Frobenius norms) of each layer."""
        return [(float(self.norm(weight)), float(torch.linalg.matrix_norm(weight).sum())) for weight in self.weights]

    def rounding(self, x: Tensor) -> Tensor:
        """Bound (B,) of the 2-norm rounding error of one evaluation at x (B, N, d), by running error analysis in norms."""
        with torch.no_grad():
            eps, constant, points = torch.finfo(x.dtype).eps, self.activation.lipschitz, x.shape[-2]
            error = torch.zeros(len(x), dtype=x.dtype, device=x.device)
            for index, (spectral, frobenius) in enumerate(self._sizes):
                size, width = _length(x), self.weights[index].shape[-1]
                offset = points**0.5 * torch.linalg.vector_norm(self.offsets[index], dim=-1)
                # The mean errs by N eps / 2 of itself and is met twice; then two products, their sum and the offset.
                error = spectral * (error + (points + 4) * eps * size)
                error = error + 0.5 * eps * ((width + 4) * frobenius * size + offset)
                x = self._affine(x, index)
                error = error + eps * _length(x)
                if index < self.bends:
                    x = self.activation(x)
                    error = constant * error + 4 * eps * _length(x)
            return error * (1 + 1e-3)


def _length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


class _SetBranch(DenseBranch):
    """What turns a dense branch into one for sets: every constrained weight has a twin for the mean, in the same batched call."""

    of_mean: nn.ParameterList

    def _twins(self, like: DenseBranch) -> nn.ParameterList:
        """As many parameters again, with the values of ``like``, but for the scalings that both spaces share."""
        return nn.ParameterList(
            nn.Parameter(twin.detach().clone())
            for own, twin in zip(super().raw(), like.raw(), strict=True)
            if not self._is_common(own)
        )

    def _is_common(self, parameter: Tensor) -> bool:
        return any(parameter is scaling for scaling in getattr(self, "psi", ()))

    def raw(self) -> tuple[Tensor, ...]:
        twins = iter(self.of_mean)
        return tuple(torch.stack((own, own if self._is_common(own) else next(twins))) for own in super().raw())

    def norms(self, weights: tuple[Tensor, ...]) -> list[Tensor]:
        return [gram_bound(weight).amax(-1) for weight in weights]

    def assemble(self, weights: tuple[Tensor, ...], context: Tensor | None) -> Any:
        dense = super().assemble(weights, context)
        return SetBound(weights, dense.offsets, self.activation, dense.certified)


class SandwichSetBranch(_SetBranch, SandwichBranch):
    """Sandwich layers on sets of points; the parameters of :class:`~iresnet.contract.sandwich.SandwichBranch`."""

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (64, 64),
        lipschitz: float = 0.97,
        nonlinearity: str | Activation = "tanh",
        context: int = 0,
    ) -> None:
        super().__init__(features, hidden, lipschitz, nonlinearity, context)
        self.of_mean = self._twins(SandwichBranch(features, hidden, lipschitz, nonlinearity))


class NormalizedSetBranch(_SetBranch, NormalizedBranch):
    """Layers normalised one by one on sets of points, of a family that is sound.

    The parameters are those of :class:`~iresnet.contract.branches.NormalizedBranch`.

    Raises
    ------
    ValueError
        For a family that is not in :data:`SET_FAMILIES`.
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (64, 64),
        lipschitz: float = 0.97,
        nonlinearity: str | Activation = "tanh",
        context: int = 0,
        *,
        family: str = "gram",
    ) -> None:
        _refuse_unknown(family)
        super().__init__(features, hidden, lipschitz, nonlinearity, context, family=family)
        self.of_mean = self._twins(NormalizedBranch(features, hidden, lipschitz, nonlinearity, family=family))


def set_branch(
    family: str, features: int, hidden: Sequence[int], lipschitz: float, nonlinearity: str, context: int = 0
) -> DenseBranch:
    """The branch for points x (B, N, ``features``) of that family, one of :data:`SET_FAMILIES`.

    Raises
    ------
    ValueError
        For an unknown family, and for a bound or a width that no branch can have.
    """
    _refuse_unknown(family)
    if family == "sandwich":
        return SandwichSetBranch(features, hidden, lipschitz, nonlinearity, context)
    return NormalizedSetBranch(features, hidden, lipschitz, nonlinearity, context, family=family)


def _refuse_unknown(family: str) -> None:
    if family not in SET_FAMILIES:
        raise ValueError(f"unknown family {family!r} of branches for sets; known are {', '.join(SET_FAMILIES)}")
