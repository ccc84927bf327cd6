"""Numbers of cells in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ..report.format import number, plus_minus

__all__ = ["mean_and_spread", "text_table"]


def mean_and_spread(values: Sequence[float | None], digits: int = 3) -> str:
    """The mean with the standard deviation over seeds; the number alone for one seed, a word where some are not finite."""
    finite = [float(value) for value in values if value is not None and math.isfinite(value)]
    if len(finite) < len(values):
        return f"not finite in {len(values) - len(finite)} of {len(values)}"
    if not finite:
        return "–"
    if len(finite) == 1:
        return number(finite[0], digits)
    spread = statistics.stdev(finite)
    return plus_minus(statistics.fmean(finite), spread) if spread else f"{number(finite[0], digits)} ± 0"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], widest: int = 24) -> str:
    """Columns side by side for a terminal; long headers are broken into lines."""
    import textwrap

    heads = [textwrap.wrap(name, widest) or [""] for name in header]
    widths = [max(*(len(line) for line in head), *(len(row[place]) for row in rows), 1) for place, head in enumerate(heads)]
    lines = []
    for level in range(max(map(len, heads))):
        parts = [
            (head[level - (deep - len(head))] if level >= deep - len(head) else "")
            for head in heads
            for deep in [max(map(len, heads))]
        ]
        lines.append(parts)
    shown = ["  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip() for parts in lines]
    shown.append("  ".join("-" * width for width in widths))
    shown += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(shown)
