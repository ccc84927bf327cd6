"""What can be asked of a run: figures, rows, densities, the way there and back, guarantees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..terminal import answer, telling
from .app import Json, Quiet, Run, app, open_run

if TYPE_CHECKING:
    from ..runs import RunFolder

__all__ = ["certify", "evaluate", "interpolate", "reconstruct", "sample", "score"]


@app.command()
def evaluate(
    run: Run,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    logdet: Annotated[str | None, typer.Option(help='Estimator, such as "Exact()" or "PowerSeries(probes=8)".')] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Held-out figures of a run with all their errors: log-likelihood, or error rate, or both."""
    from ..commands import evaluate_command

    with telling():
        content, text = evaluate_command(open_run(run), split, logdet, quiet or as_json)
        answer(content, as_json, lambda: text)


@app.command()
def sample(
    run: Run,
    n: Annotated[int, typer.Option("-n", help="How many rows.")] = 1000,
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
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Draw new rows, in your own units, each inverted with an error bound."""
    from ..progress import counting
    from ..runs import sample_run

    with telling(), counting("sampling", n, quiet or as_json) as progress:
        folder = open_run(run)
        images = folder.status()["data"].get("kind") == "images"
        found = sample_run(
            folder,
            n,
            out or Path("samples.png" if images else "samples.csv"),
            context=context or [],
            seed=seed,
            continuous=continuous,
            temperature=temperature,
            solver=solver,
            progress=progress,
        )
        told = "images" if images else f"rows of {len(found['columns'])} columns"
        answer(found, as_json, lambda: f"{found['rows']} {told} in {found['out']}")


@app.command()
def score(
    run: Run,
    data: Annotated[str, typer.Argument(metavar="DATA", help="A table with the model's columns, or a built-in name.")],
    out: Annotated[Path, typer.Option(help="Where to: .csv, .parquet or .npz, one row per input row, in order.")],
    logdet: Annotated[str | None, typer.Option(help='Estimator, such as "PowerSeries(probes=8)".')] = None,
    missing: Annotated[str, typer.Option(help="error, or drop rows with missing values.")] = "error",
    draws: Annotated[int, typer.Option(help="Of the noise that spreads columns of levels; log p is the mean over them.")] = 8,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """log p of each row of DATA, with its standard error, in your own units: low values are anomalies.

    Of a run that was trained to classify: the class predicted, and the probability of each.
    """
    from ..commands import scored
    from ..progress import counting
    from ..runs import score_run

    with telling():
        folder = open_run(run)
        with counting("scoring", None, quiet or as_json) as progress:
            found = score_run(folder, data, out, logdet=logdet, missing=missing, draws=draws, progress=progress)
        answer(
            found,
            as_json,
            lambda: scored(found),
        )


@app.command()
def reconstruct(
    run: Run,
    rows: Annotated[
        int | None, typer.Option(help="How many rows; the run's evaluate.roundtrip by default.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    solver: Annotated[str | None, typer.Option(help='Solver, such as "Picard(tol=1e-8)".')] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """The way there and back: encode held-out rows, invert, and compare with what is guaranteed."""
    from ..commands import reconstruct_command

    with telling():
        content, text = reconstruct_command(open_run(run), rows, split, solver, quiet or as_json)
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
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    seed: Annotated[int, typer.Option(help="Which rows.")] = 0,
    solver: Annotated[str | None, typer.Option(help='Solver, such as "Picard(tol=1e-8)".')] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """The way from one row to another through latent space: encode both, walk, decode."""
    from ..progress import counting
    from ..runs import interpolate_run

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

    with telling():
        folder = open_run(run)
        content = certify_run(folder)
        _write_report(folder)
        answer(content, as_json, lambda: content["table"])


def _write_report(folder: RunFolder) -> None:
    from ..report import write_report

    write_report(folder.path)
