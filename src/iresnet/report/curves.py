"""The page's curves: training loss and validation log-likelihood over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .charts import Line, line_chart, robust_range, running_median, thin
from .folder import Run
from .format import as_float, count, number, plus_minus
from .markup import Html, tag
from .parts import absent, figure, section

__all__ = ["curves"]


def curves(run: Run) -> Html:
    """Training loss and validation log-likelihood over the steps."""
    charts = [chart for chart in (_loss_chart(run.train), _validation_chart(run)) if chart is not None]
    if not charts:
        return section("Training", absent("No metrics have been written yet: they appear with the first logged step."))
    return section("Training", tag("div", charts, class_="side-by-side"))


def _loss_chart(records: Sequence[Mapping[str, Any]]) -> Html | None:
    points = [(float(m["step"]), as_float(m.get("loss"))) for m in records]
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if len(finite) < 2:
        return None
    x, y = thin([x for x, _ in finite], [y for _, y in finite])
    window = len(y) // 25
    lines = [Line(x, y, "raw" if window >= 3 else "main")]
    if window >= 3:
        lines.append(Line(x, running_median(y, window), "main"))
    low, high = robust_range(y, "high")
    above, lost = sum(v > high for v in y), len(points) - len(finite)
    notes = ["Training loss"]
    notes += ["the strong line is its running median"] if window >= 3 else []
    notes += [f"{above} early or wild point{'s' * (above > 1)} above the plot"] if above else []
    notes += [f"{lost} step{'s' * (lost > 1)} not finite and left out"] if lost else []
    first, last = number(finite[0][1]), number(finite[-1][1])
    description = f"Training loss over {len(finite)} logged steps, from {first} to {last}."
    chart = line_chart(lines, description=description, x_label="step", y_label="loss", y_range=(low, high))
    return figure(chart, "; ".join(notes) + ".")


def _validation_chart(run: Run) -> Html | None:
    records = [m for m in run.validation if math.isfinite(as_float(m.get("log_prob")))]
    if not records:
        return None
    x = [float(m["step"]) for m in records]
    y = [float(m["log_prob"]) for m in records]
    # Twice the root of both variances: the usual 95 % band. An unknown error adds nothing, and the caption says so.
    errors = [2 * math.hypot(*(e for e in _errors(m) if math.isfinite(e))) for m in records]
    labels = [f"step {count(m['step'])}: {plus_minus(m['log_prob'], *_errors(m))}" for m in records]
    truth = as_float((run.evaluation or {}).get("true_log_density"))
    reference = ("true log-density of the test points", truth) if math.isfinite(truth) else None
    low, high = robust_range(y, "low")
    below = sum(v < low for v in y)
    low = low if below else min(v - e for v, e in zip(y, errors, strict=True))  # the band too, unless some are cut anyway
    high = max([v + e for v, e in zip(y, errors, strict=True) if v >= low] + [truth] * (reference is not None))
    best, mark = run.best(), None
    notes = ["Validation log-likelihood in nats a row, with a band of two standard errors, finite set and estimator together"]
    if best is not None:
        mark = (float(best["step"]), float(best["log_prob"]), f"best: step {count(best['step'])}")
        notes.append(f"the ring is the best, at step {count(best['step'])}")
    notes += [f"{below} early point{'s' * (below > 1)} below the plot"] if below else []
    notes += ["unknown errors are not in the band"] if any(math.isnan(e) for m in records for e in _errors(m)) else []
    description = f"Validation log-likelihood at {len(y)} steps, from {number(y[0])} to {number(y[-1])} nats a row."
    chart = line_chart(
        [Line(x, y, "held", errors, labels)],
        description=description,
        x_label="step",
        y_label="nats a row",
        y_range=(low, high),
        reference=reference,
        mark=mark,
    )
    return figure(chart, "; ".join(notes) + ".")


def _errors(record: Mapping[str, Any]) -> tuple[float, float]:
    return as_float(record.get("stderr_data")), as_float(record.get("stderr_estimator"))
