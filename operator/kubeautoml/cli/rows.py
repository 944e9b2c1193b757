"""Rows from CSV, JSON or JSON lines, and predictions back into one of them: what `kubectl automl predict` reads and writes."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from kubeautoml.api.errors import UsageError

Record = dict[str, Any]

MOST_CELL = 128 * 2**20
"""Characters of a cell: an image may travel in one."""


class Form(StrEnum):
    """How rows are written."""

    CSV = "csv"
    TSV = "tsv"
    JSON = "json"
    JSONL = "jsonl"


SUFFIXES = {".csv": Form.CSV, ".tsv": Form.TSV, ".json": Form.JSON, ".jsonl": Form.JSONL, ".ndjson": Form.JSONL}


def form_of(file: str) -> Form | None:
    """By its name; None when that says nothing."""
    return SUFFIXES.get(Path(file).suffix.lower())


@contextmanager
def opened(file: str) -> Iterator[TextIO]:
    """The file, or standard input for "-".

    Raises:
        UsageError: it cannot be read, or is no UTF-8 text.
    """
    try:
        if file == "-":
            yield sys.stdin
        else:
            with Path(file).open(encoding="utf-8-sig", newline="") as stream:
                yield stream
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} must be UTF-8 text; byte {error.start} of a piece is not") from error


def read_rows(stream: TextIO, file: str, form: Form | None) -> tuple[Form, Iterator[Record]]:
    """(the form, the records). Without a form, what begins with { or [ is JSON, all else CSV.

    Raises:
        UsageError: on reading; the text is not of that form. Says where.
    """
    lines: Iterator[str] = iter(stream)
    if form is None:
        head = list(islice(lines, 1))
        while head and not head[-1].strip():
            head += islice(lines, 1)
        form = Form.JSON if head and head[-1].lstrip()[:1] in ("{", "[") else Form.CSV
        lines = _chained(head, lines)
    if form in (Form.CSV, Form.TSV):
        return form, _delimited(lines, file, "\t" if form is Form.TSV else ",")
    return form, _json_lines(lines, file) if form is Form.JSONL else iter(_json(lines, file))


def _chained(head: list[str], rest: Iterator[str]) -> Iterator[str]:
    yield from head
    yield from rest


def _delimited(lines: Iterator[str], file: str, delimiter: str) -> Iterator[Record]:
    """Cells stay text, and an empty one is missing: the model's own types say what they are."""
    csv.field_size_limit(MOST_CELL)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if not header:
            raise UsageError(f"{file} must begin with a line of column names")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise UsageError(
                    f"{file}, line {reader.line_num}: must have {len(header)} cells as the header has, got {len(cells)}"
                )
            yield {name: cell if cell != "" else None for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise UsageError(f"{file}, line {reader.line_num}: {error}") from error


def _json_lines(lines: Iterator[str], file: str) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{file}, line {number}: must hold a JSON record: {error}") from error
        if not isinstance(record, dict):
            raise UsageError(f'{file}, line {number}: must be a record such as {{"age": 42}}')
        yield record


def _json(lines: Iterator[str], file: str) -> list[Record]:
    """One record, a list of them, {"instances": [...]}, or a record a line."""
    text = "".join(lines)
    try:
        loaded = json.loads(text)
    except ValueError as error:
        if "\n" not in text.strip():
            raise UsageError(f"{file} must hold JSON records: {error}") from error
        return list(_json_lines(iter(text.splitlines()), file))
    records = loaded.get("instances", [loaded]) if isinstance(loaded, dict) else loaded
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records) or not records:
        raise UsageError(f'{file} must hold records such as {{"age": 42}}, or a list of them')
    return records


def batches(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    """So many at a time."""
    records = iter(records)
    while batch := list(islice(records, size)):
        yield batch


def flat(prediction: Record) -> Record:
    """One row of a table, with the columns that `kubeautoml predict --model` writes: target, then target_class of each probability.

    The endpoint's first field is the target; what stands beside it is about it.
    """
    target = next(iter(prediction), "prediction")
    row: Record = {}
    for name, value in prediction.items():
        if name == "probabilities" and isinstance(value, dict):
            row |= {f"{target}_{label}": p for label, p in value.items()}
        elif name == target:
            row[target] = value
        else:
            row[f"{target}_{name}"] = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
    return row


class Writer:
    """Writes predictions as they come."""

    def __init__(self, stream: TextIO, form: Form) -> None:
        self._stream, self._form = stream, form
        self._columns: list[str] = []

    def write(self, predictions: list[Record]) -> None:
        """The next rows."""
        if self._form in (Form.JSON, Form.JSONL):
            for prediction in predictions:
                self._stream.write(json.dumps(prediction, ensure_ascii=False) + "\n")
            return
        out = csv.writer(self._stream, delimiter="\t" if self._form is Form.TSV else ",", lineterminator="\n")
        for row in map(flat, predictions):
            if not self._columns:
                self._columns = list(row)
                out.writerow(self._columns)
            out.writerow([row.get(name) for name in self._columns])
