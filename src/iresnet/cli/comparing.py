"""``iresnet compare``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from ..terminal import alone, answer, telling
from .app import Json, Quiet, app
from .training import data_options

__all__ = ["compare"]


@app.command()
def compare(
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="As of `iresnet train`: a built-in set, a table, images, or a name in IRESNET_DATA."),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            help="Which, separated by commas: iresnet, nice, realnvp, glow, made, maf, iaf, nsf (splines), cnf (FFJORD), planar, "
            "radial, residual (normflows'), gaussian, mixture, kde.  [default: all that can do such data]",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Of training, for each system and seed.")] = 1.0,
    clock: Annotated[
        str, typer.Option(help="What the minutes are of: wall, or cpu (processor time, fair on a busy machine).")
    ] = "wall",
    params: Annotated[
        int | None,
        typer.Option(
            help="Parameters of each: widths are chosen to come nearest.  [default: those of our own default]", show_default=False
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Fits of each, with other weights and batches.")] = 1,
    rows: Annotated[
        int | None,
        typer.Option(help="Test rows to score, evenly spaced.  [default: all, of images 1,000]", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder.  [default: runs/compare-DATA-1, -2, ...]", show_default=False)
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Columns to model, in order: a,b,c.")] = None,
    drop: Annotated[str | None, typer.Option(help="Columns to leave out: a,b.")] = None,
    missing: Annotated[str | None, typer.Option(help="error, or drop rows with missing values.")] = None,
    support: Annotated[list[str] | None, typer.Option(help="COLUMN=positive or COLUMN=bounded:LOW:HIGH; repeatable.")] = None,
    dequantize: Annotated[str | None, typer.Option(help="Spread columns of levels: none, auto, or A=STEP,B=STEP.")] = None,
    n: Annotated[int | None, typer.Option("-n", help="Training points of a toy set, or rows of a table to use.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the comparison in --out: what is done stays.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Is an invertible ResNet the right flow for your data? Fit others beside it, and see.

    **iresnet compare moons** fits fifteen systems for a minute each: same rows, same number of parameters, same time, same loop.
    Then a table (likelihood with its errors, times, round trip, what is exact and what is guaranteed), a picture of every
    density, and compare.html to open. In earnest: **iresnet compare table.csv --models iresnet,glow,maf --minutes 3 --seeds 3**.

    The other systems are those of zuko, normflows and scikit-learn: **pip install 'iresnet[compare]'**. One that fails is a row
    that says why. Ctrl-C loses only the system at work: go on with **--resume --out FOLDER**.
    """
    from ..compare.command import compare_command
    from ..compare.running import Asked

    alone()
    with telling():
        options = data_options(columns, drop, missing, support, dequantize)
        asked_again = (data, models, params, rows, n, *options.values())
        if resume and (any(item is not None for item in asked_again) or (minutes, clock, seeds) != (1.0, "wall", 1)):
            raise UserError("--resume goes on with what was asked: give it --out FOLDER, and neither DATA nor other options")
        if data is None and not resume:
            raise UserError("what shall be compared on? Give DATA: a built-in name such as moons, or the path of a table")
        asked = Asked(
            data=({"name": data or ""} | options | ({"n": n} if n is not None else {})),
            models=None if models is None else tuple(name.strip() for name in models.split(",")),
            minutes=minutes,
            clock=clock,
            parameters=params,
            seeds=seeds,
            rows=rows,
        )
        command = shlex.join(["iresnet", *sys.argv[1:]])
        content, told = compare_command(asked, out, resume=resume, quiet=quiet or as_json, command=command)
        answer(content, as_json, lambda: told)
        if all(row["status"] == "failed" for row in content["rows"]):
            raise UserError(f"no system was fitted; why, stands in {content['page']}")
