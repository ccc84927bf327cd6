"""Every command does what it says, in words and as one JSON object, in any format, the same each time it is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from shell import SMALL, answer, iresnet, leftovers, start, write_table

import iresnet as package
from iresnet.data import read_table
from iresnet.presets import PRESETS

COMMANDS = ("train", "evaluate", "sample", "score", "reconstruct", "interpolate", "certify")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("data") / "plain.csv", rows=200)


@pytest.fixture(scope="module")
def run(table: Path) -> Path:
    """A trained run; commands that only ask may share it."""
    folder = table.parent / "run"
    done = iresnet("train", table, "--out", folder, "--steps", 20, *SMALL)
    assert done.exit_code == 0, done.output
    assert "log p, nats per row" in done.stdout and "every block certified invertible" in done.stdout
    assert "160 training" in done.stderr and "160 training" not in done.stdout, "what is on the way goes to standard error"
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    shown = iresnet(command, "--help")
    assert shown.exit_code == 0 and "--json" in shown.stdout and "Usage" in shown.stdout


def test_what_a_run_folder_holds(run: Path) -> None:
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    expected = {"config.toml", "run.json", "metrics.jsonl", "state.safetensors", "best/model.safetensors", "evaluation.json"}
    assert expected | {"certificate.json", "pictures/density.png", "report.html"} <= files
    assert leftovers(run) == []
    told = json.loads((run / "run.json").read_text())
    assert (told["status"], told["step"], told["data"]["rows"]["test"]) == ("finished", 20, 20)
    flow = package.load(run)
    assert not flow.training and flow.shape == (2,)


def test_evaluate(run: Path) -> None:
    first, again = answer("evaluate", run), answer("evaluate", run)
    assert first["log_prob"] == again["log_prob"], "figures are a function of the run"
    assert first["rows"] == 20 and first["log_prob"]["stderr_data"] > 0 and first["log_prob"]["stderr_estimator"] == 0
    assert answer("evaluate", run, "--split", "train")["rows"] == 160
    estimated = answer("evaluate", run, "--logdet", "PowerSeries(probes=2, terms=3)")
    error = 5 * estimated["log_prob"]["stderr_estimator"] + estimated["log_prob"]["bias"]
    assert abs(estimated["log_prob"]["value"] - first["log_prob"]["value"]) <= error
    assert "PowerSeries" in estimated["logdet"] and error > 0


def test_certify(run: Path) -> None:
    found = answer("certify", run)
    assert found["holds"] and all(0 <= block["measured"] <= block["bound"] < 1 for block in found["blocks"])
    assert json.loads((run / "certificate.json").read_text())["blocks"] == found["blocks"]
    assert "sandwich" in iresnet("certify", run).stdout


def test_reconstruct(run: Path) -> None:
    found = answer("reconstruct", run, "--rows", 7)
    assert found["rows"] == 7 and found["max_error"] < 1e-5
    assert answer("reconstruct", run, "--split", "train")["rows"] == 160, "no more than there are"
    assert "Picard" in answer("reconstruct", run, "--solver", "Picard(tol=1e-7)")["solver"]


@pytest.mark.parametrize("ending", ["csv", "parquet", "npz"])
def test_sample(run: Path, tmp_path: Path, ending: str) -> None:
    found = answer("sample", run, "-n", 9, "--out", tmp_path / f"new.{ending}")
    assert found["rows"] == 9 and found["columns"] == ["a", "b"]
    assert read_table(tmp_path / f"new.{ending}").values.shape == (9, 2)


def test_a_longer_sample_begins_with_a_shorter_one(run: Path, tmp_path: Path) -> None:
    for count in (3, 40):
        answer("sample", run, "-n", count, "--out", tmp_path / f"{count}.csv", "--seed", 7)
    few, many = (read_table(tmp_path / f"{count}.csv").values for count in (3, 40))
    torch.testing.assert_close(torch.from_numpy(few), torch.from_numpy(many[:3]), rtol=1e-6, atol=1e-6)
    answer("sample", run, "-n", 3, "--out", tmp_path / "other.csv", "--seed", 8)
    assert abs(read_table(tmp_path / "other.csv").values - few).min() > 1e-6


@pytest.mark.parametrize("ending", ["csv", "parquet", "npz"])
def test_score(run: Path, table: Path, tmp_path: Path, ending: str) -> None:
    found = answer("score", run, table, "--out", tmp_path / f"scores.{ending}")
    scores = read_table(tmp_path / f"scores.{ending}")
    assert scores.names == ("log_prob", "stderr") and len(scores.values) == found["rows"] == 200
    assert abs(scores.values[:, 0].mean() - found["mean_log_prob"]) < 1e-12


def test_settings_come_in_order(table: Path, tmp_path: Path) -> None:
    """Defaults, preset, file, options, --set: the later one counts; the folder says what was used, and is a --config again."""
    file = tmp_path / "own.toml"
    file.write_text("[train]\nsteps = 7\nlr = 0.5\nbatch_size = 31\n[model]\nhidden = [5]\n")
    given = ["--preset", "quick", "--config", file, "--steps", 4, "--set", "train.lr=0.25", "--set", "model.blocks=2"]
    assert PRESETS["quick"]["model.blocks"] != 2 and PRESETS["quick"]["train.steps"] != 4
    answer("train", table, "--out", tmp_path / "run", *given)
    used = (tmp_path / "run" / "config.toml").read_text()
    for line in ("steps = 4", "lr = 0.25", "batch_size = 31", "blocks = 2"):
        assert f"\n{line}\n" in used, line
    again = answer("train", "--config", tmp_path / "run" / "config.toml", "--out", tmp_path / "again")
    assert again["evaluation"]["log_prob"] == answer("evaluate", tmp_path / "run")["log_prob"]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(table: Path, tmp_path: Path, preset: str) -> None:
    found = answer("train", table, "--out", tmp_path / "run", "--preset", preset, "--steps", 2, *SMALL)
    assert found["status"] == "finished" and found["evaluation"]["roundtrip"]["max_error"] < 1e-5


def test_minutes_become_steps_once(table: Path, tmp_path: Path) -> None:
    answer("train", table, "--out", tmp_path / "run", "--minutes", 0.02, *SMALL)
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["steps"] >= 20 and told["step"] == told["steps"]
    assert f"\nsteps = {told['steps']}\n" in (tmp_path / "run" / "config.toml").read_text()


def test_init_starts_from_another_run(table: Path, run: Path, tmp_path: Path) -> None:
    """With a rate too small to move anything, the new run is the old one."""
    still = ["--set", "train.lr=1e-12", "--set", "train.ema=0"]
    answer("train", table, "--out", tmp_path / "new", "--init", run, "--steps", 1, *still, *SMALL)
    old, new = (package.load(folder).state_dict() for folder in (run, tmp_path / "new"))
    for key, value in old.items():
        torch.testing.assert_close(new[key], value, rtol=0, atol=1e-6)


def test_runs_are_numbered(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert iresnet("train", table, "--steps", 1, "-q", *SMALL).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["plain-1", "plain-2"]


def test_as_a_process(run: Path, tmp_path: Path) -> None:
    """Standard output holds the object and nothing else; options that cannot be read are told in one sentence."""
    done = start("evaluate", run, "--json", cwd=tmp_path)
    out, err = done.communicate(timeout=60)
    assert done.returncode == 0 and json.loads(out)["rows"] == 20 and err == ""
    for words, told in ((["train", "--steps", "many"], "--steps"), (["evaluate"], "RUN"), (["fly"], "fly")):
        done = start(*words, cwd=tmp_path)
        out, err = done.communicate(timeout=60)
        assert done.returncode == 2 and out == "" and told in err and err.startswith("iresnet: ") and err.count("\n") == 1
