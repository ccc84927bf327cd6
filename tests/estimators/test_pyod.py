"""PyODResidualFlow: what PyOD's test-suite asks of each of its detectors, and the numbers its base class would give."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from iresnet.errors import UserError
from iresnet.estimators import PyODResidualFlow, ResidualFlowOutlierDetector

SMALL: dict[str, Any] = {"max_steps": 4, "blocks": 1, "hidden": (8, 8), "random_state": 0}
TRAIN, TEST, SHARE = 200, 100, 0.1


def generate(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As PyOD's generate_data: a normal, and a tenth of the rows uniform."""
    random, outliers = np.random.default_rng(seed), int(count * SHARE)
    inliers = 2 + 0.5 * random.normal(size=(count - outliers, 10))
    x = np.concatenate((inliers, random.uniform(-4, 4, (outliers, 10))))
    return x, np.repeat([0, 1], [count - outliers, outliers])


X_TRAIN, Y_TRAIN = generate(TRAIN, 0)
X_TEST, Y_TEST = generate(TEST, 1)


@pytest.fixture(scope="module")
def detector() -> PyODResidualFlow:
    return PyODResidualFlow(contamination=SHARE, **SMALL).fit(X_TRAIN)


def test_attributes(detector: PyODResidualFlow) -> None:
    assert detector.decision_scores_.shape == detector.labels_.shape == (TRAIN,)
    assert set(detector.labels_) == {0, 1} and detector.labels_.sum() == TRAIN * SHARE
    np.testing.assert_array_equal(detector.labels_, detector.decision_scores_ > detector.threshold_)


def test_scores_and_labels(detector: PyODResidualFlow) -> None:
    scores = detector.decision_function(X_TEST)
    assert scores.shape == (TEST,) and roc_auc_score(Y_TEST, scores) >= 0.8
    assert roc_auc_score(Y_TRAIN, detector.decision_scores_) >= 0.8
    np.testing.assert_array_equal(detector.predict(X_TEST), scores > detector.threshold_)
    labels, sure = detector.predict(X_TEST, return_confidence=True)
    assert labels.shape == sure.shape == (TEST,) and sure.min() >= 0 and sure.max() <= 1


@pytest.mark.parametrize("method", ["linear", "unify"])
def test_probabilities(detector: PyODResidualFlow, method: str) -> None:
    shares, sure = detector.predict_proba(X_TEST, method=method, return_confidence=True)
    assert shares.shape == (TEST, 2) and shares.min() >= 0 and shares.max() <= 1 and sure.shape == (TEST,)
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_array_equal(shares, detector.predict_proba(X_TEST, method=method))
    assert np.diff(shares[np.argsort(detector.decision_function(X_TEST)), 1]).min() >= 0


def test_rejection(detector: PyODResidualFlow) -> None:
    labels, (expected, bound, cost) = detector.predict_with_rejection(X_TEST, return_stats=True)
    assert labels.shape == (TEST,) and set(labels) <= {-2, 0, 1}
    assert 0 <= expected <= 1 and 0 <= bound <= 1 and cost >= 0
    np.testing.assert_array_equal(labels, detector.predict_with_rejection(X_TEST))


def test_ranks(detector: PyODResidualFlow) -> None:
    scores = detector.decision_function(X_TEST)
    ranks, shares = detector._predict_rank(X_TEST), detector._predict_rank(X_TEST, normalized=True)
    np.testing.assert_allclose(rankdata(ranks), rankdata(scores), atol=3)
    assert ranks.min() >= 0 and ranks.max() <= TRAIN and 0 <= shares.min() and shares.max() <= 1


def test_fit_predict_and_score() -> None:
    fresh = clone(PyODResidualFlow(contamination=SHARE, **SMALL))
    assert fresh.fit_predict(X_TRAIN).shape == (TRAIN,)
    assert fresh.fit_predict_score(X_TRAIN, Y_TRAIN) == roc_auc_score(Y_TRAIN, fresh.decision_scores_)
    assert fresh.fit_predict_score(X_TRAIN, Y_TRAIN, scoring="prc_n_score") == np.mean(Y_TRAIN[fresh.labels_ == 1])
    with pytest.raises(NotImplementedError, match="scoring must be"):
        fresh.fit_predict_score(X_TRAIN, Y_TRAIN, scoring="something")


def test_is_the_outlier_detector_with_another_sign(detector: PyODResidualFlow) -> None:
    other = ResidualFlowOutlierDetector(contamination=SHARE, **SMALL).fit(X_TRAIN)
    np.testing.assert_array_equal(detector.decision_function(X_TEST), -other.score_samples(X_TEST))
    np.testing.assert_array_equal(detector.predict(X_TEST) == 1, other.predict(X_TEST) == -1)
    assert detector.get_params() == other.get_params()


def test_what_it_refuses(detector: PyODResidualFlow) -> None:
    with pytest.raises(UserError, match="method must be 'linear' or 'unify', got 'something'"):
        detector.predict_proba(X_TEST, method="something")
    with pytest.raises(UserError, match=r"contamination must be in \(0, 0.5\]"):
        PyODResidualFlow(contamination=0.7, **SMALL).fit(X_TRAIN)
    with pytest.raises(UserError, match=r"delta must be in \(0, 1\)"):
        detector.predict_with_rejection(X_TEST, delta=1.5)


def test_the_numbers_are_those_of_pyods_base_class(detector: PyODResidualFlow) -> None:
    base = pytest.importorskip("pyod.models.base", reason="PyOD is not installed")

    class Twin(base.BaseDetector):
        """PyOD's own methods on our scores."""

        def __init__(self, contamination: float = SHARE) -> None:
            super().__init__(contamination=contamination)

        def fit(self, X: Any, y: Any = None) -> Twin:
            self.detector = detector
            self._set_n_classes(y)
            self.decision_scores_ = detector.decision_scores_
            self._process_decision_scores()
            return self

        def decision_function(self, X: Any) -> np.ndarray:
            return self.detector.decision_function(X)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin = Twin().fit(X_TRAIN)
        np.testing.assert_array_equal(twin.labels_, detector.labels_)
        np.testing.assert_array_equal(twin.predict_confidence(X_TEST), detector.predict_confidence(X_TEST))
        for method in ("linear", "unify"):
            np.testing.assert_allclose(twin.predict_proba(X_TEST, method), detector.predict_proba(X_TEST, method), atol=1e-12)
        theirs, ours = (one.predict_with_rejection(X_TEST, return_stats=True) for one in (twin, detector))
        np.testing.assert_array_equal(theirs[0], ours[0])
        np.testing.assert_allclose(theirs[1], ours[1], rtol=1e-4)  # roots of theirs are found to that
        np.testing.assert_array_equal(twin._predict_rank(X_TEST), detector._predict_rank(X_TEST))
