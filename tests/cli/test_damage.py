"""What became of a run's files since: damaged, foreign, moved or changed ones are named, and never taken for good."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from shell import SMALL, answer, iresnet, refused, write_table

from iresnet.data import read_table, write_columns


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    write_table(folder / "table.csv")
    here = Path.cwd()
    os.chdir(folder)
    try:
        answer("train", "table.csv", "--out", "run", "--steps", 3, *SMALL)
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def place(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run and its table, to be damaged; the original's own table is out of sight."""
    shutil.copytree(original / "run", tmp_path / "run")
    shutil.copy(original / "table.csv", tmp_path / "table.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Spy:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("damage", ["empty", "header", "middle", "last", "garbage", "pickle", "flipped"])
def test_damaged_weights(place: Path, damage: str) -> None:
    path = place / "run" / "best" / "model.safetensors"
    whole = path.read_bytes()
    content = {
        "empty": b"",
        "header": whole[:60],
        "middle": whole[: len(whole) // 2],
        "last": whole[:-1],
        "garbage": bytes(range(256)) * 8,
        "pickle": pickle.dumps(Spy(place / "unpickled")),
        "flipped": whole[:8] + bytes([whole[8] ^ 1]) + whole[9:],
    }
    path.write_bytes(content[damage])
    for words in (["evaluate", "run"], ["sample", "run", "--out", "new.csv"], ["score", "run", "table.csv", "--out", "new.csv"]):
        sentence = refused(*words)
        assert "model.safetensors" in sentence and "damaged or cut short" in sentence
    assert not (place / "new.csv").exists() and not (place / "unpickled").exists()


def test_foreign_weights(place: Path) -> None:
    save_file({"weight": torch.zeros(3)}, place / "run" / "best" / "model.safetensors")
    assert "not written by iresnet" in refused("evaluate", "run")


@pytest.mark.parametrize("name", ["run.json", "config.toml"])
@pytest.mark.parametrize("content", ["{{{", "", "[]", "{}"])
def test_damaged_descriptions(place: Path, name: str, content: str) -> None:
    (place / "run" / name).write_text(content)
    refused("evaluate", "run")
    if (name, content) != ("config.toml", ""):  # an empty TOML file is a good one, but names no data
        refused("train", "--resume", "--out", "run")


def test_damaged_state_of_training(place: Path) -> None:
    told = place / "run" / "run.json"
    told.write_text(told.read_text().replace('"finished"', '"running"'))
    state = place / "run" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-9])
    assert "state.safetensors is damaged or cut short" in refused("train", "--resume", "--out", "run")
    assert answer("evaluate", "run")["rows"] == 12, "the best weights are whole"


def test_a_run_without_weights(place: Path) -> None:
    shutil.rmtree(place / "run" / "best")
    assert "iresnet train --resume --out run" in refused("sample", "run", "--out", "new.csv")


def test_changed_data_are_noticed(place: Path) -> None:
    """One number in one row, or rows in another order: the test rows may now be rows that were trained on."""
    table = read_table(place / "table.csv")
    for change in ("number", "order"):
        values = table.values.copy()
        if change == "number":
            values[5, 1] += 1e-9
        else:
            values[[0, 1]] = values[[1, 0]]
        write_columns(place / "table.csv", dict(zip(table.names, values.T, strict=True)))
        for words in (["evaluate", "run"], ["reconstruct", "run"]):
            assert "has changed since" in refused(*words)
    told = place / "run" / "run.json"
    whole = told.read_text()
    told.write_text(whole.replace('"finished"', '"interrupted"'))
    assert "has changed since" in refused("train", "--resume", "--out", "run")
    told.write_text(whole)
    assert answer("score", "run", "table.csv", "--out", "scores.csv")["rows"] == 120, "any rows can be scored"
    assert answer("certify", "run")["holds"] and answer("sample", "run", "-n", 3, "--out", "new.csv")["rows"] == 3


def test_missing_data_are_named(original: Path, place: Path) -> None:
    os.unlink("table.csv")
    assert answer("evaluate", "run")["rows"] == 12, "the table is still where it was when the run was trained"
    hidden = original / "hidden.csv"
    os.rename(original / "table.csv", hidden)
    try:
        assert "cannot be loaded again" in refused("evaluate", "run") and "table.csv" in refused("evaluate", "run")
        assert answer("certify", "run")["holds"] and answer("sample", "run", "-n", 3, "--out", "new.csv")["rows"] == 3
    finally:
        os.rename(hidden, original / "table.csv")


def test_without_a_guarantee_nothing_is_sampled(place: Path) -> None:
    """The free family, trained until its bound passes one: training ends well, the report says so, sampling refuses."""
    trained = iresnet(
        "train", "table.csv", "--out", "free", "--steps", 60, *SMALL, "--set", "model.family=free", "--set", "train.lr=0.3"
    )
    told = "NOT certainly invertible: nothing is reconstructed and no samples are drawn"
    assert trained.exit_code == 0 and told in trained.stdout
    found = answer("certify", "free")
    assert not found["holds"] and found["blocks"][0]["bound"] > 1 and found["blocks"][0]["guarantee"] == "none"
    assert "contractive" in refused("sample", "free", "--out", "new.csv")
    assert "contractive" in refused("reconstruct", "free")
    assert not (place / "new.csv").exists() and not (place / "free" / "pictures").exists()
    assert answer("evaluate", "free")["log_prob"]["value"] < 0, "a density it has"
    report = (place / "free" / "report.html").read_text()
    assert "free" in report and "not" in report.lower()
