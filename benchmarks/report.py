"""Write docs/benchmarks.md and its pictures from results/benchmarks/*.json: the page holds no number that a file does not.

python -m benchmarks.report            write the page and the pictures
python -m benchmarks.report --check    exit with 1 if the page or a picture is not what the files say
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

from .__main__ import LONG, QUICK
from .harness import RESULTS, Row, told
from .pictures import draw, stale

__all__ = ["HEAD", "WHY", "main", "page"]

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURES = ROOT / "docs" / "assets" / "benchmarks"
HEAD = """# Benchmarks

Other libraries' residual flows beside this one: the same machine, threads, architecture, batch and precision, installed from the
package index in their released versions. `make bench` measures everything here again in some minutes, but for the time to quality
(`make bench-all`), and rewrites this page. Figures are medians with their quartiles; what is compared is measured in turn (ours,
theirs, ours, ...), and a ratio is the median over pairs measured one after the other. The list at the end says how many threads
each had, and how busy the machine was. All of it is of a CPU: nothing here was measured on a GPU.
"""
# Why a benchmark misses a target; shown only while it does.
WHY: dict[str, str] = {
    "train_step": "both sides multiply the same matrices, about 475 products a step, which alone take 15 ms of this step in 43 "
    "columns and 14 in two. Of our eager step 42 % are products, 21 to 23 % passes over hidden values, 4 to 5 % copies, 29 to "
    "33 % views, autograd and Python. Between runs an hour apart its ratio moved between 2.9 and 3.1.",
}


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; the first column to the left, the others to the right."""
    lines = [f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def verdict(row: Row) -> list[str]:
    """The target of a comparison, and whether it is met."""
    if row["target"] is None:
        return ["", ""]
    return [f"{'≥' if row['at_least'] else '≤'} {row['target']:g}", "yes" if row["met"] else "**no**"]


def comparisons(rows: list[Row]) -> str:
    """The table of ratios."""
    cells = [
        [row["case"], f"{row['peer']}, {row['unit']}", told(row["ours"]), told(row["theirs"]), told(row["ratio"]), *verdict(row)]
        for row in rows
    ]
    return table(["case", "against, in", "ours", "theirs", "ratio", "target", "met"], cells)


def others(rows: list[Row]) -> list[str]:
    """A table for each kind of row that is no comparison; the kind is the set of its fields."""
    kinds: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        kinds.setdefault(tuple(row), []).append(row)
    return [table([name.replace("_", " ") for name in kind], [list(map(cell, row.values())) for row in found])
            for kind, found in kinds.items()]  # fmt: skip


def cell(value: Any) -> str:
    """A number with three digits, a spread, a text."""
    if isinstance(value, dict):
        return told(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return str(value) if isinstance(value, int) else told({"median": value, "low": value, "high": value})


def describe(name: str) -> tuple[str, str]:
    """A benchmark's title and what it says of itself, without importing what it needs."""
    text = ast.get_docstring(ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))) or name
    title, _, rest = text.partition("\n\n")
    return title.rstrip("."), rest


def section(content: dict[str, Any]) -> list[str]:
    """Everything of one benchmark."""
    title, text = describe(content["name"])
    against = [row for row in content["rows"] if "ratio" in row]
    parts = [f"## {title}", "", text.replace("``", "`"), ""]
    if content["name"] in ("costs", "time_to_quality"):
        parts += [f"![{title}](assets/benchmarks/{content['name']}.svg)", ""]
    parts += [comparisons(against)] if against else []
    parts += others([row for row in content["rows"] if "ratio" not in row]) if content["name"] != "costs" else []
    return parts


def origin(content: dict[str, Any]) -> str:
    """Command, machine and versions of one file."""
    machine, versions = content["machine"], content["versions"]
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} thread(s)"
    load = machine.get("load_before")
    busy = "" if load is None else f", load {load:.1f} before"
    known = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
    return f"- `{content['remake']}`: {where}{busy}; {known}"


def page(folder: Path = RESULTS) -> str:
    """The whole page."""
    known = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    files = [known[name] for name in (*QUICK, *LONG) if name in known]
    asked = [row for content in files for row in content["rows"] if row.get("target") is not None]
    lines = [[row["case"], row["peer"], row["unit"], told(row["ratio"]), *verdict(row)] for row in asked]
    parts = [HEAD, "## In one table", "", table(["case", "against", "in", "ratio", "target", "met"], lines)]
    for content in files:
        missed = [f"*{row['case']}*" for row in content["rows"] if row.get("met") is False]
        if missed:
            parts += [f"Missed by `{content['name']}`: {'; '.join(missed)}. Why: {WHY.get(content['name'], 'not known.')}", ""]
    for content in files:
        parts += section(content)
    return "\n".join([*parts, "## Commands, machines, versions", "", *map(origin, files)]) + "\n"


def main() -> None:
    if "--check" in sys.argv[1:]:
        fresh = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page() and not stale(RESULTS, PICTURES)
        sys.exit(0 if fresh else "docs/benchmarks.md or its pictures are stale: run python -m benchmarks.report")
    draw(RESULTS, PICTURES)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
