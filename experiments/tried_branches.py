"""Branches that experiments/contractions.py and convolutions.py try beside those of iresnet.

Each is bounded by its construction; margins for rounding are left out. What skips a layer, in dense concatenation as in residual
layers, passes it as hidden units without an activation (``Skip``), so that all are the same bound form as iresnet's own, with
its derivatives in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tried_activations import Skip

from iresnet.contract.activations import activation
from iresnet.contract.branches import DenseBranch
from iresnet.contract.sandwich import SandwichBranch
from iresnet.flow import Flow
from iresnet.numerics.norms import gram_bound

__all__ = ["exchange", "weighted"]
Hold = Callable[[Tensor], Tensor]


def almost_orthogonal_matrix(matrix: Tensor) -> Tensor:
    """Each column of (..., m, n) over the root of its row of |W^T W|, if above 1: norm at most 1.

    Almost-Orthogonal Layers for Efficient General-Purpose Lipschitz Networks (Prach and Lampert, 2022), arXiv 2208.03160.
    """
    sums = (matrix.mT @ matrix).abs().sum(-2, keepdim=True)
    return matrix * sums.clamp(min=1.0).rsqrt()


def by_gram(matrix: Tensor) -> Tensor:
    """The matrix over its Gram bound, if above 1."""
    return matrix / gram_bound(matrix).clamp(min=1.0)[..., None, None]


HOLDS: dict[str, Hold] = {"aol": almost_orthogonal_matrix, "gram": by_gram}


class HeldLayers(DenseBranch):
    """A branch whose layers are each held by ``hold``, as the normalised families of iresnet are."""

    guarantee = "sound"

    def __init__(self, features: int, hidden: Sequence[int], lipschitz: float, nonlinearity: str, hold: str = "aol") -> None:
        super().__init__(features, hidden, lipschitz, nonlinearity)
        self.hold = hold
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(outputs, inputs)) for inputs, outputs in self.fans())
        for weight in self.weights[:-1]:
            nn.init.orthogonal_(weight)
        nn.init.zeros_(self.weights[-1])

    def raw(self) -> tuple[Tensor, ...]:
        return tuple(self.weights)

    def constrain(self, *raw: Tensor) -> tuple[Tensor, ...]:
        share = (self.lipschitz / self.activation.lipschitz ** (len(raw) - 1)) ** (1 / len(raw))
        return tuple(share * HOLDS[self.hold](weight / share) for weight in raw)

    def signature(self) -> Any:
        return (super().signature(), self.hold)


class HeldSandwich(SandwichBranch):
    """Sandwich layers whose [A B] is held by ``hold`` and not made orthonormal: all that the bound needs is its norm."""

    def __init__(self, features: int, hidden: Sequence[int], lipschitz: float, nonlinearity: str, hold: str = "aol") -> None:
        super().__init__(features, hidden, lipschitz, nonlinearity)
        self.hold = hold
        self.square, self.rest = nn.ParameterList(), nn.ParameterList()
        for inner, outputs, inputs in self._shapes():
            self.square.append(nn.Parameter(nn.init.orthogonal_(torch.empty(outputs + inputs, inner))))

    def raw(self) -> tuple[Tensor, ...]:
        return (*self.square, *self.psi, self.gain)

    def constrain(self, *raw: Tensor) -> tuple[Tensor, ...]:
        count, gain = len(self.hidden), raw[-1]
        outs, ins = [], []
        for (inner, outputs, inputs), matrix, psi in zip(self._shapes(), raw[:count], raw[count:-1], strict=True):
            held = HOLDS[self.hold](matrix) if inner <= outputs + inputs else HOLDS[self.hold](matrix.mT).mT
            a, b = held.split((outputs, inputs), -2)
            scale = torch.exp(8 * torch.tanh(psi / 8))
            outs.append(a * scale[..., None, :])
            ins.append(b.mT / scale[..., :, None])
        end = math.sqrt(2 * self.lipschitz)
        between = [2 * into @ out for out, into in zip(outs[:-1], ins[1:], strict=True)]
        return (end * ins[0], *between, end * torch.sin(gain)[..., :, None] * outs[-1])

    def signature(self) -> Any:
        return (super().signature(), self.hold)


class SkipSandwich(SandwichBranch):
    """Sandwich layers with ``linear`` hidden units more in each, which have no activation: joint bounds over skips and all."""

    def __init__(self, features: int, hidden: Sequence[int], lipschitz: float, nonlinearity: str, linear: int = 8) -> None:
        widths = [width + linear for width in hidden]
        super().__init__(features, widths, lipschitz, Skip(activation(nonlinearity), hidden[0]))


class SkippingBranch(DenseBranch):
    """What branches with skips share: hidden layers that carry ``carried`` units without an activation, and ``new`` ones with."""

    guarantee = "sound"

    def __init__(self, features: int, carried: Sequence[int], new: int, lipschitz: float, nonlinearity: str) -> None:
        inner = activation(nonlinearity)
        super().__init__(features, [width + new for width in carried], lipschitz, Skip(inner, new))
        self.new, self.inner = new, inner


def weighted(eta: Tensor) -> tuple[Tensor, Tensor]:
    """The two weights (...,) of a concatenation, whose squares add up to one, from (..., 2)."""
    return (eta / torch.linalg.vector_norm(eta, dim=-1, keepdim=True)).unbind(-1)


class Concatenated(SkippingBranch):
    r"""Each layer's output beside its input, :math:`[\eta_1 h; \eta_2 s(W h + b)]` with :math:`\eta_1^2 + \eta_2^2 = 1` learned.

    Invertible DenseNets with Concatenated LipSwish (Perugachi-Diaz et al., 2021), arXiv 2102.02694.
    """

    def __init__(self, features: int, hidden: Sequence[int], lipschitz: float, nonlinearity: str, hold: str = "gram") -> None:
        growth = hidden[0] * activation(nonlinearity).expand
        carried = [features + growth * place for place in range(len(hidden))]
        super().__init__(features, carried, hidden[0], lipschitz, nonlinearity)
        self.carried, self.hold = [*carried, features + growth * len(hidden)], hold
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(hidden[0], width)) for width in carried)
        for weight in self.weights:
            nn.init.orthogonal_(weight)
        self.weights.append(nn.Parameter(torch.zeros(features, self.carried[-1])))
        self.eta = nn.ParameterList(nn.Parameter(torch.ones(2)) for _ in hidden)

    def raw(self) -> tuple[Tensor, ...]:
        return (*self.weights, *self.eta)

    def constrain(self, *raw: Tensor) -> tuple[Tensor, ...]:
        count = len(self.hidden)
        made, scale = [], None
        for weight, eta, width in zip(raw[:count], raw[count + 1 :], self.carried, strict=False):
            held = HOLDS[self.hold](weight) / self.inner.lipschitz
            eye = torch.eye(width, dtype=weight.dtype, device=weight.device).expand(*weight.shape[:-2], width, width)
            both = torch.cat((eye, held), -2)
            made.append(both if scale is None else both * scale)
            new = self.new * self.inner.expand
            first, second = (one[..., None, None] for one in weighted(eta))
            ones = torch.ones_like(held[..., :1, :1])
            scale = torch.cat(((first * ones).expand(*ones.shape[:-1], width), (second * ones).expand(*ones.shape[:-1], new)), -1)
        last = self.lipschitz * HOLDS[self.hold](raw[count] / self.lipschitz)
        return (*made, last * scale)


class ResidualLayers(SkippingBranch):
    r"""1-Lipschitz layers :math:`h - 2 W T^{-1} s(W^T h + b)` between an input and an output map.

    ``way`` is "sll", T the diagonal of the sums over j of \|W^T W\|_ij q_j / q_i with q > 0 learned, or "cpl", T = \|W\|^2.
    ``width`` None has the layers act on x itself, and gains for an output map.

    | A Unified Algebraic Perspective on Lipschitz Neural Networks (Araujo et al., 2023), arXiv 2303.03169
    | A Dynamical System Perspective for Lipschitz Neural Networks (Meunier et al., 2022), arXiv 2110.12690
    """

    def __init__(
        self, features: int, hidden: Sequence[int], lipschitz: float, act: str, way: str = "sll", width: int | None = None
    ) -> None:
        wide = width or features
        super().__init__(features, [wide] * len(hidden), hidden[0], lipschitz, act)
        self.wide, self.way = wide, way
        self.inside = nn.ParameterList(nn.Parameter(torch.randn(wide, hidden[0]) / math.sqrt(wide)) for _ in hidden)
        self.logs = nn.ParameterList(nn.Parameter(torch.zeros(hidden[0])) for _ in hidden)
        ends = [(wide, features), (features, wide)] if width else []
        self.ends = nn.ParameterList(nn.Parameter(nn.init.orthogonal_(torch.empty(*shape))) for shape in ends)
        self.gain = nn.Parameter(torch.zeros(features))

    def raw(self) -> tuple[Tensor, ...]:
        return (self.gain, *self.inside, *self.logs, *self.ends)

    def constrain(self, *raw: Tensor) -> tuple[Tensor, ...]:
        count = len(self.hidden)
        gain, inside, logs, ends = raw[0], raw[1 : count + 1], raw[count + 1 : 2 * count + 1], raw[2 * count + 1 :]
        eye = torch.eye(self.wide, dtype=gain.dtype, device=gain.device).expand(*gain.shape[:-1], self.wide, self.wide)
        made, before = [], by_gram(ends[0]) if ends else eye
        for weight, log in zip(inside, logs, strict=True):
            made.append(torch.cat((eye, weight.mT), -2) @ before)
            before = torch.cat((eye, -2 * weight / self._divisors(weight, log)[..., None, :]), -1)
        last = by_gram(ends[1]) if ends else eye
        return (*made, self.lipschitz * torch.sin(gain)[..., :, None] * (last @ before))

    def _divisors(self, weight: Tensor, log: Tensor) -> Tensor:
        """The diagonal of T (..., n)."""
        if self.way == "cpl":
            return gram_bound(weight).square()[..., None].expand_as(log)
        q = torch.exp(4 * torch.tanh(log / 4))
        return ((weight.mT @ weight).abs() @ q[..., None])[..., 0] / q

    def signature(self) -> Any:
        return (super().signature(), self.way, self.wide)


TRIED: dict[str, type[DenseBranch]] = {
    "held": HeldLayers,
    "held sandwich": HeldSandwich,
    "skip sandwich": SkipSandwich,
    "concatenated": Concatenated,
    "residual": ResidualLayers,
}


def exchange(flow: Flow, kind: str, hidden: Sequence[int], lipschitz: float, nonlinearity: str, **more: Any) -> Flow:
    """The flow with its branches exchanged for some of :data:`TRIED`."""
    for part in flow.bijection.parts:  # type: ignore[attr-defined]
        if hasattr(part, "branch"):
            part.branch = TRIED[kind](part.branch.features, hidden, lipschitz, nonlinearity, **more)
    return flow
