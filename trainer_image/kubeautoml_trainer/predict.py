"""`kubeautoml predict --model URI --input FILE --output FILE`: batch predictions from a bundle."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kubeautoml.api.errors import UsageError
from kubeautoml.api.job import DataFormat, DataSource

if TYPE_CHECKING:
    import pandas as pd

WRITERS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
CHUNK_ROWS = 50_000
"""Rows predicted at once, so that memory does not grow with the file's length times the models."""


def main(argv: list[str]) -> int:
    """Predict a file. Exit 1 with one line when data or model cannot be used, 2 on misuse."""
    parser = argparse.ArgumentParser(prog="kubeautoml predict", description=__doc__)
    parser.add_argument("--model", required=True, help="bundle: a folder, file:// or s3:// URI")
    parser.add_argument(
        "--input", required=True, help="CSV, TSV, Parquet or JSON lines (.gz, .zst), a file or URI, or a glob"
    )
    parser.add_argument("--output", required=True, help="file or URI to write: .csv, .tsv, .parquet or .jsonl")
    parser.add_argument("--sha256", help="digest that the model's bundle.json must have")
    parser.add_argument("--threads", type=int, default=1, help="threads of a prediction (default 1)")
    args = parser.parse_args(argv)
    kind = WRITERS.get(Path(args.output).suffix.lower())
    if kind is None:
        raise UsageError(f"--output must end in {', '.join(WRITERS)}, got {args.output}")

    from kubeautoml_trainer.bundle import load_bundle
    from kubeautoml_trainer.data.read import read_table

    source = DataSource(uri=as_uri(args.input), format=DataFormat.AUTO)
    model = load_bundle(args.model, sha256=args.sha256)
    model.set_threads(args.threads)
    rows = read_table(source)
    predictions = _in_chunks(model.predict_frame, rows)
    _write(predictions, args.output, kind)
    print(f"{len(predictions)} predictions of '{model.schema.target}' written to {args.output}", file=sys.stderr)
    return 0


def as_uri(text: str) -> str:
    """A URI; a path becomes a file:// one."""
    return text if "://" in text else f"file://{Path(text).absolute()}"


def _in_chunks(predict: object, rows: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    assert callable(predict)
    parts = [predict(rows.iloc[at : at + CHUNK_ROWS]) for at in range(0, len(rows), CHUNK_ROWS)]
    return parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)


def _write(frame: pd.DataFrame, output: str, kind: str) -> None:
    from kubeautoml.storage import open_store

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"predictions.{kind}"
        if kind == "parquet":
            frame.to_parquet(file, index=False)
        elif kind == "jsonl":
            frame.to_json(file, orient="records", lines=True, force_ascii=False)
        else:
            frame.to_csv(file, index=False, sep="\t" if kind == "tsv" else ",")
        uri = as_uri(output)
        open_store(uri).upload(file, uri)
