"""What can be asked of a run: figures, rows, densities, the way there and back, guarantees."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..terminal import alone, answer, telling
from . import completing
from .app import Json, Quiet, Run, app, open_run
from .completing import splits

if TYPE_CHECKING:
    from ..runs import RunFolder

PartRows = Annotated[
    int | None,
    typer.Option(help="Of a folder: rows of a part, about; done whole or not at all.  [default: some MiB]", show_default=False),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU for each process if there is one.")]

__all__ = ["certify", "evaluate", "interpolate", "reconstruct", "sample", "score"]


@app.command()
def evaluate(
    run: Run,
    split: Annotated[str, typer.Option(help="test, validation or train.", autocompletion=splits)] = "test",
    logdet: Annotated[str | None, typer.Option(help='Estimator, such as "Exact()" or "PowerSeries(probes=8)".')] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Held-out figures of a run with all their errors: log-likelihood, or error rate, or both."""
    from ..commands import evaluate_command
    from ..parallel import first

    with telling():
        content, text = evaluate_command(open_run(run), split, logdet, quiet or as_json)
        if first():
            answer(content, as_json, lambda: text)


@app.command()
def sample(
    run: Run,
    n: Annotated[int, typer.Option("-n", help="How many rows.")] = 1000,
    per_class: Annotated[
        int | None,
        typer.Option(help="Instead of -n: rows of each class, in a picture one row for each, of a conditional or hybrid model."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to: .csv, .parquet or .npz; images .npz, or .png for a picture.  [default: samples.csv or samples.png]",
            show_default=False,
        ),
    ] = None,
    context: Annotated[list[str] | None, typer.Option(help="column=value of a conditional model; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Row i is a function of (seed, i).")] = 0,
    continuous: Annotated[
        bool, typer.Option("--continuous", help="Do not put dequantised columns back on their levels.")
    ] = False,
    temperature: Annotated[float, typer.Option(help="Below 1: likelier rows, of less variety.")] = 1.0,
    solver: Annotated[str | None, typer.Option(help='Solver, such as "Picard(tol=1e-8)".')] = None,
    part_rows: PartRows = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Draw new rows, in your own units, each inverted with an error bound.

    With a folder as **--out**, in parts, by all processes of torchrun, and on from where it was stopped.
    """
    from ..commands import in_parts
    from ..parallel import first
    from ..progress import counting
    from ..runs import sample_classes, sample_run

    with telling(), counting("sampling", n, quiet or as_json or not first()) as progress:
        folder = open_run(run)
        images = folder.status()["data"].get("kind") == "images"
        place = out or Path("samples.png" if images else "samples.csv")
        asked: dict[str, Any] = {"context": context or [], "seed": seed, "continuous": continuous, "temperature": temperature}
        asked |= {"solver": solver, "device": device, "progress": progress}
        if per_class is None:
            found = sample_run(folder, n, place, part_rows=part_rows, **asked)
        else:
            found = sample_classes(folder, per_class, place, **asked)
        if not first():
            return
        told = "images" if images else f"rows of {len(found['columns'])} columns" if "columns" in found else "rows"
        answer(found, as_json, lambda: f"{found['rows']} {told} in {found['out']}{in_parts(found)}")


@app.command()
def score(
    run: Run,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A table with the model's columns, or a built-in name.", autocompletion=completing.data
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Where to: .csv, .parquet or .npz, one row per input row, in order; or a folder, in parts.")
    ],
    logdet: Annotated[str | None, typer.Option(help='Estimator, such as "PowerSeries(probes=8)".')] = None,
    missing: Annotated[str, typer.Option(help="error, or drop rows with missing values.")] = "error",
    draws: Annotated[int, typer.Option(help="Of the noise that spreads columns of levels; log p is the mean over them.")] = 8,
    part_rows: PartRows = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """log p of each row of DATA, with its standard error, in your own units: low values are anomalies.

    Of a run that was trained to classify: the class predicted, and the probability of each.

    DATA may be a folder of Parquet or CSV files. With a folder as **--out**, rows are streamed into parts, by all processes of
    torchrun, and on from where it was stopped.
    """
    from ..commands import scored
    from ..parallel import first
    from ..progress import counting
    from ..runs import score_run

    with telling():
        folder = open_run(run)
        with counting("scoring", None, quiet or as_json or not first()) as progress:
            options = {"logdet": logdet, "missing": missing, "draws": draws, "part_rows": part_rows, "device": device}
            found = score_run(folder, data, out, progress=progress, **options)
        if first():
            answer(found, as_json, lambda: scored(found))


@app.command()
def reconstruct(
    run: Run,
    rows: Annotated[
        str | None, typer.Option(help="How many rows, or all; the run's evaluate.roundtrip by default.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="test, validation or train.", autocompletion=splits)] = "test",
    solver: Annotated[str | None, typer.Option(help='Solver, such as "Picard(tol=1e-8)".')] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """The way there and back: encode held-out rows, invert, and compare with what is guaranteed."""
    from ..commands import reconstruct_command

    alone()
    with telling():
        content, text = reconstruct_command(open_run(run), _rows(rows), split, solver, quiet or as_json)
        answer(content, as_json, lambda: text)


@app.command()
def interpolate(
    run: Run,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to: images .png or .npz; a table's rows .csv, .parquet or .npz.  "
            "[default: interpolation.png in the run's pictures, or interpolation.csv]",
            show_default=False,
        ),
    ] = None,
    pairs: Annotated[int, typer.Option(help="Pairs of rows, drawn at random.")] = 6,
    steps: Annotated[int, typer.Option(help="Points from one to the other, both ends included.")] = 8,
    split: Annotated[str, typer.Option(help="test, validation or train.", autocompletion=splits)] = "test",
    seed: Annotated[int, typer.Option(help="Which rows.")] = 0,
    solver: Annotated[str | None, typer.Option(help='Solver, such as "Picard(tol=1e-8)".')] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """The way from one row to another through latent space: encode both, walk, decode."""
    from ..progress import counting
    from ..runs import interpolate_run

    alone()
    with telling(), counting("inverting", pairs * steps, quiet or as_json) as progress:
        folder = open_run(run)
        images = folder.status()["data"].get("kind") == "images"
        place = out or (folder.path / "pictures" / "interpolation.png" if images else Path("interpolation.csv"))
        found = interpolate_run(folder, place, pairs=pairs, steps=steps, split=split, seed=seed, solver=solver, progress=progress)
        if images and out is None:
            _write_report(folder)
        answer(found, as_json, lambda: f"{pairs} pairs in {steps} steps each in {found['out']}")


@app.command()
def certify(run: Run, quiet: Quiet = False, as_json: Json = False) -> None:
    """What is guaranteed about each block, beside what is measured."""
    from ..runs import certify_run

    alone()
    with telling():
        folder = open_run(run)
        content = certify_run(folder)
        _write_report(folder)
        answer(content, as_json, lambda: content["table"])


def _rows(text: str | None) -> int | None:
    """A number of rows, which "all" is as well; None as it is."""
    from ..errors import UserError

    if text is None or text == "all":
        return None if text is None else sys.maxsize
    if not text.lstrip("-").isdigit():
        raise UserError(f"--rows {text}: it is a number of rows, or all")
    return int(text)


def _write_report(folder: RunFolder) -> None:
    from ..report import write_report

    write_report(folder.path)
