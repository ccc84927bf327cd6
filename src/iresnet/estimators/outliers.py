"""Outlier detection by density."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.base import OutlierMixin

from ..errors import UserError
from .density import OneFlow
from .preparing import weighted_quantile

__all__ = ["ContaminatedFlow", "ResidualFlowOutlierDetector"]


class ContaminatedFlow(OneFlow):
    """One flow of rows that contain what it is to find, hence ``trim``.

    Parameters
    ----------
    contamination : share in (0, 0.5] of the training rows, those of lowest density, that is called outliers.

    The other parameters are those of :class:`~iresnet.estimators.base.FlowEstimator`, but for the default of ``trim``.
    """

    def __init__(
        self,
        contamination: float = 0.1,
        *,
        max_steps: int = 300,
        blocks: int = 4,
        hidden: Sequence[int] = (32, 32),
        lipschitz: float = 0.97,
        base: str = "student",
        learning_rate: float = 1e-2,
        weight_decay: float = 0.0,
        batch_size: int = 256,
        trim: float = 0.25,
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
        self.contamination = contamination

    def _fit_contaminated(self, X: Any, sample_weight: Any) -> tuple[np.ndarray, float]:
        """Fit; log p of the training rows (n,), and a number with the share ``contamination`` of their weight below it.

        Raises
        ------
        UserError
            Unless ``contamination`` is in (0, 0.5].
        """
        if not isinstance(self.contamination, Real) or not 0 < self.contamination <= 0.5:
            raise UserError(f"contamination must be in (0, 0.5], got {self.contamination!r}")
        rows, weight = self._fit_one(X, sample_weight)
        values = self.flow_.estimate(rows).value.numpy()
        return values, _offset(values, weight, self.contamination)


class ResidualFlowOutlierDetector(OutlierMixin, ContaminatedFlow):
    """Rows of low density are outliers: ``predict`` says -1 for these and +1 for the others.

    Parameters are those of :class:`~iresnet.estimators.outliers.ContaminatedFlow`.

    Attributes
    ----------
    offset_ : the log-density below which a row is an outlier; ``decision_function`` is ``score_samples`` minus it.
    """

    offset_: float

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit to the rows of X (n, d), n >= 2; a row of weight 2 is that row twice. y is ignored."""
        _, self.offset_ = self._fit_contaminated(X, sample_weight)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """log p minus ``offset_`` (n,): negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """-1 for outliers and +1 for the others (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)


def _offset(values: np.ndarray, weight: np.ndarray, share: float) -> float:
    """A number with ``share`` of the weight below it, or a little less: half-way between two neighbouring values."""
    kept = weight > 0
    below = weighted_quantile(values[kept], weight[kept], share)
    above = values[kept & (values > below)]
    return 0.5 * (below + float(above.min())) if len(above) else below
