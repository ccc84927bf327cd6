"""What is guaranteed about a flow, beside what is measured: a table of its residual blocks.

``bound`` is a sound upper bound of a branch's Lipschitz constant, computed for the weights as they are, whichever way they were
made. ``measured`` is a lower one: the largest expansion found. The truth lies between the two; a block *holds* if its bound is
below one, for then it is invertible with the solver's guarantee, for every input.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .bijections.chain import Chain, ChainTransform
from .bijections.reshape import Split, SplitTransform
from .bijections.residual import Residual, ResidualTransform
from .contract.base import Bound
from .flow import Flow, evaluating
from .numerics.linearize import linearize
from .numerics.logdet import dense_jacobian
from .numerics.noise import Noise
from .rounding import at_least, at_most, lipschitz_text

__all__ = ["BlockCertificate", "Certificate", "certify"]


@dataclass(frozen=True)
class BlockCertificate:
    """One residual block: its sound bound, the largest expansion measured, and whether x + g(x) is invertible for certain."""

    name: str
    family: str
    guarantee: str
    bound: float
    measured: float
    holds: bool


@dataclass(frozen=True)
class Certificate:
    """The certificate of a flow. ``str`` gives the table.

    ``lipschitz`` and ``inverse_lipschitz`` bound the whole map and its inverse: products over all parts, sound, and vacuous for a
    deep flow near its bound. ``amplification`` is an estimate of what the inverse does to a small error: the largest 1 /
    sigma_min of the Jacobian over up to 32 of the points measured (NaN above 512 dimensions).
    """

    blocks: tuple[BlockCertificate, ...]
    lipschitz: float
    inverse_lipschitz: float
    amplification: float
    holds: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"blocks": [asdict(block) for block in self.blocks]}

    def __str__(self) -> str:
        lines = [f"{'block':<12} {'family':<10} {'guarantee':<9} {'bound':>8} {'measured':>8}  holds"]
        lines += [
            f"{b.name:<12} {b.family:<10} {b.guarantee:<9} {_told(b.bound):>8} {_told(b.measured, True):>8}  "
            f"{'yes' if b.holds else 'NO'}"
            for b in self.blocks
        ]
        told = "every block is invertible" if self.holds else "NOT every block is certainly invertible"
        about = "" if math.isnan(self.amplification) else f"about {self.amplification:.3g} (estimate), "
        lines.append(f"{told}; the inverse amplifies small errors by {about}at most {at_most(self.inverse_lipschitz, 3):.3g}")
        return "\n".join(lines)


def certify(
    flow: Flow, x: Tensor | None = None, context: Tensor | None = None, *, points: int = 256, seed: int = 0
) -> Certificate:
    """The certificate of ``flow``, for a context (C,) or (B, C) if it is conditional: bounds do not depend on it.

    Parameters
    ----------
    x : rows (N, *) at which to measure; None for points drawn around what the flow calls typical.
    points : how many of them are used.

    Raises
    ------
    ValueError
        If there are more or fewer contexts (B, C) than rows x, x has the wrong shape, or there are no points to measure at.
    """
    if x is not None and context is not None and context.dim() == 2 and len(context) != len(x):
        raise ValueError(f"{len(x)} rows to measure at need a context of as many rows, or of one for all, got {len(context)}")
    if x is not None and tuple(x.shape[1:]) != flow.shape:
        raise ValueError(f"this flow is measured at rows of shape {flow.shape}, got {tuple(x.shape)}")
    if points < 1 or (x is not None and len(x) < 1) or (context is not None and context.dim() == 2 and len(context) < 1):
        raise ValueError("a certificate needs at least one point to measure at")
    with torch.no_grad(), evaluating(flow):
        if flow.context and context is None:
            context = torch.zeros(flow.context)
        if context is not None and context.dim() == 2:
            context, points = context[:points], min(points, len(context))
        bound = flow.bind(context)
        wide = torch.float64 if flow.base.anchor.device.type != "mps" else flow.base.anchor.dtype
        transform = bound.transform.to(wide)
        x = _typical(flow, bound.transform, points, seed) if x is None else x[:points].to(flow.base.anchor)
        blocks = []
        for name, module, part, point in _leaves(flow.bijection, transform, x.to(wide)):
            if isinstance(part, ResidualTransform) and isinstance(module, Residual):
                branch = module.branch
                constant = part.bound.lipschitz
                finite = all(bool(torch.isfinite(tensor).all()) for tensor in part.bound.tensors)
                measured = _expansion(part.bound, point, seed) if finite and bool(torch.isfinite(point).all()) else math.nan
                # A bfloat16 weight is not the number that was bounded: it voids the certificate.
                exact = flow.base.anchor.dtype in (torch.float32, torch.float64)
                family = getattr(branch, "family", type(branch).__name__.removesuffix("Branch").lower())
                holds = constant < 1 and exact and finite
                blocks.append(BlockCertificate(name, family, branch.guarantee, constant, measured, holds))
        there, back = transform.lipschitz()
        amplification = _amplification(transform, x.to(wide)) if x[0].numel() <= 512 else math.nan
    # What lies between the blocks inverts in closed form, but only with numbers.
    numbers = all(bool(torch.isfinite(value).all()) for value in flow.state_dict().values())
    return Certificate(tuple(blocks), there, back, amplification, numbers and all(block.holds for block in blocks))


def _told(value: float, lower: bool = False) -> str:
    if math.isfinite(value) and value < 1e6:
        return lipschitz_text(value, lower=lower)
    return f"{(at_least if lower else at_most)(value, 3):.3g}"


def _leaves(
    module: nn.Module, transform: Any, x: Tensor, name: str = ""
) -> Generator[tuple[str, nn.Module, Any, Tensor], None, Tensor]:
    """Every part that is not made of parts: its place, its module, its transform, and what x has become when it gets there."""
    if isinstance(module, Chain):
        for index, (inner, part) in enumerate(zip(module.parts, transform.parts, strict=True)):
            x = yield from _leaves(inner, part, x, f"{name}.{index}" if name else f"{index}")
        return x
    if isinstance(module, Split):
        kept, moved = x.chunk(2, 1)
        return torch.cat((kept, (yield from _leaves(module.inner, transform.inner, moved, name))), 1)
    yield name, module, transform, x
    return transform.forward(x)


def _typical(flow: Flow, transform: Any, points: int, seed: int) -> Tensor:
    """Points like data: latents pushed back through all that inverts in closed form, leaving the residual blocks out."""

    def back(part: Any, z: Tensor) -> Tensor:
        if isinstance(part, ChainTransform):
            for inner in reversed(part.parts):
                z = back(inner, z)
            return z
        if isinstance(part, SplitTransform):
            kept, moved = z.chunk(2, 1)
            return torch.cat((kept, back(part.inner, moved)), 1)
        return z if isinstance(part, ResidualTransform) else part.attach(z, z)

    return back(transform, flow.base.sample(Noise(seed, torch.arange(points, device=flow.base.anchor.device)), points))


def _expansion(bound: Bound, x: Tensor, seed: int, steps: int = 30) -> float:
    """The largest Jacobian norm over the rows of x, by power iteration on J^T J: a lower bound of the Lipschitz constant."""
    at = linearize(bound, x)
    if at.jacobian is not None and x[0].numel() <= 128:
        return float(torch.linalg.matrix_norm(at.jacobian(), ord=2).max())
    vector = Noise(seed, torch.arange(len(x), device=x.device)).normals(x)
    size = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for _ in range(steps):
        length = vector.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny)
        vector = vector / length.reshape(-1, *[1] * (x.dim() - 1))
        image = at.jvp(vector)
        size = image.flatten(1).norm(dim=1)
        vector = at.vjp(image)
    return float(size.max())


def _amplification(transform: Any, x: Tensor, most: int = 32) -> float:
    """The largest 1 / sigma_min of the whole map's Jacobian over a few points."""
    rows = torch.arange(min(most, len(x)), device=x.device)
    jacobian = dense_jacobian(linearize(transform.select(rows).forward, x[rows]), x[rows])
    if not bool(torch.isfinite(jacobian).all()):
        return math.nan
    smallest = torch.linalg.svdvals(jacobian)[:, -1]
    return float((1 / smallest).max())
