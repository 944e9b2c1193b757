"""`kubeautoml predict`: files in, files out, the same numbers as the model's own; mistakes end in one line."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from bundle.bundle_factories import make_bundle, titanic
from kubeautoml.cli.main import main as command
from kubeautoml.storage import open_store
from kubeautoml_trainer import predict
from kubeautoml_trainer.bundle import load_bundle


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A bundle's folder."""
    folder = tmp_path_factory.mktemp("predict") / "model"
    make_bundle(folder, families=("Linear",))
    return folder


def write_rows(frame, path):
    typed = frame.assign(**{c: pd.to_numeric(frame[c]) for c in ("age", "fare", "sibsp", "parch", "survived")})
    if path.suffix == ".parquet":
        typed.to_parquet(path, index=False)
    elif path.suffix == ".jsonl":
        typed.to_json(path, orient="records", lines=True)
    else:
        typed.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")


READ = {
    "csv": pd.read_csv,
    "tsv": lambda p: pd.read_csv(p, sep="\t"),
    "parquet": pd.read_parquet,
    "jsonl": lambda p: pd.read_json(p, lines=True),
}


@pytest.mark.parametrize("read", ["csv", "tsv", "parquet", "jsonl"])
@pytest.mark.parametrize("write", ["csv", "tsv", "parquet", "jsonl"])
def test_each_format_goes_in_and_out(model, tmp_path, read, write):
    """Columns are named like the target and its classes; the target in the input is ignored."""
    rows = titanic().iloc[:40]
    write_rows(rows, tmp_path / f"rows.{read}")
    arguments = [
        "--model",
        str(model),
        "--input",
        str(tmp_path / f"rows.{read}"),
        "--output",
        str(tmp_path / f"out.{write}"),
    ]

    assert command(["predict", *arguments]) == 0

    out = READ[write](tmp_path / f"out.{write}")
    loaded = load_bundle(model)
    assert list(out.columns) == ["survived", "survived_0", "survived_1"]
    np.testing.assert_allclose(out[["survived_0", "survived_1"]], loaded.predict_proba(rows), atol=1e-6)
    assert [str(v) for v in out["survived"]] == list(loaded.predict(rows))


@pytest.mark.parametrize("write", ["csv", "parquet", "jsonl"])
def test_many_files_and_small_chunks_give_one_file_in_order(model, tmp_path, monkeypatch, write):
    """A glob is read by name; one of the files has no rows."""
    rows = titanic().iloc[:50]
    monkeypatch.setattr(predict, "CHUNK_ROWS", 7)
    (tmp_path / "in").mkdir()
    for i, part in enumerate((rows.iloc[:20], rows.iloc[:0], rows.iloc[20:])):
        part.to_csv(tmp_path / "in" / f"part-{i}.csv", index=False)
    arguments = [
        "--model",
        str(model),
        "--input",
        f"{tmp_path}/in/part-*.csv",
        "--output",
        str(tmp_path / f"out.{write}"),
    ]

    assert command(["predict", *arguments]) == 0

    np.testing.assert_allclose(
        READ[write](tmp_path / f"out.{write}")["survived_1"], load_bundle(model).predict_proba(rows)[:, 1], atol=1e-6
    )


def test_format_is_for_names_that_do_not_tell(model, tmp_path):
    """Compressed, too."""
    (tmp_path / "rows.data.gz").write_bytes(gzip.compress(titanic().iloc[:9].to_csv(index=False).encode()))
    arguments = [
        "--model",
        str(model),
        "--input",
        str(tmp_path / "rows.data.gz"),
        "--output",
        str(tmp_path / "out.csv"),
    ]

    assert command(["predict", *arguments]) == 1
    assert command(["predict", *arguments, "--format", "Csv"]) == 0
    assert len(pd.read_csv(tmp_path / "out.csv")) == 9


MISTAKES = {
    "no file": (lambda a, f: a.update(input=f"{f}/none.csv"), 1, "no file matches file://"),
    "no model": (lambda a, f: a.update(model=f), 1, "holds no bundle.json, so it is no model"),
    "other digest": (lambda a, f: a.update(sha256="0" * 64), 1, "must have sha256 0000"),
    "odd output": (lambda a, f: a.update(output=f"{f}/out.xlsx"), 2, "--output must end in .csv, .tsv, .parquet"),
    "no threads": (lambda a, f: a.update(threads="0"), 2, "--threads must be at least 1, got 0"),
    "bad value": (lambda a, f: a.update(input=f"{f}/bad.csv"), 1, "column 'age' must be a number, got 'old' in row 5"),
    "no column": (lambda a, f: a.update(input=f"{f}/few.csv"), 1, "column 'fare' must be given"),
    "no rows": (lambda a, f: a.update(input=f"{f}/norows.csv"), 1, "has a header and no rows"),
    "unwritable": (lambda a, f: a.update(output="/proc/none/out.csv"), 1, "file:///proc/none/out.csv"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_line(model, tmp_path, capsys, monkeypatch, kind):
    """Exit code 1 when data or model cannot be used, 2 for arguments; nothing is written."""
    monkeypatch.setattr(predict, "CHUNK_ROWS", 2)
    rows = titanic().iloc[:9]
    rows.to_csv(tmp_path / "rows.csv", index=False)
    rows.assign(age=["20"] * 5 + ["old"] + ["20"] * 3).to_csv(tmp_path / "bad.csv", index=False)
    rows.drop(columns="fare").to_csv(tmp_path / "few.csv", index=False)
    rows.iloc[:0].to_csv(tmp_path / "norows.csv", index=False)
    arguments = {"model": str(model), "input": str(tmp_path / "rows.csv"), "output": str(tmp_path / "out.csv")}
    change, code, words = MISTAKES[kind]
    change(arguments, str(tmp_path))

    assert command(["predict", *(x for k, v in arguments.items() for x in (f"--{k}", v))]) == code

    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and words in said and "\n" not in said
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.s3
def test_buckets_are_read_and_written(model, tmp_path, s3_bucket, s3_credentials, monkeypatch):
    """With boto3's own chain of credentials, as on a laptop."""
    for path in s3_credentials.iterdir():
        monkeypatch.setenv(path.name, path.read_text())
    rows = titanic().iloc[:9]
    store = open_store(s3_bucket)
    store.write(f"{s3_bucket}rows.csv", rows.to_csv(index=False).encode())
    arguments = ["--model", str(model), "--input", f"{s3_bucket}rows.csv", "--output", f"{s3_bucket}out/p.parquet"]

    assert command(["predict", *arguments]) == 0

    store.download(f"{s3_bucket}out/p.parquet", tmp_path / "p.parquet")
    assert len(pd.read_parquet(tmp_path / "p.parquet")) == 9
