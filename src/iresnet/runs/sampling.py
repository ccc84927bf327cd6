"""Rows out of a run: new ones, and the densities of given ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import Schema, check_writable, load_rows, write_columns
from ..errors import UserError
from ..literals import parse_logdet, parse_solver
from ..numerics.noise import Noise
from ..tasks.density import score
from ..tasks.rows import Rows
from .folder import RunFolder

__all__ = ["draw_rows", "sample_run", "score_run"]

Progress = Callable[[int], None]
_CHUNK = 2048


def sample_run(
    folder: RunFolder,
    count: int,
    out: str | Path,
    *,
    context: Sequence[str] = (),
    seed: int = 0,
    continuous: bool = False,
    solver: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw ``count`` rows in the user's units and write them to ``out`` (.csv, .parquet or .npz).

    Row i is a function of (seed, i): a longer run begins with the rows of a shorter one.

    Parameters
    ----------
    context : ``column=value`` for a conditional model; without it, contexts are drawn from the training rows and written too.
    continuous : keep dequantised columns continuous instead of putting them back on their levels.

    Raises
    ------
    UserError
        For a bad count, context, ending or solver.
    NotConverged
        If a sample could not be found with the solver's guarantee.
    """
    if count < 1:
        raise UserError(f"-n must be at least 1, got {count}")
    _spare_inputs(folder, out)
    values, contexts, schema = draw_rows(
        folder, count, context=context, seed=seed, continuous=continuous, solver=solver, progress=progress
    )
    columns: dict[str, Any] = {name: values[:, place].numpy() for place, name in enumerate(schema.names)}
    columns |= _context_columns(schema, contexts)
    write_columns(out, columns)
    return {"rows": count, "columns": list(columns), "out": str(out), "seed": seed}


def _spare_inputs(folder: RunFolder, out: str | Path, data: str | None = None) -> None:
    """Refuse an ``out`` that cannot be written in its format, or that would overwrite the table it comes from."""
    check_writable(out)
    known = [Path(path) for path in (data, folder.status().get("data", {}).get("path")) if path is not None]
    if Path(out).exists() and any(path.exists() and path.samefile(out) for path in known):
        raise UserError(f"--out {out} is the table that was read; choose another file, so that it is not overwritten")


def draw_rows(
    folder: RunFolder,
    count: int,
    *,
    context: Sequence[str] = (),
    seed: int = 0,
    continuous: bool = False,
    solver: str | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor | None, Schema]:
    """The rows (count, d) of :func:`sample_run`, their encoded contexts (count, C) or None, and the schema."""
    flow, schema = folder.flow()
    chosen = parse_solver(solver) if solver else flow.solver
    contexts = _contexts(folder, schema, context, count, seed)
    values = []
    for start in range(0, count, _CHUNK):
        rows = torch.arange(start, min(start + _CHUNK, count))
        part = None if contexts is None else contexts[rows]
        x = flow.sample(len(rows), part, solver=chosen, noise=Noise(seed, rows))
        values.append(schema.decode(x.double(), continuous=continuous))
        if progress is not None:
            progress(len(rows))
    return torch.cat(values), contexts, schema


def _contexts(folder: RunFolder, schema: Schema, given: Sequence[str], count: int, seed: int) -> Tensor | None:
    if not schema.context:
        if given:
            raise UserError("this model is unconditional; leave --context out, or train with --label or --context COLUMN")
        return None
    if given:
        pairs = {}
        for text in given:
            key, equals, value = text.partition("=")
            if not equals:
                raise UserError(f"--context {text!r}: write column=value, such as --context {schema.context[0].name}=...")
            pairs[key] = value
        return schema.context_row(pairs).expand(count, -1)
    train = folder.dataset().train.context
    assert train is not None
    uniform = Noise(seed, torch.arange(count)).at(1).uniforms(torch.zeros(count, 1, dtype=torch.float64))[:, 0]
    return train[(uniform * len(train)).long()]


def _context_columns(schema: Schema, contexts: Tensor | None) -> dict[str, np.ndarray]:
    if contexts is None:
        return {}
    parts = contexts.split([column.width for column in schema.context], 1)
    return {column.name: column.decode(part) for column, part in zip(schema.context, parts, strict=True)}


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
    """log p of every row of ``data``, in the user's units, written to ``out`` in order with columns log_prob and stderr.

    Where columns hold levels, log p is the mean over ``draws`` of their dequantisation noise, and the standard error is of that.

    A row's number is a function of (the run's seed, its row number): the same in any batch. Where ``missing`` is "drop", a
    further column ``row`` says which rows of ``data``, counted from 0, were scored.

    Raises
    ------
    UserError
        For data without the model's columns, values outside their support, a bad ending, or no draws.
    """
    if draws < 1:
        raise UserError(f"--draws must be at least 1, got {draws}")
    _spare_inputs(folder, out, data)
    flow, schema = folder.flow()
    config = folder.config()
    part = load_rows(data, schema, missing=missing)
    rows = Rows(part.values, part.context, schema, part.rows)
    named = logdet or config.evaluate.logdet
    estimator = parse_logdet(named) if named else flow.eval_logdet
    size, seed = config.evaluate.batch_size, config.seed
    found = list(score(flow, rows, logdet=estimator, batch_size=size, seed=seed, draws=draws, progress=progress))
    value = torch.cat([item[1] for item in found])
    stderr = torch.cat([item[2] for item in found])
    which = {"row": part.rows.numpy()} if missing == "drop" else {}
    write_columns(out, which | {"log_prob": value.numpy(), "stderr": stderr.numpy()})
    spread = float(value.std()) / math.sqrt(len(value)) if len(value) > 1 else math.nan
    errors = {"stderr_data": spread, "stderr_estimator": float(stderr.square().sum().sqrt()) / len(value)}
    told = {"rows": len(value), "mean_log_prob": float(value.mean()), **errors}
    return told | {"out": str(out), "logdet": repr(estimator)}
