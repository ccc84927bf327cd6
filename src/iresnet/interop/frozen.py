"""A flow frozen for export: its weights constrained once, and nothing left that only PyTorch can do.

A frozen flow is an ordinary :class:`~iresnet.flow.Flow` whose parts were replaced by constants: branches by what they bound,
whitening by a product with the inverse triangle, bases by what their parameters come to. It computes what the flow computes.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..bases import Base, NormalMixture, StandardNormal, StudentT
from ..bijections import Residual, Whiten
from ..bijections.base import Bijection
from ..bijections.whiten import WhitenTransform
from ..contract.activations import ELU, Softplus
from ..contract.base import Bound, Branch
from ..flow import Flow
from ..numerics.noise import Noise

__all__ = ["FixedNoise", "freeze"]


def freeze(flow: Flow, dtype: torch.dtype) -> Flow:
    """A copy of ``flow`` on the CPU in evaluation mode and in ``dtype``, whose weights are constants for all contexts."""
    frozen = copy.deepcopy(flow).to("cpu", dtype).eval().requires_grad_(False)
    width = _context_width(frozen)
    blank = None if width is None else torch.zeros(width, dtype=dtype)
    with torch.no_grad():
        for module in list(frozen.modules()):
            if isinstance(module, Residual):
                module.branch = FrozenBranch(module.branch, blank)
            for name, child in list(module.named_children()):
                if isinstance(child, Whiten):
                    setattr(module, name, FrozenWhiten(child))
        frozen.base = _frozen_base(frozen.base).to(dtype)
    return frozen


def _frozen_base(base: Base) -> Base:
    if isinstance(base, StandardNormal):
        return FrozenNormal(base)
    if isinstance(base, StudentT):
        return FrozenStudent(base)
    return FrozenMixture(base) if isinstance(base, NormalMixture) else base


def _context_width(flow: Flow) -> int | None:
    """The width of what the blocks are given, None if nothing."""
    if not flow.context or flow.embed is None:
        return flow.context or None
    return flow.embed(torch.zeros(flow.context, dtype=flow.anchor.dtype)).shape[-1]


class _ELU(ELU):
    """By an exponential: runtimes have no ELU of float64."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, torch.minimum(x, torch.zeros_like(x)).exp() - 1)


class _Softplus(Softplus):
    """By a logarithm, as :class:`_ELU`."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.maximum(x, torch.zeros_like(x)) + torch.log1p(torch.exp(-x.abs()))


_SPELLED: dict[type, Any] = {ELU: _ELU(), Softplus: _Softplus()}


class FrozenBranch(Branch):
    """A branch whose constrained weights are constants; a context still moves its offsets.

    ``constant`` is the Lipschitz constant that its bound form claims.
    """

    def __init__(self, branch: Branch, blank: Tensor | None) -> None:
        super().__init__()
        raw = branch.raw()
        self.weights = branch.constrain(*raw)
        bound = branch.assemble(self.weights, blank)
        self.lipschitz, self.guarantee, self.constant = branch.lipschitz, branch.guarantee, bound.lipschitz
        # Looked at once, here, because a tracer has no numbers to look at.
        self.known = {name: getattr(bound, name) for name in ("_sizes",) if hasattr(bound, name)}
        conditional = blank is not None and getattr(branch, "context", 0) > 0
        self.bound, self.source = None if conditional else self._settled(bound), branch if conditional else None
        for module in branch.modules():  # the raw weights are of no more use
            for name, parameter in list(module._parameters.items()):
                if any(parameter is one for one in raw):
                    module._parameters[name] = None

    def bind(self, context: Tensor | None = None) -> Bound:
        return self.bound if self.source is None else self._settled(self.source.assemble(self.weights, context))  # type: ignore[return-value]

    def _settled(self, bound: Any) -> Bound:
        changed: dict[str, Any] = {"certified": self.constant} if hasattr(bound, "certified") else {}
        spelled = _SPELLED.get(type(getattr(bound, "activation", None)))
        if spelled is not None and bound.dtype == torch.float64:
            changed["activation"] = spelled
        bound = replace(bound, **changed) if changed else bound
        vars(bound).update(self.known)
        return bound


class FrozenWhiten(Bijection):
    """Whitening by a product with the inverse triangle, found in float64."""

    def __init__(self, whiten: Whiten) -> None:
        super().__init__()
        self.register_buffer("mean", whiten.mean)
        self.register_buffer("triangle", whiten.triangle)
        eye = torch.eye(whiten.features, dtype=torch.float64)
        inverse = torch.linalg.solve_triangular(whiten.triangle.double(), eye, upper=False)
        self.register_buffer("inverse", inverse.to(whiten.triangle.dtype))

    def bind(self, context: Tensor | None = None) -> WhitenTransform:
        get = self.get_buffer
        return FrozenWhitenTransform(get("mean"), get("triangle"), get("inverse"))


@dataclass(frozen=True)
class FrozenWhitenTransform(WhitenTransform):
    """As :class:`~iresnet.bijections.whiten.WhitenTransform`, without a substitution."""

    inverted: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.inverted.mT


class FrozenNormal(Base):
    """:class:`~iresnet.bases.StandardNormal` with its constant a tensor: tracers round Python's numbers to float32."""

    def __init__(self, base: StandardNormal) -> None:
        super().__init__(base.shape)
        self.register_buffer("peak", base.anchor.new_tensor(-0.5 * math.prod(base.shape) * math.log(2 * math.pi)))

    def log_prob(self, z: Tensor) -> Tensor:
        return self.get_buffer("peak") - 0.5 * z.flatten(1).square().sum(1)


class FrozenStudent(Base):
    """:class:`~iresnet.bases.StudentT` with its constants worked out."""

    def __init__(self, base: StudentT) -> None:
        super().__init__(base.shape)
        degrees, scale = base._degrees()
        half = (degrees + 1) / 2
        self.register_buffer("degrees", degrees)
        self.register_buffer("scale", scale)
        self.register_buffer("exponent", half)
        peak = torch.lgamma(half) - torch.lgamma(degrees / 2) - 0.5 * torch.log(degrees * math.pi) - torch.log(scale)
        self.register_buffer("peak", peak)

    def log_prob(self, z: Tensor) -> Tensor:
        get = self.get_buffer
        tails = get("exponent") * torch.log1p((z / get("scale")).square() / get("degrees"))
        return (get("peak") - tails).flatten(1).sum(1)


class FrozenMixture(Base):
    """:class:`~iresnet.bases.NormalMixture` with its constants worked out, all rows at once."""

    def __init__(self, base: NormalMixture) -> None:
        super().__init__(base.shape)
        log_weights, learned = base._learned(base.centers.dtype)
        volume = base.triangles.diagonal(dim1=1, dim2=2).log().sum(1) + base.log_scale.sum(1)
        d = base.centers.shape[1]
        for name, value in (
            ("centers", base.centers),
            ("triangles", base.triangles),
            ("shift", base.shift.detach()),
            ("learned", learned),
            ("peaks", (log_weights + volume)[:, None] - 0.5 * d * math.log(2 * math.pi)),
        ):
            self.register_buffer(name, value)

    def log_prob(self, z: Tensor) -> Tensor:
        get = self.get_buffer
        y = (z.flatten(1) - get("centers")[:, None]) @ get("triangles") - get("shift")[:, None]
        y = y @ get("learned")
        return torch.logsumexp(get("peaks") - 0.5 * y.square().sum(2), 0)


@dataclass(frozen=True)
class FixedNoise(Noise):
    """Probes that all rows share, drawn when first asked for and then constants: hashing is no part of an exported program.

    ``drawn`` holds them by key and shape. One evaluation before a program is traced fills it.
    """

    drawn: dict[Any, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def _kept(self, kind: str, like: Tensor) -> Tensor:
        key = (kind, self.seed, tuple(like.shape[1:]), like.dtype)
        if key not in self.drawn:
            one = Noise(self.seed)
            self.drawn[key] = (one.signs(like[:1]) if kind == "signs" else one.normals(like[:1])).clone()
        return self.drawn[key].expand(like.shape)

    def signs(self, like: Tensor) -> Tensor:
        return self._kept("signs", like)

    def normals(self, like: Tensor) -> Tensor:
        return self._kept("normals", like)
