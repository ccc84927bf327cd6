"""Held-out figures of a finished run, each with its errors: of its density, of its classes, or of both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from ..config import Config
from ..data import Dataset, ImageSchema
from ..files import read_json, write_json
from ..flow import Flow
from ..literals import parse_logdet
from ..numerics.logdet import LogDet
from ..parallel import Ranks, ranks
from ..tasks.classify import class_figures, class_sums, predict
from ..tasks.density import Figure, evaluate
from ..tasks.rows import Rows
from .baselines import gaussian, independent_pixels
from .folder import RunFolder, rows_of
from .parts import PATIENCE

__all__ = ["evaluate_run", "previous_of"]

Progress = Callable[..., None]
_ROUNDING, _PRECISIONS = 32, (torch.float64, torch.float32)  # rows by which float32 is judged


def evaluate_run(
    folder: RunFolder,
    *,
    split: str = "test",
    logdet: str | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
    together: bool = False,
) -> dict[str, Any]:
    """The figures of the run's task on one split; also written to ``evaluation.json``.

    Density: the log-likelihood with all its errors, beside the full-covariance Gaussian's. Classes: error rate, cross-entropy,
    and who was taken for whom. With ``together`` all processes under torchrun, each of which calls it, share the rows; the first
    writes.

    Raises
    ------
    UserError
        If the run's data are gone, the split is empty, or ``logdet`` names no estimator.
    """
    config, dataset = folder.config(), folder.dataset()
    network, _ = folder.network()
    network.to(device)
    began = time.monotonic()
    rows = rows_of(dataset, split, settled=config.task == "classify").spread(config.evaluate.rows)
    content: dict[str, Any] = {"task": config.task, "split": split, "rows": len(rows)}
    with ranks(torch.device("cpu"), PATIENCE) if together else nullcontext(Ranks(0, 1, torch.device("cpu"))) as here:
        if config.task != "classify":
            flow, _ = folder.flow()
            content |= _density(flow.to(device), config, dataset, split, rows, logdet, progress, here)
        if config.task != "density":
            content |= _classes(network, config, dataset, rows, progress if config.task == "classify" else None, here)
    content["seconds"] = round(time.monotonic() - began, 3)
    content["roundtrip"] = previous_of(folder).get("roundtrip")
    if here.first:
        write_json(folder.path / "evaluation.json", content)
    return content


def _density(
    flow: Flow,
    config: Config,
    dataset: Dataset,
    split: str,
    rows: Rows,
    logdet: str | None,
    progress: Progress | None,
    here: Ranks,
) -> dict[str, Any]:
    named = logdet or config.evaluate.logdet
    estimator = parse_logdet(named) if named else flow.eval_logdet
    size = config.evaluate.batch_size
    narrow = config.evaluate.precision == "float32" and flow.anchor.dtype == torch.float32
    dtype = torch.float32 if narrow else None
    options: dict[str, Any] = {"logdet": estimator, "batch_size": size, "seed": config.seed, "dtype": dtype}
    figure, values = evaluate(flow, rows, progress=progress, ranks=here, **options)
    if narrow:
        figure = replace(figure, bias=figure.bias + _rounding(flow, rows.spread(_ROUNDING), estimator, config.seed))
    train = rows_of(dataset, "train")
    images = isinstance(dataset.schema, ImageSchema)
    if isinstance(dataset.schema, ImageSchema):
        name, other = "independent pixels", independent_pixels(train.values, rows.values, dataset.schema.levels)
    else:
        name, other = _baseline(dataset), gaussian(train, rows, config.seed)
    content: dict[str, Any] = {
        "log_prob": _plain(figure),
        "bits_per_dim": None,
        "true_log_density": None,
        "nats_above_truth": None,
        "baselines": {name: float(other.mean())},
        "nats_above_gaussian": None if images else _mean(values - other),
        "logdet": repr(estimator),
    }
    if dataset.schema.discrete:
        zero, one = dataset.schema.bits_per_dim(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        content["bits_per_dim"] = _plain(figure.scaled(one - zero, zero))
    truth = _truth(dataset, split)
    if truth is not None:
        content["true_log_density"] = float(truth.mean())
        content["nats_above_truth"] = _mean(truth - values)
    return content


def _rounding(flow: Flow, rows: Rows, estimator: LogDet, seed: int) -> float:
    """An estimate of what float32 costs a row, in nats: the largest difference from float64 over ``rows``, same noise."""
    size = len(rows)
    wide, narrow = (evaluate(flow, rows, logdet=estimator, batch_size=size, seed=seed, dtype=kind)[1] for kind in _PRECISIONS)
    return float((wide - narrow).abs().max())


def _classes(
    network: Any, config: Config, dataset: Dataset, rows: Rows, progress: Progress | None, here: Ranks
) -> dict[str, Any]:
    count, mine = len(dataset.levels), here.part(torch.arange(len(rows)), config.evaluate.batch_size)
    if progress is not None:
        progress(0, len(mine))
    options: dict[str, Any] = {"batch_size": config.evaluate.batch_size, "seed": config.seed, "progress": progress}
    total, confusion = torch.zeros(4, dtype=torch.float64), torch.zeros(count, count, dtype=torch.int64)
    for batch, logits in predict(network, rows.take(mine), **options):
        classes = batch.classes.cpu()
        total += class_sums(logits, classes)
        confusion.view(-1).index_add_(0, classes * count + logits.argmax(1), torch.ones_like(classes))
    found, confusion = class_figures(here.add(total)), here.add(confusion)
    return {
        "error": {"value": found["error"], "stderr": found["stderr_error"]},
        "cross_entropy": {"value": found["cross_entropy"], "stderr": found["stderr_cross_entropy"]},
        "label": dataset.label,
        "levels": list(dataset.levels),
        "confusion": confusion.tolist(),
    }


def _baseline(dataset: Dataset) -> str:
    """The name of the Gaussian, which knows no context."""
    return "full-covariance Gaussian" if not dataset.schema.context else "Gaussian without context"


def _mean(differences: Tensor) -> dict[str, float]:
    """The mean of paired differences (N,), whose error is smaller than that of either side."""
    count = len(differences)
    return {"value": float(differences.mean()), "stderr": float(differences.std()) / math.sqrt(count) if count > 1 else math.nan}


def _plain(figure: Figure) -> dict[str, float]:
    return {key: value for key, value in asdict(figure).items() if key != "rows"}


def previous_of(folder: RunFolder) -> dict[str, Any]:
    """The content of ``evaluation.json``, empty before the first."""
    path = folder.path / "evaluation.json"
    return read_json(path) if path.exists() else {}


def _truth(dataset: Dataset, split: str) -> Tensor | None:
    """The true log-density (N,) of the same points, given the context where the model is conditional."""
    if dataset.log_density is None:
        return None
    part = getattr(dataset, split)
    return dataset.log_density(part.values, part.context)
