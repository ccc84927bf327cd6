r"""The bound form of every dense branch: g(x) = W_n s( ... s(W_1 x + b_1) ... ) + b_n, with its derivatives in closed form.

With :math:`D_l` the diagonal of slopes after layer l, :math:`J = W_n D_{n-1} W_{n-1} \cdots D_1 W_1`. Products with J then cost
one forward pass and no autograd; and for one or two hidden layers so does the trace, since nothing stands before W_1:
:math:`\operatorname{tr} J = d_2^T (W_2 \circ (W_1 W_3)^T) d_1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import linear

from .. import kernels
from ..numerics.linearize import Linearization, linearize
from ..numerics.norms import gram_bound
from . import activations
from .base import LayeredBound
from .joined import OpenedBranch, open_branch
from .pullback import Layers, affine, from_left, from_right, pull_back, run_forward, trace_half

__all__ = ["DenseBound"]

# These very classes: one derived from them may be another function.
_KERNELS = tuple(getattr(activations, name) for name in kernels.ACTIVATIONS)


@dataclass(frozen=True, eq=False)
class DenseBound(LayeredBound):
    """A multilayer perceptron with explicit tensors: weights (h_1, d), ..., (d, h_(n-1)).

    ``compiled`` says by what passes go that have it, see :class:`~iresnet.contract.base.Branch`, and ``training`` whether
    training's do besides inverses. The rest is as in :class:`~iresnet.contract.base.LayeredBound`.
    """

    compiled: str = ""
    training: bool = False

    def norm(self, weight: Tensor, steps: int = 6) -> Tensor:
        return gram_bound(weight, steps)

    def __call__(self, x: Tensor) -> Tensor:
        hidden = x
        for weight, offset in zip(self.weights[:-1], self.offsets[:-1], strict=True):
            hidden = self.activation(affine(hidden, weight, offset))
        return affine(hidden, self.weights[-1], self.offsets[-1])

    @property
    def attaches(self) -> bool:
        """Whether :meth:`linearize` offers ``attach``."""
        return self.activation.curved

    def linearize(self, x: Tensor) -> Linearization:
        """Value and Jacobian products at x (B, d); see :class:`~iresnet.numerics.linearize.Linearization`."""
        if not self.activation.elementwise:
            return linearize(self.__call__, x)
        layers = self._layers()
        at = run_forward(layers, x)
        slopes = at.slopes

        @cache
        def half(graph: bool) -> Tensor:  # one for each mode: numbers that were asked for without a graph have no gradient
            with torch.set_grad_enabled(graph):
                return trace_half(self.weights, slopes)

        def trace() -> Tensor:
            return (half(torch.is_grad_enabled()) * slopes[0]).sum(1)

        def jacobian() -> Tensor:
            # Rows of J^T, so that each layer is one large product of shape (B d, h).
            columns = self.weights[0].mT * slopes[0][:, None, :]
            for weight, slope in zip(self.weights[1:-1], slopes[1:], strict=True):
                columns = linear(columns, weight) * slope[:, None, :]
            return linear(columns, self.weights[-1]).mT

        attach = partial(pull_back, layers, x, at, partial(half, False)) if self.attaches else None
        core = partial(_core, self.weights, slopes) if self.rank < x.shape[1] else None
        vjp, jvp = partial(from_left, layers, slopes), partial(from_right, layers, slopes)
        short = trace if len(slopes) <= 2 else None
        return Linearization(at.value, vjp, jvp, short, jacobian, attach, core)

    @property
    def opens(self) -> bool:
        """Whether :meth:`open` is offered."""
        return self.attaches and self.activation.told

    def open(self, x: Tensor) -> OpenedBranch:
        """g at x (B, d), for its log-determinant to be found with others'; where it :attr:`opens`."""
        return open_branch(self._layers(), x)

    def _layers(self) -> Layers:
        return Layers(self.weights, self.offsets, self.activation, self.training and self.compiled == "inductor")

    @property
    def fuses(self) -> bool:
        """Whether training's passes of a chain of such branches are asked for, and offered, by :mod:`iresnet.kernels`."""
        return self.training and self._has_kernels

    @property
    def _has_kernels(self) -> bool:
        return self.compiled == "kernels" and type(self.activation) in _KERNELS and kernels.take(self.weights[0])

    def plain_steps(self, y: Tensor, start: Tensor, goal: Tensor, *rule: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """The plain iteration by :mod:`iresnet.kernels` where it is asked for and offered; see ``numerics.iteration``.

        ``rule`` are whether the map is contractive, whether this is the last precision, the limit of steps, how many of them
        there are between two looks at their lengths, and the window and patience within which these must shrink.
        """
        if not self._has_kernels or y.dtype != self.dtype or any(offset.dim() > 1 for offset in self.offsets):
            return None
        y, start, goal = (one.contiguous() for one in (y, start, goal))
        run = kernels.operations().plain_steps
        return run(y, start, self.weights, self.offsets, goal, *rule, type(self.activation).__name__)

    @property
    def widest(self) -> int:
        """Numbers of a row in the widest layer."""
        return max(max(weight.shape) for weight in self.weights)

    @property
    def rank(self) -> int:
        """The smallest of all widths, which is what an exact determinant costs."""
        return min(weight.shape[1] for weight in self.weights[: None if self.activation.elementwise else 1])

    def surrogate(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """The mean value (d,) at ``points`` (n, d), and factors (d, h), (h, d) whose product is about the mean Jacobian there.

        Slopes are averaged layer by layer, as if those of different layers were independent. None for a per-row context, and for
        an activation that has no slopes.
        """
        if not self.activation.elementwise or any(offset.dim() > 1 for offset in self.offsets):
            return None
        hidden, right = points, None
        for weight, offset in zip(self.weights[:-1], self.offsets[:-1], strict=True):
            hidden, slope = self.activation.with_slope(affine(hidden, weight, offset))
            right = slope.mean(0)[:, None] * (weight if right is None else weight @ right)
        assert right is not None
        return affine(hidden.mean(0), self.weights[-1], self.offsets[-1]), self.weights[-1], right

    @cached_property
    def _sizes(self) -> list[tuple[float, float]]:
        """(spectral, Frobenius) bounds of each weight, for the rounding analysis."""
        return [(float(self.norm(weight)), float(torch.linalg.matrix_norm(weight))) for weight in self.weights]

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
                hidden = affine(hidden, weight, offset)
                entries, error = entries + eps * hidden.abs(), error + eps * _norm(hidden)
                if index < len(self.weights) - 1:
                    hidden = self.activation(hidden)
                    # Where entries mix, none errs by more than all did.
                    entries = entries if self.activation.elementwise else _norm(entries)[:, None].expand_as(hidden)
                    entries, error = constant * entries + 4 * eps * hidden.abs(), constant * error + 4 * eps * _norm(hidden)
            return torch.minimum(error, _norm(entries))

    def coarse_rounding(self, length: Tensor) -> Tensor:
        """A bound (B,) as :meth:`rounding`'s for every x of at most these lengths (B,): looser, but without an evaluation."""
        with torch.no_grad():
            eps, constant = torch.finfo(length.dtype).eps, self.activation.lipschitz
            size, error = length, torch.zeros_like(length)
            for index, (weight, offset) in enumerate(zip(self.weights, self.offsets, strict=True)):
                frobenius = torch.linalg.matrix_norm(weight)
                size = frobenius * size + _norm(offset)
                error = frobenius * error + (0.5 * weight.shape[1] + 1.5) * eps * size
                if index < len(self.weights) - 1:
                    size = constant * size + _norm(self.activation(torch.zeros_like(weight[:, 0])))
                    error = constant * error + 4 * eps * size
            return error * (1 + 1e-6)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)


def _core(weights: tuple[Tensor, ...], slopes: tuple[Tensor, ...]) -> Tensor:
    r"""A matrix C (B, h, h) at the narrowest hidden layer with :math:`\det(I + C) = \det(I + J)`, by Sylvester's identity.

    It is the product of J's factors begun at that layer, as :math:`W_2 D_1 (W_1 W_3) D_2`. Its units are rescaled by powers of
    two, which changes no digit, so that rows of the weights before the layer and columns of those after it are equally long:
    sandwich layers have scales from e^-8 to e^8 there, which would cost digits of the determinant.
    """
    merged = [weights[0] @ weights[-1], *weights[1:-1]]  # layer l takes hidden layer l - 1, cyclically, to l
    start = min(range(len(slopes)), key=lambda layer: slopes[layer].shape[1])
    order = [(start + 1 + step) % len(slopes) for step in range(len(slopes))]
    # Base-two logarithms of the lengths of rows before and columns after; a unit that is not connected is left alone.
    into, out = (torch.linalg.vector_norm(weights[start + after].detach(), dim=1 - after).log2() for after in (0, 1))
    scale = torch.exp2(torch.round(0.5 * (into - out)).nan_to_num(0.0, 0.0, 0.0))
    columns = (slopes[start] * scale)[:, :, None] * merged[order[0]].mT
    for before, layer in pairwise(order):
        columns = linear(columns * slopes[before][:, None, :], merged[layer])
    return (columns / scale).mT
