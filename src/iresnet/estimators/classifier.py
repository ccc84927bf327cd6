"""Classification by Bayes' rule on one density for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from scipy.special import logsumexp
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ..errors import UserError
from .base import FlowEstimator
from .preparing import distinct, find_units, weighted_quantile
from .training import FittedFlow, train_flow

__all__ = ["ResidualFlowClassifier"]


class ResidualFlowClassifier(ClassifierMixin, FlowEstimator):
    """Bayes' rule on class-conditional densities, a residual flow for each class, and the classes' shares as priors.

    A density also says where the classifier knows nothing: :meth:`rejected` tells rows that are unlike all training rows.

    Parameters
    ----------
    reject : share in [0, 1) of the training rows, those of lowest density, that :meth:`rejected` would reject.

    The other parameters are those of :class:`~iresnet.estimators.base.FlowEstimator`.

    Attributes
    ----------
    classes_ : the labels (k,), sorted.
    class_prior_ : their shares of the weight (k,).
    flows_ : a :class:`~iresnet.estimators.training.FittedFlow` for each class, None for one without weight.
    reject_threshold_ : the log-density log sum_k P(k) p(x | k) below which a row is rejected.
    """

    classes_: np.ndarray
    class_prior_: np.ndarray
    flows_: list[FittedFlow | None]
    reject_threshold_: float
    n_features_in_: int

    def __init__(
        self,
        reject: float = 0.01,
        *,
        max_steps: int = 300,
        blocks: int = 4,
        hidden: Sequence[int] = (32, 32),
        lipschitz: float = 0.97,
        base: str = "student",
        learning_rate: float = 1e-2,
        weight_decay: float = 0.0,
        batch_size: int = 256,
        trim: float = 0.0,
        dequantize: bool = True,
        validation_fraction: float = 0.1,
        patience: int | None = 5,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        super().__init__(
            max_steps=max_steps,
            blocks=blocks,
            hidden=hidden,
            lipschitz=lipschitz,
            base=base,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            batch_size=batch_size,
            trim=trim,
            dequantize=dequantize,
            validation_fraction=validation_fraction,
            patience=patience,
            random_state=random_state,
            device=device,
            verbose=verbose,
        )
        self.reject = reject

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit a density to the rows of X (n, d) of each label in y (n,); a row of weight 2 is that row twice."""
        plan = self._plan()
        if not 0 <= self.reject < 1:
            raise UserError(f"reject must be in [0, 1), got {self.reject}")
        rows, labels = validate_data(self, X, y, dtype=(np.float64, np.float32), ensure_min_samples=2)
        check_classification_targets(labels)
        weight, rows = self._weights(sample_weight, len(rows)), np.asarray(rows)
        self.classes_, place = np.unique(labels, return_inverse=True)
        share = np.bincount(place, weight, minlength=len(self.classes_))
        self.class_prior_ = share / share.sum()
        # One scale for all classes: the grid of a column, and what a class of one row is measured by.
        values, weights = distinct(np.asarray(rows, dtype=np.float64), weight)
        units, seed = find_units(values, weights, dequantize=plan.dequantize), self._seed()
        self.flows_ = [
            train_flow(rows[place == k], weight[place == k], plan, seed + k, units) if share[k] > 0 else None
            for k in range(len(self.classes_))
        ]
        kept = weight > 0
        density = np.asarray(logsumexp(self._joint(rows[kept]), axis=1))
        self.reject_threshold_ = weighted_quantile(density, weight[kept], self.reject) if self.reject else -np.inf
        return self

    def _joint(self, rows: np.ndarray) -> np.ndarray:
        """log P(k) p(x | k) (n, k)."""
        joint = np.full((len(rows), len(self.classes_)), -np.inf)
        for k, flow in enumerate(self.flows_):
            if flow is not None:
                joint[:, k] = np.log(self.class_prior_[k]) + flow.estimate(rows).value.numpy()
        return joint

    def predict_joint_log_proba(self, X: Any) -> np.ndarray:
        """log P(k) p(x | k) of each row of X and each class (n, k), in nats and in the units of X."""
        check_is_fitted(self)
        return self._joint(self._rows(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """log P(k | x) (n, k)."""
        joint = self.predict_joint_log_proba(X)
        return joint - logsumexp(joint, axis=1, keepdims=True)

    def predict_proba(self, X: Any) -> np.ndarray:
        """P(k | x) (n, k)."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row of X: (n,)."""
        chosen = self.predict_joint_log_proba(X).argmax(axis=1)
        return self.classes_[chosen]

    def score_samples(self, X: Any) -> np.ndarray:
        """log of the density of all classes together, sum_k P(k) p(x | k), of each row of X: (n,)."""
        return np.asarray(logsumexp(self.predict_joint_log_proba(X), axis=1))

    def rejected(self, X: Any) -> np.ndarray:
        """Whether each row of X is less dense than ``reject_threshold_``, so that no label should be believed: (n,) bool."""
        return self.score_samples(X) < self.reject_threshold_
