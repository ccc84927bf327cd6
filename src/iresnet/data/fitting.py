"""Fit a schema to a table: supports, resolutions, and the statistics of the training rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import UserError
from .columns import Column, parse_support
from .context import fit_context
from .grids import off_grid
from .schema import Schema
from .tables import Table, known_names

__all__ = ["context_names", "fit_schema"]

_KINDS = ("label", "number")


def context_names(context: Sequence[str]) -> dict[str, str]:
    """``NAME``, ``NAME:label`` and ``NAME:number`` as names and kinds; without a word the kind is "auto"."""
    kinds = {}
    for given in context:
        name, _, kind = given.rpartition(":")
        kinds.update({name: kind} if name and kind in _KINDS else {given: "auto"})
    return kinds


def fit_schema(
    table: Table,
    train: Tensor,
    *,
    support: Mapping[str, str] | None = None,
    dequantize: str | Mapping[str, float] = "none",
    label: str | None = None,
    context: Sequence[str] = (),
) -> Schema:
    """The schema of a table, with center and scale from the rows at positions ``train`` (T,) alone, in float64.

    ``support`` maps columns to ``"real"``, ``"positive"`` or ``"bounded:LOW:HIGH"``. ``dequantize`` is ``"none"``,
    ``"auto"`` (every column found to hold levels, at the resolution found) or a resolution per column.
    The label comes first in the context, then the context columns in order. Levels are those of all rows.

    Raises
    ------
    UserError
        If an option names an unknown column, a resolution does not fit the values, or a row (of any split) is outside
        its column's support.
    """
    support = support or {}
    known_names(list(support), table.names, table.source, "--support")
    steps = _resolutions(table, dequantize)
    rows = train.numpy()
    columns = []
    for k, name in enumerate(table.names):
        kind, low, high = parse_support(name, support.get(name, "real"))
        values, step = table.values[:, k], steps.get(name)
        column = Column(name, kind, low, high, step, float(values.min()) if step is not None else 0.0)
        columns.append(column)
    raw = Schema(tuple(columns))
    _check_support(raw, table)
    center, scale = _statistics(raw, torch.from_numpy(table.values[rows]))
    fitted = tuple(
        Column(c.name, c.support, c.low, c.high, c.resolution, c.origin, float(center[k]), float(scale[k]))
        for k, c in enumerate(columns)
    )
    kinds = {**({label: "label"} if label is not None else {}), **context_names(context)}
    return Schema(fitted, tuple(fit_context(name, table.aside[name], rows, kind) for name, kind in kinds.items()))


def _resolutions(table: Table, dequantize: str | Mapping[str, float]) -> dict[str, float]:
    if isinstance(dequantize, str):
        if dequantize not in ("none", "auto"):
            raise UserError(f"dequantize must be none, auto or NAME=RESOLUTION, got {dequantize!r}")
        found = table.diagnose() if dequantize == "auto" else []
        return {item.columns[0]: item.resolution for item in found if item.resolution is not None}
    known_names(list(dequantize), table.names, table.source, "--dequantize")
    for name, step in dequantize.items():
        if not (math.isfinite(step) and step > 0):
            raise UserError(f"column {name}: the resolution must be a positive number, got {step}")
        values = table.values[:, table.names.index(name)]
        row = off_grid(values, step)
        if row is not None:
            raise UserError(
                f"column {name} is not on a grid of step {step:g}: row {table.rows[row]} holds {values[row]:g} and the "
                f"smallest value is {values.min():g}; give the resolution its values were rounded to"
            )
    return dict(dequantize)


def _check_support(schema: Schema, table: Table) -> None:
    """Every row at both ends of its noise, so that no draw of the noise can fail in training."""
    values, rows = torch.from_numpy(table.values), torch.from_numpy(table.rows)
    for end in (0.0, 1.0) if schema.dequantized else (0.0,):
        schema.encode(values, torch.full_like(values, end), rows=rows)


def _statistics(schema: Schema, values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (d,) of the transformed columns over the noise; 1 for a column that does not vary."""
    # The two Gauss-Legendre nodes have the mean and variance of the uniform noise.
    nodes = [0.5 - math.sqrt(1 / 12), 0.5 + math.sqrt(1 / 12)] if schema.dequantized else [0.5]
    t = torch.cat([schema.encode(values, torch.full_like(values, node))[0] for node in nodes])
    varies = t.amax(0) > t.amin(0)  # a mean of equal numbers is off by a rounding, so ask for the range
    return t.mean(0), torch.where(varies, t.std(0, correction=0), 1.0)
