"""The tutorial of point clouds runs in its small setting, and says what it found."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "point_clouds.py"


@pytest.mark.slow
def test_from_surfaces_to_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("point_clouds", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    figures = script.main(["--small", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    # Better than points that know nothing of each other, and than a guess among three classes.
    assert figures["nats"] > figures["normal"] + 0.3 and figures["accuracy"] > 0.6
    assert "classified by Bayes' rule: " in said and "nats a point (standard error and bias)" in said
    assert (tmp_path / "points.svg").read_text(encoding="utf-8").count("<use") > 50
