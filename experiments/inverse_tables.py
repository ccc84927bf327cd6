"""Print the tables of docs/estimators.md that results/inverses/*.json hold.

python experiments/inverse_tables.py
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results" / "inverses"
DATA, FAMILIES = ("checkerboard", "digits", "wide"), ("sandwich", "gram")
MEASURES = ("certified", "true_error", "time")
Case = tuple[str, str, str, dict[str, Any]]  # data, family, bound, content of the file


def cases() -> Iterator[Case]:
    """The files that there are, in the order of a table."""
    files = {tuple(path.stem.rsplit("-", 2)): path for path in RESULTS.glob("*.json")}
    for data, family, bound in sorted(files, key=lambda key: (DATA.index(key[0]), key[2], FAMILIES.index(key[1]))):
        yield data, family, bound, json.loads(files[data, family, bound].read_text(encoding="utf-8"))


def mean(content: dict[str, Any], value: Callable[[dict[str, Any]], float]) -> float:
    """Over the seeds."""
    return statistics.fmean(value(run) for run in content["runs"])


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def head(*columns: str, names: int = 1) -> list[str]:
    """A table's first two lines; numbers stand to the right."""
    return ["", line(*columns), f"|{'---|' * names}{'---:|' * (len(columns) - names)}"]


def solvers() -> list[str]:
    """All solvers on the digits at 0.97, in units of the plain iteration."""
    families = {family: content for data, family, bound, content in cases() if (data, bound) == ("digits", "0.97")}
    lines = head("solver", "sandwich: certified", "true", "time", "gram: certified", "true", "time")
    for name in families["sandwich"]["ratios"]:
        found = [families[family]["ratios"][name][measure] for family in FAMILIES for measure in MEASURES]
        lines.append(line(name, *(f"{value:.2f}" for value in found)))
    return lines


def bounds() -> list[str]:
    """Every case: evaluations of the plain iteration, and how many times fewer the others take."""
    lines = head(
        "data, c", "family", "seeds", "Picard", "Anderson: certified", "true", "time", "NewtonKrylov: certified", "time", names=2
    )
    for data, family, bound, content in cases():
        plain = mean(content, lambda run: run["certified, float64"]["Picard"]["evaluations"])
        anderson, newton = content["ratios"]["Anderson"], content["ratios"]["NewtonKrylov"]
        found = [*(anderson[measure] for measure in MEASURES), newton["certified"], newton["time"]]
        lines.append(
            line(f"{data}, {bound}", family, str(len(content["runs"])), f"{plain:.0f}", *(f"{value:.2f}" for value in found))
        )
    return lines


def claim() -> list[str]:
    """What plain iterations leave."""
    lines = head(
        "data, c", "family", "mean error after 5", "10", "20", "worst after 10", "steps to 1e-2", "1e-4", "1e-6", names=2
    )
    for data, family, bound, content in cases():
        means = [mean(content, lambda run, count=count: run["claim"]["mean_error_after"][count]) for count in ("5", "10", "20")]
        worst = max(run["claim"]["worst_error_after"]["10"] for run in content["runs"])
        steps = [
            mean(content, lambda run, goal=goal: run["claim"]["mean_steps_to"][goal]) for goal in ("0.01", "0.0001", "1e-06")
        ]
        told = [f"{value:.1g}" for value in (*means, worst)] + [f"{value:.0f}" for value in steps]
        lines.append(line(f"{data}, {bound}", family, *told))
    return lines


def soundness() -> list[str]:
    """Rows whose error was held against its bound."""
    lines = head("data", "rows", "bounds violated", "refused", "largest share of a bound, float64", "float32")
    for data in DATA:
        found = [told for name, _, _, content in cases() if name == data for run in content["runs"] for told in [run["bounds"]]]
        if not found:
            continue
        every = [one for told in found for one in told.values()]
        share = [
            max(one["worst_share"] for told in found for name, one in told.items() if name.endswith(kind))
            for kind in ("64", "32")
        ]
        count, violated, refused = (sum(one[key] for one in every) for key in ("checked", "violated", "refused"))
        lines.append(
            line(data, f"{count:,}", str(violated), str(refused), *(f"{math.floor(1e5 * value) / 1e5:.5f}" for value in share))
        )
    return lines


if __name__ == "__main__":
    print("\n".join([*solvers(), *bounds(), *claim(), *soundness()]))
