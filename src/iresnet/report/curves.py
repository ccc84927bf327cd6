"""The page's curves: training loss and the figures of validation over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .charts import Line, line_chart, robust_range, running_median, thin
from .folder import Run
from .format import as_float, count, number, plus_minus
from .markup import Html, tag
from .parts import absent, figure, section

__all__ = ["curves"]


def curves(run: Run) -> Html:
    """Training loss and the figures of validation over the steps."""
    drawn = (_loss_chart(run.train), _validation_chart(run, _bits_per_dim(run) or _LOG_PROB), _validation_chart(run, _ERROR))
    charts = [chart for chart in drawn if chart is not None]
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


@dataclass(frozen=True)
class _Figure:
    """What is drawn of the validation records: a key, those of its errors, its name, unit and scale, and which way is better."""

    key: str
    errors: tuple[str, ...]
    name: str
    unit: str
    scale: float = 1.0
    higher: bool = True
    from_zero: bool = False


_LOG_PROB = _Figure("log_prob", ("stderr_data", "stderr_estimator"), "log-likelihood", "nats a row")
_ERROR = _Figure("error", ("stderr_error",), "error rate", "per cent", 100.0, higher=False, from_zero=True)


def _bits_per_dim(run: Run) -> _Figure | None:
    """The log-likelihood of images in the unit that is usual for them."""
    data = run.section("data")
    size = math.prod(data.get("shape") or [0])
    if data.get("kind") != "images" or not size:
        return None
    return _Figure("log_prob", _LOG_PROB.errors, "bits per dimension", "bits/dim", -1 / (size * math.log(2)), higher=False)


def _validation_chart(run: Run, figure_: _Figure) -> Html | None:
    key, scale, unit = figure_.key, figure_.scale, figure_.unit
    records = [m for m in run.validation if math.isfinite(as_float(m.get(key)))]
    if not records:
        return None
    x = [float(m["step"]) for m in records]
    y = [scale * float(m[key]) for m in records]
    each = [tuple(abs(scale) * as_float(m.get(name)) for name in figure_.errors) for m in records]
    # Twice the root of both variances: the usual 95 % band. An unknown error adds nothing, and the caption says so.
    errors = [2 * math.hypot(*(e for e in known if math.isfinite(e))) for known in each]
    labels = [f"step {count(m['step'])}: {plus_minus(v, *e)}" for m, v, e in zip(records, y, each, strict=True)]
    truth = as_float((run.evaluation or {}).get("true_log_density")) if figure_.higher else math.nan
    reference = ("true log-density of the test points", truth) if math.isfinite(truth) else None
    low, high = robust_range(y, "low" if figure_.higher else "high")
    cut = sum(v < low if figure_.higher else v > high for v in y)
    inside = [(v, e) for v, e in zip(y, errors, strict=True) if low <= v <= high]
    if figure_.higher:
        low = low if cut else min(v - e for v, e in inside)  # the band too, unless some are cut anyway
        high = max([v + e for v, e in inside] + [truth] * (reference is not None))
    else:
        low = 0.0 if figure_.from_zero else min(v - e for v, e in inside)
        high = high if cut else max(v + e for v, e in inside)
    best, mark = run.best(), None
    both = "finite set and estimator together" if len(figure_.errors) > 1 else "of the finite set"
    notes = [f"Validation {figure_.name}{'' if figure_.scale < 0 else f' in {unit}'}, with a band of two standard errors, {both}"]
    if best is not None:
        mark = (float(best["step"]), scale * float(best[key]), f"best: step {count(best['step'])}")
        notes.append(f"the ring is the best, at step {count(best['step'])}")
    notes += [f"{cut} early point{'s' * (cut > 1)} {'below' if figure_.higher else 'above'} the plot"] if cut else []
    notes += ["unknown errors are not in the band"] if any(math.isnan(e) for known in each for e in known) else []
    description = f"Validation {figure_.name} at {len(y)} steps, from {number(y[0])} to {number(y[-1])} {unit}."
    chart = line_chart(
        [Line(x, y, "held", errors, labels)],
        description=description,
        x_label="step",
        y_label=unit,
        y_range=(low, high),
        reference=reference,
        mark=mark,
    )
    return figure(chart, "; ".join(notes) + ".")
