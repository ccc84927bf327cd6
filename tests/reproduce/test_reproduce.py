"""Reproductions run to the end, write a page that holds what was measured, and go on where they were interrupted."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from reproduction_sizes import NEEDS, SMALL

from iresnet import UserError
from iresnet.reproduce import NAMES, Outcome, reproduce
from iresnet.reproduce.base import Record
from iresnet.reproduce.catalogue import find
from iresnet.reproduce.page import markdown

FAST = ("figure1", "bias", "regularisation")
over_names = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in NAMES]
)


def made(name: str, folder: Path) -> Outcome:
    for library in NEEDS.get(name, ()):
        pytest.importorskip(library)
    return reproduce(name, SMALL[name], folder / name)


@pytest.fixture(scope="module")
def figure1(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Made once; who changes it takes a copy."""
    return made("figure1", tmp_path_factory.mktemp("once"))


@over_names
def test_it_runs_and_its_page_holds_what_was_measured(name: str, tmp_path: Path, figure1: Outcome) -> None:
    threads = torch.get_num_threads()
    found = figure1 if name == "figure1" else made(name, tmp_path)
    folder = found.record.path
    assert threads == torch.get_num_threads()
    content = json.loads((folder / "reproduction.json").read_text(encoding="utf-8"))
    assert content["name"] == name and content["cells"] == found.record.cells
    page = (folder / "reproduction.html").read_text(encoding="utf-8")
    assert "http://" not in page and "https://" not in page
    for picture in found.pictures:
        with Image.open(folder / picture.file) as image:
            assert min(image.size) > 100
        assert page.count("data:image/png;base64,") == len(found.pictures) > 0
    whole = find(name)
    for table in whole.tables(found.record):
        assert table.rows and all(len(row) == len(table.header) for row in table.rows)
        assert not any(re.search(r"\bnan\b", cell) for row in table.rows for cell in row)
    for sentence in [*whole.findings(found.record), *whole.differs]:
        assert sentence in found.text and sentence.endswith(".")


def test_every_name_has_a_small_size_and_two_settings() -> None:
    assert list(SMALL) == [name for name in SMALL if name in NAMES] and set(SMALL) == set(NAMES)
    for name in NAMES:
        assert list(find(name).settings) == ["tiny", "paper"]


def test_what_was_measured_is_not_measured_again(figure1: Outcome, tmp_path: Path) -> None:
    """A record that lacks a cell, as after Ctrl-C, gets that cell and keeps the others."""
    shutil.copytree(figure1.record.path, tmp_path / "figure1")
    record = Record.read(tmp_path / "figure1")
    del record.cells["invertible/1"]
    record.cells["ordinary/1"]["rms"] = 123.0
    record.write()
    again = made("figure1", tmp_path).record
    assert again.cells["ordinary/1"]["rms"] == 123.0
    assert again.cells["invertible/1"] == figure1.record.cells["invertible/1"]
    assert again.about["seconds"] >= figure1.record.about["seconds"]


def test_figure1_counts_folds(figure1: Outcome) -> None:
    for seed in range(2):
        kept, lost = (figure1.record.cells[f"{kind}/{seed}"] for kind in ("invertible", "ordinary"))
        assert kept["folded"] == kept["ambiguous"] == 0 and kept["guaranteed"] and kept["smallest_slope"] > 0
        assert not lost["guaranteed"] and (lost["folded"] > 0) == (lost["smallest_slope"] < 0)


def test_pages_are_made_from_the_record_alone(figure1: Outcome) -> None:
    read = Record.read(figure1.record.path)
    assert markdown(find("figure1"), read, figure1.pictures) == markdown(find("figure1"), figure1.record, figure1.pictures)


def test_folders_and_settings_that_do_not_fit_are_refused(figure1: Outcome, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"figure1 of other settings \(seeds was \d and is 1\)"):
        reproduce("figure1", SMALL["figure1"], figure1.record.path, seeds=1)
    with pytest.raises(UserError, match="not an empty folder"):
        reproduce("figure1", SMALL["figure1"], figure1.record.path.parent)
    with pytest.raises(UserError, match="did you mean figure1"):
        reproduce("figur1", out=tmp_path / "a")
    with pytest.raises(UserError, match="nothing called 'x'"):
        reproduce("x")
    with pytest.raises(UserError, match="unknown setting 'huge'; there are tiny, paper"):
        reproduce("figure1", "huge", tmp_path / "a")
    with pytest.raises(UserError, match="at least one seed"):
        reproduce("figure1", out=tmp_path / "a", seeds=0)
    (tmp_path / "reproduction.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not the record of a reproduction"):
        Record.read(tmp_path)
    assert not (tmp_path / "a").exists()


def test_a_record_keeps_numbers_that_are_not_finite_out(tmp_path: Path) -> None:
    record = Record.open(tmp_path / "r", "bias", "own", {}, {})
    record.cell("a/0", lambda: {"value": math.inf})
    assert Record.read(tmp_path / "r").cells == {"a/0": {"value": None}}
