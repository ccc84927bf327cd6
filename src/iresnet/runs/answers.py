"""What can be relied on in a finished run: its certificate, and the way there and back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..certify import certify
from ..checkpoint import Network
from ..classifier import Classifier
from ..data import ImageSchema
from ..errors import UserError
from ..files import write_json
from ..literals import parse_solver
from ..numerics.noise import Noise
from .building import flow_of
from .evaluating import previous_of
from .folder import RunFolder, rows_of
from .gallery import draw_roundtrip

__all__ = ["certify_run", "reconstruct_run"]

Progress = Callable[[int], None]
_ENTRIES = 2**14  # numbers of the images at which a certificate is measured


def certify_run(folder: RunFolder, *, points: int = 256) -> dict[str, Any]:
    """The certificate of the run's network, measured at training rows or, if they are gone, at points like them.

    Also written to ``certificate.json``.
    """
    network, _ = folder.network()
    config, seed, flow = folder.config(), folder.config().seed, flow_of(network)
    if flow is None:
        content = {"blocks": [], "holds": False, "guarantee": "none"}
        write_json(folder.path / "certificate.json", content)
        return content | {"table": "an ordinary ResNet: nothing says that it has an inverse"}
    if len(flow.shape) > 1:  # images, whose expansion takes many convolutions to measure
        points = min(points, max(16, _ENTRIES // math.prod(flow.shape)))
    try:
        rows = rows_of(folder.dataset(), "train", settled=config.task == "classify")
        batch = rows.all(torch.zeros((), dtype=torch.float64), Noise(seed), most=points)
    except UserError:  # the bounds need no data
        certificate = certify(flow, points=points, seed=seed)
    else:
        x = network.widen(batch.x) if isinstance(network, Classifier) else batch.x
        certificate = certify(flow, x, batch.context, points=points, seed=seed)
    content = certificate.to_dict()
    write_json(folder.path / "certificate.json", content)
    return content | {"table": str(certificate)}


def reconstruct_run(
    folder: RunFolder,
    *,
    rows: int | None = None,
    split: str = "test",
    solver: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The way there and back: encode rows, invert, compare; also written to ``evaluation.json`` as ``roundtrip``.

    Errors are 2-norms over a row. ``max_error`` is in the flow's (standardised) units, ``max_error_user`` in the user's, over
    columns.

    Raises
    ------
    NotConverged
        If a row could not be inverted with the solver's guarantee.
    UserError
        If the split is empty or ``solver`` names none.
    """
    config, dataset = folder.config(), folder.dataset()
    network, schema = folder.network()
    flow = flow_of(network)
    if flow is None:
        raise UserError(f"{folder.path} holds an ordinary ResNet, which has no inverse")
    named = solver or config.evaluate.solver
    chosen = parse_solver(named) if named else flow.solver
    count = rows if rows is not None else config.evaluate.roundtrip
    if count < 1:
        raise UserError(f"reconstruct needs at least one row, got {count}")
    wanted, noise = rows_of(dataset, split, settled=config.task == "classify").spread(count), Noise(config.seed)
    parts: list[dict[str, Tensor]] = []
    began, size = time.monotonic(), config.evaluate.batch_size
    for start in range(0, len(wanted), size):
        places = torch.arange(start, min(start + size, len(wanted)))
        batch = wanted.batch(places, noise, flow.anchor)
        found, z, back = _there_and_back(network, batch.x, batch.context, chosen)
        if isinstance(schema, ImageSchema) and not start:
            draw_roundtrip(folder, schema, batch.x, z, back)
        there, again = (schema.decode(value, continuous=True) for value in (batch.x.double().cpu(), back))
        found["user"] = (again - there).abs().flatten(1).amax(1)
        parts.append(found)  # numbers of each row alone, so that all rows of a large set fit into memory
        if progress is not None:
            progress(len(places))
    found = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    content = {
        "split": split,
        "rows": len(wanted),
        "max_error": float(found["error"].max()),
        "rms_error": float(found["error"].square().mean().sqrt()),
        "max_error_user": float(found["user"].max()),
        "worst_block_bound": float(found["block_bound"].max()),
        "latent_backward_error": float(found["backward_error"].max()),
        "steps_mean": float(found["steps"].double().mean()),
        "steps_max": int(found["steps"].max()),
        "solver": repr(chosen),
        "seconds": round(time.monotonic() - began, 3),
    }
    previous = previous_of(folder)
    if previous:
        write_json(folder.path / "evaluation.json", previous | {"roundtrip": content})
    return content


def _there_and_back(network: Network, x: Tensor, context: Tensor | None, solver: Any) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Errors, bounds and steps, each (B,); the latents, and what they decode to, (B, *) in float64 on the CPU."""
    # In float64: what float32 loses on the way there is no error of the way back.
    flow = flow_of(network)
    assert flow is not None
    bound = flow.bind(context)
    with torch.no_grad():
        wide = network.widen(x.double()) if isinstance(network, Classifier) else x.double()
        z = bound.transform.to(torch.float64).forward(wide)
    back = bound.invert(z, solver=solver)
    found = {
        "error": (back.value.double() - wide).flatten(1).norm(dim=1).cpu(),
        "block_bound": back.block_bounds.amax(0).cpu(),
        "backward_error": back.backward_error.cpu(),
        "steps": back.steps.cpu(),
    }
    return found, z[:, : x.shape[1]].cpu(), back.value[:, : x.shape[1]].double().cpu()
