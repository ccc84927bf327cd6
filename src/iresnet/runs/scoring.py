"""What a run says of given rows: their densities, their classes, or both; in one file, or in a folder of parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import ImageSchema, Split, load_rows, open_rows, write_columns
from ..errors import UserError
from ..literals import parse_logdet
from ..parallel import choose_device, ranks
from ..tasks.classify import predict
from ..tasks.density import figure_of_sums, score
from ..tasks.rows import Rows
from .folder import RunFolder
from .parts import PATIENCE, Parts, means_folder, peak_memory, weights_of
from .sampling import spare_inputs

__all__ = ["score_run"]

Progress = Callable[..., None]
Columns = dict[str, np.ndarray]
Sums = dict[str, list[float]]


def score_run(
    folder: RunFolder,
    data: str,
    out: str | Path,
    *,
    logdet: str | None = None,
    missing: str = "error",
    draws: int = 8,
    part_rows: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What the run says of every row of ``data``, written to ``out`` in order.

    A density gives the columns ``log_prob``, in the user's units, and ``stderr``. Where columns hold levels, log p is the mean
    over ``draws`` of their dequantisation noise, and the standard error is of that. A classifier gives ``predicted`` and the
    probability of each class, in a column ``p_`` and its name; there levels are taken at the middle of their cells. A hybrid
    model gives all.

    A row's numbers are functions of (the run's seed, its row number): the same in any batch. Where ``missing`` is "drop", a
    further column ``row`` says which rows of ``data``, counted from 0, were scored.

    An ``out`` that is a folder, or has no ending, is filled with parts of ``part_rows`` rows each, with the column ``row``, by
    all processes under torchrun. Tables are then streamed: what is in memory is one part. Called again it goes on with what is
    missing.

    Parameters
    ----------
    progress : called as ``progress(rows)`` for rows that are done and once, first, as ``progress(0, total)``; of a folder that
        holds parts already as ``progress(0, total, note)``, which says so.

    Raises
    ------
    UserError
        For data without the model's columns, values outside their support, a bad ending, no draws, or one file for several
        processes.
    """
    if draws < 1:
        raise UserError(f"--draws must be at least 1, got {draws}")
    if means_folder(out):
        return _in_parts(_Scorer(folder, logdet, draws, device), data, Path(out), missing, part_rows, progress)
    if part_rows is not None:
        raise UserError(f"--part-rows is for a folder of parts, and --out {out} is one file")
    spare_inputs(folder, out, data)
    scorer = _Scorer(folder, logdet, draws, device)
    if Path(data).is_dir() and not isinstance(scorer.schema, ImageSchema):
        source = open_rows(data, scorer.schema, missing=missing)
        part = source.read(0, source.rows)
    else:
        part = load_rows(data, scorer.schema, missing=missing)
    if progress is not None:
        progress(0, len(part))
    columns, sums = scorer(part, progress)
    write_columns(out, ({"row": part.rows.numpy()} if missing == "drop" else {}) | columns)
    return {"rows": len(part), "out": str(out)} | scorer.told(sums)


class _Scorer:
    """A run's network, ready to be asked about any number of rows."""

    def __init__(self, folder: RunFolder, logdet: str | None, draws: int, device: str) -> None:
        try:
            self.device = choose_device(device)
        except ValueError as error:
            raise UserError(str(error)) from error
        self.folder, self.draws, self.config = folder, draws, folder.config()
        self.network, self.schema = folder.network()
        self.network.to(self.device)
        self.flow = folder.flow()[0].to(self.device) if self.config.task != "classify" else None
        named = logdet or self.config.evaluate.logdet
        self.logdet = parse_logdet(named) if named else None if self.flow is None else self.flow.eval_logdet
        self.classes = folder.classes() if self.config.task != "density" else None

    def asked(self) -> dict[str, Any]:
        """All that the answers depend on but the rows."""
        size, seed = self.config.evaluate.batch_size, self.config.seed
        return {"weights": weights_of(self.folder), "logdet": repr(self.logdet), "draws": self.draws, "seed": seed, "batch": size}

    def __call__(self, part: Split, progress: Progress | None = None) -> tuple[Columns, Sums]:
        """Columns (N,) by name, and sums over rows, which add up over parts."""
        rows = Rows(part.values, part.context, self.schema, part.rows)
        options: dict[str, Any] = {"batch_size": self.config.evaluate.batch_size, "seed": self.config.seed}
        columns, sums, none = {}, {}, torch.zeros(0, dtype=torch.float64)
        if self.flow is not None:
            found = score(self.flow, rows, logdet=self.logdet, draws=self.draws, progress=progress, **options)
            three = [torch.stack(item[1:]) for item in found]
            value, stderr, bias = torch.cat([none.expand(3, 0), *three], 1)
            columns |= {"log_prob": value.numpy(), "stderr": stderr.numpy()}
            each = torch.stack((torch.ones_like(value), value, value.square(), stderr.square(), bias))
            sums["density"] = each.sum(1).tolist()
            progress = None
        if self.classes is not None:
            levels = self.classes[1]
            found = predict(self.network, rows, progress=progress, **options)
            logits = torch.cat([torch.zeros(0, len(levels)), *(logits for _, logits in found)])
            chosen, shares = logits.argmax(1), logits.double().softmax(1)
            columns["predicted"] = np.asarray(levels)[chosen.numpy()]
            columns |= {f"p_{level}": shares[:, place].numpy() for place, level in enumerate(levels)}
            sums["predicted"] = torch.bincount(chosen, minlength=len(levels)).tolist()
        return columns, sums

    def told(self, sums: Sums) -> dict[str, Any]:
        """What there is to tell of all rows."""
        told: dict[str, Any] = {}
        if "density" in sums:
            figure = figure_of_sums(torch.tensor(sums["density"], dtype=torch.float64))
            told |= {"mean_log_prob": figure.value, "stderr_data": figure.stderr_data}
            told |= {"stderr_estimator": figure.stderr_estimator, "logdet": repr(self.logdet)}
        if self.classes is not None:
            name, levels = self.classes
            told |= {"label": name, "predicted": dict(zip(levels, map(int, sums["predicted"]), strict=True))}
        return told


def _in_parts(
    scorer: _Scorer, data: str, out: Path, missing: str, part_rows: int | None, progress: Progress | None
) -> dict[str, Any]:
    if Path(data).is_dir() and out.resolve().is_relative_to(Path(data).resolve()):
        raise UserError(f"--out {out} lies in {data}, where its parts would be taken for data; choose another folder")
    began = time.monotonic()
    with ranks(torch.device("cpu"), PATIENCE) as here:
        source = open_rows(data, scorer.schema, missing=missing)
        size = Parts.sized(part_rows, source.rows, scorer.config.evaluate.batch_size, scorer.schema.features)
        asked = {"question": "score"} | scorer.asked() | {"missing": missing, "data": source.identity}
        parts = Parts.open(out, asked, source.rows, size, here)

        def write(path: Path, start: int, stop: int) -> None:
            part = source.read(start, stop)
            columns, sums = scorer(part, progress)
            write_columns(path, {"row": part.rows.numpy()} | columns, {"rows": len(part), "sums": sums})
            if progress is not None:
                progress(stop - start - len(part))  # those left out

        there = parts.fill(write, here, progress)
        notes, peak = parts.notes() if here.first else [], peak_memory(here)
    told: dict[str, Any] = {"out": str(out), "parts": len(parts), "parts_before": there, "part_rows": size}
    told |= {"processes": here.count, "seconds": round(time.monotonic() - began, 3)}
    told |= {"peak_memory_mib": round(peak, 1)}
    if not here.first:
        return told
    sums = {key: np.sum([note["sums"][key] for note in notes], axis=0).tolist() for key in notes[0]["sums"]}
    return {"rows": sum(note["rows"] for note in notes)} | scorer.told(sums) | told
