"""Data: toy sets with known densities, scikit-learn's digits, tables from files, and images.

:func:`load` is the one entry; :func:`read_table`, :class:`Schema` and :mod:`iresnet.data.toy` are its parts.
"""

from __future__ import annotations

from . import toy
from .columns import Column
from .context import ContextColumn
from .dataset import Dataset, Split
from .diagnose import Diagnosis
from .fitting import fit_schema
from .images import Augmentation, ImageSchema, read_schema
from .loading import BUILT_IN, load, load_rows
from .schema import Schema
from .streaming import Source, open_rows
from .tables import Table, read_table, split
from .write import check_writable, write_arrays, write_columns

__all__ = [
    "BUILT_IN",
    "Augmentation",
    "Column",
    "ContextColumn",
    "Dataset",
    "Diagnosis",
    "ImageSchema",
    "Schema",
    "Source",
    "Split",
    "Table",
    "check_writable",
    "fit_schema",
    "load",
    "load_rows",
    "open_rows",
    "read_schema",
    "read_table",
    "split",
    "toy",
    "write_arrays",
    "write_columns",
]
