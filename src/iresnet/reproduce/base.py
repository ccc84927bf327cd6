"""What a reproduction is made of: settings, a record that survives an interruption, tables, and a page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import read_json, write_atomic, write_json

__all__ = ["I_RESNET", "RESIDUAL_FLOWS", "Bar", "Cell", "Paper", "Picture", "Record", "Reproduction", "Table"]

Cell = dict[str, Any]
# A name, a total and what is counted (steps, if nothing is said), to a function that counts.
Bar = Callable[..., AbstractContextManager[Callable[[int], None]]]

_FILE = "reproduction.json"


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; the first column heads its rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG in the folder of a reproduction, and what it shows."""

    file: str
    caption: str


@dataclass(frozen=True)
class Paper:
    """Where a claim was published, and what is made of it here.

    ``checked`` says whether the figures quoted of it were compared with a second source; if not, the page says so.
    """

    title: str
    arxiv: str
    where: str
    checked: bool = True

    def __str__(self) -> str:
        return f"{self.title}, arXiv {self.arxiv}, {self.where}"


# The two papers that this package is named after; what is left to say is where in them.
I_RESNET = partial(Paper, "Invertible Residual Networks (Behrmann et al., 2019)", "1811.00995")
RESIDUAL_FLOWS = partial(Paper, "Residual Flows for Invertible Generative Modeling (Chen et al., 2019)", "1906.02735")


@dataclass
class Record:
    """What was measured, cell by cell, in a file that is written after each: a run that is begun again goes on.

    Parameters
    ----------
    path : the folder.
    name, setting : of the reproduction.
    arguments : the setting's numbers, as plain JSON.
    cells : by key, such as "moons/0".
    """

    path: Path
    name: str
    setting: str
    arguments: dict[str, Any]
    cells: dict[str, Cell] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, name: str, setting: str, arguments: Mapping[str, Any], about: Mapping[str, Any]) -> Record:
        """A new record in the folder ``path``, or the one that lies there.

        Raises
        ------
        UserError
            If the folder holds something else, or what was measured there had other settings.
        """
        made = cls(path, name, setting, dict(arguments), {}, dict(about))
        if (path / _FILE).exists():
            known = cls.read(path)
            held, asked = ({"name": one.name, "setting": one.setting} | one.arguments for one in (known, made))
            for key in held | asked:
                if held.get(key) != asked.get(key):
                    told = f"{key} was {held.get(key)} and is {asked.get(key)}"
                    raise UserError(f"{path} holds {known.name} of other settings ({told}); choose another --out")
            made.cells = known.cells
            times = ("seconds", "processor_seconds")  # add up over interruptions
            made.about |= {name: known.about[name] for name in times if name in known.about}
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} already exists and is not an empty folder; choose another --out")
        made.write()
        return made

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in a folder, or in a file. Raises UserError if there is none or it is damaged."""
        file = path if path.suffix == ".json" else path / _FILE
        content = read_json(file)
        keys = ("name", "setting", "arguments", "cells", "about")
        if not isinstance(content, dict) or any(key not in content for key in keys):
            raise UserError(f"{file} is not the record of a reproduction; it may come from another program")
        return cls(file.parent, *(content[key] for key in keys))

    def write(self) -> Path:
        """The record as JSON, atomically."""
        return write_json(self.path / _FILE, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        names = ("name", "setting", "arguments", "about", "cells")
        return {name: getattr(self, name) for name in names}

    def cell(self, key: str, measure: Callable[[], Cell]) -> Cell:
        """The cell of that key, measured if it is not there yet."""
        if key not in self.cells:
            began = {"seconds": time.monotonic(), "processor_seconds": time.process_time()}
            self.cells[key] = measure()
            ended = {"seconds": time.monotonic(), "processor_seconds": time.process_time()}
            for name, end in ended.items():
                self.about[name] = round(self.about.get(name, 0.0) + end - began[name], 1)
            self.write()
        return self.cells[key]

    def under(self, *parts: str) -> list[Cell]:
        """The cells whose key begins with ``parts``, in the order in which they were measured."""
        begin = "/".join((*parts, ""))
        return [cell for key, cell in self.cells.items() if key.startswith(begin)]

    def keep(self, key: str, **arrays: np.ndarray) -> None:
        """Write arrays that are too large for the record beside it."""
        import io

        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_atomic(self.path / "arrays" / f"{key.replace('/', '-')}.npz", buffer.getvalue())

    def kept(self, key: str) -> dict[str, np.ndarray]:
        """What :meth:`keep` wrote."""
        with np.load(self.path / "arrays" / f"{key.replace('/', '-')}.npz", allow_pickle=False) as found:
            return dict(found)


@dataclass(frozen=True)
class Reproduction:
    """One figure or table, or one claim: how it is measured, drawn and told.

    Parameters
    ----------
    title : a heading.
    about : what is done and why, a paragraph.
    papers : where it comes from.
    settings : "tiny" and "paper", each a frozen dataclass with at least ``seeds``.
    measure : fills the record.
    draw : writes the pictures of a record into its folder.
    tables, findings : the record as tables and as sentences, whose numbers are the record's.
    differs : what is not as in the paper.
    """

    title: str
    about: str
    papers: Sequence[Paper]
    settings: Mapping[str, Any]
    measure: Callable[[Any, Record, Bar], None]
    draw: Callable[[Record], list[Picture]]
    tables: Callable[[Record], list[Table]]
    findings: Callable[[Record], list[str]]
    differs: Sequence[str]
