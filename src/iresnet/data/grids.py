"""The grid that the values of a column lie on: what its numbers were rounded to."""

from __future__ import annotations

import numpy as np

__all__ = ["find_grid", "off_grid"]

_OFF = 0.05  # of a step: how far a value may lie from its grid point, for grids that were scaled and rounded again
_DENSE = 20  # cells per level up to which levels make a grid of their own
_FINE = 1e-6  # of a standard deviation: a finer step is the last digit of the file and not a resolution


def find_grid(values: np.ndarray) -> float | None:
    """The step of a regular grid through the distinct values of a column (N,), or None if there is none.

    Decimal steps and whole multiples of them come out exactly (0.01, 0.25, 5). Others, such as whole numbers that were
    standardised and rounded since, come out by least squares and hold to a twentieth of a step.
    """
    levels = np.unique(values)
    if len(levels) < 2:
        return None
    exact = _decimal_step(levels)
    if exact is not None and levels[-1] - levels[0] <= _DENSE * len(levels) * exact:
        return exact
    fitted = _fitted_step(levels)
    if fitted is not None:
        return fitted
    return exact if exact is not None and exact >= _FINE * float(np.std(values)) else None


def off_grid(values: np.ndarray, step: float) -> int | None:
    """The first position in ``values`` (N,) not at the smallest value plus a multiple of ``step``; None if all are."""
    cells = (values - values.min()) / step
    off = np.abs(cells - np.rint(cells)) > _OFF
    return int(off.argmax()) if off.any() else None


def _rounding(levels: np.ndarray) -> float:
    """The error with which the levels are stored: single precision if they fit in it, else double."""
    single = bool(np.array_equal(levels.astype(np.float32).astype(np.float64), levels))
    return float(np.abs(levels).max()) * (6e-8 if single else 2.3e-16)


def _decimal_step(levels: np.ndarray) -> float | None:
    """The greatest common divisor of the gaps, as a decimal, of distinct ascending levels (K,)."""
    rounding = _rounding(levels)
    for digits in range(13):
        scaled = levels * 10.0**digits
        # Rounding has to stay far below the step, or anything looks like a multiple of it; 2^53 is where floats end.
        slack = 2 * rounding * 10.0**digits + 1e-9
        if slack > 0.01 or np.abs(scaled).max() > 2.0**53:
            return None
        whole = np.rint(scaled)
        if np.abs(scaled - whole).max() <= slack:
            step = int(np.gcd.reduce(np.diff(whole).astype(np.int64)))
            return step / 10**digits if step else None
    return None


def _fitted_step(levels: np.ndarray) -> float | None:
    """A step fitted to distinct ascending levels (K,), started at their smallest gap and at halves and thirds of it."""
    gaps = np.diff(levels)
    apart = gaps > max(1e-9 * float(levels[-1] - levels[0]), 4 * _rounding(levels))  # nearer ones are one level
    if len(levels) < 5 or int(apart.sum()) < 4:  # any three numbers lie near some grid
        return None
    for part in (1, 2, 3):
        step = float(gaps[apart].min()) / part
        # Gap by gap, so that a small error of the step does not add up before it is fitted.
        cells = np.concatenate([[0.0], np.cumsum(np.rint(gaps / step))])
        if cells[-1] > _DENSE * len(levels):
            return None
        fitted = float(np.polyfit(cells, levels, 1)[0])
        spread = float(np.ptp(levels - fitted * cells))
        if spread > _OFF * fitted:
            continue
        # The shortest decimal that fits as well: hardly a column is written in steps of 0.9999782.
        short = [float(f"{fitted:.{digits}g}") for digits in range(1, 12)]
        return next((step for step in short if float(np.ptp(levels - step * cells)) <= min(2 * spread, _OFF * step)), fitted)
    return None
