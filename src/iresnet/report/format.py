"""Numbers as text: a value never without its error, and never with more digits than the error allows.

Used by the report's page and by the command line's tables alike, so that both print the same figures.
"""

from __future__ import annotations

import math
from typing import Any

from ..rounding import at_least, at_most, lipschitz_text

__all__ = ["as_float", "bound", "count", "duration", "lower", "number", "plus_minus", "rounded", "upper"]

_LARGE, _SMALL = 1e6, 1e-4  # beyond these a number is easier to read as a power of ten
_MOST_DECIMALS = 7  # an error of 1e-12 says nothing that would justify twelve decimals of the value


def as_float(value: Any) -> float:
    """``value`` as a float; what is not a number (None, text, a missing key) is NaN, "unknown" in every figure."""
    if isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def number(value: Any, digits: int = 4) -> str:
    """``value`` to ``digits`` significant digits: ``0.97``, ``12.1``, ``12346``, ``1.5e12``; NaN is ``unknown``."""
    x = as_float(value)
    if not math.isfinite(x):
        return "unknown" if math.isnan(x) else ("inf" if x > 0 else "-inf")
    if x == 0:
        return "0"
    exponent = _exponent(x, digits)
    if not _SMALL <= abs(x) < _LARGE:
        mantissa, power = f"{x:.{digits - 1}e}".split("e")
        return f"{_trim(mantissa)}e{int(power)}"
    return _trim(f"{x:.{max(0, digits - 1 - exponent)}f}")


def plus_minus(value: Any, *errors: Any, digits: int = 4) -> str:
    """``value ± error [± error ...]``: the value is rounded where the largest error has its second digit.

    An error that is exactly zero is printed as ``0``, one that is None or NaN as ``unknown``, and one too small for the
    common decimals with a digit of its own, so that no error is ever rounded away. Without any usable error the value
    has ``digits`` significant digits.

    >>> plus_minus(-0.41234, 0.00001, 0.0043)
    '-0.4123 ± 1e-5 ± 0.0043'
    >>> plus_minus(-0.41234, 0.0)
    '-0.4123 ± 0'
    >>> plus_minus(1234567.0, 8900.0)
    '(1.2346 ± 0.0089)e6'
    """
    parts, power = _aligned(value, errors, digits)
    joined = " ± ".join(parts)
    return f"({joined})e{power}" if power else joined


def rounded(value: Any, *errors: Any, digits: int = 4) -> str:
    """``value`` alone, rounded as :func:`plus_minus` would, for tables that give each error a column of its own."""
    parts, power = _aligned(value, errors, digits)
    return f"{parts[0]}e{power}" if power else parts[0]


def _aligned(value: Any, errors: tuple[Any, ...], digits: int) -> tuple[list[str], int]:
    """Value and errors as text with common decimals, and the power of ten that they were divided by (0: none)."""
    x, deviations = as_float(value), [abs(as_float(error)) for error in errors]
    known = [e for e in deviations if math.isfinite(e) and e != 0]
    if not known or not math.isfinite(x):
        return [number(x, digits), *(number(e, 2) for e in deviations)], 0
    magnitude = max(abs(x), max(known))
    power = 0 if _SMALL <= magnitude < _LARGE else _exponent(magnitude, digits)
    scale = 10.0**power
    decimals = min(1 - _exponent(max(known) / scale, 2), _MOST_DECIMALS)
    parts = [_fixed(x / scale, decimals)]
    for e in deviations:
        lost = not e / scale >= 10.0**-decimals or math.isinf(e)  # unknown, zero, or too small for the decimals
        parts.append(number(e / scale, 1) if lost else _fixed(e / scale, decimals))
    return parts, power


def bound(value: Any, decimals: int = 4, *, below: bool = False) -> str:
    """A Lipschitz bound to ``decimals`` places, more where that hides its side of 1 (``0.99998``), rounded so that it holds.

    That is up, or down for one from ``below``, such as a measured expansion.
    """
    x = as_float(value)
    if math.isfinite(x) and abs(x) < _LARGE:
        return lipschitz_text(x, decimals, lower=below)
    return lower(x) if below else upper(x)


def upper(value: Any, digits: int = 4) -> str:
    """An upper bound to ``digits`` significant digits, rounded up: what is printed still holds."""
    return number(at_most(as_float(value), digits), digits)


def lower(value: Any, digits: int = 4) -> str:
    """A lower bound to ``digits`` significant digits, rounded down."""
    return number(at_least(as_float(value), digits), digits)


def count(value: Any) -> str:
    """A whole number with thousands separators: ``20,000``; ``unknown`` if it is none."""
    x = as_float(value)
    return f"{round(x):,}" if math.isfinite(x) else "unknown"


def duration(seconds: Any) -> str:
    """A time span in the two units that matter: ``8.2 s``, ``1 min 1 s``, ``2 h 5 min``."""
    x = as_float(seconds)
    if not math.isfinite(x) or x < 0:
        return "unknown"
    if x < 59.95:
        return f"{number(x, 2 if x < 10 else 3)} s"
    whole = round(x)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(x / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _exponent(x: float, digits: int) -> int:
    """The decimal exponent of ``x`` *after* rounding to ``digits`` digits: that of 0.0996 to two digits is -1."""
    return int(f"{x:.{digits - 1}e}".split("e")[1])


def _fixed(x: float, decimals: int) -> str:
    text = f"{round(x, decimals):.{max(0, decimals)}f}"
    return text[1:] if text.startswith("-") and float(text) == 0 else text  # no minus zero


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
