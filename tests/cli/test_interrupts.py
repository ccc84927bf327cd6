"""Runs that are killed, stopped by Ctrl-C or out of disk go on as if nothing had been: the same weights, bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from shell import SMALL, answer, environment, leftovers, start, write_table

import iresnet

# Noise in every step, and saves, records and validations that do not fall together.
STEPS = 400
SETTINGS = "checkpoint_every=30 log_every=7 validate_every=16 batch_size=40 logdet=PowerSeries(terms=2)"
GIVEN = (*SMALL, "--steps", STEPS, *(word for setting in SETTINGS.split() for word in ("--set", f"train.{setting}")))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("data") / "table.csv")


@pytest.fixture(scope="module")
def whole(table: Path) -> Path:
    """The run that nothing happened to."""
    answer("train", table, "--out", table.parent / "whole", *GIVEN)
    return table.parent / "whole"


def records(run: Path) -> list[dict[str, Any]]:
    """All that was logged, but for the time it took."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def same(run: Path, other: Path) -> None:
    """Bit for bit: weights, averages, the optimiser's moments, best weights, and every number logged."""
    for name in ("state.safetensors", "best/model.safetensors"):
        mine, theirs = load_file(run / name), load_file(other / name)
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert torch.equal(value, theirs[key]), f"{name}: {key}"
    assert records(run) == records(other)
    assert leftovers(run) == []


def until(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until the run has logged ``step``."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if (run / "metrics.jsonl").exists():
            lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
            if any(line.endswith("\n") and json.loads(line)["step"] >= step for line in lines):
                return
        time.sleep(0.002)
    raise AssertionError(f"the run ended before step {step}: {process.communicate()}")


def killed(run: Path, step: int, *words: object) -> Path:
    """Start ``iresnet train`` with those words, and kill it once it has logged ``step``."""
    process = start("train", *words, "--out", run, *GIVEN, cwd=run.parent)
    until(run, step, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    told = json.loads((run / "run.json").read_text())
    assert told["status"] == "running" and told["step"] < STEPS
    return run


@pytest.fixture(scope="module")
def half(table: Path) -> Path:
    """A run killed between two saves; copied by those who go on with it."""
    return killed(table.parent / "half", 200, table)


def test_killed_between_two_saves(half: Path, whole: Path, tmp_path: Path) -> None:
    """And, as the worst of kills would leave it, with half a line and half a file."""
    run = shutil.copytree(half, tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"split": "train", "st')
    for folder in (run, run / "best"):
        (folder / ".model.safetensors.x.part").write_bytes(b"half")
    assert answer("train", "--resume", "--out", run)["status"] == "finished"
    same(run, whole)


def test_killed_before_the_first_save_with_weights_from_elsewhere(table: Path, whole: Path, tmp_path: Path) -> None:
    """Step 0 again, and from the same --init."""
    once = tmp_path / "once"
    answer("train", table, "--out", once, "--init", whole, *GIVEN)
    run = killed(tmp_path / "run", 7, table, "--init", whole)
    (run / "state.safetensors").unlink(missing_ok=True)  # should the machine have been quicker than the test
    assert answer("train", "--resume", "--out", run)["status"] == "finished"
    same(run, once)


def test_ctrl_c_and_its_second(table: Path, whole: Path, tmp_path: Path) -> None:
    """Ctrl-C, resumed; SIGTERM, resumed: two interruptions, one run."""
    run = tmp_path / "run"
    words: tuple[object, ...] = ("train", table, "--out", run, *GIVEN)
    for step, number in ((20, signal.SIGINT), (150, signal.SIGTERM)):
        process = start(*words, cwd=tmp_path)
        until(run, step, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130 and "Traceback" not in err
        told = json.loads((run / "run.json").read_text())
        assert told["status"] == "interrupted" and step <= told["step"] < STEPS
        assert f"stopped after step {told['step']}; go on with: iresnet train --resume --out {run}" in out
        assert (run / "report.html").exists()
        words = ("train", "--resume", "--out", run)
    assert answer(*words)["status"] == "finished"
    same(run, whole)


def test_a_finished_run_is_not_trained_again(whole: Path) -> None:
    before = (whole / "state.safetensors").read_bytes(), (whole / "best" / "model.safetensors").read_bytes()
    found = answer("train", "--resume", "--out", whole)
    assert found["status"] == "finished" and found["evaluation"]["log_prob"] == answer("evaluate", whole)["log_prob"]
    assert before == ((whole / "state.safetensors").read_bytes(), (whole / "best" / "model.safetensors").read_bytes())


LIMITED = """
import resource, sys
from iresnet import cli
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.argv = ["iresnet", "train", "--resume", "--out", {run!r}, "-q"]
cli.main()
"""


@pytest.mark.parametrize("what", ["metrics.jsonl", "model.safetensors", "state.safetensors"])
def test_no_more_room(half: Path, whole: Path, tmp_path: Path, what: str) -> None:
    """A limit on the size of files, met where the disk would be full: one sentence, the old files whole; with room, on."""
    run = shutil.copytree(half, tmp_path / "run")
    state, best = run / "state.safetensors", run / "best" / "model.safetensors"
    old = state.read_bytes(), best.read_bytes()
    if what == "metrics.jsonl":
        limit = (run / what).stat().st_size + 200
    else:  # every file has the same limit: make room for the log
        (run / "metrics.jsonl").write_text("")
        limit = len(old[what == "model.safetensors"]) - 200
    program = LIMITED.format(limit=limit, run=str(run))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("iresnet: cannot write") and "free space" in done.stderr and done.stderr.count("\n") == 1
    assert what in done.stderr and leftovers(run) == [] and iresnet.load(run).shape == (2,)
    if what != "metrics.jsonl":
        assert state.read_bytes() == old[0]
    assert answer("train", "--resume", "--out", run)["status"] == "finished"
    for path, other in ((state, whole / "state.safetensors"), (best, whole / "best" / "model.safetensors")):
        assert all(torch.equal(value, load_file(other)[key]) for key, value in load_file(path).items())
