"""Columns to a file: CSV, Parquet or NPZ by the ending, whole or not at all."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import write_atomic

__all__ = ["WRITABLE", "check_writable", "write_arrays", "write_columns"]

WRITABLE = (".csv", ".parquet", ".npz")


def check_writable(path: str | os.PathLike[str]) -> str:
    """The ending of ``path``, for a check before long work.

    Raises
    ------
    UserError
        If results cannot be written in that format.
    """
    ending = Path(path).suffix.lower()
    if ending not in WRITABLE:
        raise UserError(f"{path} ends in {ending or 'nothing'}; results are written as {', '.join(WRITABLE)}")
    return ending


def write_columns(path: str | os.PathLike[str], columns: Mapping[str, Any], notes: Any = None) -> Path:
    """Write columns (N,) of numbers or text, arrays or tensors, in order; rows keep their order and floats every digit.

    ``notes`` (JSON values) are kept in the header of a Parquet file, under the name iresnet.

    Raises
    ------
    UserError
        If the ending is none of .csv, .parquet and .npz, the columns differ in length, or the file cannot be written.
    """
    ending = check_writable(path)
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    lengths = {array.shape for array in arrays.values()}
    if len(lengths) != 1 or len(next(iter(lengths))) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "none"
        raise UserError(f"{path}: the columns to write must be vectors of one length, got {shapes}")
    if any(array.dtype.kind == "O" for array in arrays.values()):
        raise UserError(f"{path}: the columns to write must hold numbers or text, not Python objects")
    return write_atomic(path, _npz(arrays) if ending == ".npz" else _arrow(arrays, ending, notes))


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> Path:
    """Write arrays or tensors of any shape as NPZ, by name. Raises UserError if the file cannot be written."""
    return write_atomic(path, _npz({name: np.asarray(value) for name, value in arrays.items()}))


def _arrow(arrays: dict[str, np.ndarray], ending: str, notes: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    table = pa.table({name: pa.array(array.tolist() if array.dtype.kind == "U" else array) for name, array in arrays.items()})
    if notes is not None:
        table = table.replace_schema_metadata({"iresnet": json.dumps(notes)})
    buffer = io.BytesIO()
    if ending == ".parquet":
        pyarrow.parquet.write_table(table, buffer)
    else:
        pyarrow.csv.write_csv(table, buffer)
    return buffer.getvalue()


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    """An archive as numpy.savez writes it, without its reserved names (a column may be called "file")."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            archive.writestr(f"{name}.npy", content.getvalue())
    return buffer.getvalue()
