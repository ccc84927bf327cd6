"""The tutorials run from end to end in their small setting, and what they say is true of what they return."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(name: str, folder: Path, *more: str) -> dict[str, Any]:
    """The figures of examples/<name>.py, which are also those that it records."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script  # dataclasses look their module up by name
    spec.loader.exec_module(script)
    kept = folder / "results.json"
    kept.write_text('{"another": 1}', encoding="utf-8")
    figures = script.main(["--small", "--out", str(folder), "--record", str(kept), *more])
    recorded = json.loads(kept.read_text(encoding="utf-8"))
    assert recorded["another"] == 1 and {key: recorded[name][key] for key in figures} == figures
    assert (folder / f"{name}.svg").read_text(encoding="utf-8").count("<path") > 5
    return figures


@pytest.fixture
def _without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IRESNET_DATA", raising=False)


@pytest.mark.usefixtures("_without_data")
def test_heartbeats_without_the_data_takes_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = run("heartbeats", tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("no series/ECG5000_anomaly.npz: scikit-learn's digits instead")
    assert figures["auroc flow"] > 0.9 and 0 < figures["auroc flow_stderr"] < 0.02
    assert f"AUROC {figures['auroc flow']:.4f} ± {figures['auroc flow_stderr']:.4f}  flow" in said
    assert abs(figures["false"] - 5) < 4 * max(figures["false_stderr"], 1.8)  # 1.8: the threshold's own error, of 140 rows


@pytest.mark.slow
@pytest.mark.data
def test_heartbeats(tmp_path: Path, data_folder: Path) -> None:
    figures = run("heartbeats", tmp_path)
    assert figures["rows"] == 2665 and figures["abnormal"] == 2081
    assert figures["auroc flow"] > 0.95 and figures["gain"] > 2 * figures["gain_stderr"]


@pytest.mark.slow
@pytest.mark.usefixtures("_without_data")
def test_forecasting_without_the_data_makes_a_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = run("forecasting", tmp_path)
    assert capsys.readouterr().out.startswith("no series/ETTh1.csv: a made series instead")
    assert figures["log_prob gain"] > 2 * figures["log_prob gain_stderr"]
    assert abs(figures["coverage flow"] - 90) < 5


@pytest.mark.slow
@pytest.mark.data
def test_forecasting(tmp_path: Path, data_folder: Path) -> None:
    figures = run("forecasting", tmp_path)
    assert figures["windows"] == 4 * 30 * 24 - 23
    gain = figures["log_prob flow"] - figures["log_prob ridge, Gaussian"]
    assert figures["log_prob gain"] == pytest.approx(gain) and gain > 0
