"""What the commands share: the program itself, its most common arguments, and the folder of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..terminal import run_app
from .completing import runs

if TYPE_CHECKING:
    from ..runs import RunFolder

__all__ = ["Json", "Quiet", "Run", "app", "main", "open_run"]

app = typer.Typer(
    name="iresnet",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Invertible residual networks: densities, samples and certificates of your data.\n\n"
    "Start with **iresnet train moons --preset quick**, or **iresnet train table.csv**, and open the report in the run folder.",
)

Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a run, as `iresnet train --out` made it.", autocompletion=runs)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def main() -> None:
    """Run the command line; see :func:`iresnet.terminal.run`."""
    run_app(app)


def open_run(run: Path) -> RunFolder:
    """The folder of a run that exists. Raises UserError."""
    from ..runs import RunFolder

    return RunFolder.open(run)


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from .. import __version__

        print(__version__)
        raise typer.Exit()
