"""The page of results holds what the files of results say, and each file what its own runs say."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from iresnet.testing import jacobian, randomized

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "results" / "quality").glob("*.json"))


@pytest.mark.parametrize("made_by", ["table.py", "contractions.py", "cost_model.py", "comparisons.py"])
def test_the_page_is_what_the_files_say(made_by: str) -> None:
    done = subprocess.run([sys.executable, ROOT / "experiments" / made_by, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_summary_is_that_of_at_least_three_seeds(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    values = [run["log_prob"]["value"] for run in content["runs"]]
    assert len({run["seed"] for run in content["runs"]}) == len(values) >= 3
    assert content["summary"]["log_prob"]["mean"] == pytest.approx(sum(values) / len(values))
    assert all(run["roundtrip"]["max_error"] < 1e-5 for run in content["runs"])


IMAGES = sorted((ROOT / "results" / "images").glob("table1-*.json"))


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_the_table_of_coefficients_is_what_its_file_says(path: Path) -> None:
    """On the page, and in the file: means are means, and what is guaranteed was found again."""
    _, name, *per = path.stem.split("-", 2)
    command = [sys.executable, ROOT / "experiments" / "table1.py", name, "--check", *(["--per", "layer"] if per else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for cell, content in json.loads(path.read_text(encoding="utf-8"))["cells"].items():
        wrong = [run["error"]["value"] for run in content["runs"]]
        assert content["summary"]["error"]["mean"] == pytest.approx(sum(wrong) / len(wrong)), cell
        assert content["summary"]["guaranteed"] == (cell not in ("free", "resnet"))
        assert not content["summary"]["guaranteed"] or content["summary"]["lost"] == 0


def test_rows_of_killed_processes_are_there_once_and_equal() -> None:
    """Of millions of rows: one process was killed, and nothing was lost, repeated or changed, in memory that does not grow."""
    content = json.loads((ROOT / "results" / "distributed.json").read_text(encoding="utf-8"))
    steps, rows = content["steps"], content["data"]["rows"]
    killed, again = steps["two processes, one killed"], steps["two processes, again"]
    assert killed["returncode"] != 0 and 0 < killed["parts_there"] == again["told"]["parts_before"] < again["told"]["parts"]
    compared = content["compared"]
    assert compared["rows"] == compared["once"] == rows and compared["missing"] == 0 and compared["in_order"]
    assert compared["largest_difference"] == {"log_prob": 0.0, "stderr": 0.0}
    assert again["told"]["peak_memory_mib"] < steps["one process, one file"]["told"]["peak_memory_mib"] / 2


def test_the_table_of_attention_is_what_its_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seeds of each kind, parameters within 3 % of each other, the same time for all; and the page has the table."""
    monkeypatch.syspath_prepend(ROOT / "experiments")
    script = importlib.import_module("attention")
    content = json.loads((ROOT / "results" / "attention.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "points.md").read_text(encoding="utf-8")
    assert script.table(content["rows"]) in page
    kinds = {(row["kind"], row["whitened"]) for row in content["rows"]}
    assert kinds == {(kind, False) for kind in script.KINDS} | {(kind, True) for kind in script.WHITENED}
    for kind in kinds:
        assert len({row["seed"] for row in content["rows"] if (row["kind"], row["whitened"]) == kind}) >= 3
    sizes = [row["parameters"] for row in content["rows"]]
    assert max(sizes) < 1.06 * min(sizes)
    assert all(abs(row["seconds"] - content["budget_seconds"]) < 2 for row in content["rows"])


def test_a_flow_of_tokens_is_a_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared is a bijection of 64 pixels with the log-determinant of its Jacobian, whichever its blocks."""
    monkeypatch.syspath_prepend(ROOT / "experiments")
    script = importlib.import_module("attention")
    monkeypatch.setattr(script, "BLOCKS", 1)
    for kind in script.KINDS:
        flow = script.build(kind, 6, whiten=False).double().eval()
        randomized(flow.bijection, 0.3)
        x = torch.randn(3, 64).double()
        z = flow.encode(x).detach()
        assert float((flow.decode(z).detach() - x).abs().max()) < 1e-6
        truth = torch.linalg.slogdet(jacobian(flow.bind().encode, x[:1])).logabsdet
        torch.testing.assert_close(flow.log_prob(x[:1]) - flow.base.log_prob(z[:1]), truth)
