"""What a run folder holds, read once; all but ``run.json`` may be missing, since a report is also asked for early."""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json
from .format import as_float

__all__ = ["Picture", "Run", "read_run"]

_TABLES = (".csv", ".npz", ".parquet")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """One picture of ``pictures/``: its file name without the ending, the PNG's bytes, width and height in pixels."""

    name: str
    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Run:
    """A run folder's content: ``run.json`` as a dict, the rest None or empty where it is missing."""

    name: str
    run: dict[str, Any]
    config: str | None
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    evaluation: dict[str, Any] | None
    certificate: dict[str, Any] | None
    samples: tuple[str, ...]
    pictures: tuple[Picture, ...]

    def section(self, key: str) -> dict[str, Any]:
        """The object under ``key`` of ``run.json``, empty if it is missing."""
        found = self.run.get(key)
        return found if isinstance(found, dict) else {}

    def measured(self, key: str) -> dict[str, Any]:
        """The object under ``key`` of ``evaluation.json``, empty if it is missing or null."""
        found = (self.evaluation or {}).get(key)
        return found if isinstance(found, dict) else {}

    def rows(self) -> dict[str, Any]:
        """The number of rows of every split."""
        found = self.section("data").get("rows")
        return found if isinstance(found, dict) else {}

    def baselines(self) -> dict[str, float]:
        """Log-likelihoods of the baselines in nats a row, by name."""
        return {name: as_float(value) for name, value in self.measured("baselines").items()}

    @property
    def task(self) -> str:
        """What was trained for."""
        return str(self.run.get("task", "density"))

    def best(self) -> dict[str, Any] | None:
        """The validation record marked as best last, or that of the largest log-density where none is marked."""
        figure = "error" if self.task == "classify" else "log_prob"
        finite = [m for m in self.validation if math.isfinite(as_float(m.get(figure)))]
        marked = [m for m in finite if m.get("best")]
        return marked[-1] if marked else max(finite, key=lambda m: as_float(m.get("log_prob")), default=None)


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read a run folder.

    Raises
    ------
    UserError
        If the folder or its ``run.json`` is missing, or one of its JSON files is damaged.
    """
    folder = Path(folder)
    hint = "give the folder that `iresnet train --out` wrote"
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; {hint}")
    if not (folder / "run.json").is_file():
        raise UserError(f"{folder} is not a run folder: it has no run.json; {hint}")
    run = _object(folder / "run.json")
    metrics = _metrics(folder / "metrics.jsonl")
    return Run(
        name=folder.resolve().name,
        run=run if run is not None else {},
        config=_text(folder / "config.toml"),
        train=_by_step(metrics, "train"),
        validation=_by_step(metrics, "validation"),
        evaluation=_object(folder / "evaluation.json"),
        certificate=_object(folder / "certificate.json"),
        samples=tuple(sorted(path.name for path in folder.glob("samples.*") if path.suffix in _TABLES)),
        pictures=tuple(p for path in sorted(folder.glob("pictures/*.png")) if (p := _picture(path)) is not None),
    )


def _object(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a JSON object; it may come from another program")
    return content


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a half line, left by a kill while it was written, is passed over."""
    lines = []
    for line in (_text(path) or "").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            lines.append(record)
    return lines


def _by_step(metrics: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """One record a step, in order: a resumed run repeats the steps since its checkpoint, and the later line counts."""
    steps = {m["step"]: m for m in metrics if m.get("split") == split and isinstance(m.get("step"), (int, float))}
    return [steps[step] for step in sorted(steps)]


def _picture(path: Path) -> Picture | None:
    """The picture at ``path``; None if it is no PNG, which a browser would show as a broken image."""
    png = path.read_bytes()
    if not png.startswith(_PNG) or len(png) < 24:
        return None
    width, height = struct.unpack(">II", png[16:24])  # the IHDR chunk, always first
    return Picture(path.stem, png, width, height)
