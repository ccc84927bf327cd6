"""How a command ends: its answer on standard output, an error as one sentence on standard error, and the exit code."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

__all__ = ["alone", "answer", "run_app", "telling"]


def run_app(app: typer.Typer) -> None:
    """Run ``app`` and exit: 0, 2 for bad input, told in one sentence, or 130 when interrupted."""
    try:
        # Where typer would print a box about bad options, this prints a sentence.
        code = app(prog_name="iresnet", standalone_mode=False)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # that of click's exceptions, which typer may bring along by another name
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            sys.exit(2)
        told = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
        known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
        help_ = shlex.join(["iresnet", *(word for word in sys.argv[1:2] if word in known), "--help"])
        print(f"iresnet: {told[:1].lower()}{told[1:]}; see {help_}", file=sys.stderr)
        sys.exit(2)
    if code == 130:
        print("iresnet: interrupted", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def telling() -> Iterator[None]:
    """Errors that a user can act on, as one sentence and exit code 2 (1 if another process was lost); all others pass."""
    from .errors import UserError

    try:
        yield
    except UserError as error:
        _refuse(str(error))
    except RuntimeError as error:
        from .numerics.fixed_point import NotConverged
        from .parallel import PeerLost
        from .train import Diverged

        if isinstance(error, (Diverged, NotConverged)):
            _refuse(str(error))
        if isinstance(error, PeerLost):
            _refuse(f"{error}; started again it goes on, a training with --resume --out RUN", code=1)
        if "out of memory" not in str(error):
            raise
        _refuse(str(error).splitlines()[0])
    except MemoryError:
        _refuse("out of memory; lower train.batch_size or evaluate.batch_size")


def _refuse(message: str, code: int = 2) -> None:
    which = f" (process {os.environ['RANK']})" if "RANK" in os.environ else ""
    print(f"iresnet{which}: {' '.join(message.split())}", file=sys.stderr, flush=True)
    raise typer.Exit(code)


def alone() -> None:
    """For what one process does: the others that torchrun started have nothing to do, and end."""
    from .parallel import first

    if not first():
        raise typer.Exit(0)


def answer(content: dict[str, Any], as_json: bool, lines: Callable[[], str]) -> None:
    """Print ``content`` as one JSON object, or the ``lines`` that say it in words."""
    from .files import to_json

    print(to_json(content) if as_json else lines())
