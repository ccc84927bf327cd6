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
    rows = [_cells(line, bits, truth, several, notes, told, content["parameters"]) for line in lines]
    left_out = [f"{title} is left out: {why}" for title, why in content.get("left_out", {}).items()]
    return Table(tuple(header), rows, [*notes.told, *left_out])


class _Notes:
    """Sentences below a table, each told once."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def mark(self, sentence: str) -> str:
        if sentence not in self.told:
            self.told.append(sentence)
        return f"[{self.told.index(sentence) + 1}]"


def _cells(
    line: dict[str, Any], bits: bool, truth: bool, several: bool, notes: _Notes, failed: dict[str, str], wanted: int
) -> list[str]:
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
    parameters = _EMPTY if line["parameters"] is None else count(line["parameters"])
    if why := _why_others(line, wanted):
        parameters += f" {notes.mark(why)}"
    cells += [parameters, f"{duration(line['seconds'])} ({duration(line['processor_seconds'])})", count(line["steps"])]
    for key, column, told in (
        ("samples", "sample_seconds", _brief),
        ("densities", "density_seconds", _brief),
        ("roundtrip", "roundtrip", lambda value: number(value, 2)),
    ):
        reason, slow = lacks.get(key), _BY_COLUMN.get(line["model"]) == key
        cell = f"{_EMPTY} {notes.mark(reason)}" if reason else told(line[column])
        cells.append(f"{cell} {notes.mark(_ONE_AFTER_THE_OTHER)}" if slow else cell)
    return [*cells, line["density"], line["inverse"]]


def _why_others(line: dict[str, Any], wanted: int) -> str | None:
    """Why it has other parameters than were wanted, where it has more than a tenth more or less."""
    if line["parameters"] is None:
        return _KEPT
    if abs(line["parameters"] / wanted - 1) <= 0.1:
        return None
    told = {"depth": _SHALLOW, "components": _CHOSEN, "": _FIXED}
    return told.get(line["grows"], f"{line['title']}: no other width comes nearer to {count(wanted)} parameters")


_BY_COLUMN = {"made": "samples", "maf": "samples", "nsf": "samples", "iaf": "densities"}
_ONE_AFTER_THE_OTHER = "one column after the other, with a pass through the network for each"
_CHOSEN = "the validation rows choose how many components, up to those parameters"
_FIXED = "a mean and a covariance: there is no size to choose"
_KEPT = "kernels keep the training rows themselves in place of parameters"
_SHALLOW = "planar and radial maps have d + 2 to 2d + 1 parameters each; more than 128 of them train slower than they learn"


def _brief(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else f"{number(1000 * seconds, 2)} ms"


def _figure(figure: dict[str, float | None] | None) -> str:
    return _EMPTY if figure is None else plus_minus(figure["value"], figure["stderr"])
