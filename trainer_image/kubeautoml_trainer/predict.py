"""`kubeautoml predict --model URI --input FILE --output FILE`: batch predictions from a bundle."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubeautoml.api.conditions import Reason
from kubeautoml.api.dataset import ColumnType, DataFormat, DataSource
from kubeautoml.api.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from kubeautoml_trainer.bundle import Model

WRITERS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
CHUNK_ROWS = 50_000
"""Rows predicted at once, so that memory does not grow with the length of the file times the models."""


def main(argv: list[str]) -> int:
    """Predict a file.

    Raises:
        UsageError: the arguments do not fit (exit code 2).
        KubeAutoMLError: data or model cannot be used (exit code 1).
    """
    args = _arguments(argv)
    kind = WRITERS.get(Path(args.output).suffix.lower())
    if kind is None:
        raise UsageError(f"--output must end in {', '.join(WRITERS)}, got {args.output}")
    if args.threads < 1:
        raise UsageError(f"--threads must be at least 1, got {args.threads}")

    from kubeautoml_trainer.bundle import load_bundle

    model = load_bundle(args.model, sha256=args.sha256, variant=args.variant)
    model.set_threads(args.threads)
    read = _with_images if any(c.type is ColumnType.IMAGE for c in model.schema.features) else _tables
    found = read(model, as_uri(args.input), DataFormat(args.format), args.threads)
    parts = (_predicted(model, raw, name) for name, raw in found)
    rows = _write(parts, as_uri(args.output), kind)
    if not rows:
        raise DataError(f"{args.input} has a header and no rows", reason=Reason.DATASET_EMPTY)
    print(f"{rows} predictions of '{model.schema.target}' written to {args.output}", file=sys.stderr)
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kubeautoml predict", description=__doc__)
    parser.add_argument("--model", required=True, help="bundle: a folder, file:// or s3:// URI")
    parser.add_argument(
        "-i",
        "--input",
        required=True,
        help="CSV, TSV, Parquet or JSON lines (.gz, .zst), images, tar shards or .npz: a file, a URI, a folder/, or a glob",
    )
    parser.add_argument("-o", "--output", required=True, help=f"file or URI to write; ends in {', '.join(WRITERS)}")
    parser.add_argument(
        "--format",
        default=DataFormat.AUTO.value,
        choices=[f.value for f in DataFormat],
        help="format of the input; default: by its name",
    )
    parser.add_argument("--sha256", help="digest that the model's bundle.json must have")
    parser.add_argument("--variant", help="form of the model, such as Fast; default: the bundle's first")
    parser.add_argument("--threads", type=int, default=1, help="threads of a prediction (default 1)")
    return parser.parse_args(argv)


def as_uri(text: str) -> str:
    """A URI; a path becomes a file:// one.

    >>> as_uri("/data/100%.csv")
    'file:///data/100%25.csv'
    """
    if "://" in text:
        return text
    end = "/" if text.endswith("/") or Path(text).is_dir() else ""
    return "file://" + str(Path(text).absolute()).replace("%", "%25") + end


def _with_images(model: Model, uri: str, data_format: DataFormat, threads: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """All rows, whose images lie in a file that the system pages in and out."""
    from kubeautoml_trainer.data.asked import asked_by_schema
    from kubeautoml_trainer.data.dataset import read_dataset
    from kubeautoml_trainer.data.image_cache import temporary_cache

    with temporary_cache(threads) as cache:
        yield uri, read_dataset(DataSource(uri=uri, format=data_format), asked_by_schema(model.schema), cache).frame


def _tables(model: Model, uri: str, data_format: DataFormat, threads: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """One file after the other, so that memory holds one; of several files some may have no rows."""
    from kubeautoml.storage import open_store
    from kubeautoml_trainer.data.read import read_bytes

    store = open_store(uri)
    found = store.find(uri)
    if not found:
        raise DataError(f"no file matches {uri}; check the path and its spelling", reason=Reason.DATASET_NOT_FOUND)
    for stored in found:
        try:
            yield stored.uri, read_bytes(store.read(stored.uri), stored.uri, data_format)
        except DataError as error:
            if error.reason != Reason.DATASET_EMPTY or len(found) == 1:
                raise


def _predicted(model: Model, raw: pd.DataFrame, name: str) -> pd.DataFrame:
    """One table's predictions. All rows are typed first, so that a message counts rows from the start of the file."""
    import numpy as np

    from kubeautoml.api.errors import PredictionError
    from kubeautoml_trainer.data.base import PATH
    from kubeautoml_trainer.data.schema import coerce

    try:
        typed = coerce(raw, model.schema)
    except PredictionError as error:
        raise PredictionError(f"{name}: {error}") from error
    chunks = [model.predict_rows(typed.iloc[at : at + CHUNK_ROWS]) for at in range(0, len(typed), CHUNK_ROWS)]
    out = model.output_frame(np.concatenate(chunks))
    if PATH in raw.columns and PATH not in {c.name for c in model.schema.features} and PATH not in out:
        out.insert(0, PATH, raw[PATH].to_numpy())  # a row of a folder has no other name
    return out


def _write(parts: Iterator[pd.DataFrame], uri: str, kind: str) -> int:
    """Write all parts as one file, which appears only when it is whole; returns its rows."""
    from kubeautoml.storage import open_store

    store = open_store(uri)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"predictions.{kind}"
        rows = int(_WRITE[kind](parts, file))
        if rows:
            store.upload(file, uri)
    return rows


def _write_delimited(parts: Iterator[pd.DataFrame], file: Path, separator: str) -> int:
    rows = 0
    for part in parts:
        part.to_csv(file, index=False, sep=separator, mode="a", header=rows == 0)
        rows += len(part)
    return rows


def _write_json_lines(parts: Iterator[pd.DataFrame], file: Path) -> int:
    rows = 0
    with file.open("a", encoding="utf-8") as out:
        for part in parts:
            # 15 digits: what is read back is the number that was predicted
            out.write(
                part.to_json(orient="records", lines=True, force_ascii=False, double_precision=15).rstrip("\n") + "\n"
            )
            rows += len(part)
    return rows


def _write_parquet(parts: Iterator[pd.DataFrame], file: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, writer = 0, None
    try:
        for part in parts:
            table = pa.Table.from_pandas(part, preserve_index=False)
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
            rows += len(part)
    finally:
        if writer is not None:
            writer.close()
    return rows


_WRITE: dict[str, Any] = {
    "csv": lambda parts, file: _write_delimited(parts, file, ","),
    "tsv": lambda parts, file: _write_delimited(parts, file, "\t"),
    "jsonl": _write_json_lines,
    "parquet": _write_parquet,
}
