"""Floor 3: runs. Training into a folder, and every question that can be asked of what lies there."""

from .answers import certify_run, evaluate_run, reconstruct_run
from .folder import RunFolder, load_dataset
from .sampling import sample_run, score_run
from .showing import draw
from .training import Outcome, train_run

__all__ = [
    "Outcome",
    "RunFolder",
    "certify_run",
    "draw",
    "evaluate_run",
    "load_dataset",
    "reconstruct_run",
    "sample_run",
    "score_run",
    "train_run",
]
