"""The command line as tests use it: within this process, which is quick, or as a process of its own, which can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner, Result

from iresnet.cli import app
from iresnet.data import write_columns

# One small block: what is tested is the shell, not the model.
SMALL = ("--set", "model.blocks=1", "--set", "model.hidden=[8]")


def iresnet(*words: object) -> Result:
    """Run a command within this process; standard output and error are kept apart."""
    return CliRunner().invoke(app, [str(word) for word in words])


def answer(*words: object) -> dict[str, Any]:
    """The one JSON object that a command prints with --json, and nothing else on standard output."""
    done = iresnet(*words, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def refused(*words: object) -> str:
    """The sentence with which a command refuses bad input: exit code 2, one line, no traceback, nothing on standard output."""
    done = iresnet(*words)
    assert done.exit_code == 2, f"{done.exit_code}: {done.output} {done.exception!r}"
    lines = done.stderr.strip().splitlines()
    sentence = lines[-1] if lines else ""
    assert sentence.startswith("iresnet: ") and done.stdout == "", done.output
    assert "Traceback" not in done.stderr
    return sentence.removeprefix("iresnet: ")


def start(*words: object, cwd: Path, **more: Any) -> subprocess.Popen[str]:
    """A process of its own."""
    command = [sys.executable, "-m", "iresnet", *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, text=True, stdout=pipe, stderr=pipe, env=environment(), **more)


def environment() -> dict[str, str]:
    """The environment with the package on the path, whether or not it is installed."""
    import iresnet as package

    source = str(Path(package.__file__).parents[1])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}


def write_table(path: Path, rows: int = 120, columns: int = 2, seed: int = 0) -> Path:
    """A table of dependent, continuous columns a, b, c, ..."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, columns)) @ (np.eye(columns) + 0.5 * np.tri(columns))
    return write_columns(path, {chr(97 + k): values[:, k] for k in range(columns)})


def leftovers(folder: Path) -> list[str]:
    """Files that were not written to their end."""
    return [str(path) for path in folder.rglob("*") if path.name.endswith(".part")]
