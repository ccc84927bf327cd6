"""Comparisons inside a reproduction's folder, and what they say of each system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..compare import Asked, Comparison, compare
from ..errors import UserError

__all__ = ["compared", "slim"]


def compared(
    folder: Path,
    data: str,
    models: Sequence[str],
    seconds: float,
    *,
    parameters: int | None = None,
    seeds: int = 1,
    rows: int | None = None,
    advance: Callable[[int], None] = lambda systems: None,
) -> Comparison:
    """Systems of equal parameters, each trained for as many seconds of processor time; a folder that is there is gone on with.

    Parameters
    ----------
    advance : called with 1 when a system is done.

    Raises
    ------
    UserError
        For bad input, a missing library, and a system that failed.
    """
    asked = Asked({"name": data}, tuple(models), seconds / 60, "cpu", parameters, seeds, rows)
    done: set[tuple[str, int]] = set()

    def hear(model: str, seed: int, share: float, told: str) -> None:
        if share >= 1 and told != "measuring" and (model, seed) not in done:
            done.add((model, seed))
            advance(1)

    found = compare(asked, folder, resume=(folder / "compare.json").exists(), hear=hear)
    failed = [f"{row['title']}: {row['reason']}" for row in found.rows if row["status"] != "finished"]
    if failed:
        raise UserError(f"on {data} {failed[0]}")
    return found


def slim(row: dict[str, Any]) -> dict[str, Any]:
    """What of a comparison's row a record keeps."""
    names = ("model", "title", "seed", "parameters", "log_prob", "bits_per_dim", "above_truth", "density", "inverse")
    training = {key: row["training"][key] for key in ("seconds", "processor_seconds", "steps")}
    return {name: row[name] for name in names} | training
