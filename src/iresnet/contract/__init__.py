"""Floor 1: modules that know their Lipschitz constant."""

from .activations import Activation, activation
from .base import Bound, Branch, bind_all
from .branches import FAMILIES, DenseBranch, NormalizedBranch, dense_branch, penalty
from .dense import DenseBound
from .sandwich import SandwichBranch

__all__ = [
    "FAMILIES",
    "Activation",
    "Bound",
    "Branch",
    "DenseBound",
    "DenseBranch",
    "NormalizedBranch",
    "SandwichBranch",
    "activation",
    "bind_all",
    "dense_branch",
    "penalty",
]
