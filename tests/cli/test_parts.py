"""Answers in a folder of parts: the numbers of one file, bit for bit; gone on with, and never mixed with those of others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shell import SMALL, answer, iresnet, leftovers, refused, write_table

from iresnet.data import read_table, write_columns

ROWS, BATCH = 700, 64
SETTINGS = (*SMALL, "--steps", 3, "--set", f"evaluate.batch_size={BATCH}", "--set", "evaluate.roundtrip=10")
ESTIMATED = ("--logdet", "PowerSeries(terms=4, probes=2)")  # noise in every row


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two columns, rows to score in one file and in a folder, and their scores in one file."""
    folder = tmp_path_factory.mktemp("parts")
    answer("train", write_table(folder / "train.csv"), "--out", folder / "run", *SETTINGS)
    table = read_table(write_table(folder / "rows.parquet", ROWS, seed=1))
    for number, start in enumerate((0, 300, 310)):
        part = table.values[start : (300, 310, ROWS)[number]]
        write_columns(folder / "rows" / f"{number}.parquet", {"a": part[:, 0], "b": part[:, 1]})
    answer("score", folder / "run", folder / "rows.parquet", "--out", folder / "whole.parquet", *ESTIMATED)
    return folder


def joined(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))])


def same(parts: pa.Table, whole: Path) -> None:
    assert parts["row"].to_pylist() == list(range(ROWS))
    for name in pq.read_table(whole).column_names:
        assert parts[name].equals(pq.read_table(whole)[name]), name


@pytest.mark.parametrize("data", ["rows", "rows.parquet"])
@pytest.mark.parametrize("size", [[], ["--part-rows", 100]])
def test_parts_are_the_whole(place: Path, tmp_path: Path, data: str, size: list) -> None:
    """Parts are whole batches, so that even rounding is the same."""
    found = answer("score", place / "run", place / data, "--out", tmp_path / "scores", *size, *ESTIMATED)
    assert found["part_rows"] == BATCH and found["parts"] == len(list((tmp_path / "scores").glob("part-*"))) == 11
    assert found["rows"] == ROWS and found["parts_before"] == 0 and found["processes"] == 1 and found["peak_memory_mib"] > 50
    same(joined(tmp_path / "scores"), place / "whole.parquet")
    scores = joined(tmp_path / "scores")
    assert found["mean_log_prob"] == pytest.approx(np.mean(scores["log_prob"].to_numpy()), rel=1e-12)
    assert found["stderr_data"] == pytest.approx(np.std(scores["log_prob"].to_numpy(), ddof=1) / ROWS**0.5, rel=1e-9)
    assert leftovers(tmp_path) == []


def test_a_folder_of_tables_into_one_file(place: Path, tmp_path: Path) -> None:
    answer("score", place / "run", place / "rows", "--out", tmp_path / "scores.parquet", *ESTIMATED)
    assert pq.read_table(tmp_path / "scores.parquet").equals(pq.read_table(place / "whole.parquet"))


def test_what_is_missing_is_done_and_nothing_else(place: Path, tmp_path: Path) -> None:
    """As after a kill: some parts are there, one was not written to its end."""
    out = tmp_path / "scores"
    words = ("score", place / "run", place / "rows", "--out", out, *ESTIMATED)
    out.mkdir()
    (out / ".parts.json.x.part").write_bytes(b"half")  # killed before anything was begun
    answer(*words)
    parts = sorted(out.glob("part-*"))
    gone = [parts[0], parts[4], parts[10]]
    for path in gone:
        path.unlink()
    (out / ".part-000004.parquet.x.part").write_bytes(b"half")
    before = {path: path.stat().st_mtime_ns for path in parts if path not in gone}
    found = answer(*words)
    assert found["parts_before"] == 8 and found["rows"] == ROWS
    assert {path: path.stat().st_mtime_ns for path in before} == before
    same(joined(out), place / "whole.parquet")
    assert leftovers(out) == []
    done = iresnet(*words)
    assert done.exit_code == 0 and "in " + str(out) + ": 11 parts, 11 of them before, 1 process, " in done.stdout
    assert "MiB of memory" in done.stdout
    assert f"11 of 11 parts are in {out} already" in " ".join(done.stderr.split())


def test_another_question_is_refused(place: Path, tmp_path: Path) -> None:
    """Answers are not mixed: of other data, settings or weights."""
    out, run = tmp_path / "scores", place / "run"
    rows = write_table(tmp_path / "rows.csv", 200)
    answer("score", run, rows, "--out", out)
    assert "draws was 8 and is 2" in refused("score", run, rows, "--out", out, "--draws", 2)
    assert "logdet was" in refused("score", run, rows, "--out", out, *ESTIMATED)
    assert "part_rows was 64 and is 128" in refused("score", run, rows, "--out", out, "--part-rows", 128)
    write_table(rows, 200, seed=5)
    assert "data was" in refused("score", run, rows, "--out", out)
    answer("train", place / "train.csv", "--out", tmp_path / "other", *SETTINGS, "--seed", 1)
    assert "weights was" in refused("score", tmp_path / "other", rows, "--out", out)
    assert "question was" in refused("sample", run, "-n", 200, "--out", out)


REFUSED = {
    "score run rows --out run": "run already exists and holds other files",
    "score run rows --out rows/scores": "lies in rows, where its parts would be taken for data",
    "score run rows --out scores --part-rows 0": "--part-rows must be at least 1",
    "score run rows.parquet --out scores.csv --part-rows 9": "--part-rows is for a folder of parts",
    "score run run --out scores": "run holds no table",
    "score run nowhere.csv --out scores": "there is no file",
    "score run rows --out scores --device gpu7": "device 'gpu7' is not available here",
    "sample run --out samples --device gpu7": "device 'gpu7' is not available here",
    "sample run --out samples.csv --part-rows 9": "--part-rows is for a folder of parts",
    "sample run --out rows": "rows already exists and holds other files",
}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(place: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.chdir(place)
    assert REFUSED[words] in refused(*words.split())


def test_one_file_is_not_for_several_processes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "there are 2 processes: give a folder" in refused("score", "run", "rows", "--out", "scores.csv")
    assert "there are 2 processes: give a folder" in refused("sample", "run", "--out", "samples.csv")


def test_rows_with_holes(place: Path, tmp_path: Path) -> None:
    """Left out, and even where a whole part has none: what is there has its number."""
    values = read_table(place / "rows.parquet").values.copy()
    values[BATCH : 2 * BATCH, 0] = np.nan
    values[5, 1] = np.nan
    path = write_columns(tmp_path / "holes.csv", {"a": values[:, 0], "b": values[:, 1]})
    found = answer("score", place / "run", path, "--out", tmp_path / "scores", "--missing", "drop", *ESTIMATED)
    kept = [row for row in range(ROWS) if row != 5 and not BATCH <= row < 2 * BATCH]
    assert found["rows"] == len(kept) and joined(tmp_path / "scores")["row"].to_pylist() == kept
    whole = pq.read_table(place / "whole.parquet")["log_prob"].to_numpy()[kept]
    np.testing.assert_allclose(joined(tmp_path / "scores")["log_prob"].to_numpy(), whole, rtol=1e-9)


def test_samples(place: Path, tmp_path: Path) -> None:
    """The rows of one file; some of them drawn again."""
    answer("sample", place / "run", "-n", 5000, "--out", tmp_path / "whole.parquet")
    words = ("sample", place / "run", "-n", 5000, "--out", tmp_path / "samples")
    assert answer(*words)["parts"] == 3
    (tmp_path / "samples" / "part-000001.parquet").unlink()
    assert answer(*words)["parts_before"] == 2
    assert joined(tmp_path / "samples").equals(pq.read_table(tmp_path / "whole.parquet"))
    done = iresnet(*words)
    assert done.exit_code == 0 and done.stdout.startswith(f"5000 rows in {tmp_path / 'samples'}: 3 parts, 3 of them before")


def test_classes_and_contexts(place: Path, tmp_path: Path) -> None:
    """A hybrid model's densities and classes of parts; and samples with contexts drawn from the training rows."""
    rng = np.random.default_rng(0)
    kind = np.array(["red", "blue"])[rng.integers(2, size=300)]
    values = rng.normal(size=300) + (kind == "red")
    path = write_columns(tmp_path / "kinds.csv", {"a": values, "b": rng.normal(size=300), "kind": kind})
    both = ("--label", "kind", *SETTINGS)
    answer("train", path, "--task", "hybrid", "--out", tmp_path / "hybrid", *both)
    whole = answer("score", tmp_path / "hybrid", path, "--out", tmp_path / "whole.parquet")
    parts = answer("score", tmp_path / "hybrid", path, "--out", tmp_path / "scores")
    assert parts["parts"] == 5 and parts["predicted"] == whole["predicted"] and parts["label"] == "kind"
    scores = joined(tmp_path / "scores")
    assert scores.drop_columns("row").equals(pq.read_table(tmp_path / "whole.parquet"))
    answer("train", path, "--out", tmp_path / "given", *both)
    for words in ([], ["--context", "kind=red"]):
        name = f"samples{len(words)}"
        one = answer("sample", tmp_path / "given", "-n", 2100, "--out", tmp_path / f"{name}.parquet", *words)
        answer("sample", tmp_path / "given", "-n", 2100, "--out", tmp_path / name, *words)
        assert one["columns"] == ["a", "b", "kind"]
        assert joined(tmp_path / name).equals(pq.read_table(tmp_path / f"{name}.parquet"))
    asked = [json.loads((tmp_path / f"samples{count}" / "parts.json").read_text()) for count in (0, 2)]
    assert len(asked[0]["contexts"]) == 16 and asked[1]["contexts"] is None


def test_samples_with_contexts_of_other_data_are_refused(place: Path, tmp_path: Path) -> None:
    """A number that rows are conditional on is no part of the run's own fingerprint of its data."""
    rng = np.random.default_rng(0)
    table = {"a": rng.normal(size=300), "b": rng.normal(size=300), "at": rng.normal(size=300)}
    path = write_columns(tmp_path / "rows.csv", table)
    answer("train", path, "--out", tmp_path / "run", "--context", "at", *SETTINGS)
    words = ("sample", tmp_path / "run", "-n", 2100, "--out", tmp_path / "samples")
    answer(*words)
    write_columns(path, table | {"at": table["at"] ** 3})
    assert "contexts was" in refused(*words)


def test_the_folder_says_what_was_asked(place: Path, tmp_path: Path) -> None:
    answer("score", place / "run", place / "rows", "--out", tmp_path / "scores")
    asked = json.loads((tmp_path / "scores" / "parts.json").read_text())
    assert asked["question"] == "score" and asked["rows"] == ROWS and asked["part_rows"] == BATCH and asked["draws"] == 8
    assert [entry[:2] for entry in asked["data"]] == [["0.parquet", 300], ["1.parquet", 10], ["2.parquet", 390]]
