"""How commands talk: to people on a terminal, to logs, to programs, and to the shell that completes them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from shell import SMALL, answer, environment, iresnet, write_table

from iresnet.cli import app, completing
from iresnet.config import build_config, keys
from iresnet.data import BUILT_IN
from iresnet.presets import IMAGE_PRESETS, PRESETS
from iresnet.progress import Count
from iresnet.runs import train_run

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
PROGRAM = "import sys; sys.argv = ['iresnet', *sys.argv[1:]]; from iresnet.cli import main; main()"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_quiet_and_speak_json(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert {"--json", "--quiet", "-q"} <= options


def test_json_is_one_object_and_quiet_is_quiet(tmp_path: Path) -> None:
    """Exactly one object on standard output, nothing on standard error; in words, an answer and no progress."""
    table = write_table(tmp_path / "rows.csv")
    run = tmp_path / "run"
    answer("train", table, "--out", run, "--steps", 2, *SMALL)
    for words in (
        ["evaluate", run],
        ["sample", run, "-n", 5, "--out", tmp_path / "s.csv"],
        ["sample", run, "-n", 5, "--out", tmp_path / "samples"],
        ["score", run, table, "--out", tmp_path / "p.csv"],
        ["score", run, table, "--out", tmp_path / "scores"],
        ["reconstruct", run, "--rows", 5],
        ["interpolate", run, "--pairs", 1, "--out", tmp_path / "i.csv"],
        ["certify", run],
    ):
        done = iresnet(*words, "--json")
        assert done.exit_code == 0 and done.stderr == "" and isinstance(json.loads(done.stdout), dict), words
        done = iresnet(*words, "-q")
        assert done.exit_code == 0 and done.stderr == "" and done.stdout.strip(), words


def test_logs_get_plain_lines() -> None:
    """Without a terminal: a line now and then, with the time left once the number of rows is known; none of quick work."""
    shown = io.StringIO()
    count = Count("scoring", None, Console(file=shown), first=0.0)
    count(0, 4000)
    count(1000)
    count.next = 0.0
    count(1000)
    lines = shown.getvalue().splitlines()
    assert lines[0].startswith("scoring 0/4,000 rows") and lines[-1].startswith("scoring 2,000/4,000 rows  50 %  0 s left")
    assert len(lines) == 2, "the next line waits"
    Count("scoring", None, Console(file=shown))(5)
    assert len(shown.getvalue().splitlines()) == 2
    Count("scoring", 4000, Console(file=shown), first=0.0)(40)
    assert "scoring 40/4,000 rows  1 %" in shown.getvalue().splitlines()[2]
    assert "left" not in shown.getvalue().splitlines()[2], "what is left is guessed once starting no longer counts"
    Count("two networks", 200, Console(file=shown), first=0.0, unit="steps")(30, note="8 of 11 parts are in scores already")
    assert shown.getvalue().splitlines()[3] == "8 of 11 parts are in scores already"
    assert shown.getvalue().splitlines()[4].startswith("two networks 30/200 steps")


def completed(words: str, folder: Path) -> list[str]:
    """What bash is told when the tab key is pressed after ``words``."""
    asked = {"_IRESNET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment() | asked, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_tab_key(tmp_path: Path) -> None:
    for name in ("run-a", "runs/run-b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    assert completed("iresnet sc", tmp_path) == ["score"]
    assert completed("iresnet evaluate r", tmp_path) == ["run-a", "runs/run-b"]


def test_what_is_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "more").mkdir(parents=True)
    (tmp_path / "data" / "more" / "wine.csv").write_text("a\n1\n")
    (tmp_path / "beer.parquet").write_text("")
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRESNET_DATA", str(tmp_path / "data"))
    assert completing.DATA == BUILT_IN
    assert completing.data("") == [*BUILT_IN, "wine", "beer.parquet", "data/"]
    assert completing.data("data/more/") == ["data/more/wine.csv"] and completing.data("nowhere/x") == []
    assert completing.runs("") == []
    assert set(completing.presets("")) == {*PRESETS, *IMAGE_PRESETS} and completing.presets("qu") == ["quick"]
    assert completing.settings("model.bl") == ["model.blocks="] and len(completing.settings("")) == len(keys()) > 40
    assert completing.splits("t") == ["test", "train"] and completing.tasks("h") == ["hybrid"]
    assert all(build_config(options={"task": task}).task == task for task in completing.tasks(""))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown(shell: str, tmp_path: Path) -> None:
    """For the shell that is found, or told by an environment that the tests give."""
    found = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM, "--show-completion", shell]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment() | found, timeout=60)
    assert done.returncode == 0 and "_IRESNET_COMPLETE" in done.stdout and "iresnet" in done.stdout


def test_tensorboard_is_told_what_the_log_is_told(tmp_path: Path) -> None:
    """Every number of metrics.jsonl as an event, of a run that was stopped and gone on with."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = {"data.name": str(write_table(tmp_path / "rows.csv")), "model.blocks": 1, "model.hidden": [4], "train.steps": 6}
    config = build_config(options=options | {"train.log_every": 1, "train.validate_every": 2})
    left = iter((True, True, False))
    assert not train_run(config, tmp_path / "run", stop=lambda: not next(left)).complete
    assert train_run(config, tmp_path / "run", resume=True).complete
    told = accumulator.EventAccumulator(str(tmp_path / "run" / "events")).Reload()
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 9
    for record in records:
        for key in set(record) - {"split", "step", "seconds"}:
            events = {event.step: event.value for event in told.Scalars(f"{record['split']}/{key}")}
            assert events[record["step"]] == pytest.approx(float(record[key]), rel=1e-6), (record, key)
