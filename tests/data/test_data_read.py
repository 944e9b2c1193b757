"""Files to frames: formats, compressions, many files, and every way in which a file can be wrong."""

from __future__ import annotations

import bz2
import gzip
import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeautoml.api.conditions import Reason
from kubeautoml.api.dataset import DataFormat, DataSource
from kubeautoml.api.errors import DataError
from kubeautoml_trainer.data.read import read_bytes, read_table

ROWS = [{"code": "007", "name": "Ann"}, {"code": "010", "name": "Bob"}]
CSV = b"code,name\n007,Ann\n010,Bob\n"


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def records(data: bytes, name: str, data_format: DataFormat = DataFormat.AUTO) -> list[dict[str, object]]:
    return read_bytes(data, name, data_format).to_dict("records")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", CSV),
        ("a.csv", b"\xef\xbb\xbf" + CSV),
        ("a.csv", CSV.decode().encode("utf-16")),
        ("a.csv", CSV.replace(b"\n", b"\r\n")),
        ("a.csv", CSV.replace(b"\n", b"\r")),
        ("a.csv", b"\n\n" + CSV),
        ("a.csv", CSV.replace(b",", b";")),
        ("a.csv", CSV.replace(b",", b"\t")),
        ("a.txt", CSV.replace(b",", b"|")),
        ("a.tsv", CSV.replace(b",", b"\t")),
        ("a.csv", b'"code","name"\n"007","Ann"\n"010","Bob"'),
        ("a.csv.gz", gzip.compress(CSV, mtime=0)),
        ("a.csv.bz2", bz2.compress(CSV)),
        ("a.csv.zst", zstandard.compress(CSV)),
        ("a.csv.zst", zstandard.compress(CSV[:20]) + zstandard.compress(CSV[20:])),
        ("a.parquet", parquet(pd.DataFrame(ROWS))),
        ("a.jsonl", b'{"code": "007", "name": "Ann"}\n\n{"name": "Bob", "code": "010"}\n'),
    ],
)
def test_every_format_and_compression_gives_the_same_rows(name: str, data: bytes):
    """Codes keep their leading zeros, whatever the file is."""
    assert records(data, name) == ROWS


def test_the_manifest_s_format_wins_over_the_name():
    """`format` reads a file whose name says nothing."""
    assert records(CSV, "a.data", DataFormat.CSV) == ROWS


def test_only_empty_text_is_missing_in_a_csv_file():
    """Words such as None stay: they may be a level of a category."""
    frame = read_bytes(b'a,b\nNone,NA\n,""\nx,null\n', "a.csv")

    assert frame["a"].isna().tolist() == [False, True, False]
    assert frame["b"].tolist()[0] == "NA"
    assert frame["b"].isna().tolist() == [False, True, False]


def test_the_delimiter_is_the_one_that_fits_all_lines():
    """Commas inside a header or values do not make a file with semicolons one with commas."""
    frame = read_bytes(b'name;"price, net";note\nx;1;a,b,c,d\ny;2;c\n', "a.csv")

    assert list(frame.columns) == ["name", "price, net", "note"]
    assert frame["note"].tolist() == ["a,b,c,d", "c"]


def test_a_column_without_a_name_gets_one():
    """The index that a data frame wrote stays a column."""
    assert list(read_bytes(b",a\n0,x\n", "a.csv").columns) == ["unnamed: 0", "a"]


@pytest.mark.parametrize(
    ("name", "data", "reason", "message"),
    [
        ("a.csv", b"", Reason.DATASET_EMPTY, "a.csv is empty"),
        ("a.csv.gz", gzip.compress(b"\n", mtime=0), Reason.DATASET_EMPTY, "a.csv.gz is empty"),
        ("a.csv", b"x,y\n", Reason.DATASET_EMPTY, "a.csv has a header and no rows"),
        ("a.parquet", parquet(pd.DataFrame({"x": []})), Reason.DATASET_EMPTY, "a.parquet has a header and no rows"),
        (
            "a.csv",
            b"x,y\n1,2\n\n3\n",
            Reason.DATASET_UNREADABLE,
            "a.csv: every line must have 2 fields, as the header has, but line 4 has 1; quote values that hold the delimiter ','",
        ),
        (
            "a.tsv",
            b'x\ty\n"a\nb"\t2\n1\t2\t3\n',
            Reason.DATASET_UNREADABLE,
            "a.tsv: every line must have 2 fields, as the header has, but line 4 has 3; quote values that hold the delimiter 'tab'",
        ),
        (
            "a.csv",
            b'x,y\n1,2\n3,"4\n5,6\n7,8\n',
            Reason.DATASET_UNREADABLE,
            "a.csv: a quote that opens in line 3 is never closed; close it, or double it if it belongs to the value",
        ),
        (
            "a.csv",
            "x,y\n1,2\nKöln,3\n".encode("latin1"),
            Reason.DATASET_UNREADABLE,
            "a.csv must be UTF-8 text; byte 9 (0xf6) in line 3 is not; convert it, for example with: iconv -f latin1 -t utf-8",
        ),
        (
            "a.csv",
            "x,y\n1,2\n".encode("utf-16-le"),
            Reason.DATASET_UNREADABLE,
            "a.csv must be text, but byte 1 is zero; set the format, or convert UTF-16 to UTF-8",
        ),
        (
            "a.csv",
            "x,y\n".encode("utf-16") + b"\x00",
            Reason.DATASET_UNREADABLE,
            "a.csv begins as UTF-16 but byte 10 is not: truncated data; convert it to UTF-8",
        ),
        (
            "a.csv",
            b"x,y,x\n1,2,3\n",
            Reason.DUPLICATE_COLUMNS,
            "a.csv: column names must be different, but more than one column is named 'x'; rename them",
        ),
        (
            "a.jsonl",
            b'{"x": 1}\n{"x": 1, "x": 2}\n',
            Reason.DUPLICATE_COLUMNS,
            "a.jsonl: column names must be different, line 2 has 'x' more than once; rename it",
        ),
        (
            "a.jsonl",
            b'{"x": 1}\n[1]\n',
            Reason.DATASET_UNREADABLE,
            'a.jsonl: line 2 must be an object such as {"age": 42}, got a list',
        ),
        (
            "a.json",
            b"[\n{}]",
            Reason.DATASET_UNREADABLE,
            "a.json: line 1 is no JSON: Expecting value at character 2; a JSON list must be written as one object a line",
        ),
        (
            "a.csv.gz",
            gzip.compress(CSV, mtime=0)[:-9],
            Reason.DATASET_UNREADABLE,
            "a.csv.gz cannot be decompressed as .gz: Compressed file ended before the end-of-stream marker was reached; upload it again",
        ),
        (
            "a.csv.zst",
            zstandard.compress(CSV)[:-3],
            Reason.DATASET_UNREADABLE,
            "a.csv.zst cannot be decompressed as .zst: the file ends too early; upload it again",
        ),
        (
            "a.xlsx",
            b"PK",
            Reason.DATASET_UNREADABLE,
            "a.xlsx: the format cannot be told from the name; set format to Csv, Tsv, Parquet or JsonLines",
        ),
    ],
)
def test_a_bad_file_is_named_with_place_and_rule(name: str, data: bytes, reason: Reason, message: str):
    """The whole line that a user reads."""
    with pytest.raises(DataError) as caught:
        read_bytes(data, name)

    assert (caught.value.reason, str(caught.value)) == (reason, message)


def test_a_damaged_parquet_file_is_named():
    """Arrow's own words stand between the file and what to do."""
    data = parquet(pd.DataFrame(ROWS))

    with pytest.raises(DataError, match=r"^a\.parquet is no valid Parquet file: .*; write it again$") as caught:
        read_bytes(data[:-20], "a.parquet")
    assert caught.value.reason == Reason.DATASET_UNREADABLE


def test_two_columns_of_one_name_in_parquet_are_refused():
    """Neither is renamed in silence."""
    buffer = io.BytesIO()
    pq.write_table(pa.table([[1], [2]], names=["x", "x"]), buffer)

    with pytest.raises(DataError) as caught:
        read_bytes(buffer.getvalue(), "a.parquet")

    said = "a.parquet: column names must be different, but more than one column is named 'x'; rename them"
    assert (caught.value.reason, str(caught.value)) == (Reason.DUPLICATE_COLUMNS, said)


def test_a_quote_left_open_in_a_large_file_is_found_quickly(tmp_path: Path):
    """Beyond the limit of one field the message still names the line where the quote opens."""
    data = b'x,y\n1,2\n"3,4\n' + b"5,6\n" * 60_000

    with pytest.raises(DataError) as caught:
        read_bytes(data, "a.csv")

    assert str(caught.value).startswith("a.csv: a quote that opens in line 3 is never closed")


def test_files_of_a_glob_are_joined_by_name_in_the_order_of_their_uris(tmp_path: Path):
    """Columns may stand in another order; parts without rows, as parallel writers leave them, add nothing."""
    (tmp_path / "b.csv").write_text("y,x\n3,4\n")
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "c.csv").write_text("x,y\n")

    frame = read_table(DataSource(uri=f"file://{tmp_path}/*.csv"))

    assert frame.to_dict("list") == {"x": ["1", "4"], "y": ["2", "3"]}


def test_files_below_a_prefix_are_read_and_markers_are_not(tmp_path: Path):
    """An empty _SUCCESS file beside the parts is no data."""
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "part-0.jsonl.gz").write_bytes(gzip.compress(b'{"x": 1}\n'))
    (tmp_path / "part-1.jsonl").write_text('{"x": 2}\n')

    assert read_table(DataSource(uri=f"file://{tmp_path}/"))["x"].tolist() == [1, 2]


def test_files_with_other_columns_are_refused(tmp_path: Path):
    """The message names both files and what is different."""
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("x,z\n1,2\n")

    with pytest.raises(DataError) as caught:
        read_table(DataSource(uri=f"file://{tmp_path}/*.csv"))

    said = (
        f"all files must have the columns of file://{tmp_path}/a.csv, but file://{tmp_path}/b.csv lacks y; has also z"
    )
    assert (caught.value.reason, str(caught.value)) == (Reason.DATASET_UNREADABLE, said)


def test_a_source_without_files_is_not_found(tmp_path: Path):
    """The message holds the URI as written."""
    with pytest.raises(DataError) as caught:
        read_table(DataSource(uri=f"file://{tmp_path}/*.csv"))

    said = f"no file matches file://{tmp_path}/*.csv; check bucket, path and spelling"
    assert (caught.value.reason, str(caught.value)) == (Reason.DATASET_NOT_FOUND, said)


def test_files_that_all_have_no_rows_are_an_empty_source(tmp_path: Path):
    """Only together must they hold a row."""
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("x,y\n")

    with pytest.raises(DataError) as caught:
        read_table(DataSource(uri=f"file://{tmp_path}/*.csv"))

    said = f"file://{tmp_path}/*.csv has a header and no rows"
    assert (caught.value.reason, str(caught.value)) == (Reason.DATASET_EMPTY, said)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=("Cs",)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=8))
def test_what_a_csv_writer_wrote_is_read_back(rows: list[tuple[str, str, str]]):
    """Quotes, delimiters and line breaks inside values survive; empty text is missing."""
    frame = pd.DataFrame(rows, columns=["a", "b", "c"])
    data = frame.to_csv(index=False, quoting=1, lineterminator="\n").encode()

    found = read_bytes(data, "a.csv").astype(object)

    wanted = frame.astype(object).where(frame != "", None)
    assert found.where(found.notna(), None).to_dict("records") == wanted.to_dict("records")
