"""Data: toy sets with known densities, scikit-learn's digits, and tables from files.

:func:`load` is the one entry; :func:`read_table`, :class:`Schema` and :mod:`iresnet.data.toy` are its parts.
"""

from __future__ import annotations

from . import toy
from .columns import Column
from .context import ContextColumn
from .dataset import Dataset, Split
from .diagnose import Diagnosis
from .fitting import fit_schema
from .loading import BUILT_IN, load, load_rows
from .schema import Schema
from .tables import Table, read_table, split
from .write import check_writable, write_columns

__all__ = [
    "BUILT_IN",
    "Column",
    "ContextColumn",
    "Dataset",
    "Diagnosis",
    "Schema",
    "Split",
    "Table",
    "check_writable",
    "fit_schema",
    "load",
    "load_rows",
    "read_table",
    "split",
    "toy",
    "write_columns",
]
