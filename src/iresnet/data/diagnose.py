"""What in a table makes a density unbounded: constants, levels, atoms, copies and linear dependence between columns.

A model of a density gains without limit by concentrating on such a set, so its likelihood says nothing about the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .grids import find_grid

__all__ = ["Diagnosis", "diagnose", "summarise"]

_ATOM = 0.02  # a share of the rows on a single value that no density explains
_REPEATS = 5  # rows per level from which a grid is coarse: the data show each level several times
_WIDE = 1e-3  # of a standard deviation: the least resolution at which dequantising an atom helps
_FEW = 20  # levels off any grid
_DEPENDENT = 1e-6  # residual of a column on the others, in standard deviations, below which it is their combination
_KINDS = {
    "constant": "hold one value",
    "discrete": "hold levels that repeat",
    "atom": "hold one value in many rows",
    "duplicate": "are copies of others",
    "dependent": "are linear functions of others",
}


@dataclass(frozen=True)
class Diagnosis:
    """One finding about ``columns``.

    ``kind`` is constant, discrete, atom, duplicate or dependent; ``resolution`` is the one to dequantise at, if that
    helps. Of a duplicate the copy comes last, of dependent columns the one to drop comes first.
    """

    columns: tuple[str, ...]
    kind: str
    message: str
    resolution: float | None = None


def diagnose(names: Sequence[str], values: np.ndarray, ignore: frozenset[str] = frozenset()) -> list[Diagnosis]:
    """The findings for columns ``names`` (d) of ``values`` (N, d), first by column and then between columns.

    ``ignore`` are columns that are dequantised: their levels, atoms and copies are no trouble, but those with one value
    are named still.
    """
    found: list[Diagnosis] = []
    varying: list[int] = []
    first_of: dict[bytes, str] = {}
    for k, name in enumerate(names):
        column = np.ascontiguousarray(values[:, k]) + 0.0  # turns -0.0 into 0.0, which is the same value
        finding = _column(name, column, name in ignore)
        found += [finding] if finding else []
        if name in ignore:
            continue  # noise of its own makes it independent of the others
        if finding and finding.kind == "constant":
            continue
        original = first_of.setdefault(column.tobytes(), name)
        if original != name:
            text = f"{name} is a copy of {original}: the density is unbounded where they are equal; --drop {name}"
            found.append(Diagnosis((original, name), "duplicate", text))
            continue
        varying.append(k)
    return found + _dependent([names[k] for k in varying], values[:, varying])


def _column(name: str, column: np.ndarray, dequantized: bool) -> Diagnosis | None:
    levels, counts = np.unique(column, return_counts=True)
    if len(levels) == 1:
        text = f"{name} is {levels[0]:g} in every row: its density is unbounded there and tells nothing; --drop {name}"
        return Diagnosis((name,), "constant", text)
    if dequantized:
        return None
    step = find_grid(column)
    if step is not None and len(column) >= _REPEATS * len(levels):
        often = len(column) / len(levels)
        text = (
            f"{name} holds {len(levels)} levels, {step:.10g} apart or multiples of it, each {often:.0f} times on "
            f"average: its density is unbounded there; dequantise it with --dequantize "
            f"{name}={step:.10g} or --drop {name}"
        )
        return Diagnosis((name,), "discrete", text, step)
    if len(levels) <= _FEW and len(column) >= _REPEATS * len(levels):
        gap = float(np.diff(levels).min())
        text = (
            f"{name} holds {len(levels)} values that are on no regular grid: its density is unbounded there; --drop {name}, "
            f"in training condition on it with --context {name}, or round it to a grid (its smallest gap is {gap:g})"
        )
        return Diagnosis((name,), "discrete", text)
    top = int(counts.argmax())
    if counts[top] > max(_ATOM * len(column), 2):
        wide = step is not None and step >= _WIDE * float(column.std())  # spread over less it would still be a spike
        offer = f"dequantise it with --dequantize {name}={step:.10g}" if wide else "leave those rows out"
        text = (
            f"{name} is exactly {levels[top]:g} in {100 * counts[top] / len(column):.3g} % of the rows: its density is "
            f"unbounded there; {offer} or --drop {name}"
        )
        return Diagnosis((name,), "atom", text, step if wide else None)
    return None


def _dependent(names: list[str], values: np.ndarray) -> list[Diagnosis]:
    """Columns that are linear combinations of earlier ones, by Gram-Schmidt on the standardised columns."""
    rows, width = values.shape
    if width < 2:
        return []
    centred = values - values.mean(0)
    scaled = centred / np.sqrt(np.square(centred).mean(0) * rows)
    # The triangular factor has the same geometry in at most d rows.
    factor: np.ndarray = np.asarray(np.linalg.qr(scaled, mode="r")) if rows > width else scaled
    if np.linalg.svd(factor, compute_uv=False).min(initial=1.0) > _DEPENDENT and rows > width:
        return []
    if rows <= width:
        text = f"{rows} rows in {width} columns: every column is a combination of the others, and the density is unbounded"
        return [Diagnosis(tuple(names), "dependent", f"{text}; give more rows or use fewer --columns")]
    found, basis, kept = [], np.zeros((len(factor), 0)), []
    for k in range(width):
        rest = factor[:, k]
        for _ in range(2):  # twice is enough for orthogonality to rounding
            rest = rest - basis @ (basis.T @ rest)
        length = float(np.linalg.norm(rest))
        if length > _DEPENDENT:
            basis, kept = np.column_stack([basis, rest / length]), [*kept, k]
            continue
        weights = np.linalg.lstsq(factor[:, kept], factor[:, k], rcond=None)[0]
        parts = [names[j] for j, weight in zip(kept, weights, strict=True) if abs(weight) > 1e-4]
        shown = ", ".join(parts[:8]) + (f" and {len(parts) - 8} more" if len(parts) > 8 else "")
        relation = f"a linear function of {shown}"
        text = f"{names[k]} is {relation}: the density is unbounded where they agree; --drop {names[k]}"
        found.append(Diagnosis((names[k], *parts), "dependent", text))
    return found


def summarise(found: Sequence[Diagnosis], most: int = 3) -> list[str]:
    """The findings as sentences; a kind with more than ``most`` becomes one sentence that names every column."""
    lines: list[str] = []
    for kind in dict.fromkeys(item.kind for item in found):
        same = [item for item in found if item.kind == kind]
        if len(same) <= most:
            lines += [item.message for item in same]
            continue
        own = [item.columns[-1] if kind == "duplicate" else item.columns[0] for item in same]
        names = ", ".join(own)
        on_grid = sum(item.resolution is not None for item in same)
        which = "" if on_grid == len(same) else f" the {on_grid} on a grid"
        offer = f"dequantise{which} with --dequantize auto, or " if on_grid else ""
        lines.append(f"{len(same)} columns {_KINDS[kind]} ({names}): the density is unbounded there; {offer}--drop them")
    return lines
