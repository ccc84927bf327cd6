"""What can be reproduced, by name; light, so that the list is there at once."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from .base import Reproduction

__all__ = ["NAMES", "find"]

NAMES = {
    "figure1": "paths of points through an ordinary ResNet, which cross, and through an i-ResNet, which do not",
    "figure2": "densities of the toy sets: an i-ResNet beside Glow, at equal parameters and time",
    "figure3": "samples of images beside the data, and the way there and back",
    "table1": "classification error, guaranteed inverse and worst reconstruction, over the Lipschitz coefficient",
    "table2": "bits per dimension of the systems the papers compare, at equal parameters and time",
    "complexity": "the cost of a log-determinant and of an inverse against dimension, for four kinds of flow",
    "bias": "a truncated series against an unbiased one, through training",
    "regularisation": "a penalty on norms against normalisation: which Lipschitz constant each really has",
    "vae": "planar, radial and residual flows as the posterior of a variational autoencoder",
    "pretrain": "generation started from a classifier, against from scratch",
}


def find(name: str) -> Reproduction:
    """The reproduction of that name. Raises UserError if there is none."""
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1)
        meant = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(NAMES)}"
        raise UserError(f"there is nothing called {name!r} to reproduce{meant}")
    return import_module(f".{name}", __package__).REPRODUCTION
