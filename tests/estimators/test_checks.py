"""All of scikit-learn's checks of an estimator: none fails, and none is excused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from iresnet.estimators import ResidualFlowClassifier, ResidualFlowDensity, ResidualFlowOutlierDetector

SMALL: dict[str, Any] = {"max_steps": 3, "blocks": 1, "hidden": (8,)}
CLASSES = [ResidualFlowDensity, ResidualFlowOutlierDetector, ResidualFlowClassifier]


@parametrize_with_checks([kind(**SMALL) for kind in CLASSES])
def test_every_check(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_with_the_defaults(kind: type) -> None:
    results = check_estimator(kind(), on_skip=None)
    # The one that is skipped is about array API inputs, which scikit-learn checks only where SciPy was started for them.
    assert {found["check_name"] for found in results if found["status"] != "passed"} <= {"check_array_api_input"}
