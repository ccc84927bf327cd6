"""Charts: what is drawn lies in the drawing, wild points do not flatten the rest, and ticks can be told apart."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iresnet.report.charts import Line, _ticks, bar, line_chart, robust_range, running_median, thin
from iresnet.report.markup import Html, join, tag, text

finite = st.floats(-1e9, 1e9)


def points_of(svg: str) -> np.ndarray:
    (listed,) = re.findall(r'<polyline points="([^"]*)"', svg)
    return np.array([pair.split(",") for pair in listed.split()], dtype=float)


def test_a_chart_puts_points_where_their_numbers_are() -> None:
    chart = line_chart(
        [Line([0, 50, 100], [1.0, 3.0, 2.0], "main")],
        description="three points",
        x_label="step",
        y_label="loss",
        y_range=(1.0, 3.0),
    )
    (x0, y0), (x1, y1), (x2, y2) = points_of(chart)
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.1)
    assert y1 < y2 < y0  # up on the page is larger
    assert 'aria-label="three points"' in chart and ">step<" in chart and ">loss<" in chart


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=30))
def test_any_numbers_make_a_chart_of_finite_coordinates(pairs: list[tuple[float, float]]) -> None:
    x, y = [p[0] for p in pairs], [p[1] for p in pairs]
    errors = [abs(v) / 7 for v in y]
    line = Line(x, y, "held", errors, [str(v) for v in y])
    chart = line_chart(
        [line],
        description="",
        x_label="",
        y_label="",
        y_range=robust_range(y, "low"),
        reference=("truth", max(y)),
        mark=(x[0], y[0], "best"),
    )
    assert np.isfinite(points_of(chart)).all()
    assert "nan" not in chart and "inf" not in chart
    assert points_of(chart)[:, 0].min() >= 0 and points_of(chart)[:, 0].max() <= 480


@given(finite, st.floats(1e-6, 1e6), st.integers(3, 6))
def test_ticks_lie_in_the_range_and_differ(low: float, width: float, about: int) -> None:
    width = max(width, 1e-6 * abs(low))
    ticks = _ticks(low, low + width, about)
    assert about - 1 <= len(ticks) <= 3 * about
    assert all(low - 1e-6 * width <= value <= low + width * (1 + 1e-6) for value, _ in ticks)
    if width > 0.01 * abs(low):  # a narrow range far from zero needs more digits than an axis has room for
        assert len({shown for _, shown in ticks}) == len(ticks)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1200, ["0", "500", "1000"]),
        (0, 20000, ["0", "10k", "20k"]),
        (-0.3, 0.1, ["−0.3", "−0.2", "−0.1", "0.0", "0.1"]),
    ],
)
def test_tick_texts(low: float, high: float, expected: list[str]) -> None:
    assert [shown for _, shown in _ticks(low, high, 4)] == expected


def test_wild_points_are_left_out_of_the_range_and_tame_ones_are_not() -> None:
    tame = [1.0 + 0.01 * i for i in range(100)]
    assert robust_range(tame, "high") == (1.0, tame[-1])
    low, high = robust_range([1e6, *tame], "high")
    assert low == 1.0 and high < 2.0
    low, high = robust_range([-1e6, *tame[:20]], "low")
    assert low >= 1.0 and high == tame[19]
    assert robust_range([3.0], "low") == (3.0, 3.0)


def test_thinning_keeps_the_mean_and_the_median_ignores_spikes() -> None:
    y = list(np.sin(np.arange(1200) / 50.0))
    x_thin, y_thin = thin(list(range(1200)), y, 400)
    assert len(y_thin) == 400 and np.mean(y_thin) == pytest.approx(np.mean(y)) and x_thin[0] == 1.0
    assert thin([1, 2], [3, 4]) == ([1.0, 2.0], [3.0, 4.0])
    spiked = [1.0] * 20
    spiked[7] = 1e9
    assert running_median(spiked, 5) == [1.0] * 20
    assert running_median([1.0, 2.0], 2) == [1.5, 1.5]


def test_a_bar_is_as_long_as_its_number_and_turns_red_above_the_limit() -> None:
    widths = [float(w) for w in re.findall(r'width="([\d.]+)"', bar(0.5, 0.97, 1.0))]
    assert widths == [100, 50, 1]
    assert 'class="fill"' in bar(0.5, 0.97, 1.0) and 'class="over"' in bar(0.98, 0.97, 1.0)
    assert "nan" not in bar(math.nan, math.inf, 1.0)


def test_only_markup_made_here_is_not_escaped() -> None:
    assert tag("p", "<b>", Html("<i>x</i>"), None, ["&", 3]) == "<p>&lt;b&gt;<i>x</i>&amp;3</p>"
    assert tag("a", title='"><script>', hidden=True, id=None, open=False) == (
        '<a title="&quot;&gt;&lt;script&gt;" hidden></a>'
    )
    assert tag("img", alt="x") == '<img alt="x">' and tag("rect", width=1) == '<rect width="1"/>'
    assert text("a\x00b\ud800c\n") == "a\ufffdb\ufffdc\n"
    assert join(["<", "b"], Html("<wbr>")) == "&lt;<wbr>b"
    assert isinstance(text(Html("<b>")), Html) and text(Html("<b>")) == "<b>"
