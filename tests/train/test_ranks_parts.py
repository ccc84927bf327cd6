"""Questions that several processes answer together under torchrun: each row once, as one process answers, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_ranks import finish, together, workers

from iresnet.config import build_config
from iresnet.data import write_columns
from iresnet.runs import evaluate_run, sample_run, score_run, train_run

ROWS, BATCH = 12_000, 128
LOGDET = "PowerSeries(terms=12, probes=2)"  # noise in every row, and some milliseconds a batch


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, three files of rows, and their scores by one process."""
    folder = tmp_path_factory.mktemp("together")
    rng = np.random.default_rng(0)
    a = rng.normal(size=ROWS)
    columns = {"a": a, "b": np.sin(3 * a) + 0.2 * rng.normal(size=ROWS)}
    write_columns(folder / "train.csv", {name: column[:500] for name, column in columns.items()})
    for number, (start, stop) in enumerate(((0, 5000), (5000, 5001), (5001, ROWS))):
        write_columns(folder / "rows" / f"{number}.parquet", {name: column[start:stop] for name, column in columns.items()})
    options = {"data.name": str(folder / "train.csv"), "model.blocks": 4, "model.hidden": [16], "train.steps": 5}
    run = train_run(build_config(options=options | {"evaluate.batch_size": BATCH}), folder / "run").folder
    score_run(run, str(folder / "rows"), folder / "whole.parquet", logdet=LOGDET)
    sample_run(run, 9000, folder / "samples.parquet")
    evaluate_run(run, split="train", logdet=LOGDET)
    return folder


def ask(place: Path, *words: str, processes: int = 2) -> subprocess.Popen[str]:
    return together(["-m", "iresnet", *words], place, processes)


def joined(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))])


@pytest.mark.slow
def test_scores_of_killed_processes(place: Path) -> None:
    """Killed in the midst, gone on with by more processes: every row once, in order, as one process scored it."""
    words = ("score", "run", "rows", "--out", "scores", "--logdet", LOGDET, "--part-rows", str(BATCH))
    parts = place / "scores"
    process = ask(place, *words)
    end = time.monotonic() + 120
    while time.monotonic() < end and len(list(parts.glob("part-*"))) < 5:
        time.sleep(0.002)
    os.kill(workers(process)[0], signal.SIGKILL)
    process.communicate(timeout=60)
    before = len(list(parts.glob("part-*")))
    assert process.returncode != 0 and 5 <= before < -(-ROWS // BATCH)
    found = json.loads(finish(ask(place, *words, "--json", processes=3)))
    assert found["parts_before"] == before and found["processes"] == 3 and found["rows"] == ROWS
    assert found["peak_memory_mib"] > 100
    scores, whole = joined(parts), pq.read_table(place / "whole.parquet")
    assert scores["row"].to_pylist() == list(range(ROWS))
    assert scores.drop_columns("row").equals(whole)
    assert finish(ask(place, *words)).count("rows scored") == 1, "one process tells"


@pytest.mark.slow
def test_samples_and_figures(place: Path) -> None:
    finish(ask(place, "sample", "run", "-n", "9000", "--out", "samples", "-q"))
    assert joined(place / "samples").equals(pq.read_table(place / "samples.parquet"))
    alone = json.loads((place / "run" / "evaluation.json").read_text())
    found = json.loads(finish(ask(place, "evaluate", "run", "--split", "train", "--logdet", LOGDET, "--json")))
    assert {**found, "seconds": 0} == {**alone, "seconds": 0}
    assert finish(ask(place, "certify", "run")).count("every block is certified") <= 1


@pytest.mark.slow
def test_bad_rows_end_all(place: Path) -> None:
    """A row that cannot be scored is told by the process that met it; the others do not wait for it."""
    values = np.ones(2000)
    values[1900] = np.nan
    write_columns(place / "bad.parquet", {"a": values, "b": np.ones(2000)})
    process = ask(place, "score", "run", "bad.parquet", "--out", "bad", "--part-rows", str(BATCH))
    _, err = process.communicate(timeout=100)
    assert process.returncode != 0 and "rows have missing values, in a (1)" in err
