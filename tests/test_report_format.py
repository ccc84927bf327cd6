"""Numbers as text: rounded where the error says, no error rounded away, no bound moved to the other side of 1."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from iresnet.report import bound, count, duration, number, plus_minus
from iresnet.report.format import as_float, lower, rounded, upper

NAN = math.nan


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((-0.41234, 0.0043), "-0.4123 ± 0.0043"),
        ((-0.41234, 0.00001, 0.0043), "-0.4123 ± 1e-5 ± 0.0043"),
        ((-0.41234, 0.0, 0.0043), "-0.4123 ± 0 ± 0.0043"),
        ((-0.41234, 0.0), "-0.4123 ± 0"),
        ((-0.41234,), "-0.4123"),
        ((-0.41234, None, 0.004), "-0.4123 ± unknown ± 0.0040"),
        ((-0.41234, NAN), "-0.4123 ± unknown"),
        ((1.0, math.inf), "1 ± inf"),
        ((0.5, 0.0996), "0.50 ± 0.10"),
        ((0.9996, 0.0995), "1.00 ± 0.10"),
        ((123456.0, 1234.0), "123500 ± 1200"),
        ((1234567.0, 8900.0), "(1.2346 ± 0.0089)e6"),
        ((3.21e-7, 4e-9), "(3.210 ± 0.040)e-7"),
        ((-0.0001, 0.02), "0.000 ± 0.020"),
        ((0.0, 0.013), "0.000 ± 0.013"),
        ((0.1, -0.02), "0.100 ± 0.020"),
        ((-0.41, 1e-12), "-0.4100000 ± 1e-12"),
        ((None, 0.1), "unknown ± 0.1"),
        ((-math.inf, 0.1), "-inf ± 0.1"),
    ],
)
def test_plus_minus(arguments: tuple, expected: str) -> None:
    assert plus_minus(*arguments) == expected


sizes = st.floats(1e-9, 1e12)


@given(st.floats(-1e12, 1e12), sizes, sizes)
def test_the_printed_value_is_within_a_fraction_of_its_error_and_no_error_vanishes(
    x: float, e: float, f: float
) -> None:
    assume(max(e, f) > 1e-6 * max(abs(x), 1e-4))  # below that the number of decimals is capped
    text = plus_minus(x, e, f)
    power = float(found.group(1)) if (found := re.search(r"\)e(-?\d+)$", text)) else 0.0
    value, *errors = (float(part) * 10**power for part in re.sub(r"^\(|\)e-?\d+$", "", text).split(" ± "))
    assert abs(value - x) <= 0.0501 * max(e, f)
    for printed, true in zip(errors, (e, f), strict=True):
        assert printed > 0
        assert abs(printed - true) <= 0.501 * true
    assert max(errors) == pytest.approx(max(e, f), rel=0.051)


@given(st.floats(-1e12, 1e12), sizes)
def test_rounded_is_the_value_of_plus_minus(x: float, e: float) -> None:
    first = plus_minus(x, e).partition(" ± ")[0]
    assert rounded(x, e).split("e")[0] == first.lstrip("(").split("e")[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.97, "0.97"),
        (12.1, "12.1"),
        (12345.7, "12346"),
        (1.5e12, "1.5e12"),
        (3.14159e-7, "3.142e-7"),
        (-0.0, "0"),
        (999999.9, "1000000"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (NAN, "unknown"),
        (None, "unknown"),
        ("text", "unknown"),
        (True, "unknown"),
        (10**400, "unknown"),
    ],
)
def test_number(value: object, expected: str) -> None:
    assert number(value) == expected


@given(st.floats(-1e300, 1e300))
def test_number_keeps_four_digits(value: float) -> None:
    assert float(number(value)) == pytest.approx(value, rel=5.1e-4, abs=0)


@given(st.floats(0.9, 1.1))
def test_a_bound_is_printed_on_its_own_side_of_one(value: float) -> None:
    assert (float(bound(value)) < 1) == (value < 1)
    assert value <= float(bound(value)) <= value + 1e-4


@given(st.floats(1e-300, 1e300))
def test_bounds_are_rounded_to_their_own_side(value: float) -> None:
    assert value <= float(upper(value)) <= value * 1.0011
    assert value * 0.9989 <= float(lower(value)) <= value
    assert value <= float(upper(value, 1)) and float(lower(value, 1)) <= value


def test_bounds() -> None:
    assert bound(0.97) == "0.9700"
    assert bound(0.99998) == "0.99998"
    assert bound(1 - 2**-53) == "0.9999999999999999"
    assert bound(1.0) == "1.0000"
    assert bound(None) == "unknown"
    assert bound(2e9) == "2e9"
    assert (bound(0.97004), bound(0.9), bound(1.00001), bound(math.inf)) == ("0.9701", "0.9000", "1.0001", "inf")
    assert (bound(0.97009, below=True), bound(None, below=True)) == ("0.9700", "unknown")
    assert (upper(1.44e-5, 1), upper(math.inf), upper(None), upper(0)) == ("2e-5", "inf", "unknown", "0")
    assert (lower(0.97009), lower(1.99999, 2)) == ("0.97", "1.9")


def test_counts_and_durations() -> None:
    assert (count(20000), count(None), count(7.0), count(math.inf)) == ("20,000", "unknown", "7", "unknown")
    spans = [0.123, 8.2, 59.9, 59.96, 61.2, 120, 3599.6, 7500, 3 * 3600 + 30 * 60, None, -1]
    words = ["0.12 s", "8.2 s", "59.9 s", "1 min", "1 min 1 s", "2 min", "1 h", "2 h 5 min", "3 h 30 min"]
    assert [duration(span) for span in spans] == [*words, "unknown", "unknown"]
    assert math.isnan(as_float({}))
