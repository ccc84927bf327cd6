"""What the estimators share: the constructor, checked input, weights, and the log-density of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import validate_data

from ..errors import UserError
from .training import Plan

__all__ = ["Explanation", "FlowEstimator", "SampleEstimate"]


class SampleEstimate(NamedTuple):
    """Log-densities (n,) in nats with their standard errors and biases; see :class:`iresnet.Estimate`."""

    value: np.ndarray
    stderr: np.ndarray
    bias: np.ndarray


class Explanation(NamedTuple):
    """The share of each column in -log p of a row, in nats.

    ``value`` (n, d) with its ``error`` (n, d), which add up over columns to ``total`` (n,), the excess over the -log p of
    ``reference`` (n, d), the row compared with. See :class:`iresnet.explain.Attribution`.
    """

    value: np.ndarray
    error: np.ndarray
    total: np.ndarray
    reference: np.ndarray


class FlowEstimator(BaseEstimator):
    """A residual flow for the rows of a table, with scikit-learn's names.

    Parameters
    ----------
    max_steps : optimiser steps at most; as many as distinct rows where these are fewer.
    blocks, hidden, lipschitz, base : of :func:`iresnet.dense_flow`; base is "normal", "student", "diagonal" or "mixture".
    learning_rate, weight_decay, batch_size : of the training; see :class:`iresnet.settings.Settings`.
    trim : share of the rows, those of lowest density, that have no say in training, for rows that are contaminated.
    dequantize : spread columns that hold levels by uniform noise of their resolution in training, and score levels at the middle
        of their cells. Without it a density has no upper limit there.
    validation_fraction, patience : rows held out to choose the weights, and after how many of the 20 looks without a new best to
        stop; None never stops early. Fewer than 20 distinct rows are all trained on.
    random_state : int, RandomState or None; an int makes fit deterministic.
    device : "cpu", "cuda" or "auto".
    verbose : whether to show progress on standard error.
    """

    def __init__(
        self,
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
        self.max_steps = max_steps
        self.blocks = blocks
        self.hidden = hidden
        self.lipschitz = lipschitz
        self.base = base
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.trim = trim
        self.dequantize = dequantize
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def _plan(self) -> Plan:
        """The constructor's arguments, checked."""
        for name in ("max_steps", "lipschitz", "learning_rate", "weight_decay", "trim", "validation_fraction"):
            if not isinstance(getattr(self, name), Real):
                raise UserError(f"{name} must be a number, got {getattr(self, name)!r}")
        for name in ("trim", "validation_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        given: dict[str, Any] = {part.name: getattr(self, part.name) for part in fields(Plan)}
        return Plan(**{**given, "hidden": tuple(self.hidden)})

    def _seed(self, random_state: Any = None) -> int:
        """A seed of ``random_state``, or of the estimator's own."""
        chosen = self.random_state if random_state is None else random_state
        return int(check_random_state(chosen).randint(2**31 - 1))

    def _rows(self, X: Any) -> np.ndarray:
        """Rows to ask about, as they are if they are floats."""
        return np.asarray(validate_data(self, X, reset=False, dtype=(np.float64, np.float32)))

    def _weights(self, sample_weight: Any, count: int) -> np.ndarray:
        """Weights (count,), all one for None.

        Raises
        ------
        UserError
            If they are negative, all zero, or not one for each row.
        """
        if sample_weight is None:
            return np.ones(count)
        weight = check_array(sample_weight, ensure_2d=False, dtype="float64", input_name="sample_weight")
        if weight.shape != (count,):
            raise UserError(f"sample_weight must hold one number for each of the {count} rows, got shape {weight.shape}")
        if weight.min() < 0 or not weight.max() > 0:
            raise UserError("sample_weight must hold no negative weight, and not be zero for all rows")
        return weight
