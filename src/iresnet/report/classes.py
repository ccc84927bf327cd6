"""The page's section on classification: how often the class is wrong, and which is taken for which."""

from __future__ import annotations

from typing import Any

from .folder import Run
from .format import as_float, count, plus_minus, rounded
from .markup import Html, tag
from .parts import absent, numeral, section, table, tile, two_lines

__all__ = ["classification", "error_tile"]

_MOST = 10  # mistakes listed


def classification(run: Run) -> Html | None:
    """Error rate and cross-entropy with their errors, and the most frequent mistakes; None where nothing is classified."""
    if run.task == "density":
        return None
    wrong, nats = run.measured("error"), run.measured("cross_entropy")
    if not wrong:
        return section("Classification", absent("Not evaluated yet. Measure it with", f"iresnet evaluate {run.name}"))
    evaluation = run.evaluation or {}
    rows = [
        [two_lines("Error rate", "per cent of rows"), *_cells(wrong, 100)],
        [two_lines("Cross-entropy", "nats a row"), *_cells(nats, 1)],
    ]
    where = f"On the {evaluation.get('split', 'held-out')} set of {count(evaluation.get('rows'))} rows; predicted is "
    explain = (
        "\u2018± set\u2019 is the standard error from finitely many rows, of the error rate that of a binomial count, taken "
        "at one wrong row where there is none: no mistake among N rows is no proof of none. Nothing else is uncertain: a row's "
        "class does not depend on noise."
    )
    listed = table("Classification", ["Figure", "Value", "± set"], rows)
    sentence = tag("p", where, tag("code", evaluation.get("label", "the class")), ".")
    return section("Classification", sentence, listed, _mistakes(evaluation), tag("p", explain, class_="small"))


def _cells(found: dict[str, Any], scale: int) -> list[Html]:
    value, error = scale * as_float(found.get("value")), scale * as_float(found.get("stderr"))
    return [numeral(rounded(value, error)), numeral(plus_minus(error, digits=2))]


def _mistakes(evaluation: dict[str, Any]) -> Html | None:
    """The pairs of classes most often confused."""
    levels, counts = evaluation.get("levels") or [], evaluation.get("confusion") or []
    pairs = [
        (as_float(number), str(levels[true]), str(levels[taken]), sum(map(as_float, line)))
        for true, line in enumerate(counts)
        for taken, number in enumerate(line)
        if true != taken and as_float(number) > 0
    ]
    if not pairs:
        return tag("p", "No row was taken for another class.") if levels else None
    pairs.sort(key=lambda pair: -pair[0])
    rows = [[tag("code", a), tag("code", b), numeral(f"{count(n)} of {count(of)}")] for n, a, b, of in pairs[:_MOST]]
    heading = "Mistakes" if len(pairs) <= _MOST else f"The {_MOST} most frequent of {len(pairs)} kinds of mistake"
    return tag("details", tag("summary", heading), table("Mistakes", ["True class", "Taken for", "Rows"], rows))


def error_tile(run: Run, *, main: bool = False) -> Html | None:
    """The error rate as a tile, None if there is none."""
    found = run.measured("error")
    if not found:
        return None
    evaluation = run.evaluation or {}
    note = f"of the {count(evaluation.get('rows'))} rows of the {evaluation.get('split', 'held-out')} set classified wrongly"
    shown = plus_minus(100 * as_float(found.get("value")), 100 * as_float(found.get("stderr")))
    return tile("Error rate", f"{shown} %", note, main=main)
