"""Runs on their way out: what of a run folder an export or a model card needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import ImageSchema, Schema
from ..errors import UserError
from ..flow import Flow
from ..literals import parse_logdet, parse_solver
from ..numerics.noise import Noise
from ..runs import RunFolder
from ..runs.folder import rows_of
from .export import PROGRAMS, Exported, export_flow

__all__ = ["export_run"]

_ROWS = 64  # at which a file is compared with the model


def export_run(
    folder: RunFolder,
    kind: str = "onnx",
    out: str | Path | None = None,
    *,
    programs: Sequence[str] = PROGRAMS,
    precision: str | None = None,
    logdet: str | None = None,
    solver: str | None = None,
    tol: float = 1e-5,
    begin: Callable[[Path], None] | None = None,
) -> list[Exported]:
    """The programs of a run's flow, see :func:`~iresnet.interop.export.export_flow`; by default into the folder's ``export``.

    They are checked at held-out rows or, if the data are gone, at rows that the flow draws.

    Raises
    ------
    UserError
        If the run has no density, or as ``export_flow`` does.
    """
    flow, schema = folder.flow()
    x, context = _rows(folder, flow, schema)
    return export_flow(
        flow,
        out or folder.path / "export" / "flow",
        x,
        context,
        kind=kind,
        programs=programs,
        schema=schema,
        precision=precision,
        logdet=None if logdet is None else parse_logdet(logdet),
        solver=None if solver is None else parse_solver(solver),
        tol=tol,
        about={"run": folder.path.name},
        begin=begin,
    )


def _rows(folder: RunFolder, flow: Flow, schema: Schema | ImageSchema) -> tuple[Tensor, Tensor | None]:
    """Rows in the flow's units (n, *shape), and their contexts."""
    try:
        batch = rows_of(folder.dataset(), "test").all(torch.zeros((), dtype=torch.float64), Noise(folder.config().seed), _ROWS)
        if len(batch.x) >= 2:
            return batch.x, batch.context
    except UserError:  # the data are gone
        pass
    context = _contexts(schema) if flow.context else None
    return flow.sample(_ROWS, context, noise=Noise(folder.config().seed, torch.arange(_ROWS))), context


def _contexts(schema: Schema | ImageSchema) -> Tensor:
    """Contexts (n, C): each class in turn, and numbers at their mean."""
    parts: list[Any] = []
    for column in schema.context:
        classes = torch.arange(_ROWS) % column.width
        found = torch.nn.functional.one_hot(classes, column.width).double()
        parts.append(found if column.levels else torch.zeros(_ROWS, 1, dtype=torch.float64))
    return torch.cat(parts, 1)
