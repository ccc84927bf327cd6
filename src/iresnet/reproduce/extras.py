"""Other libraries, or one sentence that says how to have them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import UserError

__all__ = ["normflows", "zuko"]


def normflows() -> Any:
    """The library normflows. Raises UserError if it is not installed."""
    return _library("normflows")


def zuko() -> Any:
    """The library zuko. Raises UserError if it is not installed."""
    return _library("zuko")


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        told = f"this needs {name}, which is not installed"
        raise UserError(f"{told}: pip install 'iresnet[compare]'") from error
