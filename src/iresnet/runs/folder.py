"""A run folder: where each thing lies, and what state the run is in.

::

    config.toml            every setting
    run.json               what was trained, on what, and how far it got
    metrics.jsonl          one record a line
    state.safetensors      what training goes on from
    best/                  the best averaged weights, as iresnet.load reads them
    evaluation.json  certificate.json  samples.*  pictures/  report.html
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import Network, load, load_extra
from ..classifier import Classifier
from ..config import Config, build_config, to_toml
from ..data import Dataset, ImageSchema, Schema, read_schema
from ..data import load as load_data
from ..errors import UserError
from ..files import read_json, write_atomic, write_json
from ..flow import Flow
from ..tasks.rows import Rows

__all__ = ["RunFolder", "fingerprint", "load_dataset", "rows_of"]


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, by path."""

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike[str] | None, name: str) -> RunFolder:
        """A folder for a new run: ``path``, or the first free ``runs/NAME-1``, ``runs/NAME-2``, ...

        Raises
        ------
        UserError
            If ``path`` already holds a run or other files, or cannot be made.
        """
        if path is None:
            number = 1
            while (Path("runs") / f"{name}-{number}").exists():
                number += 1
            path = Path("runs") / f"{name}-{number}"
        folder = cls.vacant(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {folder}: {error.strerror or error}") from error
        return cls(folder)

    @staticmethod
    def vacant(path: str | os.PathLike[str]) -> Path:
        """``path``, if a new run may go there. Raises UserError if it already holds a run or other files."""
        folder = Path(path)
        if (folder / "run.json").exists():
            raise UserError(f"{folder} already holds a run; continue it with --resume or choose another --out")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} already exists and is not an empty folder; choose another --out")
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The folder of a run that exists.

        Raises
        ------
        UserError
            If there is none.
        """
        folder = Path(path)
        if not (folder / "run.json").is_file():
            told = "is not a run folder: it has no run.json" if folder.exists() else "does not exist"
            raise UserError(f"{folder} {told}; give the folder that `iresnet train --out` wrote")
        return cls(folder)

    @property
    def state(self) -> Path:
        return self.path / "state.safetensors"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def sweep(self) -> None:
        """Remove what a kill in the midst of writing left behind."""
        for folder in (self.path, self.best, self.path / "pictures"):
            for part in folder.glob(".*.part"):
                part.unlink(missing_ok=True)

    def status(self) -> dict[str, Any]:
        """The content of ``run.json``. Raises UserError if it is damaged."""
        content = read_json(self.path / "run.json")
        if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
            raise UserError(f"{self.path / 'run.json'} does not describe a run; it may come from another program")
        return content

    def update(self, **changes: Any) -> dict[str, Any]:
        """Change entries of ``run.json``, atomically."""
        path = self.path / "run.json"
        content = (read_json(path) if path.exists() else {}) | changes
        write_json(path, content)
        return content

    def write_config(self, config: Config) -> None:
        """Write ``config.toml``."""
        write_atomic(self.path / "config.toml", to_toml(config))

    def config(self) -> Config:
        """The configuration that the run was started with."""
        return build_config(file=self.path / "config.toml")

    def dataset(self) -> Dataset:
        """The data that the run was trained on, split as they were.

        A relative path is also looked up where it was when the run was started.

        Raises
        ------
        UserError
            If the data are gone, or are not what they were: rows held out then may not be held out now.
        """
        config, data = self.config(), self.status()["data"]
        name, path = config.data.name, data.get("path")
        if path and not Path(name).exists() and Path(path).exists():
            config = config.model_copy(update={"data": config.data.model_copy(update={"name": path})})
        try:
            dataset = load_dataset(config)
        except UserError as error:
            raise UserError(f"the data that {self.path} was trained on cannot be loaded again: {error}") from error
        if data.get("fingerprint") not in (None, fingerprint(dataset)):
            raise UserError(
                f"{path or name} has changed since {self.path} was trained on it, so that its held-out rows are others; "
                f"put the old file back, or ask about the new rows with: iresnet score {self.path} DATA --out FILE"
            )
        return dataset

    def network(self) -> tuple[Network, Schema | ImageSchema]:
        """The best weights, in evaluation mode, and the schema of their data."""
        return load(self.path), read_schema(load_extra(self.path)["schema"])

    def flow(self) -> tuple[Flow, Schema | ImageSchema]:
        """As :meth:`network`, for a question that only a network with a density answers.

        Raises
        ------
        UserError
            If the run was trained to classify alone.
        """
        network, schema = self.network()
        if isinstance(network, Classifier) and self.config().task == "hybrid":
            return network.flow, schema
        if not isinstance(network, Flow):
            raise UserError(f"{self.path} was trained to classify: it has no density and no samples; train with --task hybrid")
        return network, schema

    def classes(self) -> tuple[str, tuple[str, ...]]:
        """The name of what a classifier predicts, and its levels.

        Raises
        ------
        UserError
            If the run does not classify.
        """
        found = load_extra(self.path).get("classes")
        if found is None:
            raise UserError(f"{self.path} was trained for density and predicts no classes; train with --task classify or hybrid")
        return found["name"], tuple(found["levels"])


def load_dataset(config: Config) -> Dataset:
    """The data that a configuration names. Raises UserError."""
    data = config.data
    return load_data(
        data.name,
        seed=config.seed,
        columns=data.columns,
        drop=data.drop,
        missing=data.missing,
        label=data.label,
        context=data.context,
        support=data.support,
        dequantize=data.dequantize,
        n=data.n,
        predict=config.task != "density",
    )


def fingerprint(dataset: Dataset) -> str | None:
    """A hash of all rows and their split; None for a toy set, which other machines draw again but for the last digit."""
    if dataset.kind == "toy":
        return None
    found = hashlib.sha256()
    for part in (dataset.train, dataset.validation, dataset.test):
        found.update(part.rows.numpy().data)
        found.update(part.values.contiguous().numpy().data)
        if part.context is not None:
            classes = [text for column in dataset.schema.context for text in [bool(column.levels)] * column.width]
            found.update(part.context[:, torch.tensor(classes)].to(torch.uint8).numpy().tobytes())
        if part.labels is not None:
            found.update(part.labels.numpy().tobytes())
    return found.hexdigest()


def rows_of(dataset: Dataset, split: str, *, settled: bool = False) -> Rows:
    """One split ("train", "validation" or "test") as a task's rows; ``settled`` as in :class:`Rows`.

    Raises
    ------
    UserError
        If the split is empty.
    """
    part = getattr(dataset, split)
    if len(part) == 0:
        raise UserError(f"{dataset.name} has no {split} rows: it is too small to be split; add rows")
    return Rows(part.values, part.context, dataset.schema, part.rows, part.labels, settled)


def machine(device: torch.device) -> dict[str, Any]:
    """Where a run ran, for ``run.json``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": device.type, "name": name, "threads": torch.get_num_threads()}


def versions() -> dict[str, str]:
    """What a run ran with, for ``run.json``."""
    from .. import __version__

    return {"iresnet": __version__, "torch": torch.__version__, "python": platform.python_version()}
