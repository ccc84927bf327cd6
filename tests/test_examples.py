"""The tutorials run from end to end in their small setting, and what they say is true of what they return."""

from __future__ import annotations

import importlib.util
import json
import re
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


@pytest.mark.slow
def test_two_views(tmp_path: Path) -> None:
    """A missing half is better inferred than by the nearest neighbour, and a pair is told from others far above chance, 10 %."""
    figures = run("two_views", tmp_path)
    assert figures["rows"] == 397
    assert figures["found flow"] > 10 + 10 * figures["found flow_stderr"]
    assert figures["rmse flow"] < figures["rmse nearest neighbour"] - 4 * figures["rmse nearest neighbour_stderr"]
    assert figures["energy flow"] < figures["energy kernel regression"]  # a distribution is worth more than its mean


@pytest.mark.slow
def test_conditional_generation(tmp_path: Path) -> None:
    figures = run("conditional_generation", tmp_path)
    assert figures["agreement real"] > 97, "a classifier that cannot read real images grades nothing"
    assert figures["agreement flow"] > 90 and figures["usefulness flow"] > 80


def test_feature_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No pair of images leaves the certified bounds; they say something for two blocks and nothing for eight."""
    figures = run("feature_map", tmp_path)
    outside = [value for name, value in figures.items() if name.endswith(" outside")]
    assert len(outside) == 2 + 1 + 8 + 1 and not any(outside)
    few, many = "2 blocks, c = 0.5, whole", "8 blocks, c = 0.97, whole"
    assert figures[f"{few} below"] == pytest.approx(0.5**2, rel=1e-5) and figures[f"{few} above"] == pytest.approx(
        1.5**2, rel=1e-5
    )
    assert figures[f"{few} below"] <= figures[f"{few} least"] <= figures[f"{few} most"] <= figures[f"{few} above"]
    assert figures[f"{many} below"] < 1e-12 < 0.1 < figures[f"{many} least"]
    assert figures["2 blocks, c = 0.5, off"] < 1e-5
    assert "certified below, above" in capsys.readouterr().out


def test_the_page_says_what_the_scripts_recorded() -> None:
    """Every figure with an error on the page is one of its script's, rounded as shown; and every script has a section."""
    recorded = json.loads((ROOT / "results" / "examples.json").read_text(encoding="utf-8"))
    sections = re.split(r"^## ", (ROOT / "docs" / "tutorials.md").read_text(encoding="utf-8"), flags=re.M)[1:]
    found = {}
    for section in sections:
        named = re.search(r"python examples/(\w+)\.py", section)
        if named is None or named[1] not in recorded:
            continue
        figures = recorded[named[1]]
        pairs = [(value, figures[f"{name}_stderr"]) for name, value in figures.items() if f"{name}_stderr" in figures]
        shown = re.findall(r"(-?\d+\.?\d*) ± (\d+\.?\d*)", section)
        assert shown, f"the section of {named[1]} has no figure"
        for value, error in shown:
            digits = len(value.partition(".")[2])
            known = {(f"{one:.{digits}f}", f"{other:.{digits}f}") for one, other in pairs}
            assert (value, error) in known, f"{value} ± {error} is no figure of {named[1]}"
        found[named[1]] = len(shown)
    assert set(found) == set(recorded)
