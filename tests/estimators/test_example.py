"""The tutorial of anomaly detection runs, and says what it found."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "anomaly_detection.py"


def test_from_a_table_to_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("anomaly_detection", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    random = np.random.default_rng(0)
    x = np.concatenate((random.normal(size=(180, 3)), random.uniform(-6, 6, (20, 3))))
    np.savez(tmp_path / "table.npz", X=x, y=np.repeat([0, 1], [180, 20]))
    figures = script.main([str(tmp_path / "table.npz"), "--steps", "5", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert figures["auroc"] > 0.9 and 0 < figures["stderr"] < 0.1 and abs(figures["missed"]) < 0.01
    assert "200 rows of 3 columns, 10.0 % of them anomalies" in said and "anomalies found: " in said
    assert (tmp_path / "roc.svg").read_text(encoding="utf-8").count("<path") > 5
    assert "column" in said.splitlines()[5]
