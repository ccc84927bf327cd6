"""A function and its Jacobian at a point, as the four products that the estimators ask for.

A bound branch that knows its own derivatives offers ``linearize`` and is believed; any other callable gets it from
:mod:`torch.func`. Both stay differentiable, under ``no_grad`` and ``inference_mode`` both still multiply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Linearization", "Probed", "attachable", "linearize", "refuse_second_derivatives", "transforming"]


@dataclass(frozen=True)
class Probed:
    r"""A log-determinant estimated at a point, and what its gradient is made of.

    ``total`` (B,) is the estimate. Its gradient is that of :math:`\langle w, J v \rangle` in the mean over m probes, with
    w = ``left`` and v = ``right``, each (m, B, *) and constant, and with ``trace`` that of tr J besides. ``recompute`` keeps
    these and x only, and computes all else again in the backward pass.
    """

    total: Tensor
    left: Tensor
    right: Tensor
    trace: bool = False
    recompute: bool = False


def refuse_second_derivatives() -> None:
    """Called in a backward pass whose ``left`` and ``right`` are constants of the first derivative only.

    Raises
    ------
    RuntimeError
        If a graph of the gradient is asked for, which would leave out how they change.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "this log-determinant is differentiable once, and create_graph=True asks for its gradient's graph: "
            "use logdet=Exact() or PowerSeries(gradient='series'), which differentiate every term"
        )


@dataclass(frozen=True)
class Linearization:
    """The value of g at x (B, *) and products with its Jacobian J there.

    ``vjp`` and ``jvp`` take (B, *) or, for m products at once, (m, B, *). ``trace`` (B,) and ``jacobian`` (B, d, d) are None
    where there is no cheap form. ``attach`` turns a :class:`Probed` estimate made without a graph into g(x) and the
    log-determinant, differentiable once by x and by the function's tensors. ``core`` (B, r, r) with r < d has
    det(I + core) = det(I + J). ``sums`` of v (m, B, *) are, with :math:`u_k = (J^T)^k v`, the sums of a_k <u_k, v> (m, B) over
    1 to n and of b_k u_k (m, B, *) over 0 to n, and u_n, for lists a of n numbers and b of n + 1: in fewer passes than ``vjp``.
    """

    value: Tensor
    vjp: Callable[[Tensor], Tensor]
    jvp: Callable[[Tensor], Tensor]
    trace: Callable[[], Tensor] | None = None
    jacobian: Callable[[], Tensor] | None = None
    attach: Callable[[Probed], tuple[Tensor, Tensor]] | None = None
    core: Callable[[], Tensor] | None = None
    sums: Callable[[Tensor, Sequence[float], Sequence[float]], tuple[Tensor, Tensor, Tensor]] | None = None


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


def attachable(function: Any, x: Tensor) -> bool:
    """Whether a graph is wanted and ``function`` makes it by ``attach``: an estimator then works without one.

    Not under transforms of torch.func, which cannot look into the node, and not under autocast, which would not reach it.
    """
    if not (torch.is_grad_enabled() and getattr(function, "attaches", False)) or torch.is_autocast_enabled(x.device.type):
        return False
    return not transforming() and (x.requires_grad or any(tensor.requires_grad for tensor in function.tensors))


def transforming() -> bool:
    """Whether a transform of torch.func is at work."""
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportAttributeAccessIssue]
