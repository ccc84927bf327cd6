"""The tutorial of point clouds runs in its small setting, and says what it found; the page says what was recorded."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("point_clouds", ROOT / "examples" / "point_clouds.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # dataclasses look their module up by name
    spec.loader.exec_module(made)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["surfaces", "strokes"])
def test_from_clouds_to_a_classifier(
    script: ModuleType, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Better than points that know nothing of each other, and than a guess among the classes."""
    monkeypatch.delenv("IRESNET_DATA", raising=False)
    kept = tmp_path / "points.json"
    figures = script.main(
        ["--small", "--out", str(tmp_path), "--record", str(kept), *(["--strokes"] if kind == "strokes" else [])]
    )
    said = capsys.readouterr().out
    found, chance = figures["systems"], {"surfaces": 100 / 3, "strokes": 10}[kind]
    gain = {"surfaces": 0.3, "strokes": 0.1}[kind]
    assert found["flow"]["nats"] > found["one normal a class"]["nats"] + gain and found["flow"]["right"] > 1.8 * chance
    assert json.loads(kept.read_text(encoding="utf-8")) == {kind: figures}
    assert "classified by Bayes' rule: " in said and "nats a point (standard error and bias)" in said
    assert ("no MNIST: scikit-learn's digits instead" in said) == (kind == "strokes")
    name = {"surfaces": "points.svg", "strokes": "strokes.svg"}[kind]
    assert (tmp_path / name).read_text(encoding="utf-8").count("<use") > 50


def test_points_of_strokes_lie_in_the_ink(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """In proportion to it: the mean image of a class, found again from points, is that of its images."""
    from sklearn.datasets import load_digits

    monkeypatch.delenv("IRESNET_DATA", raising=False)
    data, digits = script.strokes(10_000, 300, 400, 0), cast(Any, load_digits())
    assert data.cells == 8 and data.x.shape == (1438, 400, 2) and len(data.new) == 300 and bool((data.x.abs() <= 1).all())
    column, row = ((data.x + 1) * 4).long().clamp(max=7).unbind(-1)
    for digit in (0, 7):
        mine = data.kind == digit
        found = torch.zeros(8, 8).index_put_((7 - row[mine], column[mine]), torch.ones(()), accumulate=True)
        images = torch.from_numpy(digits.images[digits.target == digit])
        wanted = (images / images.sum((1, 2), keepdim=True)).mean(0)
        assert float((found / found.sum() - wanted).abs().sum()) < 0.06  # of 2 at most; a fifth is held out


def test_the_rivals_are_densities(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean image integrates to one over the square, and knows its own class best."""
    monkeypatch.delenv("IRESNET_DATA", raising=False)
    data = script.strokes(10_000, 300, 12, 0)
    grid = torch.cartesian_prod(*[(torch.arange(32) + 0.5) / 16 - 1] * 2)[:, None]
    cells = script.Clouds(data.names, data.x, data.kind, grid, torch.zeros(len(grid), dtype=torch.int64), data.cells)
    assert torch.allclose(script.mean_images(cells).double().exp().mean(0) * 4, torch.ones(10).double(), atol=1e-5)
    assert script.grade(data, script.mean_images(data))["right"] > 40


@pytest.mark.parametrize("kind", ["surfaces", "strokes"])
def test_the_page_says_what_was_recorded(kind: str) -> None:
    recorded = json.loads((ROOT / "results" / "points.json").read_text(encoding="utf-8"))[kind]
    page = (ROOT / "docs" / "points.md").read_text(encoding="utf-8")
    assert f"{recorded['clouds']:,} clouds of {recorded['points']} points" in page and f"{recorded['steps']:,} steps" in page
    for one in recorded["systems"].values():
        for value, error, digits in ((one["nats"], one["nats_stderr"], 3), (one["right"], one["right_stderr"], 1)):
            assert re.search(rf"{re.escape(f'{value:.{digits}f} ± {error:.{digits}f}')}", page), one
