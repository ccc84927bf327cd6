"""Density estimation: the flow itself, with scikit-learn's names."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ..errors import UserError
from .base import Explanation, FlowEstimator, SampleEstimate
from .training import FittedFlow, train_flow

__all__ = ["OneFlow", "ResidualFlowDensity"]


class OneFlow(FlowEstimator):
    """An estimator that holds one flow of all rows.

    Attributes
    ----------
    flow_ : the :class:`~iresnet.estimators.training.FittedFlow`: ``flow_.flow`` is the :class:`iresnet.Flow`, in the units
        ``flow_.units``.
    """

    flow_: FittedFlow
    n_features_in_: int

    def _fit_one(self, X: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray]:
        """Fit the flow; the checked rows and their weights."""
        plan = self._plan()
        rows = np.asarray(validate_data(self, X, dtype=(np.float64, np.float32), ensure_min_samples=2))
        weight = self._weights(sample_weight, len(rows))
        self.flow_ = train_flow(rows, weight, plan, self._seed())
        return rows, weight

    def estimate_samples(self, X: Any) -> SampleEstimate:
        """log p of each row of X (n, d) in nats and in the units of X, with its standard error and bias, each (n,) float64.

        Exact up to rounding (a standard error of 0) where the narrowest of columns and hidden layers has at most 128 units, which
        is always so with the default ``hidden``; otherwise by random probes that are a function of the row's number alone.
        """
        check_is_fitted(self)
        return SampleEstimate(*(part.numpy() for part in vars(self.flow_.estimate(self._rows(X))).values()))

    def score_samples(self, X: Any) -> np.ndarray:
        """log p of each row of X (n, d) in nats and in the units of X: (n,) float64."""
        return self.estimate_samples(X).value

    def explain(self, X: Any, background: Any, *, tol: float = 1e-2) -> Explanation:
        """Which columns make the rows of X (n, d) unlikely, compared with rows (m, d) like those that were trained on.

        Each row is compared with the nearest of the denser half of ``background``, and the difference of their -log p is shared
        among the columns by integrated gradients, see :mod:`iresnet.explain`. ``tol`` is the error aimed at, in nats.
        """
        check_is_fitted(self)
        rows, known = self._rows(X), self._rows(background)
        found, chosen = self.flow_.explain(rows, known, tol=tol)
        return Explanation(found.value.numpy(), found.error.numpy(), found.total.numpy(), known[chosen])


class ResidualFlowDensity(DensityMixin, OneFlow):
    """Density of the rows of a table by a residual flow: ``fit``, ``score_samples``, ``score``, ``sample``.

    Parameters are those of :class:`~iresnet.estimators.base.FlowEstimator`.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> density = ResidualFlowDensity(max_steps=20, random_state=0).fit(x)
    >>> density.score_samples(x[:3]).shape, density.sample(5).shape
    ((3,), (5, 2))
    """

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit to the rows of X (n, d), n >= 2; a row of weight 2 is that row twice. y is ignored."""
        self._fit_one(X, sample_weight)
        return self

    def score(  # pyright: ignore[reportIncompatibleMethodOverride]  # the mixin's returns nothing
        self, X: Any, y: Any = None, sample_weight: Any = None
    ) -> float:
        """Mean of log p over the rows of X, in nats; what GridSearchCV maximises. y is ignored."""
        values = self.score_samples(X)
        return float(np.average(values, weights=self._weights(sample_weight, len(values))))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draws (n_samples, d) float64; ``random_state`` None takes the estimator's, so an int gives the same draws each time.

        Raises
        ------
        UserError
            If n_samples is below one.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise UserError(f"n_samples must be at least 1, got {n_samples}")
        return self.flow_.sample(int(n_samples), self._seed(random_state))
