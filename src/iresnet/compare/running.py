"""A comparison from beginning to end: every system with every seed, one after the other, each kept on disk when it is done.

::

    compare.json           what was asked, and a row for each system and seed
    systems/NAME-SEED.json the row; .npz beside it: log p of the test rows, samples, the density on a grid
    pictures/*.png  compare.html
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import build_config
from ..data import Dataset, write_arrays
from ..errors import UserError
from ..files import read_json, write_json
from ..numerics.noise import Noise
from ..runs.folder import RunFolder, fingerprint, load_dataset, rows_of, versions
from .catalogue import build, chosen, default_parameters, entry, refusals
from .domain import Domain
from .measuring import measure, samples_of
from .system import System
from .training import CLOCKS, Budget, settings_for, train

__all__ = ["Asked", "Comparison", "compare"]

_HELD, _TEST_IMAGES = 2000, 1000  # validation rows of a table looked at, and test images scored
_SAMPLES, _IMAGES, _GRID = 2000, 64, 120
_NOISE = 0  # the seed of what dequantises test rows: the same for all systems and seeds

Hear = Callable[[str, int, float, str], None]


@dataclass(frozen=True)
class Asked:
    """What a comparison is asked for: see ``iresnet compare --help``. ``data`` is the section of a configuration."""

    data: dict[str, Any]
    models: tuple[str, ...] | None = None
    minutes: float = 1.0
    clock: str = "wall"
    parameters: int | None = None
    seeds: int = 1
    rows: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf or self.seeds < 1 or (self.rows is not None and self.rows < 2):
            told = f"{self.minutes:g}, {self.seeds} and {'all' if self.rows is None else self.rows}"
            raise UserError(f"a comparison needs finite --minutes above 0, --seeds from 1 and --rows from 2, got {told}")
        if self.parameters is not None and self.parameters < 1:
            raise UserError(f"--params must be at least 1, got {self.parameters}")
        if self.clock not in CLOCKS:
            raise UserError(f"--clock is {' or '.join(CLOCKS)}, got {self.clock!r}")

    @classmethod
    def read(cls, content: dict[str, Any]) -> Asked:
        """From the JSON that ``asdict`` became. Raises UserError where it is something else."""
        try:
            models = content["models"]
            return cls(**{**content, "models": None if models is None else tuple(models)})
        except (KeyError, TypeError) as error:
            raise UserError(f"compare.json does not tell what was asked ({error}); start again in another --out") from error


@dataclass(frozen=True)
class Comparison:
    """A comparison's folder and its content: ``compare.json`` as a dict."""

    folder: Path
    content: dict[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One for each system and seed."""
        return self.content["rows"]

    def arrays(self, model: str, seed: int) -> dict[str, Any]:
        """What was kept of a system beside its row: "log_prob" (N,), "samples" and "grid" where there are any."""
        import numpy as np

        path = self.folder / "systems" / f"{model}-{seed}.npz"
        if not path.exists():
            return {}
        with np.load(path, allow_pickle=False) as found:
            return dict(found)


def compare(
    asked: Asked,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    dataset: Dataset | None = None,
    hear: Hear = lambda *_: None,
    command: str = "",
) -> Comparison:
    """Fit and measure every system asked for. A system that fails becomes a row that says why.

    Parameters
    ----------
    out : a folder that is not there yet, or with ``resume`` that of a comparison, whose finished rows are kept; then ``asked`` is
        what stands there. None for the first free ``runs/compare-DATA-1``, ...
    dataset : what ``asked.data`` names, if it is loaded already.
    hear : called with model, seed, the share of its budget spent and what is to be told.
    command : what the page says makes it again.

    Raises
    ------
    UserError
        For bad input, or a folder that is in use.
    """
    if resume:
        asked = Asked.read(opened(out)["asked"])
    dataset = dataset or dataset_of(asked)
    if dataset.schema.context:
        raise UserError("compare fits unconditional densities: leave --label and --context out")
    domain = Domain.of(dataset)
    models, budget = systems_of(asked, domain), Budget(60 * asked.minutes, asked.clock)
    parameters = default_parameters(domain) if asked.parameters is None else asked.parameters
    folder = Path(out) if resume and out is not None else RunFolder.create(out, f"compare-{dataset.name}").path
    content: dict[str, Any] = {"command": command} | _head(asked, dataset, domain, models, parameters)
    if resume and opened(out)["data"].get("fingerprint") != content["data"]["fingerprint"]:
        raise UserError(f"{dataset.name} has changed since {folder} was begun; start again in another --out")
    rows: list[dict[str, Any]] = []
    write_json(folder / "compare.json", content | {"rows": rows})  # from here on it can be gone on with
    for seed in range(asked.seeds):
        for name in models:
            row = _kept(folder, name, seed)
            if row is None:
                row, arrays = _attempt(name, seed, domain, dataset, budget, parameters, asked, hear)
                place = folder / "systems" / f"{name}-{seed}"
                if arrays:
                    write_arrays(place.with_suffix(".npz"), arrays)
                write_json(place.with_suffix(".json"), row)
            rows.append(row)
            hear(name, seed, 1.0, f"failed: {row['reason']}" if row["status"] == "failed" else "done")
            write_json(folder / "compare.json", content | {"rows": rows})
    return Comparison(folder, content | {"rows": rows})


def dataset_of(asked: Asked) -> Dataset:
    """The rows that are compared on; their split is that of seed 0 for all systems and seeds. Raises UserError."""
    return load_dataset(build_config(options={f"data.{key}": value for key, value in asked.data.items()}))


def systems_of(asked: Asked, domain: Domain) -> list[str]:
    """The names of the systems asked for. Raises UserError for one that is unknown, cannot do such data, or is not installed."""
    models = chosen(asked.models, domain)
    if asked.models is not None:
        for name in models:
            build(name, Domain((2,)), size=2)  # a library that is missing is told before anything is fitted
    return models


def opened(out: str | Path | None) -> dict[str, Any]:
    """The content of a comparison's ``compare.json``. Raises UserError where there is none."""
    if out is None:
        raise UserError("--resume needs --out FOLDER: which comparison to go on with")
    if not (Path(out) / "compare.json").is_file():
        raise UserError(f"{out} holds no comparison: it has no compare.json; give the folder that `iresnet compare --out` made")
    content = read_json(Path(out) / "compare.json")
    if not all(isinstance(content.get(key), dict) for key in ("asked", "data")):
        raise UserError(f"{out}/compare.json is not that of a comparison; start again in another --out")
    return content


def _head(asked: Asked, dataset: Dataset, domain: Domain, models: list[str], parameters: int) -> dict[str, Any]:
    sizes = {split: len(getattr(dataset, split)) for split in ("train", "validation", "test")}
    data = {"name": dataset.name, "rows": sizes, "fingerprint": fingerprint(dataset), **domain.to_dict()}
    return {
        "asked": asdict(asked),
        "data": data | {"columns": list(dataset.schema.names), "warnings": dataset.warnings},
        "models": models,
        "left_out": {} if asked.models is not None else refusals(domain),
        "parameters": parameters,
        "test_rows": len(_test_rows(asked, domain, dataset)),
        "versions": versions() | _libraries(),
        "threads": torch.get_num_threads(),
    }


def _test_rows(asked: Asked, domain: Domain, dataset: Dataset) -> Any:
    most = asked.rows or (_TEST_IMAGES if domain.images else None)
    return rows_of(dataset, "test").spread(most)


def _libraries() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("normflows", "scikit-learn", "zuko"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _kept(folder: Path, name: str, seed: int) -> dict[str, Any] | None:
    """The row of an earlier run, if it was finished."""
    path = folder / "systems" / f"{name}-{seed}.json"
    row = read_json(path) if path.exists() else None
    return row if row is not None and row["status"] == "finished" else None


def _attempt(
    name: str, seed: int, domain: Domain, dataset: Dataset, budget: Budget, parameters: int, asked: Asked, hear: Hear
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The row of one system, and what is kept beside it; whatever goes wrong is its reason."""
    row: dict[str, Any] = {"model": name, "title": entry(name).title, "library": entry(name).library, "seed": seed}
    try:
        found, arrays = _fit(name, seed, domain, dataset, budget, parameters, asked, hear)
    except Exception as error:  # other libraries' errors are of every kind, and the others' rows must not be lost
        where = traceback.extract_tb(error.__traceback__)[-1]
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__} in {Path(where.filename).name}: {error}"
        return row | {"status": "failed", "reason": " ".join(told.split())[:400]}, {}
    return row | {"status": "finished"} | found, arrays


def _fit(
    name: str, seed: int, domain: Domain, dataset: Dataset, budget: Budget, parameters: int, asked: Asked, hear: Hear
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    hear(name, seed, 0.0, "building")
    system = build(name, domain, parameters if name != "iresnet" or asked.parameters else None, seed=seed)
    held = rows_of(dataset, "validation").spread(domain.config.train.validation_rows or _HELD)
    settings = settings_for(name, domain, seed)
    heard = partial(hear, name, seed)
    fitted = train(system, rows_of(dataset, "train"), held, budget, settings, heard)
    hear(name, seed, 1.0, "measuring")
    found, values = measure(system, domain, dataset, _test_rows(asked, domain, dataset), _NOISE)
    arrays = {"log_prob": values}
    drawn = samples_of(system, _IMAGES if domain.images else _SAMPLES, seed)
    if drawn is not None:
        arrays["samples"] = dataset.schema.decode(drawn)
    if domain.shape == (2,) and all(column.support == "real" for column in dataset.schema.columns):  # type: ignore[union-attr]
        arrays["grid"], arrays["extent"] = _grid(system, dataset)
    training = {**asdict(fitted), "lr": settings.lr, "batch_size": settings.batch_size}
    sizes = {"parameters": system.parameters_counted, "size": system.size, "grows": entry(name).grows}
    return sizes | {"training": training} | found, arrays


def _grid(system: System, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """log p (H, W) in the user's units on a frame of the data, rows from low y to high y, and the frame."""
    values = torch.cat([dataset.train.values, dataset.test.values])[:20_000]
    middle = torch.quantile(values, torch.tensor([0.001, 0.999], dtype=values.dtype), dim=0)
    margin = 0.15 * (middle[1] - middle[0]).clamp(min=1e-9)
    low, high = middle[0] - margin, middle[1] + margin
    axes = [torch.linspace(float(low[k]), float(high[k]), _GRID, dtype=torch.float64) for k in range(2)]
    y, x = torch.meshgrid(axes[1], axes[0], indexing="ij")
    points, log_jacobian = dataset.schema.encode(torch.stack((x.flatten(), y.flatten()), 1), continuous=True)
    found = torch.cat([system.score(part.to(system.anchor), Noise()) for part in points.split(4096)])
    grid = (found.double() + log_jacobian).reshape(_GRID, _GRID)
    return grid, torch.stack([low[0], high[0], low[1], high[1]])
