"""Who is taken for whom: a confusion matrix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .canvas import NOTE, array, new_figure, save

__all__ = ["confusion_matrix"]

_NUMBERS = 12  # classes up to which each cell says its count


def confusion_matrix(path: str | os.PathLike[str], counts: Any, levels: Sequence[str], name: str = "class") -> Path:
    """Counts (K, K), row i of them of the true class ``levels[i]``; each cell shaded by its share of its row.

    The diagonal, which outweighs all else, is blue and mistakes are vermilion, so that a single one is seen.

    Raises
    ------
    UserError
        If the counts are not a square with one row per level, or the file cannot be written.
    """
    matrix = array(counts, "counts", 2)
    if matrix.shape != (len(levels), len(levels)):
        raise UserError(f"a confusion matrix of {len(levels)} classes has as many rows and columns, not shape {matrix.shape}")
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    right = np.eye(len(levels), dtype=bool)
    with new_figure(1, 1, size=6.0) as (figure, axes):
        axis = axes[0, 0]
        axis.imshow(np.where(right, 0.55 * share, np.nan), cmap="Blues", vmin=0, vmax=1)
        # The root lifts the few that are wrong out of the paper's white.
        axis.imshow(np.where(right | (matrix == 0), np.nan, np.sqrt(share)), cmap="Oranges", vmin=0, vmax=1)
        if len(levels) <= _NUMBERS:
            for row, column in zip(*np.nonzero(matrix), strict=True):
                axis.text(column, row, f"{matrix[row, column]:.0f}", ha="center", va="center", fontsize=11)
        step = -(-len(levels) // 25)
        places = range(0, len(levels), step)
        shown = [str(level)[:12] for level in levels[::step]]
        upright = max(map(len, shown)) > 3
        axis.set_xticks(places, shown, rotation=90 if upright else 0)
        axis.set_yticks(places, shown)
        axis.set_xlabel(f"predicted {name}", color=NOTE, parse_math=False)
        axis.set_ylabel(f"true {name}", color=NOTE, parse_math=False)
        return save(figure, path)
