"""Rows by their global numbers, a stretch at a time: tables larger than memory, in one file or a folder of them.

A folder's files are taken in the order of their paths, and rows are numbered on from one to the next, so that a row's number,
and with it the noise that it meets, does not depend on who reads it or in what stretches. Parquet says in its footer how many
rows it has and is entered at any row group; CSV is counted by reading it once and then read forwards.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..errors import UserError
from . import toy
from .dataset import Split
from .images import ImageSchema
from .loading import load_rows, locate, needed, rows_from
from .reading import arrow_column, check_names, delimiter, exists, is_number, not_valid
from .schema import Schema
from .tables import absent_in

__all__ = ["Source", "open_rows"]

_STREAMED = (".parquet", ".csv")
_BLOCK, _BATCH = 2**20, 2**14  # bytes of CSV, and rows of Parquet, decoded at once
_ENDS = 2**16  # bytes of a file, first and last, that tell it from another
_MISFIT = re.compile(r"In CSV column #(\d+): Row #(\d+): CSV conversion error to (\w+): invalid value '(.*)'", re.DOTALL)
_WANTED = {
    "bool": "neither true nor false, which its first rows are; write true and false as 1 and 0 in all rows",
    "double": "no number; if it is right, write numbers in all rows, and 1 and 0 for true and false",
}


class Source(Protocol):
    """``rows`` numbered from 0, read a stretch at a time; ``identity`` tells these data from others, in JSON values."""

    rows: int
    identity: list[Any]

    def read(self, start: int, stop: int) -> Split:
        """The rows numbered ``start`` to ``stop`` - 1, less those left out because a value is missing."""
        ...


def open_rows(name: str, schema: Schema | ImageSchema, *, missing: str = "error") -> Source:
    """Rows to score with a model, as :func:`iresnet.data.load_rows` finds them, without reading more than is asked for.

    A Parquet or CSV file, or a folder of either, is streamed; all else (built-in sets, NumPy's files, images) is loaded.

    Raises
    ------
    UserError
        If there are no such data, or they cannot be read; :meth:`Source.read` raises it for what is wrong with rows.
    """
    if isinstance(schema, ImageSchema) or name == "digits" or name in toy.NAMES:
        return _Loaded(load_rows(name, schema, missing=missing))
    if missing not in ("error", "drop"):
        raise UserError(f"missing must be error or drop, got {missing!r}")
    path = locate(name)
    if exists(path) and path.is_dir():
        return _Tables(path, _files(path), schema, missing)
    if path.suffix.lower() in _STREAMED and exists(path):
        return _Tables(path.parent, [path], schema, missing)
    return _Loaded(load_rows(name, schema, missing=missing))


def _files(folder: Path) -> list[Path]:
    """The tables in a folder and below, in the order of their paths; names that begin with a dot or _ are no data."""
    for ending in _STREAMED:
        found = sorted(path for path in folder.rglob(f"*{ending}") if not path.name.startswith((".", "_")))
        if found:
            return found
    raise UserError(f"{folder} holds no table: there is no file ending in {' or '.join(_STREAMED)} in it or below")


class _Loaded:
    """Rows that are in memory already."""

    def __init__(self, part: Split) -> None:
        self.part, self.rows = part, len(part)
        marks = [part.values, part.rows, *([] if part.context is None else [part.context])]
        self.identity = [hashlib.sha256(item.contiguous().numpy().data).hexdigest() for item in marks]

    def read(self, start: int, stop: int) -> Split:
        part, span = self.part, slice(start, stop)
        return Split(part.values[span], None if part.context is None else part.context[span], part.rows[span])


class _Tables:
    """Files of one schema, one after the other."""

    def __init__(self, folder: Path, paths: list[Path], schema: Schema, missing: str) -> None:
        self.schema, self.missing = schema, missing
        self.files = [(_Csv if path.suffix.lower() == ".csv" else _Parquet)(path, schema) for path in paths]
        self.last = self.files[0]
        self.starts = [0, *accumulate(file.rows for file in self.files)]
        self.rows = self.starts[-1]
        if not self.rows:
            raise UserError(f"{paths[0] if len(paths) == 1 else folder} has no rows")
        self.identity = [[str(file.path.relative_to(folder)), file.rows, _mark(file.path)] for file in self.files]

    def read(self, start: int, stop: int) -> Split:
        parts = []
        for first, file in zip(self.starts, self.files, strict=False):  # starts ends with the number of all rows
            low, high = max(start - first, 0), min(stop - first, file.rows)
            if low < high:
                if self.last is not file:  # one file open, and its buffers held, at a time: there may be thousands
                    self.last.rest()
                    self.last = file
                found, numbers = file.read(low, high), np.arange(first + low, first + high)
                if self.missing == "drop":
                    keep = ~np.any([absent_in(column) for column in found.values()], axis=0)
                    found, numbers = {name: column[keep] for name, column in found.items()}, numbers[keep]
                if len(numbers):
                    parts.append(rows_from(str(file.path), found, self.schema, numbers=numbers))
        return _joined(parts, self.schema)


def _joined(parts: list[Split], schema: Schema) -> Split:
    if len(parts) == 1:
        return parts[0]
    values = torch.cat([torch.zeros(0, schema.features, dtype=torch.float64), *(part.values for part in parts)])
    given = [part.context for part in parts if part.context is not None]
    context = torch.cat([torch.zeros(0, schema.context_width, dtype=torch.float64), *given]) if schema.context else None
    return Split(values, context, torch.cat([torch.zeros(0, dtype=torch.int64), *(part.rows for part in parts)]))


def _mark(path: Path) -> str:
    """A hash of a file's size and of its ends: a footer or last lines that differ tell it from another."""
    size = path.stat().st_size
    with path.open("rb") as file:
        found = hashlib.sha256(str(size).encode() + file.read(_ENDS))
        file.seek(max(size - _ENDS, 0))
        found.update(file.read(_ENDS))
    return found.hexdigest()[:16]


class _File(ABC):
    """The columns in use of one file, read forwards; ``enter`` is where the formats differ."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self.path, self.rows = path, 0
        self.position, self.batch, self.batches = 0, None, iter(())
        self.names: list[str] = []
        with _telling(self):
            self.names = self.open()
        check_names(path, self.names)
        self.wanted = needed(str(path), self.names, schema)

    @abstractmethod
    def open(self) -> list[str]:
        """Open the file; the names of its columns."""

    @abstractmethod
    def enter(self, start: int) -> tuple[int, Iterator[Any]]:
        """Record batches from a row at or before ``start`` on, and the number of that row."""

    def far(self, start: int) -> bool:
        """Whether there is a quicker way to ``start`` than reading on."""
        return False

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """The columns (stop - start,) of those rows. Raises UserError if they cannot be read."""
        import pyarrow as pa

        found, need = [], stop - start
        with _telling(self):
            if self.batch is None or start < self.position or self.far(start):
                self.position, self.batches = self.enter(start)
                self.batch = self._next()
            while need:
                part = self.batch.slice(max(start - self.position, 0), need)
                if len(part):
                    found.append(part)
                    need -= len(part)
                if need:
                    self.position += len(self.batch)
                    self.batch = self._next()
        table = pa.Table.from_batches(found)
        return {name: arrow_column(table.column(name)) for name in self.wanted}

    def rest(self) -> None:
        """Let go of the file and of what was read of it."""
        self.batch, self.batches = None, iter(())

    def _next(self) -> Any:
        found = next(self.batches, None)
        if found is None:
            raise UserError(f"{self.path} has fewer rows than it had; leave it as it is until it is scored")
        return found


class _Parquet(_File):
    def open(self) -> list[str]:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(self.path) as file:
            groups = (file.metadata.row_group(k).num_rows for k in range(file.num_row_groups))
            self.groups, self.rows = [0, *accumulate(groups)], file.metadata.num_rows
            return file.schema_arrow.names

    def enter(self, start: int) -> tuple[int, Iterator[Any]]:
        from pyarrow.parquet import ParquetFile

        first = bisect(self.groups, start) - 1
        chosen = list(range(first, len(self.groups) - 1))
        # Without a buffer a column chunk, which may be the whole file, would be read at a time.
        file = ParquetFile(self.path, pre_buffer=False, buffer_size=_BLOCK)
        return self.groups[first], file.iter_batches(_BATCH, chosen, self.wanted, use_threads=False)

    def far(self, start: int) -> bool:
        return bisect(self.groups, start) > bisect(self.groups, self.position)


class _Csv(_File):
    def __init__(self, path: Path, schema: Schema) -> None:
        # Types are those that the model knows, not what the first rows look like; true and false are taken for 1 and 0.
        texts = [column.name for column in schema.context if not all(is_number(level) for level in column.levels)]
        super().__init__(path, schema)
        self.types = {name: "string" if name in texts else "double" for name in self.wanted}
        self.types |= {name: "bool" for name, kind in self.first.items() if kind == "bool" and name in self.types}
        with _telling(self):
            self.rows = sum(len(batch) for batch in self.enter(0)[1])

    def open(self) -> list[str]:
        schema = self._reader().schema
        self.first = {field.name: str(field.type) for field in schema}
        return schema.names

    def enter(self, start: int) -> tuple[int, Iterator[Any]]:
        return 0, iter(self._reader(include_columns=self.wanted, column_types=self.types))

    def _reader(self, **options: Any) -> Any:
        import pyarrow.csv as csv

        return csv.open_csv(
            self.path,
            read_options=csv.ReadOptions(use_threads=False, block_size=_BLOCK),
            parse_options=csv.ParseOptions(delimiter=delimiter(self.path)),
            convert_options=csv.ConvertOptions(strings_can_be_null=True, **options),
        )


@contextmanager
def _telling(file: _File) -> Iterator[None]:
    """What pyarrow says of a file, in a sentence."""
    import pyarrow as pa

    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{file.path} is not in UTF-8; save it in that encoding") from error
    except (pa.ArrowException, OSError) as error:
        found = _MISFIT.search(str(error))
        if found is None or found[3] not in _WANTED:
            raise not_valid(file.path, error) from error
        name, row = file.names[int(found[1])], int(found[2]) - 2  # the header is the first; rows are counted from 0
        told = f"{file.path}: column {name} is {found[4][:40]!r} in row {row}, {_WANTED[found[3]]}"
        raise UserError(told) from error
