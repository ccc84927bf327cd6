"""One row of the table: everything that is measured of a fitted system, each figure with its error."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..certify import certify
from ..data import Dataset
from ..numerics.noise import Noise
from ..tasks.rows import Rows
from .domain import Domain
from .own import Own
from .system import System, Unable

__all__ = ["figure", "measure"]

_TIMED, _THERE, _AGAIN, _LONG = 1000, 1000, 3, 1.0  # rows timed, rows there and back, times if quick, seconds that are long
_SMALL = {"images": 100}


def measure(system: System, domain: Domain, dataset: Dataset, rows: Rows, seed: int) -> tuple[dict[str, Any], Tensor]:
    """Figures of ``rows`` and of speed, as plain JSON values, and log p (N,) of each row in the user's units.

    Densities of vectors are computed in float64, those of images and all that is timed in float32. Times are of the processor.
    """
    values = scores(system, domain, rows, seed)
    found: dict[str, Any] = {"log_prob": figure(values), "bits_per_dim": None, "above_truth": None}
    if dataset.schema.discrete:
        found["bits_per_dim"] = figure(dataset.schema.bits_per_dim(values))
    if dataset.log_density is not None:
        found["above_truth"] = figure(dataset.log_density(rows.values) - values)
    lacks = dict(system.lacks)
    some = rows.all(system.anchor, Noise(seed), most=_THERE if not domain.images else _SMALL["images"]).x
    count = _TIMED if not domain.images else _SMALL["images"]
    timed = some if domain.images else some[torch.arange(_TIMED) % len(some)]  # as many as are told, however few there are
    found["density_seconds"] = _seconds(lambda: _quietly(system, timed)) * _TIMED / len(timed)
    found["sample_seconds"] = found["roundtrip"] = None
    if "samples" not in lacks:
        found["sample_seconds"] = _seconds(lambda: system.sample(count, seed)) * _TIMED / count
    if "roundtrip" not in lacks:
        error = (system.decode(system.encode(some)) - some).flatten(1).norm(dim=1).max()
        found["roundtrip"] = float(error)
        if not bool(torch.isfinite(error)):
            lacks["roundtrip"] = "a row did not come back as a finite number"
    kind = {"density": system.density_kind, "inverse": system.inverse_kind, "lacks": lacks}
    if isinstance(system, Own) and not certify(system.flow, points=8, seed=seed).holds:
        kind["inverse"] = "NOT certified"
    return found | kind, values


def scores(system: System, domain: Domain, rows: Rows, seed: int) -> Tensor:
    """log p (N,) float64 of rows in the user's units, all systems with the same dequantisation."""
    wide = system if domain.images else copy.deepcopy(system).double()
    found, noise = [], Noise(seed)
    for places in torch.arange(len(rows)).split(1000 if not domain.images else 100):
        batch = rows.batch(places, noise, wide.anchor)
        value = wide.score(batch.x, Noise(noise.at(0).seed, batch.rows))
        found.append(value.double() + batch.log_jacobian.double())
    return torch.cat(found)


def figure(values: Tensor) -> dict[str, float]:
    """The mean of values (N,) and its standard error over the rows."""
    stderr = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"value": float(values.mean()), "stderr": stderr}


def _quietly(system: System, x: Tensor) -> Tensor:
    with torch.no_grad():
        return system.log_prob(x)


def _seconds(call: Callable[[], Any]) -> float:
    """Processor seconds of one call: the smallest of a few, unless it takes long."""
    best = math.inf
    for _ in range(_AGAIN):
        began = time.process_time()
        call()
        best = min(best, time.process_time() - began)
        if best > _LONG:
            break
    return best


def samples_of(system: System, count: int, seed: int) -> Tensor | None:
    """New rows as encoded, or None where the system cannot draw any."""
    try:
        return system.sample(count, seed)
    except Unable:
        return None
