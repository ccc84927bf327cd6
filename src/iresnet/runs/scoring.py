"""What a run says of given rows: their densities, their classes, or both."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import Config
from ..data import load_rows, write_columns
from ..errors import UserError
from ..literals import parse_logdet
from ..tasks.classify import predict
from ..tasks.density import score
from ..tasks.rows import Rows
from .folder import RunFolder
from .sampling import spare_inputs

__all__ = ["score_run"]

Progress = Callable[[int], None]


def score_run(
    folder: RunFolder,
    data: str,
    out: str | Path,
    *,
    logdet: str | None = None,
    missing: str = "error",
    draws: int = 8,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What the run says of every row of ``data``, written to ``out`` in order.

    A density gives the columns ``log_prob``, in the user's units, and ``stderr``. Where columns hold levels, log p is the mean
    over ``draws`` of their dequantisation noise, and the standard error is of that. A classifier gives ``predicted`` and the
    probability of each class, in a column ``p_`` and its name; there levels are taken at the middle of their cells. A hybrid
    model gives all.

    A row's numbers are functions of (the run's seed, its row number): the same in any batch. Where ``missing`` is "drop", a
    further column ``row`` says which rows of ``data``, counted from 0, were scored.

    Raises
    ------
    UserError
        For data without the model's columns, values outside their support, a bad ending, or no draws.
    """
    if draws < 1:
        raise UserError(f"--draws must be at least 1, got {draws}")
    spare_inputs(folder, out, data)
    _, schema = folder.network()
    config = folder.config()
    part = load_rows(data, schema, missing=missing)
    rows = Rows(part.values, part.context, schema, part.rows)
    columns: dict[str, Any] = {"row": part.rows.numpy()} if missing == "drop" else {}
    told: dict[str, Any] = {"rows": len(rows), "out": str(out)}
    if config.task != "classify":
        found, more = _densities(folder, config, rows, logdet, draws, progress)
        columns, told = columns | found, told | more
    if config.task != "density":
        found, more = _classes(folder, config, rows, progress if config.task == "classify" else None)
        columns, told = columns | found, told | more
    write_columns(out, columns)
    return told


def _densities(
    folder: RunFolder, config: Config, rows: Rows, logdet: str | None, draws: int, progress: Progress | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns, and what is told of them."""
    flow, _ = folder.flow()
    named = logdet or config.evaluate.logdet
    estimator = parse_logdet(named) if named else flow.eval_logdet
    size, seed = config.evaluate.batch_size, config.seed
    found = list(score(flow, rows, logdet=estimator, batch_size=size, seed=seed, draws=draws, progress=progress))
    value = torch.cat([item[1] for item in found])
    stderr = torch.cat([item[2] for item in found])
    spread = float(value.std()) / math.sqrt(len(value)) if len(value) > 1 else math.nan
    errors = {"stderr_data": spread, "stderr_estimator": float(stderr.square().sum().sqrt()) / len(value)}
    told = {"mean_log_prob": float(value.mean()), **errors, "logdet": repr(estimator)}
    return {"log_prob": value.numpy(), "stderr": stderr.numpy()}, told


def _classes(
    folder: RunFolder, config: Config, rows: Rows, progress: Progress | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    network, _ = folder.network()
    name, levels = folder.classes()
    size = config.evaluate.batch_size
    logits = torch.cat([found for _, found in predict(network, rows, batch_size=size, seed=config.seed, progress=progress)])
    chosen = logits.argmax(1)
    columns: dict[str, Any] = {"predicted": np.asarray(levels)[chosen.numpy()]}
    shares = logits.double().softmax(1)
    columns |= {f"p_{level}": shares[:, place].numpy() for place, level in enumerate(levels)}
    counts = torch.bincount(chosen, minlength=len(levels)).tolist()
    return columns, {"label": name, "predicted": dict(zip(levels, counts, strict=True))}
