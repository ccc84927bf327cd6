"""Findings that make a density unbounded: each kind is found, named, and not found where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from iresnet.data import read_table
from iresnet.data.diagnose import diagnose, summarise
from iresnet.data.grids import find_grid, off_grid

RNG = np.random.default_rng(0)
N = 2000
X = RNG.normal(size=(N, 4))


def kinds(**columns):
    names = list(columns)
    found = diagnose(names, np.column_stack([columns[name] for name in names]))
    return [(item.kind, item.columns) for item in found]


def test_continuous_columns_have_no_findings():
    assert kinds(a=X[:, 0], b=X[:, 1], c=np.exp(X[:, 2]), d=X[:, 3].astype(np.float32)) == []
    # A dense but not repeated grid is how every measurement is written down.
    assert kinds(a=np.round(X[:, 0], 4), b=np.arange(N) * 1.0) == []


def test_each_kind_is_found_and_named():
    a, b = X[:, 0], X[:, 1]
    assert kinds(a=a, k=np.full(N, 3.0)) == [("constant", ("k",))]
    assert kinds(a=a, copy=a, b=b) == [("duplicate", ("a", "copy"))]
    assert kinds(a=a, b=b, s=2 * a - 3 * b + 1) == [("dependent", ("s", "a", "b"))]
    assert kinds(a=a, scaled=1.8 * a + 32, b=b) == [("dependent", ("scaled", "a"))]
    assert kinds(a=np.where(RNG.random(N) < 0.05, 0.0, a), b=b) == [("atom", ("a",))]
    assert kinds(a=a, level=RNG.integers(0, 7, N)) == [("discrete", ("level",))]
    assert kinds(a=a, few=np.array([0.0, 1.0, np.pi, 10.3, 77.7, 103.3])[RNG.integers(0, 6, N)]) == [
        ("discrete", ("few",))
    ]


def test_every_message_names_its_column_and_what_to_do():
    columns = {
        "level": RNG.integers(0, 7, N) * 0.5,
        "k": np.full(N, 3.0),
        "a": X[:, 0],
        "copy": X[:, 0],
        "sum": X[:, 0] + X[:, 1],
        "b": X[:, 1],
        "zero": np.where(RNG.random(N) < 0.3, 0.0, X[:, 2]),
        "rain": np.where(RNG.random(N) < 0.3, 0.0, np.round(np.exp(3 * X[:, 3]), 1)),
    }
    found = {item.columns: item for item in diagnose(list(columns), np.column_stack(list(columns.values())))}
    assert found["level",].resolution == 0.5
    assert "level holds 7 levels, 0.5 apart" in found["level",].message
    assert "--dequantize level=0.5 or --drop level" in found["level",].message
    assert "k is 3 in every row" in found["k",].message
    assert "copy is a copy of a" in found["a", "copy"].message and "--drop copy" in found["a", "copy"].message
    assert "b is a linear function of a, sum" in found["b", "a", "sum"].message
    assert "zero is exactly 0 in" in found["zero",].message and "leave those rows out" in found["zero",].message
    assert "--dequantize rain=0.1 or --drop rain" in found["rain",].message
    assert all("density is unbounded" in item.message for item in found.values())


def test_dequantised_columns_are_ignored_except_constants():
    values = np.column_stack([RNG.integers(0, 5, N), np.full(N, 1.0), X[:, 0]])
    assert [item.kind for item in diagnose("abc", values, frozenset("a"))] == ["constant"]
    assert [item.kind for item in diagnose("abc", values, frozenset("ab"))] == ["constant"]


def test_dependence_is_found_in_single_precision_and_not_for_mere_correlation():
    a, b = X[:, 0].astype(np.float32).astype(float), X[:, 1].astype(np.float32).astype(float)
    total = (a + b).astype(np.float32)
    assert kinds(a=a, b=b, total=total) == [("dependent", ("total", "a", "b"))]
    assert kinds(a=a, b=b, near=a + 1e-4 * X[:, 2]) == []


def test_more_columns_than_rows_are_dependent_as_a_whole():
    found = diagnose("abcd", X[:3])
    assert [item.kind for item in found] == ["dependent"] and "3 rows in 4 columns" in found[0].message


def test_many_findings_of_a_kind_become_one_sentence():
    values = np.column_stack(
        [RNG.integers(0, 5, (N, 5)), np.array([0.0, 1.0, np.pi, 10.3, 77.7, 99.1])[RNG.integers(0, 6, N)]]
    )
    lines = summarise(diagnose("abcdef", values))
    assert len(lines) == 1 and "6 columns hold levels that repeat (a, b, c, d, e, f)" in lines[0]
    assert "dequantise the 5 on a grid with --dequantize auto" in lines[0]
    assert len(summarise(diagnose("ab", values[:, :2]))) == 2


@pytest.mark.parametrize(
    ("values", "step"),
    [
        (np.arange(20) * 0.01 + 234.0, 0.01),
        (np.array([1.0, 7.0, 13.0, 17.0]), 2.0),
        ((np.arange(0, 50, 3) * 0.2).astype(np.float32), 0.6),
        (np.arange(10) * 0.25 - 3, 0.25),
        (np.arange(30) * (1 / 7), 1 / 7),
        (np.round((np.arange(100) - 44.3) / 13.7, 6), 1 / 13.7),
        (np.array([4.0]), None),
        (RNG.normal(size=300), None),
        (np.array([0.0, 1.0, np.pi]), None),
    ],
)
def test_the_grid_of_a_column(values, step):
    found = find_grid(np.asarray(values, dtype=np.float64))
    assert found == pytest.approx(step, rel=1e-6) if step else found is None
    if found:
        assert off_grid(np.asarray(values, dtype=np.float64), found) is None


def test_off_grid_tells_the_first_row():
    assert off_grid(np.array([5.0, 3.0, 3.5, 4.2]), 1.0) == 2


@pytest.mark.data
def test_real_tables(data_folder):
    power = read_table(data_folder / "tables" / "power_month.csv")
    steps = {item.columns[0]: item.resolution for item in power.diagnose() if item.kind == "discrete"}
    assert steps["Voltage"] == 0.01 and steps["Global_active_power"] == 0.002 and steps["Sub_metering_1"] == 1
    cardio = read_table(data_folder / "adbench" / "6_cardio.npz")
    assert ("x13", "x11", "x12") in [item.columns for item in cardio.diagnose() if item.kind == "dependent"]
    assert read_table(data_folder / "adbench" / "40_vowels.npz").diagnose() == []
