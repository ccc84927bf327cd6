"""``iresnet reproduce``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..terminal import answer, telling
from .app import Json, Quiet, app

__all__ = ["reproduce"]


@app.command()
def reproduce(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="What to make again; without it the list is printed.")
    ] = None,
    setting: Annotated[
        str, typer.Option(help="tiny: minutes on a CPU. paper: the papers' sizes, hours, or days without a GPU.")
    ] = "tiny",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for record, pictures and page.  [default: runs/NAME-SETTING]", show_default=False),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="How many; as many as the setting asks for by default.", show_default=False)
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a figure or a table of the papers again: measured here, drawn, and told beside what was published.

    **iresnet reproduce** alone lists what there is; **iresnet reproduce figure1** takes minutes. The folder then holds
    reproduction.html, a page to open; reproduction.json, with every number; and pictures. What differs from the paper is said.

    figure2, table2, complexity and vae train other libraries' flows: pip install 'iresnet[compare]'. Ctrl-C loses only the part
    that was being measured: the same command goes on.
    """
    from ..reproduce import NAMES

    if name is None:
        told = {"names": NAMES}
        widest = max(map(len, NAMES))
        answer(told, as_json, lambda: "\n".join(f"{key:<{widest}}  {line}" for key, line in NAMES.items()))
        return
    from ..reproduce import reproduce as run

    with telling():
        command = shlex.join(["iresnet", *sys.argv[1:]])
        found = run(name, setting, out, seeds, quiet=quiet or as_json, command=command)
        folder = found.record.path
        content = found.record.to_dict() | {"out": str(folder), "page": str(folder / "reproduction.html")}
        answer(content, as_json, lambda: f"{found.text}\n\nOpen {folder / 'reproduction.html'}")
