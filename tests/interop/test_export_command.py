"""``iresnet export``: the files, what it prints, its exit codes; and ONNX Runtime on its own, as the documentation shows it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import iresnet
from iresnet.cli import app
from iresnet.config import build_config
from iresnet.data import read_schema
from iresnet.interop.graphs import read_metadata
from iresnet.runs import RunFolder, train_run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "interop.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    options = {"data.name": "moons", "data.n": 300, "model.blocks": 1, "model.hidden": [8], "train.steps": 20}
    train_run(build_config(preset="quick", options=options), folder)
    return folder


def test_one_program_by_torch(run: Path, tmp_path: Path) -> None:
    """One file of the name given, one JSON object, exit code 0; and 2 where the difference is above the tolerance."""
    words = ["export", str(run), "--format", "torch", "--only", "encode", "--out", str(tmp_path / "moons"), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["format"] == "torch" and told["programs"]["encode"]["holds"] and told["programs"]["encode"]["rows"] >= 2
    assert [one.name for one in tmp_path.iterdir()] == ["moons.pt2"]
    metadata = read_metadata(tmp_path / "moons.pt2")
    assert metadata["run"] == "run" and read_schema(metadata["schema"]).features == 2
    done = CliRunner().invoke(app, [*words[:-1], "--precision", "float32", "--tol", "1e-30"])
    assert done.exit_code == 2 and "ABOVE 1e-30" in done.stdout


def test_help_and_refusals(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", "--help"])
    assert done.exit_code == 0 and "InferenceSession" in done.stdout
    for words, message in (
        ([str(tmp_path / "none")], "does not exist"),
        ([str(run), "--format", "tensorflow"], "the format is onnx or torch"),
        ([str(run), "--format", "torch", "--only", "samples"], "what can be exported"),
        ([str(run), "--format", "torch", "--logdet", 'PowerSeries(roulette="adaptive")'], "cannot be exported"),
    ):
        done = CliRunner().invoke(app, ["export", *words])
        assert done.exit_code == 2 and message in done.stderr, done.output


def test_rows_are_drawn_where_the_data_are_gone(tmp_path: Path) -> None:
    """A conditional run of a table that was deleted is checked at rows that it draws, each class in turn."""
    from iresnet.data import write_columns
    from iresnet.interop.runs import _rows

    rng = np.random.default_rng(0)
    names = np.array(["red", "green"])[rng.integers(0, 2, 80)]
    table = write_columns(tmp_path / "t.csv", {"a": rng.normal(size=80), "b": rng.normal(size=80), "kind": names})
    options = {"data.name": str(table), "data.label": "kind", "model.blocks": 1, "model.hidden": [4], "train.steps": 2}
    train_run(build_config(preset="quick", options=options), tmp_path / "run")
    Path(table).unlink()
    folder = RunFolder.open(tmp_path / "run")
    flow, schema = folder.flow()
    x, context = _rows(folder, flow, schema)
    assert x.shape == (64, 2) and context is not None and context.shape == (64, 2)
    assert context.sum(0).tolist() == [32, 32]


@pytest.mark.slow
def test_the_page_s_program_needs_no_torch(run: Path, tmp_path: Path) -> None:
    """The documentation's lines, in a process in which torch cannot be imported, agree with the run."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = CliRunner().invoke(app, ["export", str(run), "--out", str(tmp_path / "flow.onnx"), "--only", "log_prob,decode"])
    assert done.exit_code == 0, done.output
    assert [line.rsplit(".", 2)[1] for line in done.stderr.splitlines()] == ["log_prob", "decode"]
    shown = re.search(r"```py\n(import numpy.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert shown is not None
    code = "import sys\nsys.modules['torch'] = None\n" + shown[1] + "\nprint(log_prob.tolist())\nprint(x.shape, bound.max())\n"
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(0).normal(size=(5, 2)))
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    first, second = found.stdout.splitlines()[-2:]
    flow, schema = RunFolder.open(run).flow()
    import torch

    z, jacobian = schema.encode(torch.from_numpy(np.load(tmp_path / "rows.npz")["x"]), continuous=True)
    assert isinstance(flow, iresnet.Flow)
    assert np.allclose(json.loads(first), flow.double().log_prob(z).detach() + jacobian, atol=1e-6)
    assert second.startswith("(3, 2) ")
