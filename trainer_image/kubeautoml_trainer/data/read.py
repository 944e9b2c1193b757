"""Files to one raw frame: CSV, TSV, Parquet and JSON lines, plain or compressed, one object or many.

CSV is read as text, so that "007" stays what it is; types are decided later, from all values. Every way in which a file can be
wrong ends in a `DataError` with the file, the place and what to do.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import zstandard

from kubeautoml.api.conditions import Reason
from kubeautoml.api.dataset import DataFormat, DataSource
from kubeautoml.api.errors import DataError
from kubeautoml.storage import ObjectStore, StoredObject, open_store
from kubeautoml.storage.base import is_glob

SUFFIXES = {
    ".csv": DataFormat.CSV,
    ".tsv": DataFormat.TSV,
    ".tab": DataFormat.TSV,
    ".txt": DataFormat.CSV,
    ".parquet": DataFormat.PARQUET,
    ".pq": DataFormat.PARQUET,
    ".jsonl": DataFormat.JSON_LINES,
    ".ndjson": DataFormat.JSON_LINES,
    ".json": DataFormat.JSON_LINES,
}
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".zst": lambda data: _unzstd(data),
}
DELIMITERS = ",;\t|"
BLOCK_BYTES = 1 << 24
SNIFF_BYTES, SNIFF_RECORDS = 1 << 16, 20


def read_table(
    source: DataSource, credentials_dir: Path | None = None, *, patience_seconds: float = 0.0
) -> pd.DataFrame:
    """All rows of a source, files in the order of their URIs; columns as in the first file.

    Args:
        patience_seconds: how long each file is waited for while the storage is away.

    Raises:
        DataError: a file is missing, empty or broken, or the files do not belong together.
        StorageError: the storage refuses or does not answer.
    """
    store = open_store(source.uri, credentials_dir, patience_seconds=patience_seconds)
    return read_files(store, find_files(store, source.uri), source)


def find_files(store: ObjectStore, uri: str) -> list[StoredObject]:
    """The files of a URI, at least one.

    Raises:
        DataError: there is none.
    """
    objects = store.find(uri)
    if not objects:
        below = (
            ""
            if uri.endswith("/") or is_glob(uri) or not store.find(uri + "/")
            else f"; for the files below it: {uri}/"
        )
        hint = below or "; check bucket, path and spelling"
        raise DataError(f"no file matches {uri}{hint}", reason=Reason.DATASET_NOT_FOUND)
    return objects


def read_files(
    store: ObjectStore,
    objects: list[StoredObject],
    source: DataSource,
    each: Callable[[pd.DataFrame, str], pd.DataFrame] = lambda frame, uri: frame,
) -> pd.DataFrame:
    """The rows of these files, joined.

    Args:
        each: called with the rows of a file and its URI; what it returns is taken.

    Raises:
        DataError: a file is missing, empty or broken, or they do not belong together.
    """
    frames: list[pd.DataFrame] = []
    for found in objects:
        frame = _read(store.read(found.uri), found.uri, source.format)
        if frames:
            frame = _in_order(frame, frames[0], found, objects[0])
        frames.append(each(frame, found.uri) if len(frame) else frame)
    # parallel writers leave parts without rows; only all of them together must hold some
    filled = [f for f in frames if len(f)]
    if not filled:
        raise _no_rows(source.uri)
    return filled[0] if len(filled) == 1 else pd.concat(filled, ignore_index=True)


def read_bytes(data: bytes, name: str, data_format: DataFormat = DataFormat.AUTO) -> pd.DataFrame:
    """One file's rows. `name` decides format and compression, and is named in messages.

    Raises:
        DataError: the file is empty or broken.
    """
    frame = _read(data, name, data_format)
    if not len(frame):
        raise _no_rows(name)
    return frame


def _no_rows(name: str) -> DataError:
    return DataError(f"{name} has a header and no rows", reason=Reason.DATASET_EMPTY)


def _read(data: bytes, name: str, data_format: DataFormat) -> pd.DataFrame:
    """One file's rows, which may be none."""
    stem, data = decompressed(data, name)
    if not data.strip():
        raise DataError(f"{name} is empty", reason=Reason.DATASET_EMPTY)
    kind = data_format if data_format is not DataFormat.AUTO else _format_of(stem, name)
    readers: dict[DataFormat, Callable[[bytes, str], pd.DataFrame]] = {
        DataFormat.CSV: lambda d, n: _read_csv(d, n, None),
        DataFormat.TSV: lambda d, n: _read_csv(d, n, "\t"),
        DataFormat.PARQUET: _read_parquet,
        DataFormat.JSON_LINES: _read_json_lines,
    }
    return readers[kind](data, name)


def _format_of(stem: str, name: str) -> DataFormat:
    suffix = Path(stem).suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"{name}: the format cannot be told from the name; set format to Csv, Tsv, Parquet or JsonLines",
            reason=Reason.DATASET_UNREADABLE,
        )
    return SUFFIXES[suffix]


def decompressed(data: bytes, name: str) -> tuple[str, bytes]:
    """The name without the suffix of its compression, and what was compressed.

    Raises:
        DataError: it cannot be decompressed.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in DECOMPRESS:
        return name, data
    if not data:
        return name[: -len(suffix)], data
    try:
        return name[: -len(suffix)], DECOMPRESS[suffix](data)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, ValueError) as error:
        raise DataError(
            f"{name} cannot be decompressed as {suffix}: {error}; upload it again", reason=Reason.DATASET_UNREADABLE
        ) from error


def _unzstd(data: bytes) -> bytes:
    """All frames, as parallel compressors write several; a frame that is cut off is an error, not an end."""
    parts: list[bytes] = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts.append(frame.decompress(data))
        if not frame.eof:
            raise EOFError("the file ends too early")
        data = frame.unused_data
    return b"".join(parts)


def _in_order(frame: pd.DataFrame, first: pd.DataFrame, found: StoredObject, first_found: StoredObject) -> pd.DataFrame:
    """The frame with the columns of the first file, in its order."""
    missing = [str(c) for c in first.columns if c not in frame.columns]
    extra = [str(c) for c in frame.columns if c not in first.columns]
    if missing or extra:
        differs = "; ".join(
            part
            for part in (
                f"lacks {', '.join(missing[:10])}" * bool(missing),
                f"has also {', '.join(extra[:10])}" * bool(extra),
            )
            if part
        )
        raise DataError(
            f"all files must have the columns of {first_found.uri}, but {found.uri} {differs}",
            reason=Reason.DATASET_UNREADABLE,
        )
    return frame[list(first.columns)]


def _check_names(names: list[str], file: str) -> None:
    twice = sorted(n for n, count in Counter(names).items() if count > 1)
    if twice:
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise DataError(
            f"{file}: column names must be different, but more than one column is named "
            f"{', '.join(repr(n) for n in twice[:5])}{more}; rename them",
            reason=Reason.DUPLICATE_COLUMNS,
        )


# CSV


def _read_csv(data: bytes, name: str, delimiter: str | None) -> pd.DataFrame:
    text = _as_utf8(data, name)
    body = text.lstrip(b"\r\n")
    skipped = text.count(b"\n", 0, len(text) - len(body))
    delimiter = delimiter or _delimiter(body)
    header = next(_records(body[:BLOCK_BYTES], delimiter))
    names = [n if n.strip() else f"unnamed: {i}" for i, n in enumerate(header)]
    _check_names(names, name)
    try:
        table = _parse_csv(body, delimiter, len(header))
    except pa.ArrowInvalid as error:
        raise _csv_problem(body, delimiter, len(header), name, skipped, str(error)) from error
    _check_last_quote(table, body, name, skipped)
    # large strings, as pandas itself has them: the frame shares the table's memory
    return pd.DataFrame({n: table.column(i).to_pandas() for i, n in enumerate(names)})


def _parse_csv(text: bytes, delimiter: str, width: int) -> pa.Table:
    names = [str(i) for i in range(width)]
    return pacsv.read_csv(
        pa.BufferReader(text),
        read_options=pacsv.ReadOptions(column_names=names, skip_rows_after_names=1, block_size=BLOCK_BYTES),
        parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.large_string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=[""],
        ),
    )


def _as_utf8(data: bytes, name: str) -> bytes:
    """UTF-8 without a byte order mark; UTF-16 is converted.

    Raises:
        DataError: it is neither; names the byte and the line.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{name} begins as UTF-16 but byte {error.start} is not: {error.reason}; convert it to UTF-8",
                reason=Reason.DATASET_UNREADABLE,
            ) from error
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise undecodable(data, name, "utf-8", error) from error
    zero = data.find(b"\0")
    if zero >= 0:
        raise DataError(
            f"{name} must be text, but byte {zero} is zero; set the format, or convert UTF-16 to UTF-8",
            reason=Reason.DATASET_UNREADABLE,
        )
    return data.removeprefix(b"\xef\xbb\xbf")


def undecodable(data: bytes, name: str, encoding: str, error: UnicodeDecodeError) -> DataError:
    """What is wrong with the bytes of a file: which of them is no text, and in which line."""
    line = data.count(b"\n", 0, error.start) + 1
    return DataError(
        f"{name} must be {encoding.upper()} text; byte {error.start} (0x{data[error.start]:02x}) in line {line} is not; "
        "convert it, for example with: iconv -f latin1 -t utf-8",
        reason=Reason.DATASET_UNREADABLE,
    )


def _records(text: bytes, delimiter: str) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(text.decode("utf-8", "ignore"), newline=""), delimiter=delimiter)


def _delimiter(text: bytes) -> str:
    """The delimiter that cuts the first records into the same number of fields, and into most."""

    def fit(delimiter: str) -> tuple[bool, float, int, int]:
        try:
            widths = [len(r) for r in islice(_records(text[:SNIFF_BYTES], delimiter), SNIFF_RECORDS) if r]
        except csv.Error:
            return (False, 0.0, 0, 0)
        return (widths[0] > 1, widths.count(widths[0]) / len(widths), widths[0], -DELIMITERS.index(delimiter))

    return max(DELIMITERS, key=fit)


def _check_last_quote(table: pa.Table, text: bytes, name: str, skipped: int) -> None:
    """Arrow takes a quote that is never closed for one that ends with the file, and swallows all lines between.

    Raises:
        DataError: the last value spans lines, and no quote ends it.
    """
    last = table.column(table.num_columns - 1)[-1].as_py() if table.num_rows else None
    if last and "\n" in last and not text.rstrip().endswith(b'"'):
        raise _open_quote(name, skipped + text.count(b"\n") - last.count("\n") + 1)


def _open_quote(name: str, line: int) -> DataError:
    return DataError(
        f"{name}: a quote that opens in line {line} is never closed; close it, or double it if it belongs to the value",
        reason=Reason.DATASET_UNREADABLE,
    )


def _csv_problem(text: bytes, delimiter: str, width: int, name: str, skipped: int, said: str) -> DataError:
    """The first line that does not fit, found by a slower reader that counts lines."""
    reader = csv.reader(io.StringIO(text.decode(), newline=""), delimiter=delimiter)
    line = skipped + 1
    try:
        for row in reader:
            if row and len(row) != width:
                # a multi-line record is named by its first line
                return DataError(
                    f"{name}: every line must have {width} fields, as the header has, but line {line} has {len(row)}; "
                    f"quote values that hold the delimiter '{_NAMED.get(delimiter, delimiter)}'",
                    reason=Reason.DATASET_UNREADABLE,
                )
            line = skipped + reader.line_num + 1
    except csv.Error:
        # only a field without end grows beyond the reader's limit
        return _open_quote(name, line)
    return DataError(f"{name} is no valid CSV: {said[:200]}", reason=Reason.DATASET_UNREADABLE)


_NAMED = {"\t": "tab"}


# Parquet, JSON lines


def _read_parquet(data: bytes, name: str) -> pd.DataFrame:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_names(list(file.schema_arrow.names), name)
        table = file.read()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(
            f"{name} is no valid Parquet file: {str(error)[:200]}; write it again", reason=Reason.DATASET_UNREADABLE
        ) from error
    return table.to_pandas(ignore_metadata=True)


def _read_json_lines(data: bytes, name: str) -> pd.DataFrame:
    records: list[dict[str, Any]] = []
    for number, line in enumerate(_as_utf8(data, name).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_once)
        except _TwiceError as error:
            raise DataError(
                f"{name}: column names must be different, line {number} has {error} more than once; rename it",
                reason=Reason.DUPLICATE_COLUMNS,
            ) from error
        except json.JSONDecodeError as error:
            hint = "; a JSON list must be written as one object a line" * line.lstrip().startswith(b"[")
            raise DataError(
                f"{name}: line {number} is no JSON: {error.msg} at character {error.colno}{hint}",
                reason=Reason.DATASET_UNREADABLE,
            ) from error
        if not isinstance(record, dict):
            raise DataError(
                f'{name}: line {number} must be an object such as {{"age": 42}}, got a {type(record).__name__}',
                reason=Reason.DATASET_UNREADABLE,
            )
        records.append(record)
    return pd.DataFrame(records).infer_objects()


class _TwiceError(Exception):
    """A JSON object names a field twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise _TwiceError(", ".join(repr(n) for n, count in Counter(n for n, _ in pairs).items() if count > 1))
    return record
