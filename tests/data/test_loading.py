"""The one entry: toy sets, digits, and tables by path or name, ready for a task and described."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from iresnet.data import BUILT_IN, load, load_rows, toy, write_columns
from iresnet.data.images import NAMES
from iresnet.errors import UserError


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        "mass": np.exp(rng.normal(size=200)),
        "count": rng.integers(0, 9, 200),
        "share": rng.uniform(0.01, 0.99, 200),
        "site": np.array(["north", "south", "east"])[rng.integers(0, 3, 200)],
        "month": rng.integers(1, 13, 200),
    }
    return write_columns(tmp_path / "birds.csv", columns)


OPTIONS = {"label": "site", "context": ["month:number"], "support": {"mass": "positive", "share": "bounded:0:1"}}


def test_a_table_with_everything(table):
    data = load(table, seed=0, dequantize="auto", **OPTIONS)
    assert (data.name, data.kind, data.features) == ("birds", "table", 3)
    assert data.schema.names == ("mass", "count", "share") and data.schema.dequantized == ("count",)
    assert [column.width for column in data.schema.context] == [3, 1] and data.levels == ("east", "north", "south")
    assert (len(data.train), len(data.validation), len(data.test)) == (160, 20, 20)
    whole = load_rows(table, data.schema)
    for part in (data.train, data.validation, data.test):
        assert torch.equal(part.values, whole.values[part.rows]) and part.values.dtype == torch.float64
        assert part.context is not None and whole.context is not None and part.labels is not None
        assert torch.equal(part.context, whole.context[part.rows])
        assert torch.equal(part.context[:, :3].argmax(1), part.labels)
    assert sorted(torch.cat([data.train.rows, data.validation.rows, data.test.rows]).tolist()) == list(range(200))
    z, jacobian = data.schema.encode(data.train.values, torch.rand_like(data.train.values))
    assert float(z.mean(0).abs().max()) < 0.1 and torch.isfinite(jacobian).all()
    assert data.warnings == []
    text = data.describe()
    for part in ("birds: 3 columns; 160 training", "mass is above 0", "share is strictly between 0 and 1"):
        assert part in text
    assert "dequantised: count (1)" in text and "conditional on site (3 levels)" in text
    assert "conditional on month (a number)" in text


def test_levels_are_only_warned_about_unless_told_otherwise(table):
    data = load(table, seed=0, drop=["site"], columns=["count", "mass"])
    assert data.schema.dequantized == () and data.schema.names == ("count", "mass")
    assert len(data.warnings) == 1 and "--dequantize count=1" in data.warnings[0]
    assert data.train.context is None and data.train.labels is None and data.log_density is None


def test_a_seed_fixes_the_split_and_n_takes_some_rows(table):
    first, same, other = (load(table, seed=seed, drop=["site"]) for seed in (1, 1, 2))
    assert torch.equal(first.test.rows, same.test.rows) and not torch.equal(first.test.rows, other.test.rows)
    some = load(table, seed=1, drop=["site"], n=50)
    assert len(some.train) + len(some.validation) + len(some.test) == 50
    assert torch.equal(some.test.values, load_rows(table, some.schema).values[some.test.rows])


def test_rows_to_score_follow_the_schema_and_may_be_few(table, tmp_path):
    data = load(table, seed=0, dequantize="auto", **OPTIONS)
    one = write_columns(
        tmp_path / "one.npz",
        {"month": [3], "site": ["south"], "extra": ["text"], "share": [0.5], "count": [4], "mass": [2.0]},
    )
    rows = load_rows(one, data.schema)
    assert rows.values.tolist() == [[2.0, 4.0, 0.5]] and rows.rows.tolist() == [0]
    assert rows.context is not None and rows.context[0, :3].tolist() == [0, 0, 1]
    lacking = write_columns(tmp_path / "lacking.csv", {"mass": [1.0], "share": [0.1]})
    with pytest.raises(
        UserError, match="has no column count, site, month, which the model was trained on; it has mass"
    ):
        load_rows(lacking, data.schema)
    strange = {"month": [3], "site": ["west"], "share": [0.5], "count": [4], "mass": [2.0]}
    with pytest.raises(
        UserError, match="site is 'west', which the model was not trained on; it knows east, north, south"
    ):
        load_rows(write_columns(tmp_path / "strange.csv", strange), data.schema)


@pytest.mark.parametrize("name", toy.NAMES)
def test_toy_sets_come_with_their_truth(name):
    data = load(name, seed=0, n=300)
    assert (data.kind, data.features, len(data.train), len(data.validation)) == ("toy", 2, 300, 5000)
    assert data.log_density is not None and data.train.context is None
    torch.testing.assert_close(data.log_density(data.train.values), toy.log_density(name, data.train.values))
    z, jacobian = data.schema.encode(data.train.values)
    assert torch.equal(z, data.train.values) and torch.equal(jacobian, torch.zeros(300, dtype=torch.float64))
    other = load(name, seed=1, n=300)
    assert not torch.equal(other.train.values, data.train.values)
    assert not torch.equal(other.validation.values, data.validation.values)
    assert torch.equal(other.test.values, data.test.values), "figures of different seeds must compare"
    assert not torch.equal(data.train.values, data.validation.values[:300])
    assert "the true log-density is known" in data.describe()


def test_a_toy_set_given_its_label_knows_the_conditional_density():
    data = load("moons", seed=0, n=500, label="moon")
    assert data.schema.context_width == 2 and data.levels == ("0", "1") and data.log_density is not None
    part = data.train
    assert part.labels is not None and part.context is not None
    truth = toy.log_density("moons", part.values, part.labels)
    torch.testing.assert_close(data.log_density(part.values, part.context), truth)
    gain = float((truth - data.log_density(part.values)).mean())
    assert 0.5 < gain <= math.log(2) + 1e-9
    roll = load("swiss_roll", seed=0, n=500, context=["angle"])
    assert roll.train.context is not None and roll.log_density is not None and roll.train.labels is None
    assert abs(float(roll.train.context.mean())) < 1e-9
    given = roll.log_density(roll.train.values, roll.train.context)
    assert float((given - roll.log_density(roll.train.values)).mean()) > 1


def test_toy_rows_to_score_are_the_test_points():
    data = load("moons", seed=5, n=50, label="moon")
    rows = load_rows("moons", data.schema)
    assert torch.equal(rows.values, data.test.values) and rows.context is not None and data.test.context is not None
    assert torch.equal(rows.context, data.test.context)


def test_digits_are_dequantised_and_counted_in_bits():
    data = load("digits", seed=0)
    assert (data.kind, data.features, data.schema.discrete) == ("digits", 64, True)
    assert len(data.train) + len(data.validation) + len(data.test) == 1797
    assert data.schema.names[:2] == ("p00", "p01") and data.schema.names[-1] == "p77"
    assert data.warnings == [] and data.train.context is None and data.train.labels is not None
    assert sorted(set(data.train.labels.tolist())) == list(range(10)) and data.levels == tuple("0123456789")
    assert float(data.train.values.max()) == 16
    z, jacobian = data.schema.encode(data.train.values, torch.rand_like(data.train.values))
    assert torch.equal(data.schema.decode(z), data.train.values)
    uniform = torch.full((1,), -64 * math.log(17))
    assert float(data.schema.bits_per_dim(uniform)) == pytest.approx(math.log2(17))
    conditional = load("digits", seed=0, label="label")
    assert conditional.schema.context_width == 10 and conditional.train.labels is not None
    assert conditional.train.context is not None
    assert torch.equal(conditional.train.context.argmax(1), conditional.train.labels)
    assert torch.equal(conditional.train.labels, data.train.labels)
    assert len(load_rows("digits", conditional.schema)) == 1797
    assert len(load("digits", seed=0, dequantize="none").warnings) > 0


def test_a_name_is_looked_up_in_the_folder_of_data(table, tmp_path, monkeypatch):
    monkeypatch.setenv("IRESNET_DATA", str(tmp_path))
    (tmp_path / "sub").mkdir()
    write_columns(tmp_path / "sub" / "fish.parquet", {"a": np.random.default_rng(0).normal(size=30)})
    assert load("birds", seed=0, drop=["site"]).name == "birds"
    assert load("fish", seed=0).features == 1 and load("fish.parquet", seed=0).features == 1
    with pytest.raises(UserError, match="no data named 'bird'; did you mean birds"):
        load("bird", seed=0)
    write_columns(tmp_path / "fish.csv", {"a": [1.0]})
    with pytest.raises(UserError, match=r"fish could be .*fish.csv or .*fish.parquet; give the path"):
        load("fish", seed=0)
    monkeypatch.setenv("IRESNET_DATA", str(tmp_path / "gone"))
    with pytest.raises(UserError, match="no data named 'birds'"):
        load("birds", seed=0)


def test_unknown_names_are_told_with_those_there_are(monkeypatch):
    monkeypatch.delenv("IRESNET_DATA", raising=False)
    with pytest.raises(UserError, match="no data named 'moon'; did you mean moons.* built in are checkerboard, cifar10"):
        load("moon", seed=0)
    with pytest.raises(UserError, match="there is no file nowhere/x.csv"):
        load("nowhere/x.csv", seed=0)
    assert {*toy.NAMES, "digits", *NAMES} == set(BUILT_IN)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("moons", {"drop": ["x1"]}, "moons is a toy set of two real columns"),
        ("moons", {"dequantize": "auto"}, "moons is a toy set of two real columns"),
        ("moons", {"label": "ring"}, "moons has no label or context column 'ring'; it has moon"),
        ("moons", {"seed": -1}, "the seed must not be negative and n must be at least 1, got seed=-1"),
        ("moons", {"n": 0}, "got seed=0, n=0"),
        ("digits", {"label": "digit"}, "--label: digits has no column 'digit'"),
        ("digits", {"n": 5}, "5 rows are too few"),
    ],
)
def test_options_that_do_not_fit_are_told(name, options, message):
    with pytest.raises(UserError, match=message):
        load(name, **{"seed": 0, **options})


def test_one_row_is_too_few_to_train_on(tmp_path):
    with pytest.raises(UserError, match="1 row is too few to train, validate and test on"):
        load(write_columns(tmp_path / "t.csv", {"a": [1.0]}), seed=0)


@pytest.mark.data
def test_every_real_table_loads_and_encodes(data_folder):
    for path in sorted((data_folder / "adbench").glob("*.npz")):
        data = load(path.stem, seed=0, dequantize="auto")
        assert data.levels == ("0", "1") and data.train.labels is not None
        noise = torch.rand_like(data.test.values)
        z, jacobian = data.schema.encode(data.test.values, noise)
        assert torch.isfinite(z).all() and torch.isfinite(jacobian).all()
        # Tables whose whole numbers were scaled and rounded lie near their grid only: rarely a neighbour comes back.
        step = torch.tensor([column.resolution or 0.0 for column in data.schema.columns], dtype=torch.float64)
        off = (data.schema.decode(z) - data.test.values).abs()
        assert bool((off <= 1.06 * step + 1e-9).all()), path.stem
        assert float((off <= 0.06 * step + 1e-9).double().mean()) > 0.99, path.stem
