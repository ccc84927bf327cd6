"""The page holds the table that the file of results gives, and the file is that of the present defaults."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from iresnet.estimators import ResidualFlowOutlierDetector

ROOT = Path(__file__).resolve().parents[2]
CONTENT = json.loads((ROOT / "results" / "adbench.json").read_text(encoding="utf-8"))


def test_the_page_is_what_the_file_says() -> None:
    command = [sys.executable, ROOT / "experiments" / "adbench.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_setting_for_all_tables_and_it_is_the_default() -> None:
    now = {key: value for key, value in ResidualFlowOutlierDetector().get_params().items() if key != "random_state"}
    assert CONTENT["setting"] == json.loads(json.dumps(now))


def test_every_table_has_the_same_seeds_and_methods() -> None:
    tables = CONTENT["tables"].values()
    assert len(tables) == 12 and len({tuple(sorted(table["runs"])) for table in tables}) == 1
    methods = {tuple(run) for table in tables for run in table["runs"].values()}
    assert len(methods) == 1 and len(methods.pop()) == 5
    assert all(0 <= figures["auroc"] <= 1 for table in tables for run in table["runs"].values() for figures in run.values())
