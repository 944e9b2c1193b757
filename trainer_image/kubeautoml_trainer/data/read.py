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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import zstandard

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import DataError
from kubeautoml.api.job import DataFormat, DataSource
from kubeautoml.storage import StoredObject, open_store

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
    ".zst": lambda data: zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read(),
}
DELIMITERS = ",;\t|"
BLOCK_BYTES = 1 << 24


def read_table(source: DataSource, credentials_dir: Path | None = None) -> pd.DataFrame:
    """All rows of a source, files in the order of their URIs; columns as in the first file.

    Raises:
        DataError: a file is missing, empty or broken, or the files do not belong together.
        StorageError: the storage refuses or does not answer.
    """
    store = open_store(source.uri, credentials_dir)
    objects = store.find(source.uri)
    if not objects:
        raise DataError(
            f"no file matches {source.uri}; check bucket, path and spelling", reason=Reason.DATASET_NOT_FOUND
        )
    frames: list[pd.DataFrame] = []
    for found in objects:
        frame = read_bytes(store.read(found.uri), found.uri, source.format)
        if frames:
            frame = _in_order(frame, frames[0], found, objects[0])
        frames.append(frame)
    table = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
    if table.empty:
        raise DataError(f"{source.uri} holds no rows", reason=Reason.DATASET_EMPTY)
    return table


def read_bytes(data: bytes, name: str, data_format: DataFormat = DataFormat.AUTO) -> pd.DataFrame:
    """One file's rows. `name` decides format and compression, and is named in messages.

    Raises:
        DataError: the file is empty or broken.
    """
    stem, data = _decompressed(data, name)
    if not data.strip():
        raise DataError(f"{name} is empty", reason=Reason.DATASET_EMPTY)
    kind = data_format if data_format is not DataFormat.AUTO else _format_of(stem, name)
    readers: dict[DataFormat, Callable[[bytes, str], pd.DataFrame]] = {
        DataFormat.CSV: lambda d, n: _read_csv(d, n, None),
        DataFormat.TSV: lambda d, n: _read_csv(d, n, "\t"),
        DataFormat.PARQUET: _read_parquet,
        DataFormat.JSON_LINES: _read_json_lines,
    }
    frame = readers[kind](data, name)
    _check_names([str(c) for c in frame.columns], name)
    return frame


def _format_of(stem: str, name: str) -> DataFormat:
    suffix = Path(stem).suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"{name}: the format cannot be told from the name; set format to Csv, Tsv, Parquet or JsonLines",
            reason=Reason.DATASET_UNREADABLE,
        )
    return SUFFIXES[suffix]


def _decompressed(data: bytes, name: str) -> tuple[str, bytes]:
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
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise DataError(
            f"{file}: column names must be different, {', '.join(repr(n) for n in twice[:5])} stands there more than once; rename one",
            reason=Reason.DUPLICATE_COLUMNS,
        )
    if any(not n.strip() for n in names):
        where = next(i for i, n in enumerate(names) if not n.strip())
        # an index that was written without a name, as data frames do
        names[where] = f"unnamed: {where}"


# CSV


def _read_csv(data: bytes, name: str, delimiter: str | None) -> pd.DataFrame:
    text = _as_utf8(data, name)
    delimiter = delimiter or _delimiter(text)
    header = _header(text, delimiter)
    _check_names(list(header), name)
    try:
        table = _parse_csv(text, delimiter, header)
    except pa.ArrowInvalid as error:
        raise _csv_problem(text, delimiter, len(header), name, str(error)) from error
    if table.num_rows == 0:
        raise DataError(f"{name} has a header and no rows", reason=Reason.DATASET_EMPTY)
    columns = {n: table.column(i).to_pandas(strings_to_categorical=False) for i, n in enumerate(_filled(header))}
    return pd.DataFrame(columns)


def _filled(header: list[str]) -> list[str]:
    return [n if n.strip() else f"unnamed: {i}" for i, n in enumerate(header)]


def _parse_csv(text: bytes, delimiter: str, header: list[str]) -> pa.Table:
    names = [str(i) for i in range(len(header))]
    return pacsv.read_csv(
        io.BytesIO(text),
        read_options=pacsv.ReadOptions(column_names=names, skip_rows_after_names=1, block_size=BLOCK_BYTES),
        parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
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
            raise DataError(f"{name} is no valid UTF-16: {error.reason}", reason=Reason.DATASET_UNREADABLE) from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name} must be UTF-8 text; byte {error.start} (0x{data[error.start]:02x}) in line {line} is not; "
            "convert it, for example with: iconv -f latin1 -t utf-8",
            reason=Reason.DATASET_UNREADABLE,
        ) from error
    if b"\0" in data[:BLOCK_BYTES]:
        raise DataError(
            f"{name} is not text: it holds a zero byte; is the format right?", reason=Reason.DATASET_UNREADABLE
        )
    return data


def _delimiter(text: bytes) -> str:
    """The delimiter that occurs most in the header."""
    line = text.split(b"\n", 1)[0].decode()
    return max(DELIMITERS, key=lambda d: (len(next(csv.reader([line], delimiter=d), [])), -DELIMITERS.index(d)))


def _header(text: bytes, delimiter: str) -> list[str]:
    return next(csv.reader(io.StringIO(text[:BLOCK_BYTES].decode("utf-8", "ignore")), delimiter=delimiter))


def _csv_problem(text: bytes, delimiter: str, width: int, name: str, said: str) -> DataError:
    """The first line that does not fit, found by a slower reader that counts lines."""
    reader = csv.reader(io.StringIO(text.decode()), delimiter=delimiter)
    try:
        for row in reader:
            if row and len(row) != width:
                return DataError(
                    f"{name}: every line must have {width} fields, as the header has; line {reader.line_num} has {len(row)}; "
                    "quote values that hold the delimiter",
                    reason=Reason.DATASET_UNREADABLE,
                )
    except csv.Error as error:
        said = f"line {reader.line_num}: {error}"
    return DataError(f"{name} is no valid CSV: {said[:200]}", reason=Reason.DATASET_UNREADABLE)


# Parquet, JSON lines


def _read_parquet(data: bytes, name: str) -> pd.DataFrame:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{name} is no valid Parquet file: {str(error)[:200]}", reason=Reason.DATASET_UNREADABLE
        ) from error
    _check_names(list(table.column_names), name)
    if table.num_rows == 0:
        raise DataError(f"{name} has no rows", reason=Reason.DATASET_EMPTY)
    return table.to_pandas(ignore_metadata=True)


def _read_json_lines(data: bytes, name: str) -> pd.DataFrame:
    records: list[dict[str, Any]] = []
    for number, line in enumerate(_as_utf8(data, name).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{name}: line {number} is no JSON: {error}", reason=Reason.DATASET_UNREADABLE) from error
        if not isinstance(record, dict):
            raise DataError(
                f'{name}: line {number} must be an object such as {{"age": 42}}, got {type(record).__name__}',
                reason=Reason.DATASET_UNREADABLE,
            )
        records.append(record)
    return pd.DataFrame(records).infer_objects()
