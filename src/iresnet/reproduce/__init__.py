"""Figures, tables and claims of the papers, made again: measured here, drawn, and told beside what was published.

The list is there at once; what runs is imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .catalogue import NAMES

if TYPE_CHECKING:
    from .running import Outcome, reproduce

__all__ = ["NAMES", "Outcome", "reproduce"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(".running", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
