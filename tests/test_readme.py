"""What the README shows runs as it stands there, and what it links to exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
def test_python_example(tmp_path: Path) -> None:
    (example,) = blocks("python")
    shown = run([sys.executable, "-c", example], tmp_path)
    assert "0.97" in shown, "the certificate names the bound of its blocks"
    assert (tmp_path / "moons-flow").is_dir()


@pytest.mark.slow
def test_command_line_example(tmp_path: Path) -> None:
    """Every line in its order, on a table that lies there; three minutes of training become three seconds."""
    mix = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 2.0]])
    rows = np.random.default_rng(0).normal(size=(600, 3)) @ mix
    np.savetxt(tmp_path / "measurements.csv", rows, delimiter=",", header="a,b,c", comments="", fmt="%.17g")
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("iresnet ")]
    images = [line for line in lines if re.match("iresnet train (mnist|digits)", line)]
    lines = [line for line in lines if line not in images]
    assert len(images) == 3
    short = " --steps 2 --set data.n=300 --set evaluate.rows=16"
    for line in images:
        if "mnist" not in line or os.environ.get("IRESNET_DATA"):
            words = shlex.split(line.partition("#")[0] + (short if "mnist" in line else " --steps 2"))
            run([sys.executable, "-m", *words], tmp_path)
    assert [line.split()[1] for line in lines] == ["train", "evaluate", "score", "sample", "reconstruct", "certify"]
    for line in lines:
        words = shlex.split(line.replace("--minutes 3", "--minutes 0.05"))
        run([sys.executable, "-m", *words], tmp_path)
    assert (tmp_path / "runs" / "first" / "report.html").is_file()
    assert len((tmp_path / "samples.csv").read_text(encoding="utf-8").splitlines()) == 1001
    assert (tmp_path / "scores.parquet").stat().st_size > 0
