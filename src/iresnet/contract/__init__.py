"""Floor 1: modules that know their Lipschitz constant."""

from .activations import Activation, activation
from .base import Bound, Branch, bind_all
from .branches import FAMILIES, DenseBranch, NormalizedBranch, dense_branch, penalty
from .conv import ConvBound
from .conv_branches import CONV_FAMILIES, ConvBranch, NormalizedConvBranch, conv_branch
from .conv_sandwich import SandwichConvBranch
from .dense import DenseBound
from .sandwich import SandwichBranch

__all__ = [
    "CONV_FAMILIES",
    "FAMILIES",
    "Activation",
    "Bound",
    "Branch",
    "ConvBound",
    "ConvBranch",
    "DenseBound",
    "DenseBranch",
    "NormalizedBranch",
    "NormalizedConvBranch",
    "SandwichBranch",
    "SandwichConvBranch",
    "activation",
    "bind_all",
    "conv_branch",
    "dense_branch",
    "penalty",
]
