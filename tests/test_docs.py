"""What the documentation shows runs as it stands there, and prints what it says.

The fenced blocks of a page, ``python`` and ``pycon``, are run in their order and share their names. What follows a prompt
(``>>>``) is compared with what is printed; a block without prompts only has to run.
"""

from __future__ import annotations

import doctest
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^```(python|pycon)\n(.*?)^```", re.M | re.S)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run_page(path: Path) -> int:
    """Run a page's blocks; the number of prompts compared. Raises what a block raises, or AssertionError with the difference."""
    names: dict[str, Any] = {"__name__": path.stem}
    text, compared = path.read_text(encoding="utf-8"), 0
    for block in FENCE.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        if ">>> " in block[2]:
            compared += compare(block[2], names, path, line)
        else:
            exec(compile("\n" * line + block[2], str(path), "exec"), names)
    return compared


def compare(source: str, names: dict[str, Any], path: Path, line: int) -> int:
    """Run one block of prompts in ``names``; the number of prompts."""
    test = doctest.DocTestParser().get_doctest(source, names, path.name, str(path), line)
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=OPTIONS)
    failed, tried = runner.run(test, out=report.append, clear_globs=False)
    assert not failed, "".join(report)
    names.update(test.globs)
    return tried


@pytest.fixture
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that saves a file saves it there."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_in_an_empty_folder")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_page_runs(path: Path) -> None:
    if not FENCE.search(path.read_text(encoding="utf-8")):
        pytest.skip("this page shows no Python")
    run_page(path)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32, "a page must not change torch's settings"


def test_numbers_are_compared(tmp_path: Path) -> None:
    """A page with a wrong number does not pass, whatever stands before it; names go from block to block."""
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 2\n```\ntext\n```pycon\n>>> x + 1\n3\n```\n", encoding="utf-8")
    assert run_page(page) == 1
    page.write_text("```python\nx = 2\n```\ntext\n```pycon\n>>> x\n2\n>>> x + 1\n4\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="Expected"):
        run_page(page)


def test_theory_is_compared() -> None:
    """The chapter's numbers stand behind prompts, and each correction leads to the section where its number is."""
    text = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    sections = {anchor(title): body for title, body in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.M | re.S)}
    links = re.findall(r"\]\(#([^)]+)\)", sections["14-corrections"])
    assert len(links) >= 7
    for link in links:
        assert ">>> " in sections[link], f"section {link} has no number that is compared"


def anchor(title: str) -> str:
    """The anchor that Markdown gives a heading."""
    return re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-")


def example(name: str) -> ModuleType:
    """The script examples/<name>.py as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_estimators_are_as_the_page_says() -> None:
    """The orders and sizes that docs/estimators.md draws its advice from, on a flow trained for a moment."""
    script = example("estimators")
    flow, x = script.train(0, 60)
    rows = {row.name: row.numbers for row in script.measure_estimators(flow, x[:300])}
    assert rows["PowerSeries()"]["error made"] < rows["PowerSeries(first_trace=False)"]["error made"] / 3
    for name in ("PowerSeries(probes=2)", "PowerSeries(probes=8)"):
        assert rows[name]["stderr stated"] == pytest.approx(rows[name]["error made"], rel=0.15)
    for name, numbers in rows.items():
        assert not numbers["bias made"] > numbers["bias stated"] + 1e-5, f"{name}: more bias than stated"
    assert rows["Exact()"]["error made"] < 0.1 * min(row["error made"] for name, row in rows.items() if name != "Exact()")
    picard, anderson, _ = (row.numbers for row in script.measure_solvers(flow, x[:300]))
    assert anderson["evaluations"] < picard["evaluations"]


@pytest.mark.slow
def test_estimators_page_has_the_script_s_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The page quotes the tables that the script prints: the same columns and the same rows."""
    script = example("estimators")
    monkeypatch.setattr(script, "DIMENSIONS", (2, 8))
    script.main(["--seeds", "0", "--steps", "20"])
    printed = capsys.readouterr().out
    page = (ROOT / "docs" / "estimators.md").read_text(encoding="utf-8")
    heads = [line for line in printed.splitlines() if line.startswith("| ") and "`" not in line]
    assert len(heads) == 4 and all(head in page for head in heads)
    for name in re.findall(r"^\| (`.+?`) \|", printed, re.M):
        assert f"| {name} |" in page, f"the page lacks {name}"
