"""Floor 1: modules that know their Lipschitz constant."""

from .activations import Activation, activation
from .attention import AttentionBound, AttentionBranch, attention_constant
from .base import Bound, Branch, bind_all
from .branches import FAMILIES, DenseBranch, NormalizedBranch, dense_branch, penalty
from .conv import ConvBound
from .conv_branches import CONV_FAMILIES, ConvBranch, NormalizedConvBranch, conv_branch
from .conv_sandwich import SandwichConvBranch
from .dense import DenseBound
from .sandwich import SandwichBranch
from .sets import SET_FAMILIES, NormalizedSetBranch, SandwichSetBranch, SetBound, set_branch

__all__ = [
    "CONV_FAMILIES",
    "FAMILIES",
    "SET_FAMILIES",
    "Activation",
    "AttentionBound",
    "AttentionBranch",
    "Bound",
    "Branch",
    "ConvBound",
    "ConvBranch",
    "DenseBound",
    "DenseBranch",
    "NormalizedBranch",
    "NormalizedConvBranch",
    "NormalizedSetBranch",
    "SandwichBranch",
    "SandwichConvBranch",
    "SandwichSetBranch",
    "SetBound",
    "activation",
    "attention_constant",
    "bind_all",
    "conv_branch",
    "dense_branch",
    "penalty",
    "set_branch",
]
