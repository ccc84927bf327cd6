"""Other libraries' residual flows, built alike: one adapter a file, imported when asked for."""

from __future__ import annotations

import importlib

from .base import Architecture, Peer, exact_log_prob

__all__ = ["NAMES", "Architecture", "Peer", "build", "exact_log_prob", "installed"]

# What :func:`build` knows: the module of the adapter and the model that it makes.
_MODELS = {
    "normflows": ("normflows", "residual_flow"),
    "torchflows InvertibleResNet": ("torchflows", "invertible_resnet"),
    "torchflows ResFlow": ("torchflows", "res_flow"),
    "FrEIA": ("freia", "iresnet"),
    "zuko CNF": ("zuko", "cnf"),
}
NAMES = tuple(_MODELS)


def build(name: str, architecture: Architecture) -> Peer:
    """The peer of that name with freshly drawn weights. Raises ImportError where its library is not installed."""
    module, function = _MODELS[name]
    return getattr(importlib.import_module(f".{module}", __package__), function)(architecture)


def installed(name: str) -> bool:
    """Whether that peer's library can be imported."""
    try:
        importlib.import_module(f".{_MODELS[name][0]}", __package__)
    except ImportError:
        return False
    return True
