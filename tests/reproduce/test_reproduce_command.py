"""``iresnet reproduce`` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from iresnet.cli import app
from iresnet.reproduce import NAMES


def test_without_a_name_it_lists_what_there_is() -> None:
    done = CliRunner().invoke(app, ["reproduce"])
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(NAMES)
    assert json.loads(CliRunner().invoke(app, ["reproduce", "--json"]).stdout) == {"names": NAMES}


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    for words, told in ((["table9"], "did you mean table"), (["figure1", "--out", str(tmp_path)], "not an empty folder")):
        done = CliRunner().invoke(app, ["reproduce", *words])
        assert done.exit_code == 2 and done.stdout == ""
        assert told in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_the_list_is_light() -> None:
    """It needs neither torch nor numpy, so that it is there at once."""
    code = "import sys; from iresnet.reproduce import NAMES; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
