"""Line charts and bars as inline SVG: no script, and coloured by the style sheet, so that they follow light and dark.

A chart is 480 units wide, about half a desktop page and a whole telephone's: its text can be read on both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .format import number
from .markup import Html, join, tag

__all__ = ["Line", "bar", "line_chart", "robust_range", "running_median", "thin"]

_WIDTH, _HEIGHT = 480.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 80.0, 14.0, 14.0, 50.0

_Place = Callable[[float], float]  # from a number to its place in the drawing


@dataclass(frozen=True)
class Line:
    """One curve: points (x, y), optionally the half-width of its error band, and dots with a hover text each."""

    x: Sequence[float]
    y: Sequence[float]
    css: str
    errors: Sequence[float] | None = None
    labels: Sequence[str] | None = None


def line_chart(
    lines: Sequence[Line],
    *,
    description: str,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float],
    reference: tuple[str, float] | None = None,
    mark: tuple[float, float, str] | None = None,
) -> Html:
    """A chart of ``lines``; ``reference`` is a labelled horizontal line, ``mark`` a labelled point (x, y, text)."""
    xs = [x for line in lines for x in line.x]
    x_low, x_high = _widen(min(xs), max(xs), 0.02)
    y_low, y_high = _widen(*y_range, 0.05)

    def at_x(x: float) -> float:
        return round(_LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT), 1)

    def at_y(y: float) -> float:
        share = (y - y_low) / (y_high - y_low)  # far outside values are cut by the browser, but keep the numbers finite
        return round(_HEIGHT - _BOTTOM - min(max(share, -9.0), 9.0) * (_HEIGHT - _TOP - _BOTTOM), 1)

    plot = [_band(line, at_x, at_y) for line in lines if line.errors is not None]
    if reference is not None and y_low <= reference[1] <= y_high:
        height = at_y(reference[1])
        plot.append(tag("line", class_="reference", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=height, y2=height))
        below = height < _TOP + 24  # no room above the line: write the label under it
        plot.append(tag("text", reference[0], class_="note", x=_LEFT + 8, y=height + (17 if below else -6)))
    for line in lines:
        points = " ".join(f"{at_x(x)},{at_y(y)}" for x, y in zip(line.x, line.y, strict=True))
        plot.append(tag("polyline", points=points, class_=f"curve {line.css}"))
        for x, y, label in zip(line.x, line.y, line.labels or [], strict=False):
            plot.append(tag("circle", tag("title", label), cx=at_x(x), cy=at_y(y), r=3.5, class_=f"dot {line.css}"))
    if mark is not None:
        plot.append(tag("circle", tag("title", mark[2]), cx=at_x(mark[0]), cy=at_y(mark[1]), r=6.5, class_="mark"))
    # A nested svg clips what is drawn outside of it; a clipPath would need an id unique in the page.
    inside = f"{_LEFT} {_TOP} {_WIDTH - _LEFT - _RIGHT} {_HEIGHT - _TOP - _BOTTOM}"
    clipped = tag("svg", plot, x=_LEFT, y=_TOP, width=_WIDTH - _LEFT - _RIGHT, height=_HEIGHT - _TOP - _BOTTOM, viewBox=inside)
    axes = [_x_axis(x_low, x_high, at_x, x_label), _y_axis(y_low, y_high, at_y, y_label)]
    return tag("svg", axes, clipped, viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", class_="chart", role="img", aria_label=description)


def bar(measured: float, limit: float, most: float) -> Html:
    """A bar of length ``measured`` with a tick at ``limit``, from 0 to ``most``; for the eye, the table has both."""
    share = [100.0 * min(max(v / most, 0.0), 1.0) if math.isfinite(v) else 0.0 for v in (measured, limit)]
    return tag(
        "svg",
        tag("rect", width=100, height=10, y=3, class_="track"),
        tag("rect", width=round(share[0], 2), height=10, y=3, class_="over" if measured > limit else "fill"),
        tag("rect", x=round(min(share[1], 99.0), 2), width=1, height=16, class_="limit"),
        viewBox="0 0 100 16",
        preserveAspectRatio="none",
        class_="bar",
        aria_hidden="true",
    )


def thin(x: Sequence[float], y: Sequence[float], most: int = 400) -> tuple[list[float], list[float]]:
    """At most ``most`` points: means over runs of neighbours, which keep the level; every n-th would keep the noise."""
    size = max(1, math.ceil(len(x) / most))
    groups = [slice(start, min(start + size, len(x))) for start in range(0, len(x), size)]
    return [sum(x[g]) / len(x[g]) for g in groups], [sum(y[g]) / len(y[g]) for g in groups]


def running_median(y: Sequence[float], window: int) -> list[float]:
    """The median of ``window`` neighbours around every point: smooth, and not pulled up by single spikes."""
    half = window // 2
    return [_median(y[max(0, i - half) : i + half + 1]) for i in range(len(y))]


def robust_range(values: Sequence[float], outliers: str) -> tuple[float, float]:
    """The range to draw: all of it, unless the first wild values ("high" or "low" ones) would flatten the rest."""
    ordered = sorted(values)
    low, high, last = ordered[0], ordered[-1], len(ordered) - 1
    if outliers == "high":
        usual = ordered[math.floor(0.95 * last)]
        return (low, usual) if usual > low and high - low > 4 * (usual - low) else (low, high)
    usual = ordered[math.ceil(0.15 * last)]
    return (usual, high) if high > usual and high - low > 4 * (high - usual) else (low, high)


def _median(values: Sequence[float]) -> float:
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _band(line: Line, at_x: _Place, at_y: _Place) -> Html:
    upper = [(x, y + e) for x, y, e in zip(line.x, line.y, line.errors or [], strict=True)]
    lower = [(x, y - e) for x, y, e in zip(line.x, line.y, line.errors or [], strict=True)]
    points = " ".join(f"{at_x(x)},{at_y(y)}" for x, y in upper + lower[::-1])
    return tag("polygon", points=points, class_=f"band {line.css}")


def _x_axis(low: float, high: float, at_x: _Place, label: str) -> Html:
    base, parts = _HEIGHT - _BOTTOM, []
    for value, shown in _ticks(low, high, 4):
        x = min(at_x(value), _WIDTH - 5.0 * len(shown))  # the last label must not leave the drawing
        parts.append(tag("text", shown, x=x, y=base + 20, text_anchor="middle"))
    parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=base, y2=base, class_="axis"))
    parts.append(tag("text", label, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 8, text_anchor="middle"))
    return join(parts)


def _y_axis(low: float, high: float, at_y: _Place, label: str) -> Html:
    parts = []
    for value, shown in _ticks(low, high, 5):
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=at_y(value), y2=at_y(value), class_="grid"))
        parts.append(tag("text", shown, x=_LEFT - 8, y=at_y(value) + 5, text_anchor="end"))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(tag("text", label, x=14, y=middle, transform=f"rotate(-90 14 {middle:g})", text_anchor="middle"))
    return join(parts)


def _ticks(low: float, high: float, about: int) -> list[tuple[float, str]]:
    """Round positions in [low, high], with their texts: multiples of 1, 2 or 5 times a power of ten."""

    def multiples(step: float) -> list[float]:
        return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]

    power = math.floor(math.log10(high - low))
    steps = [m * 10.0**p for p in (power, power - 1) for m in (5.0, 2.0, 1.0)]
    step = next((s for s in steps if len(multiples(s)) >= about - 1), steps[-1])  # the widest that gives enough of them
    values = multiples(step)
    largest = max(map(abs, values), default=0.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if largest >= 1e4 or decimals > 4:
        return [(v, _short(v, step)) for v in values]
    return [(v, f"{v:.{decimals}f}".replace("-", "\u2212")) for v in values]


def _short(value: float, step: float) -> str:
    """12000 as 12k and the like: five digits are wide on an axis."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if step >= unit / 100 and abs(value) >= unit:
            return f"{value / unit:g}{letter}".replace("-", "\u2212")
    return number(value if abs(value) > step / 2 else 0.0).replace("-", "\u2212")


def _widen(low: float, high: float, share: float) -> tuple[float, float]:
    """A range with some air and never empty, whatever the size of its numbers."""
    span = high - low
    margin = share * span if span > 1e-12 * max(abs(low), abs(high)) else 0.1 * abs(low) or 1.0
    return low - margin, high + margin
