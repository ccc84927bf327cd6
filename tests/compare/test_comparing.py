"""The command: a row for every system whatever happens, on again after a kill, and a table that says why a cell is empty."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import shaken  # noqa: F401  (skips where the libraries are not installed)
from typer.testing import CliRunner

from iresnet.cli import app
from iresnet.compare import Asked, Domain, compare
from iresnet.compare.catalogue import refusals
from iresnet.compare.command import compare_command
from iresnet.compare.display import markdown, text
from iresnet.compare.table import summarise, table_of
from iresnet.errors import UserError
from iresnet.files import to_json

TINY = ("--minutes", "0.002", "--clock", "cpu", "--params", "400", "--rows", "50", "-n", "300", "--quiet")


def command(*arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """``iresnet ARGUMENTS`` in a process of its own, after the Python ``before``."""
    program = f"{before}\nimport sys\nfrom iresnet.cli import main\nsys.argv = ['iresnet', *sys.argv[1:]]\nmain()"
    line = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=250)


def test_a_comparison_from_beginning_to_end_and_on_again(tmp_path: Path) -> None:
    out = tmp_path / "found"
    asked = Asked({"name": "moons", "n": 300}, ("gaussian", "planar"), 0.002, "cpu", 400, rows=50)
    content, told = compare_command(asked, out, resume=False, quiet=True, command="iresnet compare moons")
    assert "planar" in told and "no formula gives the inverse" in told and "compare.html" in told
    assert json.loads((out / "compare.json").read_text())["rows"] == json.loads(to_json(content["rows"]))
    rows = {row["model"]: row for row in content["rows"]}
    assert set(rows) == {"gaussian", "planar"} and all(row["status"] == "finished" for row in rows.values())
    assert rows["gaussian"]["parameters"] == 5 and rows["gaussian"]["above_truth"]["value"] > 0.3
    assert content["test_rows"] == 50
    assert sorted(path.name for path in (out / "pictures").iterdir()) == ["densities.png", "samples.png"]
    page = (out / "compare.html").read_text()
    assert "nats above the truth" in page and page.count("data:image/png") == 2 and "http://" not in page

    # As after a kill: one system is done, the other is not.
    kept = (out / "systems" / "gaussian-0.json").stat().st_mtime_ns
    (out / "systems" / "planar-0.json").unlink()
    again, _ = compare_command(asked, out, resume=True, quiet=True, command="")
    assert [row["status"] for row in again["rows"]] == ["finished", "finished"]
    assert (out / "systems" / "gaussian-0.json").stat().st_mtime_ns == kept


def test_a_library_that_is_missing_is_told_with_the_command_that_installs_it(tmp_path: Path) -> None:
    done = command("compare", "moons", "--models", "gaussian,maf", *TINY, before="import sys; sys.modules['zuko'] = None")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "this needs zuko, which is not installed: pip install 'iresnet[compare]'" in done.stderr


@pytest.mark.slow
def test_every_system_has_a_row_even_without_its_library(tmp_path: Path) -> None:
    out = tmp_path / "found"
    done = command("compare", "moons", *TINY, "--out", out, before="import sys; sys.modules['zuko'] = None")
    assert done.returncode == 0, done.stderr
    rows = {row["model"]: row for row in json.loads((out / "compare.json").read_text())["rows"]}
    assert len(rows) == 15
    failed = {name for name, row in rows.items() if row["status"] == "failed"}
    assert failed == {"nice", "realnvp", "made", "maf", "iaf", "nsf", "cnf"}
    assert "NICE, RealNVP, MADE, MAF, IAF, NSF, FFJORD failed: this needs zuko, which is not installed" in done.stdout


@pytest.mark.slow
def test_tables_and_images_of_levels_are_told_in_bits(tmp_path: Path) -> None:
    for data, picture in (("digits", "samples.png"), ("digits-images", "samples.png")):
        out = tmp_path / data
        done = command("compare", data, "--models", "gaussian,realnvp,glow,iresnet", *TINY, "--out", out)
        assert done.returncode == 0, done.stderr
        assert "bits/dim" in done.stdout and (out / "pictures" / picture).exists()
        rows = json.loads((out / "compare.json").read_text())["rows"]
        assert all(row["status"] == "finished" for row in rows), [row.get("reason") for row in rows]
        # The command's budget is a few steps, in which couplings first become worse than the Gaussian they start near.
        assert all(0 < row["bits_per_dim"]["value"] < (20 if row["model"] in ("gaussian", "iresnet") else 200) for row in rows)


def test_bad_input_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for asked, told in (
        ({"minutes": 0.0}, "--minutes above 0"),
        ({"seeds": 0}, "--seeds from 1"),
        ({"rows": 1}, "--rows from 2"),
        ({"clock": "sun"}, "--clock is cpu or wall, got 'sun'"),
        ({"minutes": float("inf")}, "finite --minutes"),
        ({"parameters": 0}, "--params must be at least 1, got 0"),
    ):
        with pytest.raises(UserError, match=told):
            Asked({"name": "moons"}, **asked)
    with pytest.raises(UserError, match="unconditional densities"):
        compare(Asked({"name": "moons", "label": "moon"}), tmp_path / "a")
    with pytest.raises(UserError, match="--resume needs --out"):
        compare(Asked({"name": "moons"}), None, resume=True)
    with pytest.raises(UserError, match="it has no compare.json"):
        compare(Asked({"name": "moons"}), tmp_path, resume=True)
    table = tmp_path / "table.csv"
    table.write_text("a,b\n" + "\n".join(f"{k * 0.37 % 1},{k * 0.61 % 1}" for k in range(60)))
    asked = Asked({"name": str(table)}, ("gaussian",), 0.001)
    assert compare(asked, tmp_path / "b").rows[0]["status"] == "finished"
    table.write_text(table.read_text().replace("0.37", "0.38"))
    with pytest.raises(UserError, match="table has changed since .* start again"):
        compare(asked, tmp_path / "b", resume=True)
    for content, told in (("{}", "is not that of a comparison"), ('{"asked": {}, "data": {}}', "does not tell what was asked")):
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / "compare.json").write_text(content)
        with pytest.raises(UserError, match=told):
            compare(asked, tmp_path / "bad", resume=True)
    for more in (["moons"], ["--minutes", "9"], ["--drop", "a"]):
        done = CliRunner().invoke(app, ["compare", "--resume", "--out", str(tmp_path / "b"), *more])
        assert done.exit_code == 2 and "neither DATA nor other options" in done.stderr
    done = CliRunner().invoke(app, ["compare"])
    assert done.exit_code == 2 and "what shall be compared on? Give DATA" in done.stderr
    mistyped = Asked({"name": "moons", "n": 300}, ("gaussian", "glw"))
    with pytest.raises(UserError, match="no system named 'glw'; did you mean glow"):
        compare_command(mistyped, tmp_path / "c", resume=False, quiet=True, command="")
    assert not (tmp_path / "c").exists()  # nothing is left of what was refused
    (tmp_path / "file").write_text("in use")
    with pytest.raises(UserError, match="not an empty folder"):
        compare(Asked({"name": "moons"}, models=("gaussian",)), tmp_path)


def row(model: str, seed: int, value: float, **more: object) -> dict[str, object]:
    """A finished row as :mod:`iresnet.compare.measuring` would write it."""
    figures = {"log_prob": {"value": value, "stderr": 0.1}, "bits_per_dim": None, "above_truth": None}
    times = {"sample_seconds": 0.002, "density_seconds": 0.001, "roundtrip": 1e-6}
    training = {"seconds": 70.0, "processor_seconds": 60.0, "steps": 100, "notes": []}
    words = {"density": "exact", "inverse": "by formula", "grows": "width", "lacks": {}, "parameters": 100}
    head = {"model": model, "title": model.upper(), "library": "x", "seed": seed, "status": "finished", "training": training}
    return head | figures | times | words | more


def test_the_table_is_sorted_and_tells_what_is_missing() -> None:
    failed = {"model": "c", "title": "C", "library": "x", "seed": 0, "status": "failed", "reason": "ValueError in c.py: no"}
    lacks = {"samples": "why not", "roundtrip": "why not"}
    rows = [row("a", 0, -2.0), row("b", 0, -1.0, lacks=lacks, sample_seconds=None, roundtrip=None), failed]
    rows += [row("a", 1, -1.0), row("b", 1, -0.8), failed | {"seed": 1}]
    first, second, third = summarise(rows)
    assert [first["model"], second["model"], third["model"]] == ["b", "a", "c"]
    assert second["log_prob"] == {"value": -1.5, "stderr": 0.1, "spread": pytest.approx(0.5**0.5)}
    data = {"name": "d", "rows": {"train": 5, "validation": 1, "test": 7}}
    asked = {"seeds": 2, "minutes": 1.0, "clock": "cpu"}
    content = {"rows": rows, "asked": asked, "data": data, "test_rows": 7, "parameters": 100}
    table = table_of(content)
    assert table.header[:3] == ("system", "test log p, nats", "over seeds")
    cells = table.rows[0]
    assert cells[table.header.index("1,000 samples")] == "- [1]" == cells[table.header.index("round trip")]
    assert table.notes == ["why not", "C failed: ValueError in c.py: no"]
    alike = table_of(content | {"rows": [*rows, failed | {"model": "d", "title": "D"}]})
    assert alike.notes == ["why not", "C, D failed: ValueError in c.py: no"] and alike.rows[3][0] == "D [2]"
    some = table_of(content | {"rows": [*rows, row("c", 1, -3.0)]}).notes
    assert some == ["why not", "C failed (2 of 3 seeds): ValueError in c.py: no"]
    assert table.rows[2][0] == "C [2]" and len(table.rows[2]) == len(table.header)
    assert "1 min of training each (processor time)" in text(content)
    assert markdown(content).count("| - [1] |") == 2


def test_the_table_says_why_parameters_differ_what_is_slow_and_what_is_left_out() -> None:
    sizes = {"iresnet": (100, "width"), "glow": (260, "width"), "maf": (95, "width"), "iaf": (95, "width")}
    sizes |= {"planar": (97, "depth"), "radial": (60, "depth"), "gaussian": (300, ""), "kde": (None, "")}
    rows = [row(model, 0, -1.0, title=model, parameters=count, grows=grows) for model, (count, grows) in sizes.items()]
    found = table_of({"asked": {"seeds": 1}, "rows": rows, "parameters": 100, "left_out": {"NICE": "it needs two columns"}})
    cells = {line[0]: dict(zip(found.header, line, strict=True)) for line in found.rows}

    def note(model: str, column: str) -> str:
        mark = cells[model][column].partition("[")[2].rstrip("]")
        return found.notes[int(mark) - 1] if mark else ""

    assert [note(model, "parameters") for model in ("iresnet", "maf", "planar")] == ["", "", ""]
    assert note("glow", "parameters") == "glow: no other width comes nearer to 100 parameters"
    assert "more than 128 of them" in note("radial", "parameters") and "kernels keep" in note("kde", "parameters")
    assert "no size to choose" in note("gaussian", "parameters")
    assert "one column after the other" in note("maf", "1,000 samples") and not note("maf", "1,000 densities")
    assert "one column after the other" in note("iaf", "1,000 densities") and not note("iaf", "1,000 samples")
    assert found.notes[-1] == "NICE is left out: it needs two columns"


def test_one_column_has_the_systems_that_can_and_says_which_cannot(tmp_path: Path) -> None:
    table = tmp_path / "one.csv"
    table.write_text("a\n" + "\n".join(f"{k * 0.37 % 1}" for k in range(60)))
    done = CliRunner().invoke(app, ["compare", str(table), "--models", "glow", "--out", str(tmp_path / "a")])
    assert done.exit_code == 2 and "glow is not for these data: couplings need at least two columns" in done.stderr
    assert set(refusals(Domain((1,)))) == {"NICE", "RealNVP", "Glow"}
    assert set(refusals(Domain((1, 28, 28)))) == {"IAF", "Gaussian mixture", "kernel density"} and not refusals(Domain((1, 8, 8)))
