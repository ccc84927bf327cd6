"""New rows out of a run: in one file, or in a folder of parts."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..classifier import Classifier
from ..data import ImageSchema, Schema, check_writable, write_arrays, write_columns
from ..errors import UserError
from ..literals import parse_solver
from ..numerics.noise import Noise
from ..parallel import choose_device, ranks
from ..pictures import sheet
from .folder import RunFolder
from .parts import PATIENCE, Parts, means_folder, peak_memory, weights_of

__all__ = ["Sampler", "draw_rows", "sample_run", "spare_inputs", "write_images"]

Progress = Callable[..., None]
_CHUNK, _ENTRIES = 2048, 2**18  # rows inverted at once, and numbers


def sample_run(
    folder: RunFolder,
    count: int,
    out: str | Path,
    *,
    part_rows: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Draw ``count`` rows in the user's units and write them to ``out`` (.csv, .parquet or .npz; images .npz or .png).

    Row i is a function of (seed, i): a longer run begins with the rows of a shorter one, and several processes draw the rows of
    one. An ``out`` that is a folder, or has no ending, is filled with parts of ``part_rows`` rows each, by all processes under
    torchrun; called again it goes on with what is missing.

    Parameters
    ----------
    options : of :class:`Sampler`.
    progress : called as ``progress(rows)`` for rows that are done and once, first, as ``progress(0, total)``; of a folder that
        holds parts already as ``progress(0, total, note)``, which says so.

    Raises
    ------
    UserError
        For a bad count, context, ending or solver, or several processes and one file.
    NotConverged
        If a sample could not be found with the solver's guarantee.
    """
    if count < 1:
        raise UserError(f"-n must be at least 1, got {count}")
    if means_folder(out):
        return _in_parts(Sampler(folder, **options), count, Path(out), part_rows, progress)
    if part_rows is not None:
        raise UserError(f"--part-rows is for a folder of parts, and --out {out} is one file")
    spare_inputs(folder, out)
    sampler = Sampler(folder, **options)
    if progress is not None:
        progress(0, count)
    names = _write(sampler, out, 0, count, progress)
    shape = {"shape": list(sampler.schema.shape)} if isinstance(sampler.schema, ImageSchema) else {"columns": names}
    return {"rows": count, **shape, "out": str(out), "seed": sampler.seed}


def _write(sampler: Sampler, out: str | Path, start: int, stop: int, progress: Progress | None) -> list[str]:
    """Write those rows; the names of the columns."""
    values, contexts = sampler.draw(start, stop, progress)
    given = _context_columns(sampler.schema, contexts)
    if isinstance(sampler.schema, ImageSchema):
        write_images(out, values, sampler.schema, more=given)
        return []
    columns: dict[str, Any] = {name: values[:, place].numpy() for place, name in enumerate(sampler.schema.names)}
    write_columns(out, columns | given)
    return list(columns | given)


def _in_parts(sampler: Sampler, count: int, out: Path, part_rows: int | None, progress: Progress | None) -> dict[str, Any]:
    began, size = time.monotonic(), Parts.sized(part_rows, count, sampler.size, sampler.schema.features)
    ending = ".npz" if isinstance(sampler.schema, ImageSchema) else ".parquet"
    with ranks(torch.device("cpu"), PATIENCE) as here:
        parts = Parts.open(out, {"question": "sample"} | sampler.asked(), count, size, here, ending)
        there = parts.fill(lambda path, start, stop: _write(sampler, path, start, stop, progress), here, progress)
        peak = peak_memory(here)
    told = {"rows": count, "out": str(out), "seed": sampler.seed, "parts": len(parts), "parts_before": there, "part_rows": size}
    told |= {"processes": here.count, "seconds": round(time.monotonic() - began, 3)}
    return told | {"peak_memory_mib": round(peak, 1)}


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
    folder: RunFolder, count: int, *, progress: Progress | None = None, **options: Any
) -> tuple[Tensor, Tensor | None, Schema | ImageSchema]:
    """The rows (count, d) of :func:`sample_run`, their encoded contexts (count, C) or None, and the schema."""
    sampler = Sampler(folder, **options)
    return *sampler.draw(0, count, progress), sampler.schema


class Sampler:
    """A run's rows by their numbers: row i is a function of (seed, i), drawn alone or with others.

    Parameters
    ----------
    context : ``column=value`` for a conditional model, or the class of a hybrid one; without it, contexts are drawn from the
        training rows and written too.
    continuous : keep dequantised columns continuous instead of putting them back on their levels.
    temperature : by which latents' distances from the base's center are multiplied; below 1 for likelier rows, of less variety.

    Raises
    ------
    UserError
        For a bad context, temperature, solver or device.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        context: Sequence[str] = (),
        seed: int = 0,
        continuous: bool = False,
        temperature: float = 1.0,
        solver: str | None = None,
        device: str = "cpu",
    ) -> None:
        try:
            where = choose_device(device)
        except ValueError as error:
            raise UserError(str(error)) from error
        flow, self.schema = folder.flow()
        if not temperature > 0:
            raise UserError(f"--temperature {temperature:g} must be positive")
        self.folder, self.flow, self.where = folder, flow.to(where), where
        self.solver = parse_solver(solver) if solver else flow.solver
        self.seed, self.continuous, self.temperature = seed, continuous, temperature
        self.size = max(16, min(_CHUNK, _ENTRIES // math.prod(flow.shape)))
        self.weights = weights_of(folder)
        self.network: Any = None
        self.known: Tensor | None = None
        self._ask(context)

    def about(self, context: Sequence[str], seed: int) -> Sampler:
        """The same of another context and with another seed, without loading anything again."""
        other = copy(self)
        other.seed = seed
        other._ask(context)
        return other

    def _ask(self, context: Sequence[str]) -> None:
        given, self.label = _class_given(self.folder, context)
        if self.label is not None and self.network is None:
            self.network = self.folder.network()[0].to(self.where)
        self.given, self.fixed = given, _context_row(self.schema, given)
        if self.schema.context and self.fixed is None and self.known is None:
            self.known = self.folder.dataset().train.context

    def asked(self) -> dict[str, Any]:
        """All that the rows depend on."""
        given = {"context": self.given, "label": self.label, "seed": self.seed, "continuous": self.continuous}
        known = None if self.fixed is not None else self.known  # what contexts are drawn from
        given["contexts"] = None if known is None else hashlib.sha256(known.contiguous().numpy().data).hexdigest()[:16]
        return {"weights": self.weights, "temperature": self.temperature, "solver": repr(self.solver)} | given

    def contexts(self, rows: Tensor) -> Tensor | None:
        """The contexts (N, C) of rows by their numbers (N,), drawn from the training rows if none is given; None without any."""
        if self.fixed is not None or self.known is None:
            return None if self.fixed is None else self.fixed.expand(len(rows), -1)
        uniform = Noise(self.seed, rows).at(1).uniforms(torch.zeros(len(rows), 1, dtype=torch.float64))[:, 0]
        return self.known[(uniform * len(self.known)).long()]

    def draw(self, start: int, stop: int, progress: Progress | None = None) -> tuple[Tensor, Tensor | None]:
        """Rows ``start`` to ``stop`` - 1 (N, d) in the user's units, and their encoded contexts (N, C) or None."""
        values, contexts = [], []
        with torch.no_grad():
            for first in range(start, stop, self.size):
                rows = torch.arange(first, min(first + self.size, stop))
                part = self.contexts(rows)
                if self.label is None:
                    bound = self.flow.bind(part)
                    latents = bound.latents(len(rows), Noise(self.seed, rows), self.temperature)
                    x = bound.decode(latents, solver=self.solver)
                else:
                    x = self._of_class(part, Noise(self.seed, rows))
                values.append(self.schema.decode(x.double(), continuous=self.continuous))
                contexts.append(part)
                if progress is not None:
                    progress(len(rows))
        return torch.cat(values), torch.cat(contexts) if self.schema.context else None

    def _of_class(self, context: Tensor | None, noise: Noise) -> Tensor:
        """Rows of one class of a hybrid model's joint density."""
        assert isinstance(self.network, Classifier) and self.label is not None and noise.rows is not None
        try:
            given = {"solver": self.solver, "noise": noise, "temperature": self.temperature}
            return self.network.sample(self.label, len(noise.rows), context, **given)
        except ValueError as error:
            raise UserError(str(error)) from error


def _class_given(folder: RunFolder, given: Sequence[str]) -> tuple[list[str], int | None]:
    """What is given of the context alone, and the class that a hybrid model is asked for."""
    if folder.config().task != "hybrid":
        return list(given), None
    name, levels = folder.classes()
    asked = [text.partition("=")[2] for text in given if text.partition("=")[0] == name]
    if any(level not in levels for level in asked):
        raise UserError(f"--context {name}={asked[-1]}: the classes of {name} are {', '.join(levels[:20])}")
    return [text for text in given if text.partition("=")[0] != name], levels.index(asked[-1]) if asked else None


def _context_row(schema: Schema | ImageSchema, given: Sequence[str]) -> Tensor | None:
    """The context (C,) that is given for all rows, None if none is."""
    if not given:
        return None
    if not schema.context:
        raise UserError("this model is unconditional; leave --context out, or train with --label or --context COLUMN")
    pairs = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--context {text!r}: write column=value, such as --context {schema.context[0].name}=...")
        pairs[key] = value
    return schema.context_row(pairs)


def _context_columns(schema: Schema | ImageSchema, contexts: Tensor | None) -> dict[str, np.ndarray]:
    if contexts is None:
        return {}
    parts = contexts.split([column.width for column in schema.context], 1)
    return {column.name: column.decode(part) for column, part in zip(schema.context, parts, strict=True)}
