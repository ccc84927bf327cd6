"""How an assembly is remembered: by its name and literal arguments, which is what a checkpoint stores and rebuilds from."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from .contract.activations import Activation

__all__ = ["remembered"]

Network = TypeVar("Network", bound=nn.Module)


def remembered(assemble: Callable[..., Network]) -> Callable[..., Network]:
    """The function, whose result carries ``recipe``: its name and literal arguments."""

    @functools.wraps(assemble)
    def build(*given: Any, **named: Any) -> Network:
        network = assemble(*given, **named)
        arguments = inspect.signature(assemble).bind(*given, **named).arguments
        literal = {key: _literal(value) for key, value in arguments.items()}
        network.recipe = {"name": assemble.__name__, "arguments": literal}  # type: ignore[assignment]
        return network

    return build


def _literal(value: Any) -> Any:
    if isinstance(value, Tensor):
        return True  # data for whitening: the checkpoint holds its statistics
    if isinstance(value, (tuple, list)):
        return [_literal(item) for item in value]
    if isinstance(value, Activation):
        return type(value).__name__
    return value.item() if isinstance(value, np.generic) else value  # a numpy integer is no JSON
