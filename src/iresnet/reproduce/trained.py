"""Runs inside a reproduction's folder: begun, gone on with after an interruption, or found finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..config import build_config
from ..errors import UserError
from ..runs import RunFolder, train_run

__all__ = ["trained_run"]


def trained_run(
    folder: Path,
    options: dict[str, Any],
    sets: Sequence[str] = (),
    preset: str | None = None,
    *,
    init: Path | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> RunFolder:
    """The finished run in ``folder``, trained as ``iresnet train`` would with these settings.

    Parameters
    ----------
    advance : called with steps as they are done.

    Raises
    ------
    UserError
        If training was interrupted, and for bad settings.
    """
    config = build_config(options=options, sets=tuple(sets), preset=preset)
    done = [0]

    def count(record: dict[str, Any]) -> None:
        advance(record["step"] - done[0])
        done[0] = record["step"]

    begun = (folder / "run.json").exists()
    outcome = train_run(config, folder, resume=begun, init=None if begun else init, announce=lambda *_: [count])
    if not outcome.complete:
        raise UserError(f"{folder} was interrupted; the same command goes on")
    return outcome.folder
