"""The page's first lines: what was trained, on what, and the one number with its errors."""

from __future__ import annotations

import math

from .classes import error_tile
from .folder import Run
from .format import as_float, count, duration, number, plus_minus, upper
from .guarantees import guaranteed
from .markup import Html, tag
from .parts import tile

__all__ = ["headline"]

_TASKS = {"density": "Density estimation", "classify": "Classification", "hybrid": "Density and classification"}


def headline(run: Run) -> Html:
    """What was trained, on what, how long, and the figures worth seeing first."""
    data, model, machine, rows = run.section("data"), run.section("model"), run.section("machine"), run.rows()
    task = _TASKS.get(run.task, run.task)
    kind = "an unconstrained residual network" if model.get("family") == "free" else "an invertible residual network"
    kind = "an ordinary ResNet" if "resnet" in str(model.get("recipe")) else kind
    parts = [f"{task} with {kind}: {model.get('recipe', 'a flow')}"]
    parts += [f" with {count(model['parameters'])} parameters"] if "parameters" in model else []
    parts += [f", trained for {count(run.run['steps'])} steps"] if "steps" in run.run else []
    parts += [f" on {count(rows['train'])} rows"] if "train" in rows else []
    parts += [f" in {duration(run.run['seconds'])}"] if "seconds" in run.run else []
    parts += [f" on {machine['device']}"] if "device" in machine else []
    tiles = _other_tiles(run)
    return tag(
        "header",
        tag("p", "iresnet report", class_="eyebrow"),
        tag("h1", data.get("name", run.name)),
        tag("p", "".join(parts) + ".", class_="lead"),
        _status(run),
        _main_tile(run),
        tag("div", tiles, class_="tiles") if tiles else None,
    )


def _status(run: Run) -> Html | None:
    """A banner for a run that has not ended: its figures are not final, and it can go on."""
    status = run.run.get("status", "finished")
    if status == "finished":
        return None
    reached = max((m["step"] for m in run.train + run.validation), default=0)
    known = {"running": "This run was still going on", "interrupted": "This run was interrupted"}
    words = known.get(str(status), f"The status of this run was \u2018{status}\u2019")
    sentence = f"{words} at step {count(reached)} of {count(run.run.get('steps'))}; its figures are not final. "
    return tag("p", sentence, "Add ", tag("code", "--resume"), " to its command to go on.", class_="banner")


def _main_tile(run: Run) -> Html:
    """The one number: bits per dimension where the data has levels, else nats a row; of validation if need be."""
    evaluation = run.evaluation or {}
    rows = f"{count(evaluation['rows'])} rows" if "rows" in evaluation else "rows"
    for key, title, unit in (
        ("bits_per_dim", "Held-out bits/dim", "bits per dimension, lower is better"),
        ("log_prob", "Held-out log-likelihood", "nats a row, higher is better"),
    ):
        found = run.measured(key)
        if found:
            kind = f"{unit}; standard error from the finite {evaluation.get('split', 'held-out')} set of {rows}"
            doubt = "; see the warnings about the data below before trusting it" if run.section("data").get("warnings") else ""
            return tile(title, _with_errors(found), f"{kind}{_remainder(found)}{doubt}", main=True)
    if (wrong := error_tile(run, main=True)) is not None:
        return wrong
    best = run.best()
    command = tag("code", f"iresnet evaluate {run.name}")
    if run.task == "classify":
        if best is None:
            return tile("Error rate", "not yet known", ["measure it with ", command], main=True)
        shown = plus_minus(100 * best["error"], 100 * as_float(best.get("stderr_error")))
        note = [f"of validation rows, at step {count(best['step'])}; for the test set run ", command]
        return tile("Validation error rate", f"{shown} %", note, main=True)
    if best is None:
        return tile("Held-out log-likelihood", "not yet known", ["measure it with ", command], main=True)
    note = [f"nats a row, at step {count(best['step'])}; for the test set run ", command]
    shown = _with_errors({**best, "value": best["log_prob"]})
    return tile("Best validation log-likelihood", shown, note, main=True)


def _with_errors(found: dict) -> str:
    """The value with the finite set's error, and with the estimator's unless that is exactly zero."""
    estimator = found.get("stderr_estimator")
    errors = [found.get("stderr_data"), *([] if as_float(estimator) == 0 else [estimator])]
    return plus_minus(found.get("value"), *errors)


def _remainder(found: dict) -> str:
    exact, bias = as_float(found.get("stderr_estimator")) == 0, as_float(found.get("bias"))
    if exact and bias == 0:
        return "; the log-determinant is exact"
    second = "" if exact else ", then from the log-determinant's estimator"
    return f"{second}; bias {'unknown' if math.isnan(bias) else f'at most {upper(abs(bias), 2)}'}"


def _other_tiles(run: Run) -> list[Html]:
    both = run.task == "hybrid" and bool(run.measured("log_prob"))
    tiles = [found for found in (error_tile(run) if both else None,) if found is not None]
    above, trip = run.measured("nats_above_truth"), run.measured("roundtrip")
    if above:
        shown = plus_minus(above.get("value"), above.get("stderr"))
        tiles.append(tile("Above the truth", shown, "nats a row worse than the true density; 0 is perfect"))
    gain = run.measured("nats_above_gaussian")
    if gain:
        other = (
            "a full-covariance Gaussian" if "full-covariance Gaussian" in run.baselines() else "a Gaussian that knows no context"
        )
        note = f"nats a row {'better' if as_float(gain.get('value')) >= 0 else 'worse'} than {other}"
        tiles.append(tile("Against a Gaussian", plus_minus(abs(as_float(gain.get("value"))), gain.get("stderr")), note))
    if run.certificate is not None:
        holds = guaranteed(run.certificate)
        note = "each residual branch is certified to contract" if holds else "the certificate below says where and why"
        tiles.append(tile("Inverse", "guaranteed" if holds else "not guaranteed", note))
    if trip:
        tiles.append(tile("Round trip", number(trip.get("max_error"), 2), "largest |decode(encode(x)) \u2212 x| measured"))
    return tiles
