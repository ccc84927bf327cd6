"""Floor 3: runs. Training into a folder, and every question that can be asked of what lies there."""

from .answers import certify_run, reconstruct_run
from .between import interpolate_run
from .classes import sample_classes
from .evaluating import evaluate_run
from .folder import RunFolder, load_dataset
from .sampling import sample_run
from .scoring import score_run
from .showing import draw
from .training import Outcome, train_run

__all__ = [
    "Outcome",
    "RunFolder",
    "certify_run",
    "draw",
    "evaluate_run",
    "interpolate_run",
    "load_dataset",
    "reconstruct_run",
    "sample_classes",
    "sample_run",
    "score_run",
    "train_run",
]
