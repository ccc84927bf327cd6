"""What every benchmark shares: interleaved timing, medians with their spread, one form of result, one file and one table.

A benchmark is a module with ``rows(options) -> list[dict]``, run by ``python -m benchmarks NAME``. A comparison is a row made by
:func:`compare`; rows of any other form may stand beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from iresnet.files import write_json

__all__ = [
    "PACKAGES",
    "RESULTS",
    "Options",
    "Row",
    "Spread",
    "compare",
    "interleaved",
    "machine",
    "measured_here",
    "pairwise",
    "print_table",
    "spread",
    "told",
    "versions",
    "write",
]

RESULTS = Path(__file__).resolve().parent.parent / "results" / "benchmarks"
PACKAGES = ("iresnet", "torch", "numpy", "normflows", "torchflows", "FrEIA", "zuko")
Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How a benchmark is run: threads of torch, counted repetitions (at least five), seconds a repetition lasts at least."""

    threads: int = 2
    repeats: int = 7
    seconds: float = 0.25

    @staticmethod
    def parser(description: str | None = None) -> argparse.ArgumentParser:
        """Arguments that make these options."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--threads", type=int, default=Options.threads, help="threads of torch")
        parser.add_argument("--repeats", type=int, default=Options.repeats, help="counted repetitions, at least five")
        parser.add_argument("--seconds", type=float, default=Options.seconds, help="least duration of a repetition")
        return parser

    def apply(self) -> None:
        """Fix the threads of this process, and have it keep freed memory: else page faults come and go from run to run."""
        import torch

        from iresnet.allocation import keep_freed_memory

        keep_freed_memory()

        os.environ["OMP_NUM_THREADS"] = str(self.threads)  # for processes that a benchmark starts
        torch.set_num_threads(self.threads)


@dataclass(frozen=True)
class Spread:
    """A median and its quartiles."""

    median: float
    low: float
    high: float

    def scaled(self, factor: float) -> Spread:
        """In another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one number (inclusive: for five values, the second and the fourth)."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def pairwise(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Spread of the ratios of values measured one after the other: what slows the machine down slows both."""
    return spread([first / second for first, second in zip(above, below, strict=True)])


def interleaved(
    tasks: Mapping[str, Callable[[], Any]], options: Options = Options(), clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of one call of each task, ``options.repeats`` times each: a b c, a b c, ...

    The first call is a warm-up and not counted, the second tells how many calls a repetition needs to last ``options.seconds``;
    a repetition's figure is its mean. The garbage collector runs between repetitions and not within them.
    """
    calls: dict[str, int] = {}
    for name, task in tasks.items():
        task()
        began = clock()
        task()
        calls[name] = max(1, math.ceil(options.seconds / max(clock() - began, 1e-9)))
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(options.repeats):
        for name, task in tasks.items():
            gc.collect()
            gc.disable()
            began = clock()
            for _ in range(calls[name]):
                task()
            found[name].append((clock() - began) / calls[name])
            gc.enable()
    return found


def compare(
    case: str,
    peer: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    target: float | None = None,
    at_least: bool = True,
    **more: Any,
) -> Row:
    """A row: ours, theirs, and their ratio, of values measured in pairs.

    Parameters
    ----------
    unit : "s", "ms", "MiB", "products", ... of both lists of values.
    target : what the ratio should be.
    at_least : the ratio is theirs / ours, a gain that should be at least the target; otherwise it is ours / theirs, a cost that
        should be at most the target.
    more : further fields of the row, such as settings.
    """
    ratio = pairwise(theirs, ours) if at_least else pairwise(ours, theirs)
    met = None if target is None else ratio.median >= target if at_least else ratio.median <= target
    figures = {"ours": asdict(spread(ours)), "theirs": asdict(spread(theirs)), "ratio": asdict(ratio)}
    return {"case": case, "peer": peer, "unit": unit, **figures, "target": target, "at_least": at_least, "met": met, **more}


def machine(options: Options) -> dict[str, Any]:
    """What the figures were measured on."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"processor": _processor(), "cores": os.cpu_count(), "threads": options.threads, "load_before": load}


def _processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def versions() -> dict[str, str | None]:
    """Versions of everything compared; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    if found["iresnet"] is None:  # run from a source tree that is not installed
        found["iresnet"] = _commit()
    return found


def _commit() -> str | None:
    """Which state of the source this is, if git knows."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def write(name: str, rows: list[Row], options: Options, began: dict[str, Any], folder: Path = RESULTS) -> Path:
    """results/benchmarks/NAME.json; ``began`` is :func:`machine` as it was before."""
    remake = f"python -m benchmarks {name} --threads {options.threads} --repeats {options.repeats} --seconds {options.seconds:g}"
    content = {"name": name, "remake": remake, "machine": began, "versions": versions(), "rows": rows}
    return write_json(folder / f"{name}.json", content)


def measured_here(name: str, options: Options, folder: Path = RESULTS) -> bool:
    """Whether NAME.json holds figures of this machine, these versions and this number of threads."""
    path = folder / f"{name}.json"
    if not path.exists():
        return False
    content, here = json.loads(path.read_text(encoding="utf-8")), machine(options)
    same = all(content["machine"].get(key) == here[key] for key in ("processor", "cores", "threads"))
    return same and content["versions"] == versions()


def told(figure: Mapping[str, float | None] | None, digits: int = 3) -> str:
    """``median (low to high)``; the quartiles are left out where they are the median."""
    if figure is None or figure["median"] is None:
        return "–"
    median, low, high = (_number(figure[key], digits) for key in ("median", "low", "high"))
    return median if low == median == high else f"{median} ({low} to {high})"


def _number(value: float | None, digits: int) -> str:
    """``digits`` significant digits, without an exponent where that is short."""
    if value is None:
        return "–"
    if value == 0 or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits}g}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def print_table(name: str, rows: Sequence[Row]) -> None:
    """The comparisons among ``rows``, on the terminal; nothing where there are none."""
    if not any("ratio" in row for row in rows):
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=name, title_justify="left")
    for column in ("case", "peer", "unit", "ours", "theirs", "ratio", "target", "met"):
        table.add_column(column, justify="left" if column in ("case", "peer", "unit") else "right")
    for row in rows:
        if "ratio" in row:
            sign = "" if row["target"] is None else f"{'≥' if row['at_least'] else '≤'} {row['target']:g}"
            met = {None: "", True: "yes", False: "no"}[row["met"]]
            figures = [told(row[key]) for key in ("ours", "theirs", "ratio")]
            table.add_row(row["case"], row["peer"], row["unit"], *figures, sign, met)
    console = Console()
    # A pipe has no width; a narrow one would break every cell.
    (console if console.is_terminal else Console(width=160)).print(table)
