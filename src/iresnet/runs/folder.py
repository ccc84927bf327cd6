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

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import load, load_extra
from ..config import Config, build_config, to_toml
from ..data import Dataset, Schema
from ..data import load as load_data
from ..errors import UserError
from ..files import read_json, write_atomic, write_json
from ..flow import Flow
from ..tasks.rows import Rows

__all__ = ["Metrics", "RunFolder", "load_dataset", "rows_of"]


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
        folder = Path(path)
        if (folder / "run.json").exists():
            raise UserError(f"{folder} already holds a run; continue it with --resume or choose another --out")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} already exists and is not an empty folder; choose another --out")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {folder}: {error.strerror or error}") from error
        return cls(folder)

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

    def status(self) -> dict[str, Any]:
        """The content of ``run.json``."""
        return read_json(self.path / "run.json")

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

    def flow(self) -> tuple[Flow, Schema]:
        """The best weights, in evaluation mode, and the schema of their table."""
        flow = load(self.path)
        return flow, Schema.from_dict(load_extra(self.path)["schema"])


class Metrics:
    """A callback that appends each record to ``metrics.jsonl`` and, where TensorBoard is installed, to its event files.

    Going on at ``step`` drops the records after it, which will come again.
    """

    def __init__(self, folder: RunFolder, step: int = 0) -> None:
        path = folder.metrics
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # a line that a kill cut short
                if record["step"] <= step:
                    kept.append(line)
        write_atomic(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        self._events = _tensorboard(folder.path / "events", step)

    def __call__(self, record: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"cannot write {self._file.name}: {error.strerror or error}; free space, then --resume") from error
        if self._events is not None:
            for key, value in record.items():
                if isinstance(value, (int, float)) and key not in ("step", "seconds"):
                    self._events.add_scalar(f"{record['split']}/{key}", float(value), record["step"])

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:  # an extra: iresnet[tensorboard]
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


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
    )


def rows_of(dataset: Dataset, split: str) -> Rows:
    """One split ("train", "validation" or "test") as a task's rows.

    Raises
    ------
    UserError
        If the split is empty.
    """
    part = getattr(dataset, split)
    if len(part) == 0:
        raise UserError(f"{dataset.name} has no {split} rows: it is too small to be split; add rows")
    return Rows(part.values, part.context, dataset.schema, part.rows)


def machine(device: torch.device) -> dict[str, Any]:
    """Where a run ran, for ``run.json``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": device.type, "name": name, "threads": torch.get_num_threads()}


def versions() -> dict[str, str]:
    """What a run ran with, for ``run.json``."""
    from .. import __version__

    return {"iresnet": __version__, "torch": torch.__version__, "python": platform.python_version()}
