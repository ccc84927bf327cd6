r"""What a contractive branch is: a module that, bound to a context, becomes a pure function with a known Lipschitz constant.

``branch.bind(context)`` computes the constrained weights once and returns a :class:`Bound`, x -> g(x). The constraint is a
deterministic function of the weights: no state, no hook, no update call; the same in training, evaluation and after loading.
Everything above this floor only ever sees the pure function.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from ..numerics.norms import gram_bound
from .activations import Activation

__all__ = ["Bound", "Branch", "Guarantee", "LayeredBound", "bind_all"]

Guarantee = Literal["sound", "estimate", "none"]


class Bound(Protocol):
    """A branch with its weights constrained and its context taken in: a pure, row-wise function g of x (B, *).

    ``lipschitz`` is a sound upper bound of its constant, infinite if there is none. ``tensors`` are all that it depends on, in
    the autograd graph of the parameters. A bound may offer more: ``linearize(x)`` with its own derivatives (see
    :mod:`iresnet.numerics.linearize`), and ``rounding(x)``, a bound (B,) of the rounding error of one evaluation
    (``coarse_rounding``: from lengths of x alone). ``surrogate(points)`` is an affine model, see :mod:`iresnet.numerics.affine`.
    """

    @property
    def lipschitz(self) -> float: ...
    @property
    def tensors(self) -> tuple[Tensor, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def __call__(self, x: Tensor) -> Tensor: ...
    def select(self, rows: Tensor) -> Self:
        """The function for some rows of the batch (mask or indices): only a per-row context changes."""
        ...

    def repeat(self, times: int) -> Self:
        """The function for a batch in which every row stands ``times`` times in succession."""
        ...

    def to(self, dtype: torch.dtype) -> Self:
        """The same function, computed in another precision."""
        ...


@dataclass(frozen=True, eq=False)
class LayeredBound:
    """A stack of affine layers with an activation between them: what a :class:`Bound` of any such layers has in common.

    Parameters
    ----------
    weights : of the n >= 2 layers.
    offsets : n vectors, each (h,), or (B, h) where a per-row context was added.
    activation : applied after every layer but the last.
    certified : Lipschitz bound that the construction guarantees, or None to take the product of the layers' own bounds.
    """

    weights: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...]
    activation: Activation
    certified: float | None = None

    def norm(self, weight: Tensor, steps: int = 6) -> Tensor:
        """Sound bound () of the norm of a layer, by that many steps of Gram iteration."""
        raise NotImplementedError

    @property
    def bends(self) -> int:
        """How many times the activation is applied."""
        return len(self.weights) - 1

    @property
    def lipschitz(self) -> float:
        """A sound upper bound of the Lipschitz constant, whatever way the weights were made."""
        return self.certified if self.certified is not None else self._measured

    @cached_property
    def _measured(self) -> float:
        with torch.no_grad():
            product = self.activation.lipschitz**self.bends
            for weight in self.weights:
                product *= float(self.norm(weight.detach().double() if weight.device.type != "mps" else weight.detach(), 8))
        return product * (1 + 1e-12)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.weights, *self.offsets)

    @property
    def dtype(self) -> torch.dtype:
        return self.weights[0].dtype

    def select(self, rows: Tensor) -> Self:
        return self._map_offsets(lambda offset: offset[rows])

    def repeat(self, times: int) -> Self:
        return self._map_offsets(lambda offset: offset.repeat_interleave(times, 0))

    def _map_offsets(self, change: Callable[[Tensor], Tensor]) -> Self:
        if all(offset.dim() == 1 for offset in self.offsets):
            return self
        return replace(self, offsets=tuple(change(offset) if offset.dim() > 1 else offset for offset in self.offsets))

    def to(self, dtype: torch.dtype) -> Self:
        if dtype == self.dtype:
            return self
        weights, offsets = (tuple(one.to(dtype) for one in ones) for ones in (self.weights, self.offsets))
        # Rounding to fewer bits may lengthen a weight: what was certified of the old ones is not known of the new.
        narrower = torch.finfo(dtype).eps > torch.finfo(self.dtype).eps
        return replace(self, weights=weights, offsets=offsets, certified=None if narrower else self.certified)


class Branch(nn.Module):
    """A residual branch g with Lip(g) <= ``lipschitz`` (of the whole branch, not of each layer).

    A subclass gives ``raw``, ``constrain`` and ``assemble``; ``guarantee`` says what its constraint promises: "sound" (holds for
    every value of the weights), "estimate" (holds as well as power iteration has converged), or "none".
    """

    lipschitz: float
    guarantee: Guarantee
    compiled: str = ""  # by what passes go that have it: "kernels" or "inductor", see iresnet.compile
    bf16: bool = False  # asks for training's products in bfloat16, see iresnet.compiling.bfloat16

    def raw(self) -> tuple[Tensor, ...]:
        """The unconstrained parameters that :meth:`constrain` maps to weights."""
        raise NotImplementedError

    def constrain(self, *raw: Tensor) -> tuple[Tensor, ...]:
        """Constrained weights. Leading dimensions are a batch: same-shaped branches are constrained in one call."""
        raise NotImplementedError

    def constrain_each(self, raws: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]] | None:
        """:meth:`constrain` of each of some branches like this one, where there is a way that asks for no batch; or None."""
        return None

    def assemble(self, weights: tuple[Tensor, ...], context: Tensor | None) -> Bound:
        """The pure function of those weights and a context (C,) or (B, C)."""
        raise NotImplementedError

    def norms(self, weights: tuple[Tensor, ...]) -> list[Tensor]:
        """Sound bounds of the norm of each constrained weight."""
        return [gram_bound(weight) for weight in weights]

    def signature(self) -> Any:
        """Branches of equal signature are constrained together. The default never matches another's."""
        return id(self)

    def bind(self, context: Tensor | None = None) -> Bound:
        """Constrain the weights once and return the pure function x -> g(x)."""
        return self.assemble(_constrained(self, *self.raw()), context)


def _constrained(branch: Branch, *raw: Tensor) -> tuple[Tensor, ...]:
    """The weights in their own precision, also where autocast rounds what is done with them."""
    with torch.autocast(raw[0].device.type, enabled=False):
        return branch.constrain(*raw)


def bind_all(branches: Sequence[Branch], context: Tensor | None = None) -> list[Bound]:
    """``[branch.bind(context) for branch in branches]``, with the weights of alike branches constrained in one batched call."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, branch in enumerate(branches):
        groups[branch.signature()].append(index)
    bound: dict[int, Bound] = {}
    for members in groups.values():
        first = branches[members[0]]
        if len(members) == 1:
            bound[members[0]] = first.bind(context)
            continue
        raws = [branches[index].raw() for index in members]
        weights = first.constrain_each(raws)
        if weights is None:
            stacked = _constrained(first, *(torch.stack(tensors) for tensors in zip(*raws, strict=True)))
            weights = list(zip(*(weight.unbind(0) for weight in stacked), strict=True))
        for index, own in zip(members, weights, strict=True):
            bound[index] = branches[index].assemble(own, context)
    return [bound[index] for index in range(len(branches))]
