"""The table of a comparison: one line for each system over its seeds, and below it why a cell is empty.

The same cells are told in a terminal, on the page and in Markdown.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..report.format import as_float, count, duration, number, plus_minus

__all__ = ["Table", "summarise", "table_of"]

_EMPTY = "-"


@dataclass(frozen=True)
class Table:
    """A header, a row of cells for each system, best first, and notes that cells refer to by number."""

    header: tuple[str, ...]
    rows: list[list[str]]
    notes: list[str]


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One summary a system, best first: means over its finished seeds, ``spread`` their standard deviation, and what failed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["model"], []).append(row)
    told = [_summary(group) for group in found.values()]
    return sorted(told, key=lambda line: -_quality(line))


def _quality(line: dict[str, Any]) -> float:
    """Mean log p, and minus infinity where nothing was finished or what was is no number."""
    value = as_float(line["log_prob"]["value"]) if line["finished"] else math.nan
    return -math.inf if math.isnan(value) else value


def _summary(group: list[dict[str, Any]]) -> dict[str, Any]:
    done = [row for row in group if row["status"] == "finished"]
    reasons = list(dict.fromkeys(row["reason"] for row in group if row["status"] != "finished"))
    first = {key: group[0][key] for key in ("model", "title", "library")}
    line: dict[str, Any] = first | {"seeds": len(group), "finished": len(done), "reasons": reasons}
    if not done:
        return line
    for key in ("log_prob", "bits_per_dim", "above_truth"):
        line[key] = _pooled([row[key] for row in done])
    for key in ("sample_seconds", "density_seconds"):
        line[key] = _mean([row[key] for row in done])
    line["roundtrip"] = max((row["roundtrip"] for row in done if row["roundtrip"] is not None), default=None)
    for key in ("seconds", "processor_seconds", "steps"):
        line[key] = _mean([row["training"][key] for row in done])
    line["parameters"] = _mean([row["parameters"] for row in done])
    line |= {key: done[0][key] for key in ("density", "inverse", "grows")}
    line["lacks"] = {key: reason for row in done for key, reason in row["lacks"].items()}
    line["notes"] = list(dict.fromkeys(note for row in done for note in row["training"]["notes"]))
    return line


def _pooled(figures: list[dict[str, float] | None]) -> dict[str, float | None] | None:
    """Mean over seeds; the error over rows, which all seeds share and so does not shrink; the spread over seeds."""
    known = [item for item in figures if item is not None]
    if not known:
        return None
    values = [as_float(item["value"]) for item in known]
    stderr = statistics.fmean(as_float(item["stderr"]) for item in known)
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"value": statistics.fmean(values), "stderr": stderr, "spread": spread}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def table_of(content: dict[str, Any]) -> Table:
    """The table of ``compare.json``."""
    lines = summarise(content["rows"])
    bits = any(line.get("bits_per_dim") for line in lines)
    truth = any(line.get("above_truth") for line in lines)
    several = content["asked"]["seeds"] > 1
    header = ["system", "bits/dim" if bits else "test log p, nats"]
    header += ["over seeds"] * several + ["nats above the truth"] * truth
    header += ["parameters", "training", "steps", "1,000 samples", "1,000 densities", "round trip", "density", "inverse"]
    notes, failed = _Notes(), defaultdict(list)
    for line in lines:
        if not line["finished"]:
            failed[tuple(line["reasons"])].append(line["title"])
    told = {title: f"{', '.join(titles)} failed: {'; '.join(reasons)}" for reasons, titles in failed.items() for title in titles}
    return Table(tuple(header), [_cells(line, bits, truth, several, notes, told) for line in lines], notes.told)


class _Notes:
    """Sentences below a table, each told once."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def mark(self, sentence: str) -> str:
        if sentence not in self.told:
            self.told.append(sentence)
        return f"[{self.told.index(sentence) + 1}]"


def _cells(line: dict[str, Any], bits: bool, truth: bool, several: bool, notes: _Notes, failed: dict[str, str]) -> list[str]:
    width = 9 + several + truth
    if not line["finished"]:
        return [f"{line['title']} {notes.mark(failed[line['title']])}", *[_EMPTY] * width]
    value = line["bits_per_dim" if bits else "log_prob"]
    marks = [notes.mark(f"{line['title']}: {note}") for note in line["notes"]]
    if line["finished"] < line["seeds"]:
        which = f"{line['seeds'] - line['finished']} of {line['seeds']} seeds"
        marks.append(notes.mark(f"{line['title']} failed ({which}): {'; '.join(line['reasons'])}"))
    cells = [" ".join([line["title"], *marks]), _figure(value)]
    cells += [number(value["spread"], 2) if value["spread"] is not None else _EMPTY] * several
    cells += [_figure(line["above_truth"])] * truth
    lacks = line["lacks"]
    parameters = count(line["parameters"]) if line["parameters"] is not None else f"{_EMPTY} {notes.mark(_KEPT)}"
    if line["grows"] == "depth":
        parameters += f" {notes.mark(_SHALLOW)}"
    cells += [parameters, f"{duration(line['seconds'])} ({duration(line['processor_seconds'])})", count(line["steps"])]
    for key, column, told in (
        ("samples", "sample_seconds", _brief),
        ("densities", "density_seconds", _brief),
        ("roundtrip", "roundtrip", lambda value: number(value, 2)),
    ):
        reason = lacks.get(key)
        cells.append(f"{_EMPTY} {notes.mark(reason)}" if reason else told(line[column]))
    return [*cells, line["density"], line["inverse"]]


_KEPT = "kernels keep the training rows themselves in place of parameters"
_SHALLOW = "planar and radial maps have d + 2 to 2d + 1 parameters each; beyond 128 of them they train slower than they learn"


def _brief(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else f"{number(1000 * seconds, 2)} ms"


def _figure(figure: dict[str, float | None] | None) -> str:
    return _EMPTY if figure is None else plus_minus(figure["value"], figure["stderr"])
