"""Answers too long for one file: a folder of parts, filled by any number of processes, and gone on with after a kill.

Rows are cut into parts of one size by their global numbers, so that part k holds the same rows whoever writes it. Each is written
beside and renamed: it is there whole or not at all, and what is there is not done again. ``parts.json`` says what was asked;
another question is refused, since its answers would lie among those of this one.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import read_json, to_json, write_json
from ..parallel import Ranks, processes
from .folder import RunFolder

__all__ = ["PATIENCE", "Parts", "means_folder", "peak_memory", "weights_of"]

# Ranks meet at the beginning and at the end only, and the slowest may take long. One that ends is noticed by the launcher.
PATIENCE = timedelta(days=7)
_PLAN = "parts.json"
_MOST, _ENTRIES, _FEWEST = 2**17, 2**22, 32  # rows of a part, numbers in it, and how many parts there are at least


def means_folder(out: str | Path) -> bool:
    """Whether ``out`` asks for a folder of parts: one that is there, or a name without an ending.

    Raises
    ------
    UserError
        If it asks for a file, and there are several processes, none of which has all rows.
    """
    if Path(out).is_dir() or not Path(out).suffix:
        return True
    if processes() > 1:
        raise UserError(f"--out {out} is one file, and there are {processes()} processes: give a folder, to be filled with parts")
    return False


def weights_of(folder: RunFolder) -> str:
    """A hash of the run's weights and schema, by which answers of another training are told apart."""
    return hashlib.sha256((folder.best / "model.safetensors").read_bytes()).hexdigest()[:16]


def peak_memory(here: Ranks) -> float:
    """The largest resident memory that a process had so far, in MiB: of the process that had most."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    everywhere = torch.zeros(here.count, dtype=torch.float64)
    everywhere[here.rank] = used
    return float(here.add(everywhere).max())


@dataclass(frozen=True)
class Parts:
    """``rows`` rows in files of ``size`` rows each, in ``folder``; the last may be shorter."""

    folder: Path
    rows: int
    size: int
    ending: str = ".parquet"

    @classmethod
    def open(
        cls, folder: str | Path, asked: Mapping[str, Any], rows: int, size: int, here: Ranks, ending: str = ".parquet"
    ) -> Parts:
        """The parts of an answer to what is ``asked`` (JSON values), begun or gone on with; every rank calls it.

        Raises
        ------
        UserError
            If the folder holds answers to another question, or other files, or cannot be made.
        """
        parts = cls(Path(folder), rows, size, ending)
        plan = json.loads(to_json({**asked, "rows": rows, "part_rows": size}))
        if here.first:
            parts._begin(plan)
        here.add(torch.zeros(1))  # the others look once the first has found it in order
        return parts

    @staticmethod
    def sized(asked: int | None, rows: int, chunk: int, features: int) -> int:
        """Rows of a part: as ``asked``, or such that its numbers fit into a small memory and there are parts for many processes.

        A multiple of ``chunk``, the rows that are computed at once: each so meets the same rows as in one piece, and its answer
        is equal bit for bit.
        """
        if asked is not None and asked < 1:
            raise UserError(f"--part-rows must be at least 1, got {asked}")
        most = min(_MOST, _ENTRIES // max(features, 1), rows // _FEWEST) if asked is None else asked
        return max(chunk * (most // chunk), chunk)

    def __len__(self) -> int:
        return -(-self.rows // self.size)

    def path(self, part: int) -> Path:
        """The file of a part; names sort in the order of rows."""
        return self.folder / f"part-{part:06d}{self.ending}"

    def fill(self, write: Callable[[Path, int, int], Any], here: Ranks, progress: Callable[..., None] | None = None) -> int:
        """Have ``write`` (path, first row, row after the last) write what is missing, shared among ranks.

        ``progress(0, rows)`` tells how many rows this rank has before it, ``progress(0, rows, note)`` also that some parts are
        there. Returns how many were.
        """
        there = torch.tensor([here.first and self.path(part).exists() for part in range(len(self))], dtype=torch.int64)
        missing = [part for part, found in enumerate(here.add(there).tolist()) if not found]  # as the first rank saw it
        spans = [(part, part * self.size, min((part + 1) * self.size, self.rows)) for part in missing[here.rank :: here.count]]
        there_already = len(self) - len(missing)
        if progress is not None:
            note = [f"{there_already} of {len(self)} parts are in {self.folder} already"] if there_already else []
            progress(0, sum(stop - start for _, start, stop in spans), *note)
        for part, start, stop in spans:
            write(self.path(part), start, stop)
        here.add(torch.zeros(1))  # all parts are there
        return there_already

    def notes(self) -> list[Any]:
        """What was noted in each Parquet part, in order."""
        import pyarrow.parquet

        found = [pyarrow.parquet.read_schema(self.path(part)).metadata or {} for part in range(len(self))]
        return [json.loads(item.get(b"iresnet", b"null")) for item in found]

    def _begin(self, plan: dict[str, Any]) -> None:
        path = self.folder / _PLAN
        if path.exists():
            held = read_json(path)
            for key, value in plan.items():
                if held.get(key) != value:
                    told = f"{key} was {_short(held.get(key))} and is {_short(value)}"
                    raise UserError(f"{self.folder} holds parts of another answer ({told}); choose another --out")
            for left in self.folder.glob(".*.part"):  # what a kill in the midst of writing left behind
                left.unlink(missing_ok=True)
            return
        for left in self.folder.glob(f".{_PLAN}.*.part"):
            left.unlink(missing_ok=True)
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise UserError(f"{self.folder} already exists and holds other files; choose another --out")
        write_json(path, plan)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
