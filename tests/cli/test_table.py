"""A table from end to end: mixed columns in the user's own units, conditional and not, scored, sampled, moved about."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from shell import SMALL, answer, refused

from iresnet.data import read_table, write_columns

SUPPORT = ("--support", "mass=positive", "--support", "share=bounded:0:1")
STEPS = ("--steps", 120, "--set", "model.blocks=2", "--set", "model.hidden=[16]", "--set", "train.lr=0.02")
SHIFT = {"north": -2.0, "south": 0.0, "east": 2.0}


def columns(rows: int = 400) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    site = np.array(list(SHIFT))[rng.integers(0, 3, rows)]
    height = rng.normal(size=rows)
    return {
        "mass": np.exp(0.5 * height + 0.3 * rng.normal(size=rows)),
        "share": 1 / (1 + np.exp(-rng.normal(size=rows))),
        "temperature": np.array([SHIFT[name] for name in site]) + 0.5 * rng.normal(size=rows),
        "site": site,
        "height": height,
        "note": np.array(["seen"] * rows),
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table, an unconditional run and one given the site and the height."""
    folder = tmp_path_factory.mktemp("birds")
    write_columns(folder / "birds.csv", columns())
    plain = ("--drop", "note,site,height")
    given = ("--drop", "note", "--label", "site", "--context", "height")
    answer("train", folder / "birds.csv", "--out", folder / "plain", *plain, *SUPPORT, *STEPS)
    answer("train", folder / "birds.csv", "--out", folder / "given", *given, *SUPPORT, *STEPS)
    return folder


def scores(run: Path, data: Path, *more: object) -> np.ndarray:
    out = data.with_suffix(".scores.npz")
    answer("score", run, data, "--out", out, *more)
    return read_table(out).values[:, -2]


def subset(place: Path, name: str, rows: np.ndarray | list[int]) -> Path:
    return write_columns(place / name, {key: column[rows] for key, column in columns().items()})


def test_what_is_learned_and_said(place: Path) -> None:
    plain, given = (answer("evaluate", place / name)["log_prob"]["value"] for name in ("plain", "given"))
    assert given > plain + 0.5, "site and height tell a lot"
    assert plain > answer("evaluate", place / "plain")["baselines"]["full-covariance Gaussian"] - 0.3


@pytest.mark.parametrize("run", ["plain", "given"])
def test_a_rows_score_is_its_own(place: Path, run: str) -> None:
    """In the table's order; the same alone; whatever the order of rows, of columns, and whatever else is in the file."""
    whole = scores(place / run, place / "birds.csv")
    assert whole.shape == (400,) and np.isfinite(whole).all()
    for row in (0, 17, 399):
        alone = scores(place / run, subset(place, "alone.csv", [row]))
        np.testing.assert_allclose(alone, whole[[row]], rtol=0, atol=2e-5)
    backwards = scores(place / run, subset(place, "backwards.parquet", np.arange(400)[::-1]))
    np.testing.assert_allclose(backwards, whole[::-1], rtol=0, atol=2e-5)
    shuffled = dict(reversed(columns().items())) | {"extra": np.full(400, np.nan)}
    found = scores(place / run, write_columns(place / "shuffled.csv", shuffled))
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_allclose(whole, scores(place / run, place / "birds.csv", "--logdet", "Exact()"), rtol=0, atol=1e-5)


def test_rows_left_out_are_numbered(place: Path) -> None:
    whole = scores(place / "plain", place / "birds.csv")
    holed = columns()
    holed["mass"][[2, 9, 399]] = np.nan
    write_columns(place / "holed.csv", holed)
    assert "3 of 400 rows have missing values" in refused("score", place / "plain", place / "holed.csv", "--out", place / "x.csv")
    answer("score", place / "plain", place / "holed.csv", "--out", place / "kept.csv", "--missing", "drop")
    kept = read_table(place / "kept.csv")
    assert kept.names == ("row", "log_prob", "stderr") and len(kept.values) == 397
    assert not {2, 9, 399} & set(kept.values[:, 0].astype(int))
    np.testing.assert_allclose(kept.values[:, 1], whole[kept.values[:, 0].astype(int)], rtol=0, atol=2e-5)


def test_rows_outside_the_support_are_refused_by_name(place: Path) -> None:
    outside = columns(20)
    outside["share"][4] = 1.5
    write_columns(place / "outside.csv", outside)
    sentence = refused("score", place / "plain", place / "outside.csv", "--out", place / "x.csv")
    assert "row 4, column share: 1.5" in sentence and "between 0 and 1" in sentence
    unknown = columns(20) | {"site": np.array(["west"] * 20)}
    write_columns(place / "unknown.csv", unknown)
    assert "'west'" in refused("score", place / "given", place / "unknown.csv", "--out", place / "x.csv")


def test_units_are_the_users(place: Path) -> None:
    """Grams instead of kilograms, and a temperature in other degrees: log p falls by the log of the factors."""
    own = columns()
    grams = own | {"mass": own["mass"] * 1000, "temperature": own["temperature"] * 1.8 + 32}
    write_columns(place / "grams.csv", grams)
    options = ("--drop", "note,site,height", *SUPPORT, *STEPS)
    answer("train", place / "grams.csv", "--out", place / "grams", *options)
    shift = scores(place / "grams", place / "grams.csv") - scores(place / "plain", place / "birds.csv")
    # Standardised, both tables are the same numbers but for the last digit, which training amplifies a little.
    np.testing.assert_allclose(shift, -math.log(1000) - math.log(1.8), rtol=0, atol=2e-2)


@pytest.mark.parametrize("column", ["mass", "share", "temperature"])
def test_a_density_of_one_column_integrates_to_one(place: Path, column: str) -> None:
    """Over a grid in the user's units: positive, bounded, and all numbers."""
    support = [word for pair in zip(SUPPORT[::2], SUPPORT[1::2], strict=True) if pair[1].startswith(column) for word in pair]
    run = place / f"only_{column}"
    answer("train", place / "birds.csv", "--out", run, "--columns", column, *support, *STEPS)
    grid = {
        "mass": np.exp(np.linspace(-14, 9, 6001)),
        "share": 1 / (1 + np.exp(-np.linspace(-16, 16, 6001))),
        "temperature": np.linspace(-25, 25, 6001),
    }[column]
    write_columns(place / "grid.npz", {column: grid})
    density = np.exp(scores(run, place / "grid.npz"))
    assert abs(np.trapezoid(density, grid) - 1) < 1e-3 and density.max() > 0.1


def test_samples_respect_supports_and_levels(place: Path) -> None:
    for run in ("plain", "given"):
        found = answer("sample", place / run, "-n", 500, "--out", place / "new.csv")
        given = ["site", "height"] if run == "given" else []
        assert found["columns"] == ["mass", "share", "temperature", *given]
        table = read_table(place / "new.csv", label="site" if given else None)
        mass, share = table.values[:, 0], table.values[:, 1]
        assert (mass > 0).all() and (share > 0).all() and (share < 1).all() and len(np.unique(mass)) == 500
        if given:
            assert set(table.aside["site"]) == set(SHIFT), "contexts are drawn from the training rows"
        assert scores(place / run, place / "new.csv").mean() > -10, "and can be scored again"


def test_samples_given_a_context(place: Path) -> None:
    for site, shift in SHIFT.items():
        out = place / f"{site}.csv"
        answer("sample", place / "given", "-n", 400, "--out", out, "--context", f"site={site}", "--context", "height=1.0")
        table = read_table(out, label="site")
        assert set(table.aside["site"]) == {site}
        assert abs(table.values[:, 2].mean() - shift) < 0.4
        assert abs(np.log(table.values[:, 0]).mean() - 0.5) < 0.3
    for words, told in ((["site=west", "height=1"], "north"), (["site=north"], "height"), (["site"], "column=value")):
        context = [part for word in words for part in ("--context", word)]
        assert told in refused("sample", place / "given", "-n", 3, "--out", place / "x.csv", *context)
    sentence = refused("sample", place / "given", "-n", 3, "--out", place / "x.csv", "--context", "sites=north")
    assert "did you mean site?" in sentence
    context = ["--context", "site=north", "--context", "height=tall"]
    assert "height must be a number" in refused("sample", place / "given", "--out", place / "x.csv", *context)
    assert not (place / "x.csv").exists()


def test_levels_are_spread_and_put_back(place: Path) -> None:
    """A column of half units: dequantised on request, by name or found, and sampled on its grid."""
    rng = np.random.default_rng(0)
    count = rng.poisson(6, 300) / 2
    write_columns(place / "counts.csv", {"count": count, "size": count + rng.normal(size=300)})
    for option in ("auto", "count=0.5"):
        run = place / f"levels_{option[:4]}"
        answer("train", place / "counts.csv", "--out", run, "--dequantize", option, "--steps", 5, *SMALL)
        answer("sample", run, "-n", 50, "--out", place / "levels.csv")
        drawn = read_table(place / "levels.csv").values
        assert np.array_equal(drawn[:, 0] * 2, np.round(drawn[:, 0] * 2)) and len(np.unique(drawn[:, 1])) == 50
        answer("sample", run, "-n", 50, "--out", place / "levels.csv", "--continuous")
        smooth = read_table(place / "levels.csv").values
        assert len(np.unique(smooth[:, 0])) == 50 and (smooth[:, 0] - drawn[:, 0] < 0.5 + 1e-6).all()


@pytest.mark.parametrize("command", ["score", "sample"])
def test_a_table_that_was_read_is_not_overwritten(place: Path, command: str) -> None:
    before = (place / "birds.csv").read_bytes()
    words = ("score", place / "plain", place / "birds.csv") if command == "score" else ("sample", place / "plain", "-n", 3)
    assert "is the table that was read" in refused(*words, "--out", place / "birds.csv")
    assert (place / "birds.csv").read_bytes() == before


def test_weights_to_start_from_compete_for_the_best(place: Path) -> None:
    """A rate far too large ruins the flow; what is kept is not below what one started from."""
    start = answer("evaluate", place / "plain", "--split", "validation")["log_prob"]["value"]
    wild = (*STEPS[2:6], "--set", "train.lr=0.5", "--steps", 3, "--set", "train.validate_every=1", *SUPPORT)
    answer("train", place / "birds.csv", "--out", place / "again", "--init", place / "plain", "--drop", "note,site,height", *wild)
    found = answer("evaluate", place / "again", "--split", "validation")["log_prob"]["value"]
    assert found >= start - 0.05  # both are dequantised with the same noise; validation rounds in float32
