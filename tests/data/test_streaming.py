"""Streamed rows are those of the table read whole, whatever stretch is asked for: Parquet or CSV, one file or a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from iresnet.data import Schema, load, load_rows, open_rows, write_columns
from iresnet.errors import UserError

ROWS = 5007
CUTS = (0, 1500, 1501, 1501, 4500, ROWS)  # files of a folder, one of them without rows
Columns = dict[str, np.ndarray]


def columns() -> Columns:
    rng = np.random.default_rng(0)
    kind, on = np.array(["x", "y", "z"])[rng.integers(3, size=ROWS)], rng.integers(2, size=ROWS)
    a, b = rng.normal(size=ROWS), rng.normal(size=ROWS).astype(np.float32)
    return {"a": a, "b": b, "kind": kind, "on": on, "note": np.array(["unused"] * ROWS)}


def cut(found: Columns, start: int, stop: int) -> Columns:
    return {name: column[start:stop] for name, column in found.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows as whole.csv, whole.parquet, and in folders of files, whose row groups are not those of the cuts."""
    folder, found = tmp_path_factory.mktemp("streams"), columns()
    write_columns(folder / "whole.csv", found)
    write_columns(folder / "whole.parquet", found)
    for ending in ("csv", "parquet"):
        for number, (start, stop) in enumerate(zip(CUTS, CUTS[1:], strict=False)):
            path = folder / ending / f"{number // 2}" / f"{number}.{ending}"
            if ending == "csv":
                write_columns(path, cut(found, start, stop))
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                kinds = pa.schema([("a", "f8"), ("b", "f4"), ("kind", "str"), ("on", "i8"), ("note", "str")])
                table = pa.table({name: column.tolist() for name, column in cut(found, start, stop).items()}, kinds)
                pq.write_table(table, path, row_group_size=700)
    (folder / "parquet" / "_metadata.parquet").write_bytes(b"no data")
    return folder


@pytest.fixture(scope="module")
def schema(place: Path) -> Schema:
    found = load(place / "whole.csv", seed=0, context=["kind", "on"], drop=["note"]).schema
    assert isinstance(found, Schema) and found.context_width == 5
    return found


@pytest.mark.parametrize("name", ["whole.parquet", "whole.csv", "parquet", "csv"])
def test_any_stretch_is_that_of_the_whole(place: Path, schema: Schema, name: str) -> None:
    whole = load_rows(place / f"whole.{name.removeprefix('whole.')}", schema)
    source = open_rows(str(place / name), schema)
    assert source.rows == ROWS and whole.context is not None
    in_order = [(start, min(start + 999, ROWS)) for start in range(0, ROWS, 999)]
    for start, stop in [(0, ROWS), *in_order, (4400, 4600), (1499, 1503), (7, 8), (2500, 2501), (2501, 4999), (9, 9)]:
        part = source.read(start, stop)
        assert torch.equal(part.rows, torch.arange(start, stop))
        assert torch.equal(part.values, whole.values[start:stop])
        assert part.context is not None and torch.equal(part.context, whole.context[start:stop])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_rows_with_holes_are_told_or_left_out(tmp_path: Path, schema: Schema, ending: str) -> None:
    found = cut(columns(), 0, 300)
    found["a"][[3, 120, 121]] = np.nan
    write_columns(tmp_path / "rows" / f"0.{ending}", cut(found, 0, 100))
    write_columns(tmp_path / "rows" / f"1.{ending}", cut(found, 100, 300))
    source = open_rows(str(tmp_path / "rows"), schema, missing="drop")
    assert source.read(0, 300).rows.tolist() == [row for row in range(300) if row not in (3, 120, 121)]
    assert len(source.read(120, 122)) == 0 and len(source.read(119, 123)) == 2
    with pytest.raises(UserError, match=rf"1.{ending}: 2 of 200 rows have missing values, in a \(2\)"):
        open_rows(str(tmp_path / "rows"), schema).read(100, 300)
    with pytest.raises(UserError, match="missing must be error or drop"):
        open_rows(str(tmp_path / "rows"), schema, missing="ignore")


def test_what_is_wrong_is_told_with_its_row_in_all(tmp_path: Path, schema: Schema) -> None:
    found = cut(columns(), 0, 300)
    found["a"][250] = np.inf
    write_columns(tmp_path / "rows" / "0.parquet", cut(found, 0, 100))
    write_columns(tmp_path / "rows" / "1.parquet", cut(found, 100, 300))
    with pytest.raises(UserError, match=r"1.parquet: column a is inf in row 250"):
        open_rows(str(tmp_path / "rows"), schema).read(200, 300)


def test_refusals(tmp_path: Path, schema: Schema) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no table: there is no file ending in .parquet or .csv"):
        open_rows(str(tmp_path / "empty"), schema)
    with pytest.raises(UserError, match="there is no file"):
        open_rows(str(tmp_path / "nothing.parquet"), schema)
    found = cut(columns(), 0, 20)
    write_columns(tmp_path / "short.parquet", {name: found[name] for name in ("a", "kind", "on")})
    with pytest.raises(UserError, match=r"short.parquet has no column b, which the model was trained on"):
        open_rows(str(tmp_path / "short.parquet"), schema)
    write_columns(tmp_path / "none.parquet", cut(columns(), 0, 0))
    with pytest.raises(UserError, match="none.parquet has no rows"):
        open_rows(str(tmp_path / "none.parquet"), schema)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="bad.parquet is not a valid PARQUET file"):
        open_rows(str(tmp_path / "bad.parquet"), schema)
    (tmp_path / "text.csv").write_text("a,b,kind,on\n1,2,x,0\n1,?,y,1\n")
    with pytest.raises(UserError, match=r"text.csv: column b is '\?' in row 1, no number; if it is right, write numbers"):
        open_rows(str(tmp_path / "text.csv"), schema)
    (tmp_path / "latin.csv").write_bytes("a,b,kind,on,größe\n1,2,x,0,1\n".encode("latin-1"))
    with pytest.raises(UserError, match="not in UTF-8|not a valid CSV"):
        open_rows(str(tmp_path / "latin.csv"), schema)


def test_a_file_that_shrinks_is_told(tmp_path: Path, schema: Schema) -> None:
    path = write_columns(tmp_path / "rows.csv", cut(columns(), 0, 200))
    source = open_rows(str(path), schema)
    write_columns(path, cut(columns(), 0, 100))
    with pytest.raises(UserError, match="has fewer rows than it had"):
        source.read(0, 200)


def test_true_and_false_in_csv_are_levels(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rng = np.random.default_rng(0)
    rows = [
        f"{a},{b},{str(bool(on)).lower()}" for (a, b), on in zip(rng.normal(size=(60, 2)), rng.integers(2, size=60), strict=True)
    ]
    path.write_text("\n".join(["a,b,on", *rows]) + "\n")
    known = load(path, seed=0, context=["on"]).schema
    assert isinstance(known, Schema)
    whole, part = load_rows(path, known), open_rows(str(path), known).read(0, 60)
    assert part.context is not None and whole.context is not None and torch.equal(part.context, whole.context)


def test_a_value_that_its_first_rows_do_not_announce_is_told(tmp_path: Path) -> None:
    """Whether a column is of true and false is seen in the first block; what comes later has to fit."""
    path, rng = tmp_path / "rows.csv", np.random.default_rng(0)
    rows = [f"{a},{b},{'true' if a > 0 else 'false'}" for a, b in rng.normal(size=(40_000, 2))]
    path.write_text("\n".join(["a,b,on", *rows]) + "\n")
    known = load(path, seed=0, context=["on"], n=1000).schema
    assert isinstance(known, Schema) and path.stat().st_size > 2**20
    path.write_text("\n".join(["a,b,on", *rows, "1,2,perhaps"]) + "\n")
    with pytest.raises(UserError, match=r"rows.csv: column on is 'perhaps' in row 40000, neither true nor false"):
        open_rows(str(path), known)


def test_one_file_is_held_at_a_time(tmp_path: Path) -> None:
    """Of many files, read in stretches that end within them, the buffers of one: memory does not grow with what was read."""
    a, files = np.random.default_rng(0).normal(size=20_000), 30
    for number in range(files):
        write_columns(tmp_path / "rows" / f"{number:02}.parquet", {"a": a + number, "b": a - number})
    known = load(tmp_path / "rows" / "00.parquet", seed=0).schema
    assert isinstance(known, Schema)
    source, held = open_rows(str(tmp_path / "rows"), known), []
    before = pa.total_allocated_bytes()
    for start in range(0, files * len(a) - 9000, 20_000):
        part = source.read(start, start + 9000)
        held.append(pa.total_allocated_bytes() - before)
        assert torch.equal(part.values[:, 0], torch.from_numpy(a[:9000] + start // 20_000))
    assert max(held) <= 1.5 * held[0], held


def test_what_is_loaded_is_a_source_too(tmp_path: Path, schema: Schema) -> None:
    path = str(write_columns(tmp_path / "rows.npz", cut(columns(), 0, 300)))
    source, whole = open_rows(path, schema), load_rows(path, schema)
    part = source.read(100, 200)
    assert source.rows == len(whole) and torch.equal(part.values, whole.values[100:200])
    assert part.context is not None and whole.context is not None and torch.equal(part.context, whole.context[100:200])
    before = source.identity
    write_columns(path, cut(columns(), 1, 301))
    assert open_rows(path, schema).identity != before
