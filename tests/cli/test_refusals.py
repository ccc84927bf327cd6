"""Bad input: exit code 2, one sentence that says what, where and what to do, and nothing half-written left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import SMALL, answer, iresnet, leftovers, refused, write_table

from iresnet.presets import PRESETS

ROWS = "".join(f"{k * 0.37 % 1},{k * 0.71 % 1.1}\n" for k in range(30))
TEXT = "".join(f"{k * 0.37 % 1},x{k % 3}\n" for k in range(30))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, good and bad, and one trained run."""
    folder = tmp_path_factory.mktemp("place")
    write_table(folder / "good.csv")
    write_table(folder / "five.csv", rows=5)
    write_table(folder / "one_column.csv", rows=60, columns=1)
    contents = {
        "empty.csv": "",
        "header.csv": "a,b\n",
        "one_row.csv": "a,b\n1,2\n",
        "nan.csv": f"a,b\n{ROWS}nan,1\n",
        "infinite.csv": f"a,b\n{ROWS}inf,1\n",
        "text.csv": f"a,b\n{TEXT}",
        "nameless.csv": "1.5,2.5\n3.5,4.5\n",
        "list.txt": "1 2 3\n",
        "broken.parquet": "PAR1 and nothing that follows",
        "bad.toml": "[train\nsteps = 3\n",
        "strange.toml": "[train]\nstep = 3\n",
        "file": "a file where a folder is wanted",
    }
    for name, content in contents.items():
        (folder / name).write_text(content)
    answer("train", folder / "good.csv", "--out", folder / "run", "--steps", 3, *SMALL)
    return folder


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv("IRESNET_DATA", raising=False)


DATA = {
    "empty.csv": "is empty",
    "header.csv": "no rows",
    "one_row.csv": "1 row is too few",
    "five.csv": "at least 10",
    "nan.csv": "--missing drop",
    "infinite.csv": "finite",
    "text.csv": "--drop b",
    "nameless.csv": "column names",
    "list.txt": ".csv, .parquet",
    "broken.parquet": "not a valid PARQUET",
    "nowhere.csv": "no file nowhere.csv",
    "no/where.csv": "no/where.csv",
    "moonz": "did you mean moons?",
    ".": "is a folder",
}


@pytest.mark.parametrize("data", DATA)
def test_data(place: Path, data: str) -> None:
    assert DATA[data] in refused("train", data, "--out", "new", "--steps", 3, *SMALL)
    assert not (place / "new").exists()


OPTIONS = {
    "--steps=-3": "train.steps=-3",
    "--steps=0": "train.steps=0",
    "--minutes=-1": "train.minutes",
    "--seed=-1": "seed=-1",
    "--task=dream": "task='dream'",
    "--preset=fast": f"known are {', '.join(PRESETS)}",
    "--config=nowhere.toml": "cannot read nowhere.toml",
    "--config=bad.toml": "not valid TOML",
    "--config=strange.toml": "did you mean train.steps",
    "--columns=a,z": "no column 'z'",
    "--columns=": "no column is left",
    "--drop=a,b": "no column is left",
    "--label=z": "no column 'z'",
    "--context=z": "no column 'z'",
    "--missing=guess": "data.missing='guess'",
    "--support=a": "not real, positive or bounded:LOW:HIGH",
    "--support=a=positive": "outside its support",
    "--support=z=positive": "no column 'z'",
    "--dequantize=a=0.5": "not on a grid",
    "--dequantize=a=wide": "NAME=RESOLUTION",
    "--init=nowhere": "nowhere does not exist",
    "--set=train.steps": "write key=value",
    "--set=blocks=3": "did you mean model.blocks?",
    "--set=model.blok=3": "model.blocks",
    "--set=zzzzz.qq=3": "sections are",
    "--set=model.lipschitz=1.2": "less than 1",
    "--set=model.lipschitz=0": "greater than 0",
    "--set=model.lipschitz=wide": "model.lipschitz='wide'",
    "--set=model.blocks=0": "model.blocks=0",
    "--set=model.hidden=[]": "model.hidden=[]",
    "--set=model.hidden=[0]": "at least 1",
    "--set=model.family=odd": "not one of sandwich",
    "--set=model.base=odd": "not one of",
    "--set=model.components=5": "components=5 is for base='mixture', and the base is 'normal'",
    "--set=model.components=0": "model.components=0",
    "--set=model.nonlinearity=odd": "unknown activation",
    "--set=model.nonlinearity=maxmin": "try 'tanh' or 'elu'",
    "--set=train.lr=nan": "train.lr",
    "--set=train.batch_size=0": "train.batch_size",
    "--set=train.logdet=Guess()": "known are Exact, Krylov, PowerSeries",
    "--set=train.logdet=__import__('os')": "cannot read",
    "--set=train.device=abacus": "not available",
    "--set=evaluate.solver=Guess": "known are Anderson, NewtonKrylov, Picard",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options(place: Path, option: str) -> None:
    name, value = option.split("=", 1)
    assert OPTIONS[option] in refused("train", "good.csv", "--out", "new", name, value)
    assert not (place / "new").exists()


QUESTIONS = {
    "train": "what shall be learned",
    "train good.csv --out run": "already holds a run",
    "train good.csv --out file": "not an empty folder",
    "train good.csv --out file/new": "file/new",
    "train good.csv --out new --set model.base=mixture --set model.components=99": "a mixture of 99 components needs",
    "train --resume": "--resume needs --out RUN",
    "train --resume --out nowhere": "nowhere does not exist",
    "train --resume --out run --steps 9": "own settings",
    "train --resume --out run --set train.lr=1": "own settings",
    "train five.csv --resume --out run": "was trained on",
    "evaluate nowhere": "nowhere does not exist",
    "evaluate .": "no run.json",
    "evaluate file": "no run.json",
    "evaluate run --split all": "train, validation or test",
    "evaluate run --logdet Guess": "known are Exact",
    "certify nowhere": "does not exist",
    "reconstruct nowhere": "does not exist",
    "reconstruct run --rows 0": "at least one row",
    "reconstruct run --split all": "train, validation or test",
    "reconstruct run --solver Guess": "known are Anderson",
    "reconstruct run --solver Picard(max_steps=1)": "max_steps",
    "sample nowhere": "does not exist",
    "sample run -n 0": "at least 1",
    "sample run --out new.xls": ".csv, .parquet, .npz",
    "sample run --out file/new.csv": "cannot write",
    "sample run --context a=3": "unconditional",
    "score run one_column.csv --out new.csv": "no column b",
    "score run nowhere.csv --out new.csv": "no file nowhere.csv",
    "score run empty.csv --out new.csv": "is empty",
    "score run nan.csv --out new.csv": "--missing drop",
    "score run text.csv --out new.csv": "column b holds text",
    "score run good.csv --out new.txt": ".csv, .parquet, .npz",
    "score run good.csv --out file/new.csv": "cannot write",
    "score run good.csv --out new.csv --logdet Guess": "known are Exact",
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_questions(place: Path, question: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    assert QUESTIONS[question] in refused(*question.split())
    after = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    assert after == before, "a refusal changes nothing"
    assert leftovers(place) == []


def test_one_column_and_few_rows_train(place: Path) -> None:
    """Small, but nothing is wrong with it."""
    for data in ("one_column.csv", write_table(place / "ten.csv", rows=10)):
        found = answer("train", data, "--out", place / f"{Path(data).stem}_run", "--steps", 3, *SMALL)
        assert found["status"] == "finished"
    assert found["evaluation"]["log_prob"]["stderr_data"] is None, "of one test row nothing is known"


def test_a_run_that_diverges_says_where_and_leaves_what_it_had(place: Path) -> None:
    sentence = refused("train", "good.csv", "--out", "wild", "--steps", 30, *SMALL, "--set", "train.lr=1e30")
    assert "not finite at step" in sentence and "lower the learning rate (now 1e+30)" in sentence
    assert answer("evaluate", "wild")["log_prob"]["value"] > -10, "the Gaussian it started from"
    assert answer("certify", "wild")["holds"]


def test_warnings_are_told_even_when_quiet(place: Path) -> None:
    (place / "copy.csv").write_text("a,b\n" + "".join(f"{k * 0.37 % 1},{k * 0.37 % 1}\n" for k in range(40)))
    done = iresnet("train", "copy.csv", "--out", "copy_run", "--steps", 2, "-q", *SMALL)
    assert done.exit_code == 0 and "b is a copy of a" in done.stderr and "1 eigenvalue" in done.stderr
