"""The report of a run: one page, self-contained, that a browser opens from anywhere, with no script and no request.

:func:`write_report` reads a run folder and writes ``report.html`` into it. What the folder does not hold yet is named
on the page with the command that makes it, so that the report can be written at any time of a run's life.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from ..files import write_atomic
from .classes import classification
from .curves import curves
from .folder import Run, read_run
from .format import bound, count, duration, number, plus_minus
from .guarantees import certificate, roundtrip
from .headline import headline
from .markup import Html, tag
from .sections import data, likelihood, pictures, remake

__all__ = ["bound", "count", "duration", "number", "plus_minus", "write_report"]

# The browser itself refuses whatever is not in the page, should something hostile ever get past the escaping.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


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
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),  # or the browser would ask a server for one
        tag("title", title),
        tag("style", Html(files(__name__).joinpath("style.css").read_text(encoding="utf-8"))),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', [part(run) for part in parts])), lang='en')}\n"
