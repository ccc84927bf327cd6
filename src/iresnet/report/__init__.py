"""The report of a run: one page, self-contained, that a browser opens from anywhere, with no script and no request.

:func:`write_report` reads a run folder and writes ``report.html`` into it. What the folder does not hold yet is named
on the page with the command that makes it, so that the report can be written at any time of a run's life.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..files import write_atomic
from .classes import classification
from .curves import curves
from .document import document
from .folder import Run, read_run
from .format import bound, count, duration, number, plus_minus
from .guarantees import certificate, roundtrip
from .headline import headline
from .sections import data, likelihood, pictures, remake

__all__ = ["bound", "count", "duration", "number", "plus_minus", "write_report"]


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into the run folder ``folder`` and return its path.

    Only ``run.json`` is needed; ``config.toml``, ``metrics.jsonl``, ``evaluation.json``, ``certificate.json``,
    ``samples.*`` and ``pictures/*.png`` are shown where they are there.

    Raises
    ------
    UserError
        If ``folder`` is no run folder, one of its JSON files is damaged, or the page cannot be written.
    """
    return write_atomic(Path(folder) / "report.html", _page(read_run(folder)))


def _page(run: Run) -> str:
    parts = (headline, classification, likelihood, pictures, certificate, roundtrip, curves, data, remake)
    title = f"{run.section('data').get('name', run.name)} \u2013 iresnet report"
    return document(title, [part(run) for part in parts])
