"""The example with the package sbi, in its small setting; skipped where sbi is not installed."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("sbi")
pytest.importorskip("zuko")


@pytest.mark.slow
def test_the_example_learns_the_posterior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # sbi leaves its logs where it is
    path = Path(__file__).resolve().parents[2] / "examples" / "sbi_posterior.py"
    spec = importlib.util.spec_from_file_location("example_sbi_posterior", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    kept = tmp_path / "sbi.json"
    script.main(["--simulations", "500", "--epochs", "30", "--record", str(kept), "--beside"])
    printed = capsys.readouterr().out
    found = re.search(r"residual flow +(-?[\d.]+) \+- ([\d.]+)", printed)
    assert found is not None
    assert -0.05 < float(found[1]) < 0.5, "the prior itself is several nats away"
    [row] = json.loads(kept.read_text(encoding="utf-8"))["rows"]
    assert row["estimator"] == "residual flow" and f"{row['kl']:.4f}" == found[1]
