"""``iresnet train``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..terminal import answer, telling
from . import completing
from .app import Json, Quiet, app

__all__ = ["data_options", "train"]


@app.command()
def train(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A built-in set (moons, circles, checkerboard, eight_gaussians, pinwheel, spirals, swiss_roll, rings, "
            "digits), images (mnist, fashion_mnist, cifar10, cifar100, digits-images, a folder of images or of Parquet, an NPZ "
            "of uint8, owner/name on the hub), a table (.csv .parquet .npz .npy), or the name of one of these in the folder "
            "that IRESNET_DATA names.",
            autocompletion=completing.data,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.  [default: runs/DATA-1, -2, ...]", show_default=False)
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="density; classify: predict a class column by features that can be inverted; or hybrid: both at once.  "
            "[default: density]",
            show_default=False,
            autocompletion=completing.tasks,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="For tables: quick, small-table (up to a few thousand rows), standard, thorough. "
            "For images: tiny, small, paper.",
            autocompletion=completing.presets,
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train about this long: the steps are measured once, then fixed.")] = None,
    compiled: Annotated[
        bool | None,
        typer.Option("--compile", help="Train dense flows by kernels in C++: faster on a CPU; compiled once, which needs g++."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.  [default: 0]", show_default=False)] = None,
    columns: Annotated[str | None, typer.Option(help="Columns to model, in order: a,b,c.")] = None,
    drop: Annotated[str | None, typer.Option(help="Columns to leave out: a,b.")] = None,
    missing: Annotated[str | None, typer.Option(help="error, or drop rows with missing values.")] = None,
    label: Annotated[str | None, typer.Option(help="A class column: to condition a density on, or to predict.")] = None,
    context: Annotated[str | None, typer.Option(help="Columns to condition on: a,b.")] = None,
    support: Annotated[list[str] | None, typer.Option(help="COLUMN=positive or COLUMN=bounded:LOW:HIGH; repeatable.")] = None,
    dequantize: Annotated[str | None, typer.Option(help="Spread columns of levels: none, auto, or A=STEP,B=STEP.")] = None,
    lipschitz: Annotated[
        str | None,
        typer.Option(help="Bound of each residual branch, in (0, 1); or free, for no inverse for certain (classify)."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with sections data, model, train, evaluate.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="key=value with a dotted key, such as model.blocks=12; repeatable.",
            autocompletion=completing.settings,
        ),
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Start from the weights of this run.", autocompletion=completing.runs)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, bit for bit.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a network on DATA; then evaluate, certify, draw and report.

    A density of a table: **iresnet train table.csv**. A classifier whose features can be inverted:
    **iresnet train table.csv --task classify --label species**. Density and classes of the same features: **--task hybrid**.

    Ctrl-C saves and stops; go on with **--resume --out RUN**.
    """
    from ..commands import train_command
    from ..literals import parse_value

    flat = {
        "task": task,
        "model.lipschitz": None if lipschitz is None else parse_value(lipschitz),
        "seed": seed,
        "train.steps": steps,
        "train.minutes": minutes,
        "train.compile": compiled,
        "data.name": data,
        "data.label": label,
        "data.context": _names(context),
    }
    flat |= {f"data.{key}": value for key, value in data_options(columns, drop, missing, support, dequantize).items()}
    options = {key: value for key, value in flat.items() if value is not None}
    with telling():
        command = shlex.join(["iresnet", *sys.argv[1:]])
        found = train_command(
            options,
            out,
            preset=preset,
            config=config,
            sets=sets or [],
            init=init,
            resume=resume,
            quiet=quiet or as_json,
            command=command,
        )
        if found is None:  # another process of this run tells
            return
        text = found.pop("text")
        answer(found, as_json, lambda: text)
        if found["status"] != "finished":
            raise typer.Exit(130)


def data_options(
    columns: str | None, drop: str | None, missing: str | None, support: list[str] | None, dequantize: str | None
) -> dict[str, Any]:
    """What the options about a table say, as the section "data" of a configuration writes it; what is not given is left out."""
    found = {
        "columns": _names(columns),
        "drop": _names(drop),
        "missing": missing,
        "support": _pairs(support),
        "dequantize": _resolutions(dequantize),
    }
    return {key: value for key, value in found.items() if value is not None}


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _resolutions(text: str | None) -> str | dict[str, float] | None:
    """``COLUMN=STEP,COLUMN=STEP`` as a dict; a word such as "auto" as it is."""
    if text is None or "=" not in text:
        return text
    found = {}
    for pair in text.split(","):
        name, _, step = pair.rpartition("=")
        try:
            found[name.strip()] = float(step)
        except ValueError:
            return text  # whoever reads it refuses it, saying how it is written
    return found


def _pairs(texts: list[str] | None) -> dict[str, str] | None:
    if not texts:
        return None
    return {text.partition("=")[0]: text.partition("=")[2] for text in texts}
