"""The pictures of docs/benchmarks.md: SVG on a transparent ground, in colours that can be read on white and on black.

Each carries the digest of the files that it was drawn from, so that a stale one is found without drawing it again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iresnet.files import write_atomic

__all__ = ["draw", "stale"]

_INK, _GRID = "#808080", "#80808040"
_COLOURS = ("#2a8fd8", "#e0772b", "#2fa36b", "#b565c9")
_LABELS = {"columns": "columns", "width": "hidden width", "blocks": "blocks", "batch": "rows", "lipschitz": "bound c of a branch"}


def _sources(results: Path) -> dict[str, list[Path]]:
    """The files that each picture is drawn from, where they exist."""
    quality = [results / "time_to_quality.json", *sorted((results / "curves").glob("*.json"))]
    known = {"costs": [results / "costs.json"], "time_to_quality": quality}
    return {name: files for name, files in known.items() if all(path.exists() for path in files)}


def _digest(files: list[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def stale(results: Path, folder: Path) -> list[str]:
    """Names of pictures that are missing or not drawn from the present files."""
    found = []
    for name, files in _sources(results).items():
        path = folder / f"{name}.svg"
        if not path.exists() or _digest(files) not in path.read_text(encoding="utf-8"):
            found.append(name)
    return found


def draw(results: Path, folder: Path) -> None:
    """Draw what is stale."""
    import matplotlib

    matplotlib.use("svg")
    style: dict[Any, Any] = {f"{part}.color": _INK for part in ("text", "xtick", "ytick")}
    style |= {"axes.labelcolor": _INK, "axes.edgecolor": _INK, "axes.titlecolor": _INK, "grid.color": _GRID}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "legend.frameon": False}
    style |= {"svg.fonttype": "none", "svg.hashsalt": "iresnet", "font.size": 11, "lines.linewidth": 2}
    pictures: dict[str, Callable[[Path], Any]] = {"costs": _costs, "time_to_quality": _quality}
    for name in stale(results, folder):
        with matplotlib.rc_context(style):
            figure = pictures[name](results)
            content = io.StringIO()
            digest = _digest(_sources(results)[name])
            figure.savefig(
                content, format="svg", transparent=True, metadata={"Date": None, "Description": f"drawn from {digest}"}
            )
        write_atomic(folder / f"{name}.svg", content.getvalue())


def _load(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def _costs(results: Path) -> Any:
    """Milliseconds of each quantity along each axis, with quartiles as bands."""
    from matplotlib.figure import Figure

    rows = _load(results / "costs.json")
    axes, quantities = (list(dict.fromkeys(row[key] for row in rows)) for key in ("axis", "quantity"))
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    panels = figure.subplots(2, 3, sharey=True).flat
    for axis, panel in zip(axes, panels, strict=False):
        for quantity, colour in zip(quantities, _COLOURS, strict=False):
            points = [row for row in rows if row["axis"] == axis and row["quantity"] == quantity]
            x = [_place(axis, point["value"]) for point in points]
            low, middle, high = ([point["ms"][key] for point in points] for key in ("low", "median", "high"))
            panel.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
            panel.plot(x, middle, color=colour, marker="o", markersize=4, label=quantity)
        panel.set_yscale("log")
        panel.set_xlabel(_LABELS.get(axis, axis))
        panel.set_xscale("log")
        values = sorted({row["value"] for row in rows if row["axis"] == axis})
        panel.set_xticks([_place(axis, value) for value in values], [f"{value:g}" for value in values])
        panel.minorticks_off()
    for panel in figure.axes[::3]:
        panel.set_ylabel("ms a batch")
    rest = figure.axes[len(axes)]
    rest.axis("off")
    rest.legend(*figure.axes[0].get_legend_handles_labels(), loc="center left")
    return figure


def _place(axis: str, value: float) -> float:
    """Where a value stands on its logarithmic axis; what a bound c < 1 costs grows with 1 / (1 - c)."""
    return 1 / (1 - value) if axis == "lipschitz" else value


def _quality(results: Path) -> Any:
    """Nats above the truth over seconds: the peer's curve, scaled to the time of its steps, and where ours ends."""
    from matplotlib.figure import Figure

    rows = _load(results / "time_to_quality.json")
    names = [row["nats_above_the_truth"] for row in rows if "nats_above_the_truth" in row]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for name, panel in zip(names, figure.subplots(1, len(names), squeeze=False).flat, strict=True):
        timed = next(row for row in rows if "ratio" in row and row["case"].startswith(name))
        reached = next(row for row in rows if row.get("nats_above_the_truth") == name)
        recorded = json.loads((results / "curves" / f"normflows-{name}.json").read_text(encoding="utf-8"))
        points = recorded["rows"][1:]
        a_step = timed["theirs"]["median"] / points[-1]["steps"]
        above = [recorded["true_log_prob"] - point["log_prob"] for point in points]
        panel.plot([point["steps"] * a_step for point in points], above, color=_COLOURS[1], marker="o", markersize=4)
        panel.annotate("normflows", (points[0]["steps"] * a_step, above[0]), (8, 0), textcoords="offset points")
        ours = timed["ours"]["median"]
        panel.plot([ours, ours], [reached["ours_best"], reached["ours_worst"]], color=_COLOURS[0], marker="o", markersize=6)
        panel.annotate("iresnet, best and worst seed", (ours, reached["ours_worst"]), (8, 6), textcoords="offset points")
        panel.set(xscale="log", title=name, xlabel="seconds of training", ylabel="nats above the truth")
        panel.set_ylim(bottom=0)
    return figure
