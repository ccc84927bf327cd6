"""Remake results/distributed.json: millions of rows drawn and scored by two processes in bounded memory, one of them killed.

    python experiments/distributed.py --out FOLDER

A small flow is trained on a table of four columns. Two processes under torchrun draw rows from it into a folder of Parquet
files. One process scores them into one file, which takes memory for all rows; two processes score them into a folder of parts,
which does not: one of them is killed with SIGKILL when a third of the parts are there, and the same command is given once more.
Every row has to be there exactly once, in order, with the log p of the single process. Peak memory is the largest resident set of
a process, as the operating system counts it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from quality import processor

from iresnet.data import write_columns
from iresnet.files import write_json

RESULTS = Path(__file__).resolve().parent.parent / "results" / "distributed.json"
TRAIN = "train table.csv --steps 500 --set model.blocks=4 --set model.hidden=[32,32] --out run"
RANKS = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "iresnet"]
ALONE = [sys.executable, "-m", "iresnet"]


def table(path: Path) -> None:
    """Three clusters along a curve, each column bent by the one before."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=20_000) + 3 * rng.integers(3, size=20_000)
    b = np.sin(a) + 0.3 * rng.normal(size=len(a))
    c = a * b / 4 + 0.5 * rng.normal(size=len(a))
    write_columns(path, {"a": a, "b": b, "c": c, "d": c**2 / 4 + 0.4 * rng.normal(size=len(a))})


def timed(run: subprocess.Popen[str], began: float, before: float) -> dict[str, Any]:
    """What it printed, and what it took: processor time of all its processes together."""
    out, err = run.communicate()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    told: dict[str, Any] = {"returncode": run.returncode, "seconds": round(time.monotonic() - began, 1)}
    told["cpu_seconds"] = round(used.ru_utime + used.ru_stime - before, 1)
    if run.returncode == 0:
        told["told"] = json.loads(out)
    for line in err.splitlines():
        if line.startswith("iresnet: peak"):
            told["told"]["peak_memory_mib"] = float(line.split()[-1])
        elif line.startswith("iresnet") and "FAILED" not in line:
            told["error"] = line
    return told


def command(words: str, launch: list[str], cwd: Path, kill_at: int | None = None, out: str = "") -> dict[str, Any]:
    """Run ``iresnet`` with ``words``; with ``kill_at`` kill a rank once that many parts are in ``out``."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    began, before = time.monotonic(), used.ru_utime + used.ru_stime
    pipe = subprocess.PIPE
    run = subprocess.Popen([*launch, *shlex.split(words), "--json"], cwd=cwd, stdout=pipe, stderr=pipe, text=True)
    if kill_at is not None:
        while run.poll() is None and len(list((cwd / out).glob("part-*"))) < kill_at:
            time.sleep(0.05)
        ranks = subprocess.run(["ps", "-o", "pid=", "--ppid", str(run.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(ranks[-1]), signal.SIGKILL)
    name = "torchrun --nproc-per-node 2 -m iresnet" if launch is RANKS else "iresnet"
    found = {"command": f"{name} {words}", **timed(run, began, before)}
    found["parts_there"] = len(list((cwd / out).glob("part-*"))) if out else None
    print(json.dumps(found), flush=True)
    return found


def compare(parts: Path, whole: Path) -> dict[str, Any]:
    """Every row once, in order, and as one process found it."""
    one = pq.read_table(whole)
    found = [pq.read_table(path) for path in sorted(parts.glob("part-*.parquet"))]
    rows = np.concatenate([part["row"].to_numpy() for part in found])
    differ = {}
    for name in ("log_prob", "stderr"):
        mine, theirs = np.concatenate([part[name].to_numpy() for part in found]), one[name].to_numpy()
        differ[name] = float(np.abs(mine - theirs).max())
    counts = np.bincount(rows, minlength=len(one))
    told = {"rows": len(one), "once": int((counts == 1).sum()), "missing": int((counts == 0).sum())}
    return told | {"in_order": bool((np.diff(rows) == 1).all()), "largest_difference": differ}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="an empty folder, for 400 MB of rows and scores")
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    place, parts = asked.out, asked.rows // 2**17
    place.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    steps_file = place / "steps.json"  # a step that was done in this folder is not done again
    steps: dict[str, Any] = json.loads(steps_file.read_text()) if steps_file.exists() else {}
    table(place / "table.csv")
    todo: dict[str, tuple[Any, ...]] = {
        "train": (TRAIN, ALONE, place),
        "draw a sixteenth": (f"sample run -n {asked.rows // 16} --out few", ALONE, place),
        "one process, parts, a sixteenth": ("score run few --out scores-of-few", ALONE, place),
        "draw": (f"sample run -n {asked.rows} --out rows", RANKS, place),
        "one process, one file": ("score run rows --out whole.parquet", memory(), place),
        "two processes, one killed": ("score run rows --out scores", RANKS, place, max(parts // 3, 1), "scores"),
        "two processes, again": ("score run rows --out scores", RANKS, place, None, "scores"),
    }
    for name, arguments in todo.items():
        if name not in steps:
            steps[name] = command(*arguments)
            write_json(steps_file, steps)
    first = pq.ParquetFile(next((place / "rows").glob("part-*"))).metadata
    size = sum(path.stat().st_size for path in (place / "rows").glob("*.parquet"))
    write_json(
        asked.results,
        {
            "name": "distributed",
            "remake": "python experiments/distributed.py --out FOLDER",
            "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1},
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "data": {"rows": asked.rows, "columns": 4, "megabytes": round(size / 1e6, 1), "rows_of_a_file": first.num_rows},
            "steps": {name: step for name, step in steps.items() if name != "train"},
            "compared": compare(place / "scores", place / "whole.parquet"),
        },
    )


def memory() -> list[str]:
    """As ``iresnet``, and at last the peak memory on standard error, which a score into one file does not tell."""
    told = "print('iresnet: peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)"
    program = f"import atexit, resource, sys; atexit.register(lambda: {told}); from iresnet.cli import main; main()"
    return [sys.executable, "-c", program]


if __name__ == "__main__":
    main()
