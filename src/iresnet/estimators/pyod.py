"""A detector with the names and the signs of PyOD: larger scores are more abnormal, labels are 1 for outliers and 0 for others.

It stands alone: PyOD's own base class would bring numba with it, and PyOD's tools ask for the names, not for the class.

References
----------
| PyOD: A Python Toolbox for Scalable Outlier Detection (Zhao, Nasrullah and Li, 2019), arXiv 1901.01588
| Interpreting and Unifying Outlier Scores (Kriegel et al., 2011), doi 10.1137/1.9781611972818.2
| Quantifying the Confidence of Anomaly Detectors in Their Example-Wise Predictions (Perini, Vercruyssen and Davis, 2020)
| Unsupervised Anomaly Detection with Rejection (Perini and Davis, 2023), arXiv 2305.13189
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.special import erf
from scipy.stats import beta, binom
from sklearn.utils.validation import check_is_fitted

from ..errors import UserError
from .outliers import ContaminatedFlow

__all__ = ["PyODResidualFlow"]


class PyODResidualFlow(ContaminatedFlow):
    """:class:`~iresnet.estimators.ResidualFlowOutlierDetector` with the names of PyOD's detectors.

    Parameters are those of :class:`~iresnet.estimators.outliers.ContaminatedFlow`.

    Attributes
    ----------
    decision_scores_ : -log p of the training rows (n,), in nats.
    threshold_ : rows with a larger score are outliers.
    labels_ : 1 for the training rows that are outliers, 0 for the others (n,).
    """

    decision_scores_: np.ndarray
    threshold_: float
    labels_: np.ndarray

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit to the rows of X (n, d), n >= 2. y is ignored."""
        values, offset = self._fit_contaminated(X, sample_weight)
        self.decision_scores_, self.threshold_ = -values, -offset
        self.labels_ = (self.decision_scores_ > self.threshold_).astype(int)
        return self

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit, and the labels of the training rows (n,)."""
        return self.fit(X, y).labels_

    def decision_function(self, X: Any) -> np.ndarray:
        """-log p of each row of X (n,), in nats and in the units of X: larger is more abnormal."""
        check_is_fitted(self)
        return -self.score_samples(X)

    def predict(self, X: Any, return_confidence: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """1 for outliers and 0 for the others (n,); with ``return_confidence`` also :meth:`predict_confidence`."""
        scores = self.decision_function(X)
        labels = (scores > self.threshold_).astype(int)
        return (labels, self._confidence(scores)) if return_confidence else labels

    def predict_proba(
        self, X: Any, method: str = "linear", return_confidence: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Probabilities (n, 2) of being normal and an outlier, made from the score.

        ``method`` is "linear", from 0 at the lowest score in training to 1 at the highest, or "unify", by a normal fitted to the
        scores in training (Kriegel et al., 2011). Neither is calibrated.

        Raises
        ------
        UserError
            For another method.
        """
        scores, known = self.decision_function(X), self.decision_scores_
        if method == "linear":
            outlier = (scores - known.min()) / max(float(np.ptp(known)), np.finfo(float).tiny)
        elif method == "unify":
            outlier = erf((scores - known.mean()) / max(float(known.std()) * np.sqrt(2), np.finfo(float).tiny))
        else:
            raise UserError(f"method must be 'linear' or 'unify', got {method!r}")
        outlier = outlier.clip(0, 1)
        found = np.column_stack((1 - outlier, outlier))
        return (found, self._confidence(scores)) if return_confidence else found

    def predict_confidence(self, X: Any) -> np.ndarray:
        """How probably each row would get the same label from another such training set (n,) (Perini et al., 2020)."""
        return self._confidence(self.decision_function(X))

    def _confidence(self, scores: np.ndarray) -> np.ndarray:
        count = len(self.decision_scores_)
        reached = np.searchsorted(np.sort(self.decision_scores_), scores, side="right")
        outlier = 1 - binom.cdf(count - int(count * self.contamination), count, (1 + reached) / (2 + count))
        return np.where(scores > self.threshold_, outlier, 1 - outlier)

    def predict_with_rejection(
        self,
        X: Any,
        T: float = 32,
        return_stats: bool = False,
        delta: float = 0.1,
        c_fp: float = 1,
        c_fn: float = 1,
        c_r: float = -1,
    ) -> np.ndarray | tuple[np.ndarray, list[float]]:
        """Labels, -2 where the confidence is within 2 exp(-T) of a coin's (Perini and Davis, 2023).

        With ``return_stats`` also [expected rate of rejection, its bound with probability 1 - ``delta``, bound of the cost],
        for costs ``c_fp`` and ``c_fn`` of the two errors and ``c_r`` of a rejection (negative: the contamination).

        Raises
        ------
        UserError
            For delta outside (0, 1).
        """
        if not 0 < delta < 1:
            raise UserError(f"delta must be in (0, 1), got {delta}")
        scores = self.decision_function(X)
        labels, sure = (scores > self.threshold_).astype(int), self._confidence(scores)
        sure = np.where(labels == 0, 1 - sure, sure)  # that it is an outlier
        labels[2 * np.abs(sure - 0.5) <= 1 - 2 * np.exp(-T)] = -2
        if not return_stats:
            return labels
        return labels, self._rejection(T, delta, c_fp, c_fn, self.contamination if c_r < 0 else c_r)

    def _rejection(self, T: float, delta: float, c_fp: float, c_fn: float, c_r: float) -> list[float]:
        n, share = len(self.decision_scores_), self.contamination
        k = int(n * share) - 1
        # The p at which binom.cdf(k, n, p) is a given number, in closed form.
        low, high = (float(beta.ppf(tail, k + 1, n - k)) if k >= 0 else 0.0 for tail in (np.exp(-T), 1 - np.exp(-T)))
        right = min(1.0, (1 + n - share * (n + 2)) / n + T * (n + 2) / np.sqrt(2 * n**3 * T))
        inner = 2 * n * (4 * share - 3 * share**2 - 2 * n * (1 - share) ** 2 - 3) + T * (n + 2) ** 2 - 8
        left = (2 + n * (1 - share) * (n + 1)) / n**2 - np.sqrt(max(0.5 * float(n) ** 5 * inner, 0.0)) / n**4
        bound = right - max(0.0, left) + 2 * np.sqrt(np.log(2 / delta) / (2 * n))
        cost = min(share, low) * c_fp + min(1 - high, share) * c_fn + (high - low) * c_r
        return [high - low, float(bound), float(cost)]

    def fit_predict_score(self, X: Any, y: Any, scoring: str = "roc_auc_score") -> float:
        """Fit, and how well the scores in training tell the labels y: "roc_auc_score", or "prc_n_score", precision at rank n.

        Raises
        ------
        NotImplementedError
            For another scoring, as PyOD does.
        """
        from sklearn.metrics import roc_auc_score

        self.fit(X)
        if scoring == "roc_auc_score":
            return float(roc_auc_score(y, self.decision_scores_))
        if scoring == "prc_n_score":
            y = np.asarray(y)
            top = np.argsort(-self.decision_scores_, kind="stable")[: int(y.sum())]
            return float(y[top].mean())
        raise NotImplementedError(f"scoring must be 'roc_auc_score' or 'prc_n_score', got {scoring!r}")

    def _predict_rank(self, X: Any, normalized: bool = False) -> np.ndarray:
        """How many training rows are less abnormal (n,); PyOD's combinations ask for it by this name."""
        ranks = np.searchsorted(np.sort(self.decision_scores_), self.decision_function(X))
        return ranks / ranks.max() if normalized else ranks
