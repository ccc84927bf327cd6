"""One reproduction from beginning to end: a folder with a record, pictures and a page."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..progress import counting
from ..runs.folder import machine, versions
from .base import Bar, Picture, Record
from .catalogue import find
from .page import lines, write_page

__all__ = ["Outcome", "reproduce"]


@dataclass(frozen=True)
class Outcome:
    """A reproduction's record and pictures, and what was found, in words."""

    record: Record
    pictures: list[Picture]
    text: str


def reproduce(
    name: str,
    setting: str | Any = "tiny",
    out: Path | None = None,
    seeds: int | None = None,
    *,
    quiet: bool = True,
    command: str | None = None,
) -> Outcome:
    """Make a figure, a table or a claim again, into the folder ``out``; what is there of the same settings is not measured again.

    Parameters
    ----------
    name : one of :data:`iresnet.reproduce.NAMES`.
    setting : "tiny", "paper", or settings of one's own.
    out : None for ``runs/NAME-SETTING``.
    seeds : None for as many as the setting asks for.

    Raises
    ------
    UserError
        For a name or a setting that is unknown, and for a folder that holds something else.
    """
    found = find(name)
    called = setting if isinstance(setting, str) else "own"
    if isinstance(setting, str) and setting not in found.settings:
        raise UserError(f"unknown setting {setting!r}; there are {', '.join(found.settings)}")
    chosen: Any = found.settings[called] if isinstance(setting, str) else setting
    if seeds is not None:
        if seeds < 1:
            raise UserError(f"a reproduction needs at least one seed, got {seeds}")
        chosen = replace(chosen, seeds=seeds)
    folder = out or Path("runs") / f"{name}-{called}"
    about: dict[str, Any] = {"command": command, "versions": versions(), "machine": machine(torch.device("cpu"))}
    arguments = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(chosen).items()}
    record = Record.open(folder, name, called, arguments, about)
    try:
        with _threads(getattr(chosen, "threads", 1)):
            found.measure(chosen, record, _bars(quiet))
    except KeyboardInterrupt:
        if not quiet:
            print(f"what is measured stands in {folder}; the same command goes on", file=sys.stderr)
        raise
    pictures = found.draw(record)
    record.about["pictures"] = [asdict(picture) for picture in pictures]
    record.write()
    write_page(found, record, pictures)
    return Outcome(record, pictures, lines(found, record))


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many threads, None for torch's choice: one for small matrices, where more would wait for each other, and for timings."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _bars(quiet: bool) -> Bar:
    """A bar for each part on a terminal; in a log a line when it is done."""

    @contextmanager
    def bar(name: str, total: int, unit: str = "steps") -> Iterator[Callable[[int], None]]:
        began = time.monotonic()
        with counting(name, total, quiet, unit=unit) as advance:
            yield advance
        if not quiet:
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    return bar
