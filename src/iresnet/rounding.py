"""Bounds as numbers of few digits that still are bounds: rounded away from the truth, never to the nearest.

A guarantee that is printed as 0.9700 where 0.97004 is what was proved would be a claim that nobody proved.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

__all__ = ["at_least", "at_most", "lipschitz_text"]


def at_most(value: float, digits: int) -> float:
    """The least number of ``digits`` significant digits that is not below ``value``; what is not finite stays."""
    return _rounded(value, digits, ROUND_CEILING)


def at_least(value: float, digits: int) -> float:
    """The largest number of ``digits`` significant digits that is not above ``value``; what is not finite stays."""
    return _rounded(value, digits, ROUND_FLOOR)


def _rounded(value: float, digits: int, way: str) -> float:
    if not math.isfinite(value) or value == 0:
        return value
    exact = Decimal(repr(float(value)))  # its shortest decimal: 0.9 is to stay 0.9
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding=way))


def lipschitz_text(value: float, decimals: int = 4, *, lower: bool = False) -> str:
    """A finite Lipschitz bound rounded up (a lower one: down) to ``decimals`` places, more where that hides its side of 1."""
    exact = Decimal(repr(float(value)))
    for places in range(decimals, 17):
        text = str(exact.quantize(Decimal(1).scaleb(-places), rounding=ROUND_FLOOR if lower else ROUND_CEILING))
        if (float(text) < 1) == (value < 1):
            return text
    return repr(float(value))
