"""The classifier: Bayes' rule on densities, and rows it knows nothing of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris, make_moons
from sklearn.model_selection import cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from iresnet.errors import UserError
from iresnet.estimators import ResidualFlowClassifier

SMALL: dict[str, Any] = {"max_steps": 15, "blocks": 2, "hidden": (8, 8), "learning_rate": 5e-2, "random_state": 0}


@pytest.fixture(scope="module")
def moons() -> tuple[np.ndarray, np.ndarray]:
    x, y = make_moons(300, noise=0.15, random_state=0)
    return x, np.array(["low", "up"])[1 - y]


@pytest.fixture(scope="module")
def fitted(moons: tuple[np.ndarray, np.ndarray]) -> ResidualFlowClassifier:
    return ResidualFlowClassifier(0.02, **SMALL).fit(*moons)


def test_bayes_rule(fitted: ResidualFlowClassifier, moons: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = moons
    assert list(fitted.classes_) == ["low", "up"] and fitted.class_prior_ == pytest.approx([0.5, 0.5])
    joint = np.column_stack([np.log(0.5) + flow.estimate(x).value.numpy() for flow in fitted.flows_ if flow is not None])
    np.testing.assert_allclose(fitted.predict_joint_log_proba(x), joint)
    shares = np.exp(joint) / np.exp(joint).sum(1, keepdims=True)
    np.testing.assert_allclose(fitted.predict_proba(x), shares, atol=1e-12)
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(x)), shares, atol=1e-12)
    np.testing.assert_allclose(np.exp(fitted.score_samples(x)), np.exp(joint).sum(1))
    np.testing.assert_array_equal(fitted.predict(x), fitted.classes_[joint.argmax(1)])


def test_is_better_than_gaussians(fitted: ResidualFlowClassifier, moons: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = make_moons(300, noise=0.15, random_state=1)
    names = np.array(["low", "up"])[1 - y]
    assert fitted.score(x, names) > GaussianNB().fit(*moons).score(x, names) + 0.03


def test_rows_like_no_other_are_rejected(fitted: ResidualFlowClassifier, moons: tuple[np.ndarray, np.ndarray]) -> None:
    assert fitted.rejected(np.array([[30.0, -30.0], [8.0, 8.0]])).all()
    assert fitted.rejected(moons[0]).mean() == pytest.approx(0.02, abs=0.005)
    assert not ResidualFlowClassifier(0.0, **SMALL).fit(*moons).rejected(np.array([[1e6, 0.0]])).any()
    assert np.isfinite(fitted.predict_proba(np.array([[30.0, -30.0]]))).all()


def test_in_a_pipeline_under_cross_validation() -> None:
    x, y = load_iris(return_X_y=True)
    small = {**SMALL, "max_steps": 5}
    assert cross_val_score(make_pipeline(StandardScaler(), ResidualFlowClassifier(**small)), x, y, cv=3).mean() > 0.9


def test_weights_are_numbers_of_rows_and_priors() -> None:
    x, y = load_iris(return_X_y=True)
    weight = np.random.default_rng(0).integers(0, 3, 150)
    weight[y == 2] = 0
    small = {**SMALL, "max_steps": 5}
    one = ResidualFlowClassifier(**small).fit(x, y, sample_weight=weight)
    other = ResidualFlowClassifier(**small).fit(np.repeat(x, weight, axis=0), np.repeat(y, weight))
    assert one.class_prior_[2] == 0 and one.flows_[2] is None
    np.testing.assert_array_equal(one.predict_proba(x)[:, :2], other.predict_proba(x))
    assert one.reject_threshold_ == other.reject_threshold_


def test_a_class_of_one_row() -> None:
    x, y = load_iris(return_X_y=True)
    kept = np.r_[0:101]
    found = ResidualFlowClassifier(**{**SMALL, "max_steps": 5}).fit(x[kept], y[kept])
    assert np.isfinite(found.predict_proba(x)).all() and found.score(x[:100], y[:100]) > 0.9


def test_what_it_refuses() -> None:
    x, y = load_iris(return_X_y=True)
    with pytest.raises(UserError, match=r"reject must be in \[0, 1\), got 1"):
        ResidualFlowClassifier(1, **SMALL).fit(x, y)
    with pytest.raises(ValueError, match="Unknown label type"):
        ResidualFlowClassifier(**SMALL).fit(x, x[:, 0])
