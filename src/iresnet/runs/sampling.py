"""New rows out of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..classifier import Classifier
from ..data import ImageSchema, Schema, check_writable, write_arrays, write_columns
from ..errors import UserError
from ..literals import parse_solver
from ..numerics.fixed_point import Solver
from ..numerics.noise import Noise
from ..pictures import sheet
from .folder import RunFolder

__all__ = ["draw_rows", "sample_run", "spare_inputs", "write_images"]

Progress = Callable[[int], None]
_CHUNK, _ENTRIES = 2048, 2**18  # rows inverted at once, and numbers


def sample_run(
    folder: RunFolder,
    count: int,
    out: str | Path,
    *,
    context: Sequence[str] = (),
    seed: int = 0,
    continuous: bool = False,
    temperature: float = 1.0,
    solver: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw ``count`` rows in the user's units and write them to ``out`` (.csv, .parquet or .npz; images .npz or .png).

    Row i is a function of (seed, i): a longer run begins with the rows of a shorter one.

    Parameters
    ----------
    context : ``column=value`` for a conditional model, or the class of a hybrid one; without it, contexts are drawn from the
        training rows and written too.
    continuous : keep dequantised columns continuous instead of putting them back on their levels.
    temperature : by which latents' distances from the base's center are multiplied; below 1 for likelier rows, of less variety.

    Raises
    ------
    UserError
        For a bad count, context, ending or solver.
    NotConverged
        If a sample could not be found with the solver's guarantee.
    """
    if count < 1:
        raise UserError(f"-n must be at least 1, got {count}")
    spare_inputs(folder, out)
    values, contexts, schema = draw_rows(
        folder,
        count,
        context=context,
        seed=seed,
        continuous=continuous,
        temperature=temperature,
        solver=solver,
        progress=progress,
    )
    if isinstance(schema, ImageSchema):
        write_images(out, values, schema, more=_context_columns(schema, contexts))
        return {"rows": count, "shape": list(schema.shape), "out": str(out), "seed": seed}
    columns: dict[str, Any] = {name: values[:, place].numpy() for place, name in enumerate(schema.names)}
    columns |= _context_columns(schema, contexts)
    write_columns(out, columns)
    return {"rows": count, "columns": list(columns), "out": str(out), "seed": seed}


def write_images(
    out: str | Path, images: Tensor, schema: ImageSchema, *, columns: int | None = None, more: Mapping[str, Any] | None = None
) -> None:
    """Images (N, C, H, W) as a picture of all of them (.png), or as the array (N, H, W) or (N, H, W, C), ``more`` beside it."""
    if Path(out).suffix.lower() == ".png":
        sheet(out, images, columns, levels=schema.levels)
        return
    plain = images[:, 0] if images.shape[1] == 1 else images.permute(0, 2, 3, 1)
    write_arrays(out, {"images": plain.contiguous()} | dict(more or {}))


def spare_inputs(folder: RunFolder, out: str | Path, data: str | None = None) -> None:
    """Refuse an ``out`` that cannot be written in its format, or that would overwrite the data it comes from."""
    if folder.status()["data"].get("kind") == "images" and data is None:
        if Path(out).suffix.lower() not in (".png", ".npz"):
            raise UserError(f"{out} ends in {Path(out).suffix or 'nothing'}; images are written as .npz or as one picture, .png")
    else:
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
    temperature: float = 1.0,
    solver: str | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor | None, Schema | ImageSchema]:
    """The rows (count, d) of :func:`sample_run`, their encoded contexts (count, C) or None, and the schema."""
    flow, schema = folder.flow()
    chosen = parse_solver(solver) if solver else flow.solver
    context, label = _class_given(folder, context)
    if not temperature > 0 or (temperature != 1 and label is not None):
        told = "is for latents of the base, not of a class of a hybrid model" if temperature > 0 else "must be positive"
        raise UserError(f"--temperature {temperature:g} {told}")
    contexts = _contexts(folder, schema, context, count, seed)
    values = []
    with torch.no_grad():
        size = max(16, min(_CHUNK, _ENTRIES // math.prod(flow.shape)))
        for start in range(0, count, size):
            rows = torch.arange(start, min(start + size, count))
            part = None if contexts is None else contexts[rows]
            if label is None:
                bound = flow.bind(part)
                x = bound.decode(bound.latents(len(rows), Noise(seed, rows), temperature), solver=chosen)
            else:
                x = _of_class(folder, label, part, chosen, Noise(seed, rows))
            values.append(schema.decode(x.double(), continuous=continuous))
            if progress is not None:
                progress(len(rows))
    return torch.cat(values), contexts, schema


def _class_given(folder: RunFolder, given: Sequence[str]) -> tuple[list[str], int | None]:
    """What is given of the context alone, and the class that a hybrid model is asked for."""
    if folder.config().task != "hybrid":
        return list(given), None
    name, levels = folder.classes()
    asked = [text.partition("=")[2] for text in given if text.partition("=")[0] == name]
    if any(level not in levels for level in asked):
        raise UserError(f"--context {name}={asked[-1]}: the classes of {name} are {', '.join(levels[:20])}")
    return [text for text in given if text.partition("=")[0] != name], levels.index(asked[-1]) if asked else None


def _of_class(folder: RunFolder, label: int, context: Tensor | None, solver: Solver, noise: Noise) -> Tensor:
    """Rows of one class of a hybrid model's joint density."""
    network, _ = folder.network()
    assert isinstance(network, Classifier) and noise.rows is not None
    try:
        return network.sample(label, len(noise.rows), context, solver=solver, noise=noise)
    except ValueError as error:
        raise UserError(str(error)) from error


def _contexts(folder: RunFolder, schema: Schema | ImageSchema, given: Sequence[str], count: int, seed: int) -> Tensor | None:
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


def _context_columns(schema: Schema | ImageSchema, contexts: Tensor | None) -> dict[str, np.ndarray]:
    if contexts is None:
        return {}
    parts = contexts.split([column.width for column in schema.context], 1)
    return {column.name: column.decode(part) for column, part in zip(schema.context, parts, strict=True)}
