"""``iresnet export``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..terminal import alone, answer, telling
from .app import Json, Quiet, Run, app, open_run

__all__ = ["export"]


@app.command()
def export(
    run: Run,
    kind: Annotated[str, typer.Option("--format", help="onnx, for ONNX Runtime; or torch, for torch.export.load.")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(
            help="FILE; of several programs, each has its name put before the ending: FILE.encode.onnx.  "
            "[default: export/flow in the run's folder]",
            show_default=False,
        ),
    ] = None,
    only: Annotated[str, typer.Option(help="Which programs: encode (x to z), log_prob (of x), decode (z to x).")] = (
        "encode,log_prob,decode"
    ),
    precision: Annotated[
        str | None,
        typer.Option(help="float32 or float64.  [default: float64, and float32 for images]", show_default=False),
    ] = None,
    logdet: Annotated[
        str | None,
        typer.Option(
            help='Estimator with a fixed number of terms, such as "Exact()" or "PowerSeries(terms=8, probes=4)".  '
            "[default: the run's, with as many terms as held-out rows need]",
            show_default=False,
        ),
    ] = None,
    solver: Annotated[str | None, typer.Option(help='How precisely to decode, such as "Picard(tol=1e-8)".')] = None,
    tol: Annotated[float, typer.Option(help="Largest relative difference from the model; above it the exit code is 2.")] = 1e-5,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a run's flow as programs for other runtimes, and check each against the model.

    **iresnet export RUN** writes three ONNX files. They take batches of any size; a table's speak its own units, with columns
    of levels as they are once noise has spread them. Weights are constants in the file, log p has its standard error beside it,
    and decoding stops by tolerance and says how far each row may be off.

    Run them without torch:
    **onnxruntime.InferenceSession("flow.log_prob.onnx").run(["log_prob"], {"x": rows})**
    """
    alone()
    with telling():
        folder = open_run(run)
        from ..interop.runs import export_run

        names = [name.strip() for name in only.split(",") if name.strip()]
        options = {"precision": precision, "logdet": logdet, "solver": solver, "tol": tol}
        begin = None if quiet else lambda path: print(f"writing and checking {path}", file=sys.stderr)
        found = export_run(folder, kind, out, programs=names, begin=begin, **options)  # type: ignore[arg-type]
        told = [asdict(one) | {"path": str(one.path), "holds": one.holds} for one in found]
        content = {"format": kind, "programs": {one["program"]: one for one in told}}
        answer(content, as_json, lambda: "\n".join(map(str, found)))
    if not all(one.holds for one in found):
        raise typer.Exit(2)
