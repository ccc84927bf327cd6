"""The page of estimators holds what the files of results say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "results" / "estimators").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_page_has_each_row(path: Path) -> None:
    command = [sys.executable, ROOT / "experiments" / "variance.py", path.stem, "--table"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    page = (ROOT / "docs" / "estimators.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 3 and not [row for row in rows if row not in page]


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "roulettes"], ids=lambda path: path.stem)
def test_what_is_stated_is_what_was_made(path: Path) -> None:
    """In every run, over all seeds: the bias within its bound, the error within its standard error."""
    for run in json.loads(path.read_text(encoding="utf-8"))["runs"]:
        for name, numbers in run.get("estimators", {}).items():
            assert numbers["bias made"] <= numbers["bias stated"] + 1e-12, name
            if numbers["stderr"]:
                assert numbers["error"] == pytest.approx(numbers["stderr"], rel=0.25), name


def test_the_page_has_each_row_of_inverses() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "experiments" / "inverse_tables.py"], capture_output=True, text=True, check=True
    )
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    page = (ROOT / "docs" / "estimators.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 20 and not [row for row in rows if row not in page]


@pytest.mark.parametrize("path", sorted((ROOT / "results" / "inverses").glob("*.json")), ids=lambda path: path.stem)
def test_no_bound_of_an_inverse_was_violated(path: Path) -> None:
    for run in json.loads(path.read_text(encoding="utf-8"))["runs"]:
        assert all(one["checked"] == 80_000 and one["violated"] == one["refused"] == 0 for one in run["bounds"].values())
