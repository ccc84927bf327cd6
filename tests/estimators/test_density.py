"""ResidualFlowDensity: a density in the user's units, of weighted rows, in whatever form they come."""

from __future__ import annotations

import io
import math
import time
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_moons
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from iresnet import Exact
from iresnet.errors import UserError
from iresnet.estimators import ResidualFlowDensity
from iresnet.estimators.density import OneFlow

SMALL: dict[str, Any] = {"max_steps": 8, "blocks": 2, "hidden": (8, 8), "random_state": 0}


def rows(count: int = 120, columns: int = 3) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(count, columns))
    x[:, -1] += x[:, 0] ** 2
    return x


@pytest.mark.parametrize("base", ["normal", "student"])
def test_integrates_to_one_in_the_users_units(base: str) -> None:
    x = 20 + 3 * rows(200, 2)
    density = ResidualFlowDensity(**SMALL, base=base).fit(x)
    # A grid of equal cells in asinh of the distance, so that heavy tails are reached too.
    u = np.linspace(-9, 9, 201)
    axis, cell = 20 + 3 * np.sinh(u), 3 * np.cosh(u) * (u[1] - u[0])
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    mass = np.exp(density.score_samples(grid)).reshape(201, 201) * cell[:, None] * cell
    assert mass.sum() == pytest.approx(1, abs=5e-3)


def test_units_are_the_users() -> None:
    """In another unit the density is another by the factor of the change, and nothing else."""
    x = rows()
    one, other = (ResidualFlowDensity(**SMALL).fit(factor * x).score_samples(factor * x) for factor in (1.0, 1024.0))
    np.testing.assert_allclose(other, one - 3 * math.log(1024), atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"trim": 0.2}], ids=["plain", "trimmed"])
def test_a_weight_is_a_number_of_rows(settings: dict[str, Any]) -> None:
    x, weight = rows(60), np.random.default_rng(1).integers(0, 4, 60)
    order = np.random.default_rng(2).permutation(int(weight.sum()))
    one = ResidualFlowDensity(**SMALL, **settings).fit(x, sample_weight=weight)
    other = ResidualFlowDensity(**SMALL, **settings).fit(np.repeat(x, weight, axis=0)[order])
    np.testing.assert_array_equal(one.score_samples(x), other.score_samples(x))
    assert one.score(x, sample_weight=weight) == pytest.approx(other.score(np.repeat(x, weight, axis=0)))


def test_deterministic_and_leaves_generators_alone() -> None:
    x = rows()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    given = x.copy()
    first, second = (ResidualFlowDensity(**SMALL).fit(x) for _ in range(2))
    np.testing.assert_array_equal(first.score_samples(x), second.score_samples(x))
    np.testing.assert_array_equal(first.sample(7), second.sample(7))
    assert not np.array_equal(first.sample(7, random_state=1), first.sample(7))
    np.testing.assert_array_equal(x, given)
    assert torch.equal(torch.rand(2), expected)


def test_estimates_carry_their_error() -> None:
    x = rows()
    density = ResidualFlowDensity(**SMALL).fit(x)
    found = density.estimate_samples(x)
    assert found.value.shape == found.stderr.shape == found.bias.shape == (120,) and found.value.dtype == np.float64
    assert not found.stderr.any() and 0 < found.bias.max() < 1e-9  # exact, up to rounding
    np.testing.assert_array_equal(found.value, density.score_samples(x))
    np.testing.assert_allclose(density.score_samples(x[5:9]), found.value[5:9], rtol=1e-9)


def test_beyond_the_exact_the_error_is_stated() -> None:
    """130 columns and as wide a branch: random probes, whose error is what is stated."""
    x = np.random.default_rng(0).normal(size=(150, 130))
    density = ResidualFlowDensity(max_steps=5, blocks=2, hidden=(130,), validation_fraction=0, random_state=0).fit(x)
    found = density.estimate_samples(x[:40])
    assert (found.stderr > 0).all()
    truth = density.flow_.flow.double().estimate(density.flow_.units.encode(torch.from_numpy(x[:40]))[0], logdet=Exact())
    off = found.value - truth.value.detach().numpy() + density.flow_.units.scale.log().sum().item()
    assert np.sqrt(np.mean((off / found.stderr) ** 2)) < 2


def test_float32_frames_and_names() -> None:
    x = rows()
    density = ResidualFlowDensity(**SMALL).fit(x)
    np.testing.assert_allclose(density.score_samples(x.astype(np.float32)), density.score_samples(x), atol=1e-4)
    narrow = ResidualFlowDensity(**SMALL).fit(x.astype(np.float32))
    assert narrow.score_samples(x.astype(np.float32)).dtype == np.float64
    assert narrow.score(x) == pytest.approx(density.score(x), abs=1e-2)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library: str) -> None:
    frames = pytest.importorskip(library)
    x = rows()
    frame = frames.DataFrame({name: x[:, k] for k, name in enumerate("abc")})
    density = ResidualFlowDensity(**SMALL).fit(frame)
    assert list(density.feature_names_in_) == ["a", "b", "c"]
    np.testing.assert_array_equal(density.score_samples(frame), ResidualFlowDensity(**SMALL).fit(x).score_samples(x))
    with pytest.raises(ValueError, match="feature names"):
        density.score_samples(frame[["b", "a", "c"]])


def test_in_pipelines_searches_clones_and_pickles() -> None:
    x = rows()
    pipe = make_pipeline(StandardScaler(), ResidualFlowDensity(**SMALL)).fit(x)
    assert pipe.score_samples(x).shape == (120,)
    search = GridSearchCV(ResidualFlowDensity(**SMALL), {"blocks": [1, 2]}, cv=2).fit(x)
    assert search.best_params_["blocks"] in (1, 2) and np.isfinite(search.cv_results_["mean_test_score"]).all()
    density = ResidualFlowDensity(**SMALL).fit(x)
    assert clone(density).get_params() == density.get_params() and not hasattr(clone(density), "flow_")
    file = io.BytesIO()
    joblib.dump(density, file)
    file.seek(0)
    again = joblib.load(file)
    np.testing.assert_array_equal(again.score_samples(x), density.score_samples(x))
    np.testing.assert_array_equal(again.sample(3), density.sample(3))


def test_levels_are_dequantised_and_come_back_as_levels() -> None:
    x = np.random.default_rng(0).binomial(10, 0.3, size=(400, 2)) * 0.5
    density = ResidualFlowDensity(**{**SMALL, "max_steps": 60}).fit(x)
    np.testing.assert_array_equal(density.flow_.units.steps.numpy(), [0.5, 0.5])
    drawn = density.sample(200)
    np.testing.assert_array_equal(drawn, np.round(drawn * 2) / 2)
    # A cell's density times its size is about the share of its level: entropy in nats of what is drawn from.
    share = np.exp(density.score_samples(x[:, :])) * 0.25
    counts = np.unique(x, axis=0, return_inverse=True, return_counts=True)
    truth = counts[2][counts[1].ravel()] / 400
    assert abs(np.log(share).mean() - np.log(truth).mean()) < 0.3


@pytest.mark.parametrize(
    "x",
    [
        np.column_stack((rows(50, 1), np.full(50, 3.0))),
        np.repeat([[1.0, 2.0]], 5, axis=0),
        np.column_stack([rows(50, 1)] * 3),
        np.array([[0.0, 1.0], [2.0, -1.0]]),
        rows(50, 1),
        rows(15, 40),
        1e9 + rows(50, 2),
    ],
    ids=["constant column", "one distinct row", "copies", "two rows", "one column", "more columns than rows", "far off"],
)
def test_degenerate_rows(x: np.ndarray) -> None:
    density = ResidualFlowDensity(**SMALL).fit(x)
    assert np.isfinite(density.score_samples(x)).all() and np.isfinite(density.sample(4)).all()


def test_learns_what_a_gaussian_cannot() -> None:
    x = make_moons(600, noise=0.1, random_state=0)[0]
    density = ResidualFlowDensity(max_steps=50, blocks=2, learning_rate=5e-2, random_state=0).fit(x[:300])
    assert density.score(x[300:]) > GaussianMixture().fit(x[:300]).score(x[300:]) + 0.3


def test_is_never_below_its_start_on_what_is_held_out() -> None:
    """The start is a candidate: a learning rate that ruins the flow leaves the Gaussian."""
    x = rows(200)
    density = ResidualFlowDensity(**{**SMALL, "learning_rate": 1.0}).fit(x)
    figures = [record["log_prob"] for record in density.flow_.history if record["split"] == "validation"]
    assert max(figures[1:]) < figures[0]
    assert density.score(x) > GaussianMixture().fit(x).score(x) - 1


@pytest.mark.slow
def test_a_tiny_fit_takes_seconds() -> None:
    began = time.process_time()
    ResidualFlowDensity(random_state=0).fit(rows(100))
    assert time.process_time() - began < 4  # two where nothing else runs


def test_says_how_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    ResidualFlowDensity(**SMALL, verbose=True).fit(rows())
    assert "nats" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "call", "said"),
    [
        ({"learning_rate": "x"}, {}, "learning_rate must be a number, got 'x'"),
        ({"trim": 1.0}, {}, r"trim must be in \[0, 1\)"),
        ({"validation_fraction": -0.1}, {}, "validation_fraction must be in"),
        ({"base": "cauchy"}, {}, "unknown base 'cauchy'"),
        ({"device": "abacus"}, {}, "device 'abacus' is not available"),
        ({}, {"sample_weight": np.ones(3)}, "one number for each of the 120 rows"),
        ({}, {"sample_weight": -np.ones(120)}, "no negative weight"),
    ],
)
def test_what_it_refuses(settings: dict[str, Any], call: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ResidualFlowDensity(**{**SMALL, **settings}).fit(rows(), **call)


def test_one_row_and_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        ResidualFlowDensity().fit([[1.0, 2.0]])
    with pytest.raises(ValueError, match="NaN"):
        ResidualFlowDensity().fit([[1.0, np.nan], [2.0, 3.0]])
    density: OneFlow = ResidualFlowDensity(**SMALL).fit(rows())
    with pytest.raises(UserError, match="n_samples must be at least 1"):
        density.sample(0)  # type: ignore[attr-defined]
