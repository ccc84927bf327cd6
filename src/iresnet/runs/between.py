"""Between two rows: the way from one latent to another, decoded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import ImageSchema, write_columns
from ..errors import UserError
from ..literals import parse_solver
from ..numerics.noise import Noise
from .folder import RunFolder, rows_of
from .sampling import spare_inputs, write_images

__all__ = ["interpolate_run", "slerp"]


def interpolate_run(
    folder: RunFolder,
    out: str | Path,
    *,
    pairs: int = 6,
    steps: int = 8,
    split: str = "test",
    seed: int = 0,
    solver: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Encode pairs of held-out rows, walk from one latent to the other in ``steps`` points, decode, and write the rows.

    Images go to ``out`` as a picture (.png), a pair to a row, or as an array (.npz); rows of a table as columns with ``pair`` and
    ``t`` in [0, 1]. The ends are the rows themselves, there and back. Contexts are walked along with the latents.

    Raises
    ------
    UserError
        For fewer than one pair or two steps, too few rows, or a bad ending.
    NotConverged
        If a point could not be inverted with the solver's guarantee.
    """
    if pairs < 1 or steps < 2:
        raise UserError(f"interpolate needs at least one pair and two steps, got {pairs} and {steps}")
    flow, schema = folder.flow()
    spare_inputs(folder, out)
    rows = rows_of(folder.dataset(), split)
    if len(rows) < 2 * pairs:
        raise UserError(f"{pairs} pairs need {2 * pairs} {split} rows, and there are {len(rows)}; give fewer --pairs")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[: 2 * pairs]
    batch = rows.batch(order, Noise(seed), flow.anchor.double())
    chosen = parse_solver(solver) if solver else flow.solver
    t = torch.linspace(0, 1, steps, dtype=torch.float64)
    with torch.no_grad():
        z = flow.bind(batch.context).to(torch.float64).transform.forward(batch.x)
        path = torch.cat([slerp(z[2 * k], z[2 * k + 1], t) for k in range(pairs)])
        context = None
        if batch.context is not None:
            ends = batch.context.double().unflatten(0, (pairs, 2))
            context = (ends[:, :1] * (1 - t[:, None]) + ends[:, 1:] * t[:, None]).flatten(0, 1)
        found = flow.bind(context).invert(path, solver=chosen)
    if progress is not None:
        progress(len(path))
    values = schema.decode(found.value)
    if isinstance(schema, ImageSchema):
        write_images(out, values, schema, columns=steps)
    else:
        pair = torch.arange(pairs).repeat_interleave(steps)
        named = {name: values[:, place] for place, name in enumerate(schema.names)}
        write_columns(out, {"pair": pair, "t": t.repeat(pairs), **named})
    told = {"pairs": pairs, "steps": steps, "rows": batch.rows.tolist(), "out": str(out), "solver": repr(chosen)}
    return told | {"latent_backward_error": float(found.backward_error.max())}


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Points (T, *) from latent a to latent b at t in [0, 1]: along the great circle, the length going evenly from |a| to |b|.

    On the straight line the middle would be shorter than any latent that a normal base knows (White, 2016, arXiv 1609.04468).
    """
    one, two = a.flatten(), b.flatten()
    long, other = one.norm(), two.norm()
    angle = torch.arccos((one @ two / (long * other).clamp(min=1e-300)).clamp(-1, 1))
    if float(angle) < 1e-6 or float(torch.pi - angle) < 1e-6:
        points = one + t[:, None] * (two - one)
    else:
        left, right = torch.sin((1 - t) * angle) / torch.sin(angle), torch.sin(t * angle) / torch.sin(angle)
        unit = left[:, None] * one / long + right[:, None] * two / other
        points = unit * (long + t * (other - long))[:, None]
    return points.reshape(-1, *a.shape)
