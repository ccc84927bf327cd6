"""Files to named columns: CSV, Parquet, NPZ and NPY, each into an ordered mapping of one-dimensional arrays.

Numbers become float64, NaN where missing; everything else becomes text, empty where missing. Nothing is unpickled.
"""

from __future__ import annotations

import difflib
import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "ENDINGS",
    "NPZ_LABELS",
    "arrow_column",
    "check_names",
    "delimiter",
    "exists",
    "is_number",
    "not_valid",
    "read_columns",
]

ENDINGS = (".csv", ".parquet", ".npz", ".npy")
NPZ_LABELS = ("y", "label", "labels")
_STARTS = {".parquet": b"PAR1", ".npz": b"PK", ".npy": b"\x93NUMPY"}
_NPZ_MATRICES = ("X", "x", "data")


def read_columns(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The columns (N,) of a file by name and in order, N at least 1. The columns of a matrix are x0, x1, ...

    Raises
    ------
    UserError
        If the file is missing, a folder, unreadable, empty, of an unknown ending, malformed, or has no rows.
    """
    path = Path(path)
    if not exists(path):
        raise UserError(f"there is no file {path}{_nearby(path)}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a file ending in {', '.join(ENDINGS)}")
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"{path} ends in {ending or 'nothing'}; a table ends in {', '.join(ENDINGS)}")
    try:
        with path.open("rb") as file:
            start = file.read(6)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if not start:
        raise UserError(f"{path} is empty")
    if not start.startswith(_STARTS.get(ending, b"")):
        raise UserError(f"{path} is not a valid {ending[1:].upper()} file: its first bytes are not those of that format")
    columns = _from_numpy(path) if ending in (".npz", ".npy") else _from_arrow(path, ending)
    if not columns or not len(next(iter(columns.values()))):
        raise UserError(f"{path} has a header but no rows" if columns else f"{path} has no columns")
    return columns


def exists(path: Path) -> bool:
    """Whether there is a file or folder; a path that cannot be looked at is told as such.

    Raises
    ------
    UserError
        If a folder on the way is closed to this user, or the name is longer than the system takes.
    """
    try:
        return path.exists()
    except OSError as error:
        raise UserError(f"cannot read {str(path)[:200]}: {error.strerror or error}") from error


def _nearby(path: Path) -> str:
    """A hint when a file of almost this name is in the same folder."""
    if not path.parent.is_dir() or not os.access(path.parent, os.R_OK):
        return ""
    near = difflib.get_close_matches(path.name, [item.name for item in path.parent.iterdir()], n=1)
    return f"; did you mean {path.with_name(near[0])}?" if near else ""


def _from_arrow(path: Path, ending: str) -> dict[str, np.ndarray]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if ending == ".parquet":
            table = pyarrow.parquet.ParquetFile(path).read()  # one file as it is: no folder magic from its path
        else:
            # One thread: only then does an error tell its row. One block: types are inferred from the first.
            block = min(path.stat().st_size + 1024, 2**31 - 1)
            table = pyarrow.csv.read_csv(
                path,
                read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=block),
                parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter(path)),
                convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True),
            )
        names = table.column_names
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8; save it in that encoding") from error
    except (pa.ArrowException, OSError) as error:
        raise not_valid(path, error) from error
    check_names(path, names)
    if ending == ".csv" and any(pa.types.is_binary(item) for item in table.schema.types):
        raise UserError(f"{path} is not in UTF-8; save it in that encoding")
    kept = [name for name in names if not re.fullmatch(r"__index_level_\d+__", name)]  # pandas' index is no column
    return {name: arrow_column(table.column(name)) for name in kept}


def not_valid(path: Path, error: Exception) -> UserError:
    """What to raise where pyarrow cannot read a file."""
    return UserError(f"{path} is not a valid {path.suffix[1:].upper()} file: {' '.join(str(error).split())[:200]}")


def check_names(path: Path, names: list[str]) -> None:
    """Refuse a file whose columns' names say nothing. Raises UserError."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{path} has several columns named {', '.join(map(repr, repeated))}; rename them")
    if path.suffix.lower() == ".csv" and names and all(is_number(name) for name in names):
        raise UserError(f"the first line of {path} holds numbers ({', '.join(names[:3])}, ...); put the column names there")


def arrow_column(column: pyarrow.ChunkedArray) -> np.ndarray:
    """A column of pyarrow's as float64, NaN where missing, or as text, empty where missing."""
    import pyarrow as pa
    import pyarrow.compute

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = pyarrow.compute.cast(column, kind.value_type)
        kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        # safe=False: integers beyond 2^53 are rounded like any other measurement
        floats = pyarrow.compute.cast(column, pa.float64(), safe=False)
        return np.asarray(floats.fill_null(float("nan")).to_numpy(), dtype=np.float64)
    if pa.types.is_decimal(kind):
        return np.asarray([np.nan if item is None else float(item) for item in column.to_pylist()])
    return np.asarray(["" if item is None else str(item) for item in column.to_pylist()], dtype=np.str_)


def delimiter(path: Path) -> str:
    """Comma, unless the header has none and has semicolons or tabs instead."""
    with path.open("rb") as file:
        header = file.readline(1 << 20)
    if b"," in header:
        return ","
    return ";" if b";" in header else "\t" if b"\t" in header else ","


def is_number(text: str) -> bool:
    """Whether ``text`` reads as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _from_numpy(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix.lower() == ".npy":
            loaded: dict[str, Any] = {"data": np.load(path, allow_pickle=False)}
        else:
            with np.load(path, allow_pickle=False) as archive:
                loaded = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        if "pickle" in str(error) or "Object arrays" in str(error):
            raise UserError(
                f"{path} holds Python objects, which could run code and are not loaded; save arrays of numbers or text"
            ) from error
        raise UserError(f"{path} is not a valid {path.suffix[1:].upper()} file: {error}") from error
    matrices = {key: array for key, array in loaded.items() if array.ndim == 2}
    vectors = {key: array for key, array in loaded.items() if array.ndim == 1}
    shapes = ", ".join(f"{key} {array.shape}" for key, array in loaded.items()) or "no arrays"
    named = next((key for key in _NPZ_MATRICES if key in matrices), None)
    if named is None and len(matrices) == 1:
        named = next(iter(matrices))
    if named is None:
        if matrices or not vectors or len(vectors) < len(loaded) or len({len(item) for item in vectors.values()}) > 1:
            raise UserError(
                f"{path} holds {shapes}; a table needs one 2-D array of rows by columns, named X if there are several"
            )
        return {key: _numpy_column(path, key, array) for key, array in vectors.items()}
    matrix = matrices[named]
    whole = _numpy_column(path, named, matrix)
    columns = {f"x{k}": np.ascontiguousarray(whole[:, k]) for k in range(matrix.shape[1])}
    for key in NPZ_LABELS:
        if key in vectors:
            if len(vectors[key]) != len(matrix):
                raise UserError(f"{path}: {named} has {len(matrix)} rows but {key} has {len(vectors[key])}")
            columns[key] = _numpy_column(path, key, vectors[key])
    return columns


def _numpy_column(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "biuf":
        return array.astype(np.float64)
    if array.dtype.kind in "US":
        return array.astype(np.str_)
    raise UserError(f"{path}: the array {key} holds {array.dtype}; save it as real numbers or text")
