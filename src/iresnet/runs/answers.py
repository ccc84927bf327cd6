"""What a finished run is worth: held-out figures with their errors, the certificate, and the way there and back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ..certify import certify
from ..data import Dataset
from ..errors import UserError
from ..files import write_json
from ..flow import Flow
from ..literals import parse_logdet, parse_solver
from ..numerics.noise import Noise
from ..tasks.density import Figure, evaluate
from ..tasks.rows import Rows
from .folder import RunFolder, rows_of

__all__ = ["certify_run", "evaluate_run", "reconstruct_run"]

Progress = Callable[[int], None]


def evaluate_run(
    folder: RunFolder,
    *,
    split: str = "test",
    logdet: str | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Held-out log-likelihood with all its errors, beside the full-covariance Gaussian's; also written to ``evaluation.json``.

    Raises
    ------
    UserError
        If the run's data are gone, the split is empty, or ``logdet`` names no estimator.
    """
    config, dataset = folder.config(), folder.dataset()
    flow, _ = folder.flow()
    flow.to(device)
    rows = rows_of(dataset, split)
    named = logdet or config.evaluate.logdet
    estimator = parse_logdet(named) if named else flow.eval_logdet
    began = time.monotonic()
    figure, values = evaluate(
        flow, rows, logdet=estimator, batch_size=config.evaluate.batch_size, seed=config.seed, progress=progress
    )
    gaussian = _gaussian(rows_of(dataset, "train"), rows, config.seed)
    content: dict[str, Any] = {
        "split": split,
        "rows": figure.rows,
        "log_prob": _plain(figure),
        "bits_per_dim": None,
        "true_log_density": None,
        "nats_above_truth": None,
        "baselines": {_baseline(dataset): float(gaussian.mean())},
        "nats_above_gaussian": _mean(values - gaussian),
        "logdet": repr(estimator),
        "seconds": round(time.monotonic() - began, 3),
    }
    if dataset.schema.discrete:
        zero, one = dataset.schema.bits_per_dim(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        content["bits_per_dim"] = _plain(figure.scaled(one - zero, zero))
    truth = _truth(dataset, split)
    if truth is not None:
        content["true_log_density"] = float(truth.mean())
        content["nats_above_truth"] = _mean(truth - values)
    previous = _previous(folder)
    content["roundtrip"] = previous.get("roundtrip")
    write_json(folder.path / "evaluation.json", content)
    return content


def _baseline(dataset: Dataset) -> str:
    """The name of the Gaussian, which knows no context."""
    return "full-covariance Gaussian" if not dataset.schema.context else "Gaussian without context"


def _mean(differences: Tensor) -> dict[str, float]:
    """The mean of paired differences (N,), whose error is smaller than that of either side."""
    count = len(differences)
    return {"value": float(differences.mean()), "stderr": float(differences.std()) / math.sqrt(count) if count > 1 else math.nan}


def _plain(figure: Figure) -> dict[str, float]:
    return {key: value for key, value in asdict(figure).items() if key != "rows"}


def _previous(folder: RunFolder) -> dict[str, Any]:
    from ..files import read_json

    path = folder.path / "evaluation.json"
    return read_json(path) if path.exists() else {}


def _truth(dataset: Dataset, split: str) -> Tensor | None:
    """The true log-density (N,) of the same points, given the context where the model is conditional."""
    if dataset.log_density is None:
        return None
    part = getattr(dataset, split)
    return dataset.log_density(part.values, part.context)


def _gaussian(train: Rows, rows: Rows, seed: int) -> Tensor:
    """Log-density (N,) of ``rows`` under the Gaussian with the mean and covariance of ``train``, dequantised alike."""
    like = torch.zeros((), dtype=torch.float64)
    fitted, held = train.all(like, Noise(seed).at(0)), rows.all(like, Noise(seed))
    mean, size = fitted.x.mean(0), fitted.x.shape[1]
    covariance = torch.atleast_2d(torch.cov(fitted.x.mT, correction=0))
    floor = 1e-12 * float(covariance.diagonal().max())
    triangle = torch.linalg.cholesky(covariance + floor * torch.eye(size, dtype=covariance.dtype))
    white = torch.linalg.solve_triangular(triangle, (held.x - mean).mT, upper=False)
    value = -0.5 * white.square().sum(0) - triangle.diagonal().log().sum() - 0.5 * size * math.log(2 * math.pi)
    return value + held.log_jacobian


def certify_run(folder: RunFolder, *, points: int = 256) -> dict[str, Any]:
    """The certificate of the run's flow, measured at training rows or, if they are gone, at points like them.

    Also written to ``certificate.json``.
    """
    flow, _ = folder.flow()
    seed = folder.config().seed
    try:
        batch = rows_of(folder.dataset(), "train").all(torch.zeros((), dtype=torch.float64), Noise(seed), most=points)
    except UserError:  # the bounds need no data
        certificate = certify(flow, points=points, seed=seed)
    else:
        certificate = certify(flow, batch.x, batch.context, points=points, seed=seed)
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
    flow, schema = folder.flow()
    named = solver or config.evaluate.solver
    chosen = parse_solver(named) if named else flow.solver
    count = rows if rows is not None else config.evaluate.roundtrip
    if count < 1:
        raise UserError(f"reconstruct needs at least one row, got {count}")
    batch = rows_of(dataset, split).all(flow.base.anchor, Noise(config.seed), most=count)
    parts: list[dict[str, Tensor]] = []
    began = time.monotonic()
    for start in range(0, len(batch.x), config.evaluate.batch_size):
        part = slice(start, start + config.evaluate.batch_size)
        context = None if batch.context is None else batch.context[part]
        parts.append(_there_and_back(flow, batch.x[part], context, chosen))
        if progress is not None:
            progress(len(parts[-1]["error"]))
    found = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    user = (schema.decode(found["x"], continuous=True) - schema.decode(batch.x.double().cpu(), continuous=True)).abs()
    content = {
        "split": split,
        "rows": len(batch.x),
        "max_error": float(found["error"].max()),
        "rms_error": float(found["error"].square().mean().sqrt()),
        "max_error_user": float(user.max()),
        "worst_block_bound": float(found["block_bound"].max()),
        "latent_backward_error": float(found["backward_error"].max()),
        "steps_mean": float(found["steps"].double().mean()),
        "steps_max": int(found["steps"].max()),
        "solver": repr(chosen),
        "seconds": round(time.monotonic() - began, 3),
    }
    previous = _previous(folder)
    if previous:
        write_json(folder.path / "evaluation.json", previous | {"roundtrip": content})
    return content


def _there_and_back(flow: Flow, x: Tensor, context: Tensor | None, solver: Any) -> dict[str, Tensor]:
    # In float64: what float32 loses on the way there is no error of the way back.
    wide = flow.bind(context)
    transform = wide.transform.to(torch.float64)
    with torch.no_grad():
        z = transform.forward(x.double())
    back = wide.invert(z, solver=solver)
    return {
        "x": back.value.cpu(),
        "error": (back.value.double() - x.double()).flatten(1).norm(dim=1).cpu(),
        "block_bound": back.block_bounds.amax(0).cpu(),
        "backward_error": back.backward_error.cpu(),
        "steps": back.steps.cpu(),
    }
