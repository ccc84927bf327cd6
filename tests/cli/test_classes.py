"""The tasks that predict a class, from end to end: a table with text classes, toy sets, and images in an archive."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from shell import SMALL, answer, iresnet, refused
from sklearn.datasets import load_digits

from iresnet.data import read_table, write_columns


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two columns and a class that the second tells."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 300))
    colour = np.where(b > 0.4, "red", np.where(b < -0.4, "blue", "mixed, or so"))
    return write_columns(tmp_path_factory.mktemp("data") / "colours.csv", {"a": a, "b": 5 * b, "colour": colour})


@pytest.fixture(scope="module")
def run(table: Path) -> Path:
    folder = table.parent / "run"
    words = ("--task", "classify", "--label", "colour", "--out", folder, "--steps", 150, *SMALL)
    done = iresnet("train", table, *words, "--set", "train.lr=0.02", "--set", "train.smoothing=0")
    assert done.exit_code == 0, done.output
    assert "error rate, per cent" in done.stdout and "every block certified invertible" in done.stdout
    assert "colour is predicted, one of 3 classes" in done.stderr and "% wrong" in done.stderr
    assert "conditional" not in done.stderr
    return folder


def test_a_table_is_classified(run: Path, table: Path) -> None:
    found = answer("evaluate", run)
    assert found["error"]["value"] < 0.2 and found["error"]["stderr"] > 0 and found["cross_entropy"]["stderr"] > 0
    assert found["levels"] == ["blue", "mixed, or so", "red"] and found["label"] == "colour" and "log_prob" not in found
    assert np.sum(found["confusion"]) == found["rows"] == 30
    assert answer("evaluate", run) | {"seconds": 0} == found | {"seconds": 0}, "nothing of it is random"
    assert found["roundtrip"]["max_error"] < 1e-5, "as measured after training"
    assert answer("certify", run)["holds"]


def test_probabilities_of_rows(run: Path, table: Path, tmp_path: Path) -> None:
    """In order, without the class column, and the same for a part of the rows."""
    rows = read_table(table, label="colour")
    bare = write_columns(tmp_path / "bare.csv", {name: rows.values[:, k] for k, name in enumerate(rows.names)})
    told = answer("score", run, bare, "--out", tmp_path / "scores.parquet")
    assert told["rows"] == 300 and sum(told["predicted"].values()) == 300 and told["label"] == "colour"
    found = read_table(tmp_path / "scores.parquet", label="predicted")
    assert found.names == ("p_blue", "p_mixed, or so", "p_red")
    assert np.abs(found.values.sum(1) - 1).max() < 1e-9
    chosen = np.array(["blue", "mixed, or so", "red"])[found.values.argmax(1)]
    assert (chosen == found.aside["predicted"]).all() and (chosen == rows.aside["colour"]).mean() > 0.8
    few = write_columns(tmp_path / "few.csv", {name: rows.values[7:9, k] for k, name in enumerate(rows.names)})
    said = iresnet("score", run, few, "--out", tmp_path / "few.parquet").stdout
    assert re.match(r"2 rows scored; colour predicted: \w.* \([12]\)", said)
    part = read_table(tmp_path / "few.parquet", label="predicted")
    np.testing.assert_allclose(part.values, found.values[7:9], atol=1e-6)


def test_its_report_says_how_often_it_is_wrong(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Classification with an invertible residual network" in page and "Error rate" in page and "Cross-entropy" in page
    assert "Held-out likelihood" not in page and "Who is taken for whom" in page and "Validation error rate in per cent" in page
    assert (run / "pictures" / "confusion.png").stat().st_size > 1000


QUESTIONS = {
    "train colours.csv --task classify --out new": "names no classes: give --label COLUMN, which to predict; it has a, b, colour",
    "train colours.csv --task hybrid --out new": "names no classes",
    "train colours.csv --task classify --label color --out new": "did you mean colour?",
    "train same.csv --task classify --label c --out new": "c of same is always x: classify needs two classes or more",
    "train swiss_roll --task classify --out new": "needs classes, and swiss_roll names none",
    "train moons --task classify --label moon --context moon --out new": "cannot be given as context and be predicted",
    "train moons --task guess --out new": "task='guess'",
    "train moons --set model.kind=resnet --out new": "task density needs a network with a density: model.kind=resnet",
    "train moons --task hybrid --set model.lipschitz=free --out new": "model.lipschitz=free is for classify",
    "train moons --task classify --set model.kind=resnet164 --out new": "are for images",
    "train moons --task classify --set model.pad=2 --out new": "are for images",
    "train colours.csv --task classify --label colour --set model.kind=resnet --context a --out new": "takes no --context",
    "train colours.csv --task classify --label colour --context colour --out new": "cannot be given as context",
    "train moons --task classify --set model.kind=resnet --set train.penalty=1 --out new": "train.penalty is for",
    "train moons --task classify --set train.optimizer=newton --out new": "train.optimizer='newton'",
    "train --resume --out run --task density": "is trained to classify: leave --task density out",
    "sample run": "it has no density and no samples; train with --task hybrid",
    "score run same.csv --out new.csv": "no column a",
    "reconstruct ordinary": "an ordinary ResNet, which has no inverse",
}


@pytest.fixture(scope="module")
def place(table: Path, run: Path) -> Path:
    write_columns(table.parent / "same.csv", {"b": np.arange(40.0) % 7.3, "c": np.array(["x"] * 40)})
    words = ("--task", "classify", "--label", "colour", "--set", "model.kind=resnet", "--steps", 5, *SMALL)
    answer("train", table, "--out", table.parent / "ordinary", *words)
    return table.parent


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_is_refused(place: Path, question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert QUESTIONS[question] in refused(*question.split())
    assert not (place / "new").exists()


def test_going_on_may_name_the_task_again(run: Path) -> None:
    assert answer("train", "--resume", "--out", run, "--task", "classify")["status"] == "finished"


def test_an_ordinary_network_has_no_inverse(place: Path) -> None:
    found = answer("certify", place / "ordinary")
    assert not found["holds"] and found["blocks"] == []
    page = (place / "ordinary" / "report.html").read_text(encoding="utf-8")
    assert "Classification with an ordinary ResNet" in page and "nothing says that it has an inverse" in page
    assert "Round trip" not in page


def test_no_coefficient_is_told_and_not_inverted(place: Path) -> None:
    words = ("--task", "classify", "--label", "colour", "--set", "model.lipschitz=free", "--steps", 150, *SMALL)
    done = iresnet("train", place / "colours.csv", "--out", place / "free", *words, "--set", "train.lr=0.1")
    assert done.exit_code == 0 and "NOT certainly invertible" in done.stdout
    assert json.loads((place / "free" / "run.json").read_text())["model"]["family"] == "free"
    assert not answer("certify", place / "free")["holds"]
    assert "free" in (place / "free" / "config.toml").read_text(), "and it stays so when the run is read again"


def test_a_density_with_classes(tmp_path: Path) -> None:
    """Both figures; samples of a class fall where that class is; scores have both."""
    folder = tmp_path / "run"
    words = ("--task", "hybrid", "--out", folder, "--steps", 400, "--set", "model.blocks=4", "--set", "data.n=2000")
    found = answer("train", "moons", *words)["evaluation"]
    assert found["error"]["value"] < 0.05 and found["nats_above_truth"]["value"] < 0.3
    answer("sample", folder, "-n", 300, "--context", "moon=1", "--out", tmp_path / "one.csv")
    upper = read_table(tmp_path / "one.csv").values
    assert (upper[:, 1] < 0.5).mean() > 0.7, "mostly the lower moon, as much as so short a training tells them apart"
    assert answer("sample", folder, "-n", 5, "--out", tmp_path / "any.csv")["columns"] == ["x1", "x2"]
    told = answer("sample", folder, "--per-class", 100, "--temperature", 0.7, "--out", tmp_path / "each.csv")
    each = read_table(tmp_path / "each.csv")
    assert told["rows"] == 200 and told["columns"] == ["x1", "x2", "moon"] and each.values[:, 2].tolist() == [0] * 100 + [1] * 100
    assert each.values[100:, 1].mean() < each.values[:100, 1].mean(), "the second moon is the lower one"
    answer("score", folder, tmp_path / "one.csv", "--out", tmp_path / "scores.csv")
    scores = read_table(tmp_path / "scores.csv")
    assert scores.names == ("log_prob", "stderr", "predicted", "p_0", "p_1") and scores.values[:, 4].mean() > 0.6
    assert "the classes of moon are 0, 1" in refused("sample", folder, "--context", "moon=7", "--out", tmp_path / "x.csv")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Held-out likelihood" in page and "Error rate" in page


def test_images_are_classified(tmp_path: Path) -> None:
    """Real digits of 8 x 8 pixels, as bytes."""
    bunch = load_digits()
    np.savez(tmp_path / "digits8.npz", images=(15 * bunch.images).astype(np.uint8), label=bunch.target.astype(np.uint8))
    model = ("--set", "model.blocks=[2]", "--set", "model.hidden=[16,16]")
    train = ("--steps", 120, "--set", "train.lr=0.01", "--set", "evaluate.roundtrip=40")
    common = (tmp_path / "digits8.npz", "--task", "classify", *model, *train)
    found = answer("train", *common, "--set", "model.pad=3", "--out", tmp_path / "run")
    assert found["evaluation"]["error"]["value"] < 0.2 and found["evaluation"]["roundtrip"]["max_error"] < 1e-3
    again = answer("train", *common, "--set", "model.kind=resnet", "--out", tmp_path / "ordinary")
    assert again["evaluation"]["error"]["value"] < 0.5, "far from the 90 per cent of guessing"
    told = answer("score", tmp_path / "run", tmp_path / "digits8.npz", "--out", tmp_path / "scores.parquet")
    assert told["rows"] == 1797 and set(told["predicted"]) == set("0123456789")
