"""Reading and writing tables: what comes back is what was written, and every bad file says what is wrong with it."""

from __future__ import annotations

import os
import stat

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from iresnet.data import check_writable, read_table, split, write_columns
from iresnet.errors import UserError


def text(path, content, encoding="utf-8"):
    path.write_text(content, encoding=encoding)
    return path


COLUMNS = {
    "b": np.array([0.1, 1 / 3, -2e-17, 1e9]),
    "a": np.array([1, 2, 3, 4]),
    "kind": np.array(["x", "y,z", 'q"', "x"]),
}


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npz"])
def test_columns_come_back_as_they_were_written(tmp_path, ending):
    path = write_columns(tmp_path / f"t{ending}", COLUMNS)
    table = read_table(path, context=["kind"])
    assert table.names == ("b", "a") and len(table) == 4
    assert table.values.tolist() == np.column_stack([COLUMNS["b"], COLUMNS["a"]]).tolist()
    assert table.aside["kind"].tolist() == COLUMNS["kind"].tolist()
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_tensors_and_reserved_names_can_be_written(tmp_path):
    path = write_columns(tmp_path / "t.npz", {"file": torch.arange(3.0), "log_prob": torch.ones(3, dtype=torch.float64)})
    assert read_table(path).names == ("file", "log_prob")


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("t.xlsx", {"a": [1.0]}, r"ends in .xlsx; results are written as .csv, .parquet, .npz"),
        ("t", {"a": [1.0]}, "ends in nothing"),
        ("t.csv", {"a": [1.0], "b": [1.0, 2.0]}, r"vectors of one length, got a \(1,\), b \(2,\)"),
        ("t.csv", {"a": [[1.0]]}, r"vectors of one length, got a \(1, 1\)"),
        ("t.csv", {}, "vectors of one length, got none"),
        ("t.npz", {"a": np.array([None], dtype=object)}, "not Python objects"),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_file_is_touched(tmp_path, name, columns, message):
    with pytest.raises(UserError, match=message):
        write_columns(tmp_path / name, columns)
    assert not list(tmp_path.iterdir())
    assert check_writable("a/b.CSV") == ".csv"


def test_columns_choose_and_order_and_drop_leaves_out(tmp_path):
    path = text(tmp_path / "t.csv", "a,b,c\n1,2,3\n4,5,6\n")
    assert read_table(path, columns=["c", "a"]).values.tolist() == [[3, 1], [6, 4]]
    assert read_table(path, drop=["b"]).names == ("a", "c")
    assert read_table(path, label="b", context=["c"]).names == ("a",)
    assert read_table(path, columns=["a"], context=["c"]).aside["c"].tolist() == [3, 6]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_semicolons_tabs_and_a_byte_order_mark_are_read(tmp_path, mark):
    path = text(tmp_path / "t.csv", f"a{mark}b\n1{mark}2\n3{mark}4\n", "utf-8-sig")
    table = read_table(path)
    assert table.names == ("a", "b") and table.values.tolist() == [[1, 2], [3, 4]]


def test_missing_values_are_refused_or_their_rows_left_out(tmp_path):
    path = text(tmp_path / "t.csv", "a,b,c,d\n1,2,3,u\n,5,6,u\n7,NaN,9,\n8,1,,v\n1,1,1,v\n")
    with pytest.raises(UserError, match=r"3 of 5 rows have missing values, in a \(1\), b \(1\), c \(1\); .*--missing drop"):
        read_table(path, drop=["d"])
    table = read_table(path, context=["d"], missing="drop")
    assert table.values.tolist() == [[1, 2, 3], [1, 1, 1]] and table.rows.tolist() == [0, 4]
    assert table.notes == ("3 of 5 rows are left out because a value is missing",)
    assert read_table(path, columns=["c"], missing="drop").rows.tolist() == [0, 1, 2, 4]
    with pytest.raises(UserError, match=r"1 of 5 rows have missing values, in d \(1\)"):
        read_table(text(tmp_path / "u.csv", "c,d\n1,u\n2,\n3,u\n4,v\n5,v\n"), context=["d"])


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "t.csv is empty"),
        ("a,b\n", {}, "t.csv has a header but no rows"),
        ("a,b,a\n1,2,3\n", {}, "several columns named 'a'; rename them"),
        ("a,b\n1,2\n3\n", {}, r"not a valid CSV file: CSV parse error: Row #3: Expected 2 columns, got 1: 3"),
        ("1.5,2\n1,2\n3,4\n", {}, r"first line of .* holds numbers \(1.5, 2, ...\); put the column names there"),
        ("a,b\n1,2\n3,?\n", {}, r"column b holds text, such as '\?' in row 1; use --drop b, or in training --context b"),
        ("a,when\n1,2020-01-01\n3,2020-01-02\n", {}, "column when holds text, such as '2020-01-01' in row 0"),
        ("a,b\n1,inf\n3,4\n", {}, "column b is inf in row 0; give finite numbers below 1e150"),
        ("a,b\n1,2\n3,1e200\n", {}, r"column b is 1e\+200 in row 1"),
        ("a,b\n,2\n3,\n", {"missing": "drop"}, "every row has a missing value; --drop the columns"),
        ("a,b\n1,2\n", {"missing": "fill"}, "missing must be error or drop, got 'fill'"),
        ("alpha,beta\n1,2\n", {"columns": ["alhpa"]}, "--columns: .* has no column 'alhpa'; did you mean alpha"),
        ("alpha,beta\n1,2\n", {"drop": ["zz"]}, "--drop: .* has no column 'zz'; it has alpha, beta"),
        ("alpha,beta\n1,2\n", {"label": "betta"}, "--label: .* did you mean beta"),
        ("alpha,beta\n1,2\n", {"context": ["bet"]}, "--context: .* did you mean beta"),
        ("a,b\n1,2\n", {"columns": ["a", "a"]}, "--columns names a twice"),
        ("a,b\n1,2\n", {"drop": ["a", "b"]}, "no column is left to model"),
        ("a,b\n1,2\n", {"columns": ["a", "b"], "label": "a"}, "column a cannot be label or context and also be in"),
    ],
)
def test_bad_csv_and_bad_choices_are_told(tmp_path, content, options, message):
    with pytest.raises(UserError, match=message):
        read_table(text(tmp_path / "t.csv", content), **options)


def test_bad_paths_are_told(tmp_path):
    text(tmp_path / "measured.csv", "a\n1\n")
    with pytest.raises(UserError, match=r"no file .*mesured.csv; did you mean .*measured.csv\?"):
        read_table(tmp_path / "mesured.csv")
    with pytest.raises(UserError, match=r"no file .*x.csv$"):
        read_table(tmp_path / "none" / "x.csv")
    with pytest.raises(UserError, match="is a folder; give a file ending in .csv"):
        read_table(tmp_path)
    with pytest.raises(UserError, match="ends in .txt; a table ends in .csv, .parquet, .npz, .npy"):
        read_table(text(tmp_path / "t.txt", "a\n1\n"))


def test_a_path_the_system_refuses_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot read .*: File name too long"):
        read_table(tmp_path / ("x" * 5000 + ".csv"))


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs Linux: its file of memory cannot be read at 0")
def test_a_file_that_fails_in_reading_is_told(tmp_path):
    (tmp_path / "t.csv").symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match="cannot read .*t.csv: Input/output error"):
        read_table(tmp_path / "t.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can read everything")
def test_an_unreadable_file_is_told(tmp_path):
    path = text(tmp_path / "t.csv", "a\n1\n")
    path.chmod(0)
    with pytest.raises(UserError, match="cannot read .*t.csv: Permission denied"):
        read_table(path)
    path.chmod(stat.S_IRWXU)


@pytest.mark.parametrize("ending", [".parquet", ".npz", ".npy"])
def test_a_file_that_is_not_what_its_ending_says_is_told(tmp_path, ending):
    with pytest.raises(UserError, match=f"is not a valid {ending[1:].upper()} file: its first bytes"):
        read_table(text(tmp_path / f"t{ending}", "a,b\n1,2\n"))
    (tmp_path / f"e{ending}").touch()
    with pytest.raises(UserError, match=f"e{ending} is empty"):
        read_table(tmp_path / f"e{ending}")


def test_a_truncated_archive_is_told(tmp_path):
    path = write_columns(tmp_path / "t.npz", {"a": np.arange(5000.0)})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="not a valid NPZ file: "):
        read_table(path)
    path = write_columns(tmp_path / "t.parquet", {"a": np.arange(5000.0)})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="not a valid PARQUET file: "):
        read_table(path)
    np.save(tmp_path / "t.npy", np.zeros((50, 3)))
    (tmp_path / "t.npy").write_bytes((tmp_path / "t.npy").read_bytes()[:-40])
    with pytest.raises(UserError, match="not a valid NPY file: "):
        read_table(tmp_path / "t.npy")


@pytest.mark.parametrize("content", ["grö\xdfe\n1\n2\n", "a,b\n1,grö\xdfe\n2,b\n"])
def test_another_encoding_than_utf_8_is_told(tmp_path, content):
    with pytest.raises(UserError, match="is not in UTF-8; save it in that encoding"):
        read_table(text(tmp_path / "t.csv", content, "latin-1"))


def test_types_are_inferred_from_the_whole_file(tmp_path):
    """A column of whole numbers for the first megabytes may still turn out to be decimal."""
    content = "a\n" + "1000000\n" * 400_000 + "0.5\n"
    assert read_table(text(tmp_path / "t.csv", content)).values[-1] == 0.5


def test_parquet_types(tmp_path):
    table = pa.table(
        {
            "i": pa.array([1, None, 3]),
            "f": pa.array([0.5, 1.5, 2.5], pa.float32()),
            "flag": pa.array([True, False, True]),
            "decimal": pa.array(["1.25", "2.50", "3.75"]).cast(pa.decimal128(5, 2)),
            "category": pa.array(["u", "v", "u"]).dictionary_encode(),
            "__index_level_0__": pa.array([7, 8, 9]),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet", context=["category"], missing="drop")
    assert read.names == ("i", "f", "flag", "decimal")
    assert read.values.tolist() == [[1, 0.5, 1, 1.25], [3, 2.5, 1, 3.75]]
    assert read.aside["category"].tolist() == ["u", "u"]
    pyarrow.parquet.write_table(pa.table({"a": [1], "list": [[1, 2]]}), tmp_path / "l.parquet")
    with pytest.raises(UserError, match="column list holds text"):
        read_table(tmp_path / "l.parquet")
    pyarrow.parquet.write_table(pa.table({}), tmp_path / "n.parquet")
    with pytest.raises(UserError, match="has no columns"):
        read_table(tmp_path / "n.parquet")


def test_matrices_get_column_names_and_an_npz_label_stays_aside(tmp_path):
    matrix = np.arange(12.0).reshape(6, 2)
    np.save(tmp_path / "m.npy", matrix.astype(np.int16))
    assert read_table(tmp_path / "m.npy").names == ("x0", "x1")
    np.savez(tmp_path / "m.npz", X=matrix, y=np.array([0, 0, 1, 1, 0, 1]))
    table = read_table(tmp_path / "m.npz")
    assert table.names == ("x0", "x1") and table.natural_label == "y" and table.aside["y"].tolist() == [0, 0, 1, 1, 0, 1]
    assert "y is kept aside" in table.notes[0]
    assert read_table(tmp_path / "m.npz", columns=["x1", "y"]).names == ("x1", "y")
    asked = read_table(tmp_path / "m.npz", label="y")
    assert asked.names == ("x0", "x1") and asked.natural_label is None and asked.notes == ()
    np.savez(tmp_path / "one.npz", whatever=matrix)
    assert read_table(tmp_path / "one.npz").values.tolist() == matrix.tolist()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"p": np.zeros((3, 2)), "q": np.zeros((3, 2))}, r"holds p \(3, 2\), q \(3, 2\); a table needs one 2-D array"),
        ({"p": np.zeros(3), "q": np.zeros(2)}, r"holds p \(3,\), q \(2,\); a table"),
        ({"p": np.zeros((3, 2, 2))}, r"holds p \(3, 2, 2\)"),
        ({}, "holds no arrays"),
        ({"X": np.zeros((3, 2)), "y": np.zeros(4)}, "X has 3 rows but y has 4"),
        ({"X": np.zeros((3, 2), dtype=complex)}, "the array X holds complex128; save it as real numbers or text"),
        ({"X": np.zeros((0, 2))}, "has a header but no rows"),
        ({"X": np.array([[1, "a"], [2, None]], dtype=object)}, "holds Python objects, which could run code"),
    ],
)
def test_archives_that_are_no_table_are_told(tmp_path, arrays, message):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / "t.npz")


def test_an_object_array_is_not_unpickled(tmp_path):
    np.save(tmp_path / "t.npy", np.array([[1, "a"]], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="holds Python objects, which could run code"):
        read_table(tmp_path / "t.npy")


@pytest.mark.parametrize("n", [10, 11, 99, 5000])
def test_split_is_a_partition_fixed_by_the_seed(n):
    train, validation, test = split(n, seed=3)
    assert sorted(torch.cat([train, validation, test]).tolist()) == list(range(n))
    assert min(len(train), len(validation), len(test)) >= 1
    assert abs(len(test) - 0.1 * n) <= 1
    assert all(torch.equal(a, b) for a, b in zip(split(n, seed=3), (train, validation, test), strict=True))
    if n > 20:
        assert not torch.equal(split(n, seed=4)[2], test)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0), "1 row is too few"),
        ((9, 0), "9 rows are too few to train, validate and test on; give at least 10"),
        ((10, 0, (0.02, 0.49, 0.49)), "10 rows are too few"),
        ((50, 0, (0.8, 0.2, 0.0)), "must be positive and sum to 1"),
        ((50, 0, (0.8, 0.1, 0.2)), "must be positive and sum to 1"),
        ((50, -1), "the seed must not be negative"),
    ],
)
def test_impossible_splits_are_told(arguments, message):
    with pytest.raises(UserError, match=message):
        split(*arguments)
