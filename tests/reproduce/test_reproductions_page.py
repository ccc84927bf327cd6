"""The page of reproductions holds what the recorded files say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from iresnet.reproduce import NAMES
from iresnet.reproduce.base import Record

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "results" / "reproduce").glob("*.json"))


def test_the_page_is_what_the_files_say() -> None:
    done = subprocess.run([sys.executable, ROOT / "experiments" / "reproductions.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_records_are_whole(path: Path) -> None:
    found = Record.read(path)
    assert found.name == path.stem in NAMES and found.cells
    for picture in found.about["pictures"]:
        assert (ROOT / "docs" / "assets" / "reproduce" / picture["file"]).is_file()
