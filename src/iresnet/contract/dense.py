r"""The bound form of every dense branch: g(x) = W_n s( ... s(W_1 x + b_1) ... ) + b_n, with its derivatives in closed form.

With :math:`D_l` the diagonal of slopes after layer l, :math:`J = W_n D_{n-1} W_{n-1} \cdots D_1 W_1`. Products with J then cost
one forward pass and no autograd; and for one or two hidden layers so does the trace, since nothing stands before W_1:
:math:`\operatorname{tr} J = d_2^T (W_2 \circ (W_1 W_3)^T) d_1`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import linear

from ..numerics.linearize import Linearization, linearize
from ..numerics.norms import gram_bound
from .activations import Activation

__all__ = ["DenseBound"]


@dataclass(frozen=True, eq=False)
class DenseBound:
    """A multilayer perceptron with explicit tensors.

    Parameters
    ----------
    weights : n >= 2 matrices, (h_1, d), ..., (d, h_(n-1)).
    offsets : n vectors, each (h,), or (B, h) where a per-row context was added.
    activation : applied after every layer but the last.
    certified : Lipschitz bound that the construction guarantees, or None to take the product of the weights' Gram bounds.
    """

    weights: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...]
    activation: Activation
    certified: float | None = None

    @property
    def lipschitz(self) -> float:
        """A sound upper bound of the Lipschitz constant, whatever way the weights were made."""
        return self.certified if self.certified is not None else self._measured

    @cached_property
    def _measured(self) -> float:
        with torch.no_grad():
            product = self.activation.lipschitz ** (len(self.weights) - 1)
            for weight in self.weights:
                product *= float(gram_bound(weight.detach().double() if weight.device.type != "mps" else weight.detach(), 8))
        return product * (1 + 1e-12)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.weights, *self.offsets)

    @property
    def dtype(self) -> torch.dtype:
        return self.weights[0].dtype

    def select(self, rows: Tensor) -> DenseBound:
        return self._map_offsets(lambda offset: offset[rows])

    def repeat(self, times: int) -> DenseBound:
        return self._map_offsets(lambda offset: offset.repeat_interleave(times, 0))

    def _map_offsets(self, change: Callable[[Tensor], Tensor]) -> DenseBound:
        if all(offset.dim() == 1 for offset in self.offsets):
            return self
        return replace(self, offsets=tuple(change(offset) if offset.dim() > 1 else offset for offset in self.offsets))

    def to(self, dtype: torch.dtype) -> DenseBound:
        if dtype == self.dtype:
            return self
        weights = tuple(weight.to(dtype) for weight in self.weights)
        # Rounding to fewer bits may lengthen a weight: what was certified of the old ones is not known of the new.
        narrower = torch.finfo(dtype).eps > torch.finfo(self.dtype).eps
        certified = None if narrower else self.certified
        return replace(self, weights=weights, offsets=tuple(offset.to(dtype) for offset in self.offsets), certified=certified)

    def __call__(self, x: Tensor) -> Tensor:
        hidden = x
        for weight, offset in zip(self.weights[:-1], self.offsets[:-1], strict=True):
            hidden = self.activation(_affine(hidden, weight, offset))
        return _affine(hidden, self.weights[-1], self.offsets[-1])

    def linearize(self, x: Tensor) -> Linearization:
        """Value and Jacobian products at x (B, d); see :class:`~iresnet.numerics.linearize.Linearization`."""
        if not self.activation.elementwise:
            return linearize(self.__call__, x)
        hidden, slopes = x, []
        for weight, offset in zip(self.weights[:-1], self.offsets[:-1], strict=True):
            hidden, slope = self.activation.with_slope(_affine(hidden, weight, offset))
            slopes.append(slope)
        value = _affine(hidden, self.weights[-1], self.offsets[-1])

        def vjp(vector: Tensor) -> Tensor:
            for weight, slope in zip(self.weights[:0:-1], slopes[::-1], strict=True):
                vector = (vector @ weight) * slope
            return vector @ self.weights[0]

        def jvp(vector: Tensor) -> Tensor:
            for weight, slope in zip(self.weights[:-1], slopes, strict=True):
                vector = linear(vector, weight) * slope
            return linear(vector, self.weights[-1])

        def trace() -> Tensor:
            if len(slopes) == 1:
                return slopes[0] @ (self.weights[0] * self.weights[1].mT).sum(1)
            kernel = self.weights[1] * (self.weights[0] @ self.weights[2]).mT
            return ((slopes[1] @ kernel) * slopes[0]).sum(1)

        def jacobian() -> Tensor:
            # Rows of J^T, so that each layer is one large product of shape (B d, h).
            columns = self.weights[0].mT * slopes[0][:, None, :]
            for weight, slope in zip(self.weights[1:-1], slopes[1:], strict=True):
                columns = linear(columns, weight) * slope[:, None, :]
            return linear(columns, self.weights[-1]).mT

        return Linearization(value, vjp, jvp, trace if len(slopes) <= 2 else None, jacobian)

    @cached_property
    def _sizes(self) -> list[tuple[float, float]]:
        """(spectral, Frobenius) bounds of each weight, for the rounding analysis."""
        return [(float(gram_bound(weight)), float(torch.linalg.matrix_norm(weight))) for weight in self.weights]

    def rounding(self, x: Tensor) -> Tensor:
        r"""Bound (B,) of the 2-norm rounding error of one evaluation at x, by running error analysis.

        A product and its offset err by at most :math:`\frac{n \epsilon}{2} (|W| |h| + |b|)`, an addition or an activation by
        a few units of its result; errors of earlier layers grow by W and the activation's constant. That is added up twice, and
        the smaller of the two is returned: in norms (:math:`\|W\|_F \|h\|`, growth :math:`\|W\|_2`), and entry by entry, which is
        larger for wide layers but does not see the scalings by which sandwich layers make large weights cancel.
        """
        with torch.no_grad():
            eps, constant = torch.finfo(x.dtype).eps, self.activation.lipschitz
            hidden, error, entries = x, torch.zeros(x.shape[0], dtype=x.dtype, device=x.device), torch.zeros_like(x)
            for index, (weight, offset) in enumerate(zip(self.weights, self.offsets, strict=True)):
                spectral, frobenius = self._sizes[index]
                share = 0.5 * eps * (weight.shape[1] + 1)
                entries = linear(entries + share * hidden.abs(), weight.abs()) + share * offset.abs()
                error = spectral * error + share * (frobenius * _norm(hidden) + _norm(offset))
                hidden = _affine(hidden, weight, offset)
                entries, error = entries + eps * hidden.abs(), error + eps * _norm(hidden)
                if index < len(self.weights) - 1:
                    hidden = self.activation(hidden)
                    # Where entries mix, none errs by more than all did.
                    entries = entries if self.activation.elementwise else _norm(entries)[:, None].expand_as(hidden)
                    entries, error = constant * entries + 4 * eps * hidden.abs(), constant * error + 4 * eps * _norm(hidden)
            return torch.minimum(error, _norm(entries))


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)


def _affine(x: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """W x + b in one fused call where the offset is shared by all rows."""
    return linear(x, weight, offset) if offset.dim() == 1 else torch.addmm(offset, x, weight.mT)
