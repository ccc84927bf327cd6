"""A function and its Jacobian at a point, as the four products that the estimators ask for.

A bound branch that knows its own derivatives offers ``linearize`` and is believed; any other callable gets it from
:mod:`torch.func`. Both stay differentiable, under ``no_grad`` and ``inference_mode`` both still multiply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Linearization", "linearize"]


@dataclass(frozen=True)
class Linearization:
    """The value of g at x (B, *) and products with its Jacobian J there.

    ``vjp`` and ``jvp`` take (B, *) or, for m products at once, (m, B, *). ``trace`` (B,) and ``jacobian`` (B, d, d) are None
    where there is no cheap form.
    """

    value: Tensor
    vjp: Callable[[Tensor], Tensor]
    jvp: Callable[[Tensor], Tensor]
    trace: Callable[[], Tensor] | None = None
    jacobian: Callable[[], Tensor] | None = None


def linearize(function: Callable[[Tensor], Tensor], x: Tensor) -> Linearization:
    """``function`` at ``x`` (B, *), row by row independent: by its own ``linearize`` if it has one, else by torch.func."""
    own: Any = getattr(function, "linearize", None)
    if own is not None:
        return own(x)
    found: Any = torch.func.vjp(function, x)
    value, pullback = found

    def vjp(vector: Tensor) -> Tensor:
        if vector.dim() > x.dim():
            return torch.func.vmap(lambda one: pullback(one)[0])(vector)
        return pullback(vector)[0]

    def jvp(vector: Tensor) -> Tensor:
        def push(one: Tensor) -> Tensor:
            return torch.func.jvp(function, (x,), (one,))[1]

        return torch.func.vmap(push)(vector) if vector.dim() > x.dim() else push(vector)

    return Linearization(value, vjp, jvp)
