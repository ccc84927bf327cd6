"""Floor 4: residual flows with the names of scikit-learn, and of PyOD.

They take arrays and frames (pandas, polars), float32 or float64, work in pipelines, searches and clones, and are pickled as any
estimator is. What is held is the :class:`iresnet.Flow` itself.
"""

from __future__ import annotations

from .base import Explanation, SampleEstimate
from .classifier import ResidualFlowClassifier
from .density import ResidualFlowDensity
from .outliers import ResidualFlowOutlierDetector
from .pyod import PyODResidualFlow

__all__ = [
    "Explanation",
    "PyODResidualFlow",
    "ResidualFlowClassifier",
    "ResidualFlowDensity",
    "ResidualFlowOutlierDetector",
    "SampleEstimate",
]
