"""The detector and its explanations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import iresnet
from iresnet.errors import UserError
from iresnet.estimators import ResidualFlowOutlierDetector
from iresnet.estimators.training import WeightedDensity
from iresnet.explain import attribute

SMALL: dict[str, Any] = {"max_steps": 15, "blocks": 2, "hidden": (8, 8), "learning_rate": 5e-2, "random_state": 0}


def ring(count: int, seed: int) -> np.ndarray:
    """A ring, whose middle is what a Gaussian thinks most of."""
    random = np.random.default_rng(seed)
    angle = random.uniform(0, 2 * np.pi, count)
    return np.column_stack((np.cos(angle), np.sin(angle))) + 0.1 * random.normal(size=(count, 2))


@pytest.fixture(scope="module")
def detector() -> ResidualFlowOutlierDetector:
    x = np.concatenate((ring(285, 0), np.random.default_rng(1).uniform(-6, 6, (15, 2))))
    return ResidualFlowOutlierDetector(contamination=0.05, **SMALL).fit(x)


def test_signs_and_threshold(detector: ResidualFlowOutlierDetector) -> None:
    x = np.concatenate((ring(285, 0), np.random.default_rng(1).uniform(-6, 6, (15, 2))))
    score, decision, label = detector.score_samples(x), detector.decision_function(x), detector.predict(x)
    np.testing.assert_array_equal(decision, score - detector.offset_)
    np.testing.assert_array_equal(label == -1, decision < 0)
    assert (label == -1).sum() == 15 and set(label) == {-1, 1}
    assert roc_auc_score(np.arange(300) >= 285, -score) > 0.95


@pytest.mark.parametrize("share", [0.0, 0.6, -1.0])
def test_shares_that_are_none_are_refused(share: float) -> None:
    with pytest.raises(UserError, match=r"contamination must be in \(0, 0.5\]"):
        ResidualFlowOutlierDetector(share, **SMALL).fit(ring(30, 0))


def test_the_threshold_knows_weights() -> None:
    x, weight = ring(60, 0), np.random.default_rng(1).integers(0, 4, 60)
    one = ResidualFlowOutlierDetector(0.2, **SMALL).fit(x, sample_weight=weight)
    other = ResidualFlowOutlierDetector(0.2, **SMALL).fit(np.repeat(x, weight, axis=0))
    assert one.offset_ == other.offset_


def test_trimming_forgets_a_cluster_of_outliers() -> None:
    random = np.random.default_rng(0)
    x = np.concatenate((random.normal(size=(240, 2)), 8 + 0.2 * random.normal(size=(60, 2))))
    small = {**SMALL, "max_steps": 20}
    plain, trimmed = (ResidualFlowOutlierDetector(trim=trim, **small).fit(x).score_samples(x) for trim in (0.0, 0.3))
    apart = [float(np.median(score[:240]) - np.median(score[240:])) for score in (plain, trimmed)]
    assert apart[1] > apart[0] + 3


@pytest.mark.parametrize("trim", [0.0, 0.1, 0.25, 0.6])
def test_a_weight_is_trimmed_as_its_copies_are(trim: float) -> None:
    """Of a row at the limit a part is kept; in all as much as there was."""
    random = np.random.default_rng(0)
    values, counts = torch.from_numpy(random.normal(size=40)), torch.from_numpy(random.integers(1, 5, 40))
    task = WeightedDensity(iresnet.dense_flow(2, blocks=1, hidden=(4,)), counts.double(), trim)
    kept = task._kept(counts.double(), values)
    copies = task._kept(torch.ones(int(counts.sum()), dtype=torch.float64), values.repeat_interleave(counts))
    torch.testing.assert_close(kept, torch.stack([part.sum() for part in copies.split(counts.tolist())]))
    torch.testing.assert_close(kept.sum(), counts.double().sum())
    assert (kept > 0).sum() < 40 or not trim


def test_errors_of_held_out_rows_are_those_of_a_weighted_mean() -> None:
    """Of equal weights the textbook's; of others the spread of the mean over samples of rows."""
    random = np.random.default_rng(0)
    values, weight = random.normal(size=(2000, 300)), random.gamma(0.5, size=(2000, 300))
    flow = iresnet.dense_flow(2, blocks=1, hidden=(4,))
    equal = WeightedDensity(flow, torch.ones(300), 0.0).judge(_sums(np.ones(300), values[0]))
    assert equal.figures["stderr_data"] == pytest.approx(values[0].std() / 300**0.5)
    task = WeightedDensity(flow, torch.ones(300), 0.0)
    found = [task.judge(_sums(w, v)).figures for w, v in zip(weight, values, strict=True)]
    told = np.mean([figures["stderr_data"] ** 2 for figures in found]) ** 0.5
    assert told == pytest.approx(np.std([figures["log_prob"] for figures in found]), rel=0.06)
    assert found[0]["stderr_estimator"] == pytest.approx(0.1 * np.sqrt((weight[0] ** 2).sum()) / weight[0].sum())


def _sums(w: np.ndarray, v: np.ndarray) -> torch.Tensor:
    """What ``WeightedDensity.measure`` gives of values whose estimator has an error of 0.1 each."""
    return torch.tensor([w.sum(), w @ v, (w**2).sum(), w**2 @ v, w**2 @ v**2, (w**2).sum() * 0.01])


def test_shares_add_up_and_name_the_column(detector: ResidualFlowOutlierDetector) -> None:
    background = ring(200, 3)
    rows = np.array([[1.0, 4.0], [0.2, 0.1]])
    found = detector.explain(rows, background)
    scores = -detector.score_samples(rows) + detector.score_samples(found.reference)
    np.testing.assert_allclose(found.total, scores, atol=1e-6)
    np.testing.assert_allclose(found.value.sum(1), found.total, atol=0.02)
    assert found.error.max() <= 0.01 and found.total[0] > 3
    assert found.value[0, 1] > 5 * abs(found.value[0, 0])
    assert all(any(np.array_equal(row, known) for known in background) for row in found.reference)


def test_shares_are_those_of_the_truth() -> None:
    """Of a quadratic score the shares are known in closed form; two points of the integral are exact there."""
    matrix = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    x = torch.randn(5, 2, dtype=torch.float64)
    reference = torch.tensor([1.0, -1.0], dtype=torch.float64)
    found = attribute(lambda rows: ((rows @ matrix) * rows).sum(1), x, reference)
    torch.testing.assert_close(found.value, (x - reference) * ((x + reference) @ matrix))
    torch.testing.assert_close(found.value.sum(1), found.total)
    assert float(found.error.max()) < 1e-12 and found.points == 16


def test_a_step_between_the_points_shows_in_the_error() -> None:
    """Where the limit of points is reached, the error says how far off the shares may be."""

    def step(rows: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(60 * (rows[:, 0] - 1)) * (1 + rows[:, 1])

    x, reference = torch.tensor([[3.0, 1.0]], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    rough, exact = (attribute(step, x, reference, tol=0.0, most=most) for most in (16, 512))
    off = (rough.value - exact.value).abs()
    assert rough.points == 16 and float(off.max()) > 1  # most of the share of the first
    assert bool((off <= rough.error).all()) and float(exact.error.max()) < 1e-6


def test_shapes_that_do_not_agree_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rows \(B, d\) and a reference"):
        attribute(lambda rows: rows.sum(1), torch.zeros(3, 2), torch.zeros(2, 2))
