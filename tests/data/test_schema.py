"""The schema: a bijection between the user's units and the flow's, with its Jacobian, and the context's encoding."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iresnet.data import Column, ContextColumn, Schema, fit_schema, read_table, write_columns
from iresnet.data.context import fit_context, level_text, levels_of
from iresnet.errors import UserError

ALL = Schema(
    (
        Column("real", center=3.0, scale=2.0),
        Column("positive", "positive", center=-1.0, scale=0.5),
        Column("bounded", "bounded", low=-2.0, high=5.0, center=0.3, scale=1.5),
        Column("count", resolution=1.0, center=4.0, scale=2.0),
        Column("percent", "bounded", low=0.0, high=100.25, resolution=0.25, scale=3.0),
    ),
    (ContextColumn("species", ("a", "b", "c")), ContextColumn("age", center=40.0, scale=10.0)),
)


def rows(n: int = 200) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    u = torch.rand(n, 5, generator=g, dtype=torch.float64)
    return torch.stack(
        [
            u[:, 0] * 100 - 50,
            torch.exp(10 * u[:, 1] - 5),
            -2 + 7 * (0.01 + 0.98 * u[:, 2]),
            torch.floor(u[:, 3] * 12),
            torch.floor(u[:, 4] * 401) / 4,
        ],
        1,
    )


def test_decode_inverts_encode_and_puts_levels_back_exactly():
    values = rows()
    z, _ = ALL.encode(values, torch.rand_like(values))
    back = ALL.decode(z)
    torch.testing.assert_close(back[:, :3], values[:, :3], rtol=1e-12, atol=1e-12)
    assert torch.equal(back[:, 3:], values[:, 3:])
    continuous = ALL.decode(z, continuous=True)
    assert bool((continuous[:, 3] > values[:, 3]).all()) and bool((continuous[:, 3] < values[:, 3] + 1).all())
    again, _ = ALL.encode(continuous, continuous=True)
    torch.testing.assert_close(again, z, rtol=1e-10, atol=1e-10)


def test_log_jacobian_is_that_of_autograd():
    values = ALL.decode(ALL.encode(rows(20), torch.full((20, 5), 0.4))[0], continuous=True)

    def encode(v: torch.Tensor) -> torch.Tensor:
        return ALL.encode(v[None], continuous=True)[0][0]

    jacobians = torch.stack([torch.as_tensor(torch.autograd.functional.jacobian(encode, row)) for row in values])
    torch.testing.assert_close(ALL.encode(values, continuous=True)[1], torch.linalg.slogdet(jacobians)[1])


@pytest.mark.parametrize("column", ALL.columns[:3])
def test_a_density_in_the_users_units_integrates_to_one(column):
    """N(0, 1) in z, pulled back: log p(v) = log p(z) + log_jacobian."""
    schema = Schema((column,))
    edges = schema.decode(torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None])
    middle = (edges[1:] + edges[:-1]) / 2
    z, jacobian = schema.encode(middle)
    log_p = -(z[:, 0] ** 2) / 2 - math.log(2 * math.pi) / 2 + jacobian
    assert abs(float((log_p.exp() * (edges[1:] - edges[:-1])[:, 0]).sum()) - 1) < 1e-4


@given(st.integers(0, 10_000_000), st.sampled_from([1.0, 0.1, 0.01, 0.002, 0.25, 5.0, 1 / 3]), st.floats(0, 1))
def test_levels_survive_any_noise(count, step, u):
    value = count / round(1 / step) if abs(round(1 / step) * step - 1) < 1e-12 and step < 1 else count * step
    schema = Schema((Column("a", resolution=step, center=value, scale=7.0),))
    values = torch.tensor([[value]], dtype=torch.float64)
    back = schema.decode(schema.encode(values, torch.tensor([[u]], dtype=torch.float64))[0])
    assert float((back - values).abs().max()) <= 1e-9 * max(1.0, abs(value))


def test_extreme_latents_decode_inside_the_support():
    values = ALL.decode(torch.tensor([[0.0, -1e5, -1e5, 0.0, -1e5], [0.0, 1e5, 1e5, 0.0, 1e5]], dtype=torch.float64))
    assert bool((values[:, 1] > 0).all()) and bool(torch.isfinite(values).all())
    assert bool((values[:, 2] > -2).all()) and bool((values[:, 2] < 5).all())
    assert values[:, 4].tolist() == [0.0, 100.0]


def test_bits_per_dim_count_in_units_of_the_resolution():
    uniform = -2 * math.log(0.25 * 16)  # uniform over 16 levels 0.25 apart, in two columns
    schema = Schema((Column("a", resolution=0.25), Column("b", resolution=0.25)))
    assert schema.discrete and schema.dequantized == ("a", "b")
    assert float(schema.bits_per_dim(torch.tensor(uniform))) == pytest.approx(4.0)
    assert not ALL.discrete
    with pytest.raises(UserError, match="real is continuous; quote nats"):
        ALL.bits_per_dim(torch.zeros(1))


def test_a_schema_survives_json_and_refuses_strangers():
    content = json.loads(json.dumps(ALL.to_dict()))
    assert Schema.from_dict(content) == ALL
    with pytest.raises(UserError, match="schema has unknown keys: colour"):
        Schema.from_dict(content | {"colour": 1})
    with pytest.raises(UserError, match="schema has missing keys: context"):
        Schema.from_dict({"columns": []})
    with pytest.raises(UserError, match="column has unknown keys: unit"):
        Schema.from_dict({"columns": [{"name": "a", "unit": "m"}], "context": []})


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, math.nan, r"row 17, column real: nan is outside its support \(all numbers\)"),
        (0, math.inf, "row 17, column real: inf"),
        (1, 0.0, r"row 17, column positive: 0 is outside its support \(above 0\)"),
        (2, 5.0, r"row 17, column bounded: 5 is outside its support \(strictly between -2 and 5\)"),
        (4, 100.25, "column percent: 100.25 is outside .* once its noise of width 0.25 is added"),
    ],
)
def test_a_value_outside_its_support_is_named(column, value, message):
    values = rows(3)
    values[1, column] = value
    with pytest.raises(UserError, match=message):
        ALL.encode(values, torch.full_like(values, 0.5), rows=torch.tensor([4, 17, 20]))


def test_missing_noise_and_wrong_shapes_are_refused():
    with pytest.raises(UserError, match="count, percent hold levels: give noise"):
        ALL.encode(rows(3))
    with pytest.raises(UserError, match=r"rows of 5 columns, got shape \(3, 4\)"):
        ALL.encode(rows(3)[:, :4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"support": "integer"}, "must be one of real, positive, bounded"),
        ({"support": "bounded", "low": 2.0, "high": 2.0}, "bounds need LOW < HIGH, got 2 and 2"),
        ({"resolution": 0.0}, "the resolution must be a positive number"),
    ],
)
def test_impossible_columns_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Column("a", **arguments)


def test_context_is_one_hot_or_standardised():
    encoded = ALL.encode_context({"species": ["b", "a"], "age": np.array([50.0, 30.0]), "other": ["x", "y"]})
    assert encoded is not None and ALL.context_width == 4
    assert encoded.tolist() == [[0, 1, 0, 1], [1, 0, 0, -1]]
    assert ALL.context[0].decode(encoded[:, :3]).tolist() == ["b", "a"]
    assert ALL.context[1].decode(encoded[:, 3:]).tolist() == [50.0, 30.0]
    assert ALL.context_row({"species": "c", "age": "45"}).tolist() == [0, 0, 1, 0.5]
    assert Schema((Column("a"),)).encode_context({}) is None
    assert Schema((Column("a"),)).context_row({}).shape == (0,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"species": "d", "age": 1}, "species is 'd', which the model was not trained on; it knows a, b, c"),
        ({"species": "a"}, "give a value for age, as NAME=VALUE"),
        ({"specie": "a"}, "no context column 'specie': .*did you mean species"),
        ({"species": "a", "age": "old"}, "age must be a number"),
        ({"species": "a", "age": "inf"}, "age must be finite"),
    ],
)
def test_bad_context_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        ALL.context_row(given)


def test_context_without_a_model_that_takes_it_or_without_its_column():
    with pytest.raises(UserError, match="the model has no context"):
        Schema((Column("a"),)).context_row({"label": "3"})
    with pytest.raises(UserError, match="needs the column species"):
        ALL.encode_context({"age": np.zeros(2)})


def test_levels_are_written_and_ordered_as_people_do():
    assert [level_text(item) for item in (3, 3.0, "3", "03", 0.5, True)] == ["3", "3", "3", "03", "0.5", "1"]
    assert levels_of("a", np.array([10.0, 2.0, 2.0])) == ("2", "10")
    assert levels_of("a", np.array(["10", "x", "2", "b"])) == ("2", "10", "b", "x")
    with pytest.raises(UserError, match="1001 different values, too many for a class"):
        levels_of("identifier", np.arange(1001.0))


def test_the_kind_of_a_context_column_is_found_or_told():
    whole, number, text = np.arange(30.0) % 4, np.linspace(0, 1, 30), np.array(["u", "v"] * 15)
    train = np.arange(20)
    assert fit_context("a", whole, train).levels == ("0", "1", "2", "3")
    assert fit_context("a", text, train).levels == ("u", "v")
    assert fit_context("a", number, train) == ContextColumn("a", (), number[:20].mean(), number[:20].std())
    assert fit_context("a", whole, train, "number").levels == ()
    assert fit_context("a", number, train, "label").width == 30
    assert fit_context("a", np.ones(30), train, "number").scale == 1.0
    with pytest.raises(UserError, match="column a holds text such as 'u': give it as --context a:label"):
        fit_context("a", text, train, "number")


def test_statistics_come_from_training_rows_only(tmp_path):
    rng = np.random.default_rng(0)
    columns = {"a": rng.normal(5, 2, 100), "b": np.exp(rng.normal(1, 3, 100)), "c": rng.integers(0, 9, 100) * 0.5}
    columns["d"] = np.full(100, 0.1)
    table = read_table(write_columns(tmp_path / "t.parquet", columns))
    train = torch.arange(0, 100, 3)
    changed = table.values.copy()
    changed[1::3] *= 1.7
    one = fit_schema(table, train, support={"b": "positive"}, dequantize={"c": 0.5})
    table.values[:, :2] = changed[:, :2]
    other = fit_schema(table, train, support={"b": "positive"}, dequantize={"c": 0.5})
    assert one == other
    a, b, c, d = one.columns
    assert a.center == pytest.approx(columns["a"][::3].mean()) and a.scale == pytest.approx(columns["a"][::3].std())
    assert b.center == pytest.approx(np.log(columns["b"][::3]).mean())
    # Uniform noise of width r adds r/2 to the mean and r^2/12 to the variance.
    assert c.center == pytest.approx(columns["c"][::3].mean() + 0.25)
    assert c.scale == pytest.approx(math.sqrt(columns["c"][::3].var() + 0.25 / 12))
    assert (d.center, d.scale) == (pytest.approx(0.1), 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"support": {"a": "bounded:0"}},
            "column a: the support 'bounded:0' is not real, positive or bounded:LOW:HIGH",
        ),
        ({"support": {"a": "bounded:x:y"}}, "column a: the support 'bounded:x:y' is not"),
        ({"support": {"a": "positive:1:2"}}, "column a: the support 'positive:1:2' is not"),
        ({"support": {"z": "real"}}, "--support: .* has no column 'z'"),
        ({"support": {"a": "positive"}}, "row 0, column a: -1 is outside its support"),
        (
            {"support": {"a": "bounded:-2:9"}, "dequantize": {"a": 1}},
            "column a: 9.* once its noise of width 1 is added",
        ),
        ({"dequantize": "all"}, "dequantize must be none, auto or NAME=RESOLUTION, got 'all'"),
        ({"dequantize": {"z": 1.0}}, "--dequantize: .* has no column 'z'"),
        ({"dequantize": {"a": -1.0}}, "column a: the resolution must be a positive number, got -1"),
        ({"dequantize": {"b": 1.0}}, "column b is not on a grid of step 1: row 1 holds 0.3"),
    ],
)
def test_options_that_do_not_fit_the_table_are_refused(tmp_path, options, message):
    columns = {"a": np.concatenate([[-1.0], np.arange(1.0, 10.0)]), "b": np.arange(10) * 0.3}
    table = read_table(write_columns(tmp_path / "t.csv", columns))
    with pytest.raises(UserError, match=message):
        fit_schema(table, torch.arange(10), **options)
