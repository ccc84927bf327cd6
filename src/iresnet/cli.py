"""The command line: what a person types, turned into calls, and what comes back, turned into words or JSON.

Heavy modules are imported by the command that needs them, so that ``--help`` is quick.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .terminal import answer, run_app, telling

if TYPE_CHECKING:
    from .runs import RunFolder

__all__ = ["app", "main"]

app = typer.Typer(
    name="iresnet",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Invertible residual networks: densities, samples and certificates of your data.\n\n"
    "Start with **iresnet train moons --preset quick**, or **iresnet train table.csv**, and open the report in the run folder.",
)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, as `iresnet train --out` made it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def main() -> None:
    """Run the command line; see :func:`iresnet.terminal.run`."""
    run_app(app)


@app.command()
def train(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A built-in set (moons, circles, checkerboard, eight_gaussians, pinwheel, spirals, swiss_roll, rings, "
            "digits), a table (.csv .parquet .npz .npy), or the name of one in the folder that IRESNET_DATA names.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.  [default: runs/DATA-1, -2, ...]", show_default=False)
    ] = None,
    task: Annotated[str, typer.Option(help="What to train for; this version has density.")] = "density",
    preset: Annotated[
        str | None, typer.Option(help="quick, small-table (up to a few thousand rows), standard or thorough.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train about this long: the steps are measured once, then fixed.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.  [default: 0]", show_default=False)] = None,
    columns: Annotated[str | None, typer.Option(help="Columns to model, in order: a,b,c.")] = None,
    drop: Annotated[str | None, typer.Option(help="Columns to leave out: a,b.")] = None,
    missing: Annotated[str | None, typer.Option(help="error, or drop rows with missing values.")] = None,
    label: Annotated[str | None, typer.Option(help="A class column to condition on.")] = None,
    context: Annotated[str | None, typer.Option(help="Columns to condition on: a,b.")] = None,
    support: Annotated[list[str] | None, typer.Option(help="COLUMN=positive or COLUMN=bounded:LOW:HIGH; repeatable.")] = None,
    dequantize: Annotated[str | None, typer.Option(help="Spread columns of levels: none, auto, or A=STEP,B=STEP.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with sections data, model, train, evaluate.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value with a dotted key, such as model.blocks=12; repeatable."),
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Start from the weights of this run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, bit for bit.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a flow on DATA; then evaluate, certify, draw and report.

    Ctrl-C saves and stops; go on with **--resume --out RUN**.
    """
    from .commands import train_command

    flat = {
        "task": task,
        "seed": seed,
        "train.steps": steps,
        "train.minutes": minutes,
        "data.name": data,
        "data.columns": _names(columns),
        "data.drop": _names(drop),
        "data.missing": missing,
        "data.label": label,
        "data.context": _names(context),
        "data.support": _pairs(support),
        "data.dequantize": _resolutions(dequantize),
    }
    options = {key: value for key, value in flat.items() if value is not None and (key != "task" or value != "density")}
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


def _open(run: Path) -> RunFolder:
    from .runs import RunFolder

    return RunFolder.open(run)


@app.command()
def evaluate(
    run: Run,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    logdet: Annotated[str | None, typer.Option(help='Estimator, such as "Exact()" or "PowerSeries(probes=8)".')] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Held-out log-likelihood of a run with all its errors."""
    from .commands import evaluate_command

    with telling():
        content, text = evaluate_command(_open(run), split, logdet, quiet or as_json)
        answer(content, as_json, lambda: text)


@app.command()
def sample(
    run: Run,
    n: Annotated[int, typer.Option("-n", help="How many rows.")] = 1000,
    out: Annotated[Path, typer.Option(help="Where to: .csv, .parquet or .npz.")] = Path("samples.csv"),
    context: Annotated[list[str] | None, typer.Option(help="column=value of a conditional model; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Row i is a function of (seed, i).")] = 0,
    continuous: Annotated[
        bool, typer.Option("--continuous", help="Do not put dequantised columns back on their levels.")
    ] = False,
    solver: Annotated[str | None, typer.Option(help='Solver, such as "Picard(tol=1e-8)".')] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Draw new rows, in your own units, each inverted with an error bound."""
    from .progress import counting
    from .runs import sample_run

    with telling(), counting("sampling", n, quiet or as_json) as progress:
        found = sample_run(
            _open(run),
            n,
            out,
            context=context or [],
            seed=seed,
            continuous=continuous,
            solver=solver,
            progress=progress,
        )
        answer(found, as_json, lambda: f"{found['rows']} rows of {len(found['columns'])} columns in {found['out']}")


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
    """log p of each row of DATA, with its standard error, in your own units: low values are anomalies."""
    from .progress import counting
    from .runs import score_run

    with telling():
        folder = _open(run)
        with counting("scoring", None, quiet or as_json) as progress:
            found = score_run(folder, data, out, logdet=logdet, missing=missing, draws=draws, progress=progress)
        answer(
            found,
            as_json,
            lambda: (
                f"{found['rows']} rows scored, mean log p {found['mean_log_prob']:.4f} +- "
                f"{found['stderr_data']:.2g} nats; in {found['out']}"
            ),
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
    from .commands import reconstruct_command

    with telling():
        content, text = reconstruct_command(_open(run), rows, split, solver, quiet or as_json)
        answer(content, as_json, lambda: text)


@app.command()
def certify(run: Run, quiet: Quiet = False, as_json: Json = False) -> None:
    """What is guaranteed about each block, beside what is measured."""
    from .runs import certify_run

    with telling():
        folder = _open(run)
        content = certify_run(folder)
        _write_report(folder)
        answer(content, as_json, lambda: content["table"])


def _write_report(folder: RunFolder) -> None:
    from .report import write_report

    write_report(folder.path)


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from . import __version__

        print(__version__)
        raise typer.Exit()
