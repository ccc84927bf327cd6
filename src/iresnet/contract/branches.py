r"""Dense branches whose layers are normalised one by one, and the papers' own ways of holding a Lipschitz constant.

=============  =========  ===============================================================================================
family         guarantee  each weight W, with t its share of the bound
=============  =========  ===============================================================================================
"sandwich"     sound      jointly bounded layers, tighter than any product of norms: :mod:`iresnet.contract.sandwich`
"gram"         sound      W t / max(gram_bound(W), t)
"frobenius"    sound      W t / max(\|W\|_F, t): loose by up to sqrt(rank)
"bjorck"       sound      hidden layers orthonormalised by Bjorck's iteration from a soundly prescaled W
"power"        estimate   W t / max(sigma, t), sigma by power iteration *from below*: layers may expand
"free"         none       W as it is; with :func:`penalty` in the loss, the soft constraint lambda * sum \|W\|_2^2
=============  =========  ===============================================================================================

The constant c of the branch is shared by its n layers, t = c^(1/n) each ("layer"), or every layer is held to 1 and the output
multiplied by c ("output": the papers' y = x + alpha g(x)). Small weights are never scaled up, and W = 0 is safe.

References
----------
| Invertible Residual Networks (Behrmann et al., 2019), arXiv 1811.00995 (power iteration, per-layer coefficient)
| Sorting out Lipschitz function approximation (Anil et al., 2019), arXiv 1811.05381 (Bjorck)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..numerics.norms import frobenius_bound, gram_bound, gram_hold, gram_hold_each, orthogonal_bound, power_iteration
from .activations import Activation, activation
from .base import Branch
from .dense import DenseBound

__all__ = ["FAMILIES", "DenseBranch", "NormalizedBranch", "dense_branch", "penalty"]

FAMILIES = ("sandwich", "gram", "frobenius", "bjorck", "power", "free")
_GUARANTEES = {"gram": "sound", "frobenius": "sound", "bjorck": "sound", "power": "estimate", "free": "none"}


class DenseBranch(Branch):
    """What dense branches share: biases, the shift of hidden pre-activations by a context, and the bound form.

    Parameters
    ----------
    features : d, the width of x.
    hidden : widths of the hidden layers, at least one.
    lipschitz : bound c of the whole branch, in (0, 1).
    nonlinearity : name or instance, see :mod:`iresnet.contract.activations`.
    context : width C of the context vector; its shifts are unconstrained, since only x has to be contracted.
    """

    def __init__(
        self, features: int, hidden: Sequence[int], lipschitz: float, nonlinearity: str | Activation, context: int = 0
    ) -> None:
        super().__init__()
        if features < 1 or not hidden or min(hidden) < 1:
            raise ValueError(f"a dense branch needs features >= 1 and hidden widths >= 1, got {features} and {tuple(hidden)}")
        if not 0 < lipschitz < 1:
            raise ValueError(f"lipschitz must lie in (0, 1) for x + g(x) to be invertible, got {lipschitz}")
        self.features, self.hidden, self.lipschitz = int(features), tuple(map(int, hidden)), float(lipschitz)
        self.activation, self.context = activation(nonlinearity), context
        if any(width % self.activation.group for width in self.hidden):
            name, group = type(self.activation).__name__, self.activation.group
            raise ValueError(f"{name} needs hidden widths that are multiples of {group}, got {self.hidden}")
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in (*hidden, features))
        # One product gives the shifts of all layers. The output's shift starts at zero, so that a new block is the identity.
        self.shift = nn.Linear(context, sum(self.hidden) + features, bias=False) if context else None
        if self.shift is not None:
            with torch.no_grad():
                self.shift.weight[sum(self.hidden) :].zero_()

    def fans(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each layer; an activation such as CLipSwish widens what the next one reads."""
        pairs = list(pairwise((self.features, *self.hidden, self.features)))
        return [(inputs * (self.activation.expand if place else 1), outputs) for place, (inputs, outputs) in enumerate(pairs)]

    def assemble(self, weights: tuple[Tensor, ...], context: Tensor | None) -> DenseBound:
        offsets = tuple(self.biases)
        if self.shift is not None:
            if context is None:
                raise ValueError(f"this branch is conditional: it needs a context of width {self.context}")
            shifts = self.shift(context).split((*self.hidden, self.features), -1)
            offsets = tuple(bias + shift for bias, shift in zip(offsets, shifts, strict=True))
        certified = self.lipschitz if self.guarantee == "sound" else None
        return DenseBound(weights, offsets, self.activation, certified, self.compiled, self.training)

    def signature(self) -> Any:
        weight = self.biases[0]
        return (type(self), self.features, self.hidden, self.activation, self.lipschitz, weight.dtype, weight.device)

    def extra_repr(self) -> str:
        name = type(self.activation).__name__
        told = f"{self.features}, hidden={self.hidden}, lipschitz={self.lipschitz:g}, nonlinearity={name}"
        return told + (f", context={self.context}" if self.context else "")


class NormalizedBranch(DenseBranch):
    """A dense branch whose weights are normalised one by one; see the table of this module.

    Parameters
    ----------
    family : "gram", "frobenius", "bjorck", "power" or "free".
    place : "layer" shares c among the layers, "output" holds each layer to 1 and multiplies the output by c.
    steps : of Gram iteration, Bjorck's iteration or power iteration; None for 6, 15 or 5.

    The other parameters are those of :class:`DenseBranch`.
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
        place: Literal["layer", "output"] = "layer",
        steps: int | None = None,
    ) -> None:
        super().__init__(features, hidden, lipschitz, nonlinearity, context)
        if family not in _GUARANTEES:
            raise ValueError(f"unknown family {family!r}; known are {', '.join(sorted(_GUARANTEES))}")
        if place not in ("layer", "output"):
            raise ValueError(f"place must be 'layer' or 'output', got {place!r}")
        self.family, self.place, self.guarantee = family, place, _GUARANTEES[family]  # type: ignore[assignment]
        self.steps = steps if steps is not None else {"bjorck": 15, "power": 5}.get(family, 6)
        fans = self.fans()
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(outputs, inputs)) for inputs, outputs in fans)
        for weight in self.weights[:-1]:
            nn.init.orthogonal_(weight)
        nn.init.zeros_(self.weights[-1])  # a new block is the identity
        if family == "power":
            # The one family with state: u goes on from step to step, as in the papers' code. Random, see power_iteration.
            for index, (_, outputs) in enumerate(fans):
                self.register_buffer(f"left_{index}", torch.randn(outputs))

    def raw(self) -> tuple[Tensor, ...]:
        return tuple(self.weights)

    def constrain(self, *raw: Tensor) -> tuple[Tensor, ...]:
        share = self._share(len(raw))
        weights = [self._hold(weight, share, index, index == len(raw) - 1) for index, weight in enumerate(raw)]
        if self.place == "output" and self.family != "free":
            weights[-1] = weights[-1] * self.lipschitz
        return tuple(weights)

    def constrain_each(self, raws: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]] | None:
        if not (self.family == "gram" and self.training and self.compiled == "kernels"):
            return None
        depth = len(raws[0])
        held = gram_hold_each([weight for raw in raws for weight in raw], self._share(depth), self.steps)
        if self.place == "output":
            held = tuple(weight * self.lipschitz if index % depth == depth - 1 else weight for index, weight in enumerate(held))
        return [held[start : start + depth] for start in range(0, len(held), depth)]

    def _share(self, depth: int) -> float:
        """The norm that each of so many layers is held to."""
        gain = self.activation.lipschitz ** (depth - 1)
        return (self.lipschitz / gain) ** (1 / depth) if self.place == "layer" else gain ** (-1 / depth)

    def _hold(self, weight: Tensor, share: float, index: int, last: bool) -> Tensor:
        if self.family == "free":
            return weight
        if self.family == "gram":
            return gram_hold(weight, share, self.steps)
        if self.family == "bjorck" and not last:  # the last layer may be small: a new block is the identity
            return share * _bjorck(weight, self.steps)
        if self.family == "power":
            left = getattr(self, f"left_{index}")
            bound, updated = power_iteration(weight, self.steps, start=left)
            if self.training:
                with torch.no_grad():
                    left.copy_(updated)
        elif self.family == "frobenius":
            bound = frobenius_bound(weight)
        else:
            bound = gram_bound(weight)
        return weight * (share / bound.clamp(min=share))[..., None, None]

    def signature(self) -> Any:
        # A branch with state of its own shares no call.
        alike = super().signature() if self.family != "power" else id(self)
        return (alike, self.family, self.place, self.steps)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, family={self.family!r}, place={self.place!r}"


def _bjorck(weight: Tensor, steps: int) -> Tensor:
    r"""The orthonormal factor of ``weight`` by :math:`A \leftarrow A (3 I - A^T A) / 2`, never above norm one.

    s -> (3 s - s^3) / 2 maps [0, 1] into itself, but finds a wrong factor above sqrt(3) and diverges above sqrt(5), so the start
    is divided by a sound bound. Rounding is divided out at the end.
    """
    small = weight / gram_bound(weight).clamp(min=torch.finfo(weight.dtype).tiny)[..., None, None]
    small = small if weight.shape[-2] >= weight.shape[-1] else small.mT
    for _ in range(steps):
        small = 1.5 * small - 0.5 * small @ (small.mT @ small)
    bound = torch.minimum(gram_bound(small).detach(), orthogonal_bound(small)).clamp(min=1.0)[..., None, None]
    # (1 + eps sqrt r) pays for the rounding of this last division.
    small = small / (bound * (1 + 4 * torch.finfo(small.dtype).eps * small.shape[-1] ** 0.5))
    return small if weight.shape[-2] >= weight.shape[-1] else small.mT


def dense_branch(
    family: str, features: int, hidden: Sequence[int], lipschitz: float, nonlinearity: str, context: int
) -> DenseBranch:
    """The dense branch of that family, one of :data:`FAMILIES`.

    Raises
    ------
    ValueError
        For an unknown family, and for a bound or a width that no branch can have.
    """
    from .sandwich import SandwichBranch

    if family == "sandwich":
        return SandwichBranch(features, hidden, lipschitz, nonlinearity, context)
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; known are {', '.join(FAMILIES)}")
    return NormalizedBranch(features, hidden, lipschitz, nonlinearity, context, family=family)


def penalty(module: nn.Module) -> Tensor:
    r"""The soft constraint :math:`\sum_W \|W\|_2^2` over all weights of all branches in ``module``: a loss term.

    Multiply it by lambda and add it to the loss. It guarantees nothing. The norm is the Gram bound, above the truth by a factor
    of at most r^(1/128) for rank r: 3 % for 64 equal singular values, far less for most weights.

    Raises
    ------
    ValueError
        If ``module`` has no branch.
    """
    branches = [part for part in module.modules() if isinstance(part, Branch)]
    if not branches:
        raise ValueError("penalty found no branch in this module")
    norms = [norm for branch in branches for norm in branch.norms(branch.constrain(*branch.raw()))]
    return torch.stack(norms).square().sum()
