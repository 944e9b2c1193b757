"""Texts as data: the column that a text task is about, how much of a text is read, and odd texts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from data.data_factories import make_pod_job
from kubeautoml.api.dataset import ColumnType, DataSource
from kubeautoml.api.errors import DataError
from kubeautoml_trainer.data.asked import Asked
from kubeautoml_trainer.data.dataset import read_dataset
from kubeautoml_trainer.data.image_cache import ImageCache
from kubeautoml_trainer.data.prepare import prepare_frames
from kubeautoml_trainer.data.read import read_bytes
from kubeautoml_trainer.data.row import typed_row
from kubeautoml_trainer.data.schema import coerce
from kubeautoml_trainer.data.texts import READ_CHARACTERS
from real.s3 import S3Server

N = 60
TASK = {"type": "TextClassification", "target": "bought"}


def make_frame(**columns: Any) -> pd.DataFrame:
    """The columns, made as long as N, and two classes."""
    filled = {name: (list(values) * N)[:N] for name, values in columns.items()}
    return pd.DataFrame({**filled, "bought": ["yes", "no"] * (N // 2)})


def types_of(frame: pd.DataFrame, task: dict[str, str] = TASK, **dataset: Any) -> dict[str, ColumnType]:
    job = make_pod_job(task=task, dataset={"train": {"uri": "file:///x.csv"}, **dataset})
    return {c.name: c.type for c in prepare_frames(frame, None, job)[0].schema.columns}


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"says": ["ok", "no way"]}, {"says": ColumnType.TEXT}),
        ({"name": [f"word{chr(97 + k % 26)}{k}" for k in range(N)]}, {"name": ColumnType.TEXT}),
        ({"says": ["yes", "no"]}, {"says": ColumnType.TEXT}),
        ({"says": ["好", "不好"]}, {"says": ColumnType.TEXT}),
        (
            {"city": ["Bonn", "Ulm"], "says": ["so so", "very good"], "size": [1, 2, 3]},
            {"city": ColumnType.CATEGORY, "says": ColumnType.TEXT, "size": ColumnType.NUMBER},
        ),
        (
            {"city": ["Bonn", "Ulm"], "says": [f"this is the long text number {k}" for k in range(N)]},
            {"city": ColumnType.CATEGORY, "says": ColumnType.TEXT},
        ),
    ],
    ids=["short", "names", "yes and no", "without spaces", "the wordier one", "one is text anyway"],
)
def test_a_text_task_takes_a_column_for_text_whatever_it_looks_like(
    columns: dict[str, list[Any]], found: dict[str, ColumnType]
):
    """One column, the one with most words, where none looks like prose."""
    assert types_of(make_frame(**columns)) == found


def test_a_tabular_task_leaves_short_texts_as_categories():
    """The rule is the task's."""
    tabular = {"type": "TabularClassification", "target": "bought"}

    assert types_of(make_frame(says=["ok", "no way"]), tabular) == {"says": ColumnType.CATEGORY}


def test_what_the_manifest_says_about_columns_counts_more():
    """A column that is said to be a category is not taken for the texts."""
    frame = make_frame(city=["Bonn am Rhein", "Neu Ulm"], says=["ok", "no"])
    said = {"columns": {"types": {"city": "Category"}}}

    assert types_of(frame, **said) == {"city": ColumnType.CATEGORY, "says": ColumnType.TEXT}


def test_numbers_and_dates_alone_are_no_texts():
    """The reason names the columns and what to do."""
    frame = make_frame(size=[1, 2, 3], when=["2024-01-31", "2024-02-01"])

    with pytest.raises(
        DataError, match=r"found: size \(Number\), when \(Datetime\); name it in spec.dataset.columns.types"
    ):
        types_of(frame)


def test_long_texts_are_cut_where_models_stop_reading_and_it_is_said():
    """A megabyte is read up to the stated length, for training, batches and single rows alike."""
    frame = make_frame(says=["very good", "so so", "w " * 500_000])
    job = make_pod_job(task=TASK)

    data, _ = prepare_frames(frame, None, job)

    assert max(map(len, data.train.frame["says"])) == READ_CHARACTERS
    assert any("texts of more than 20,000 characters; the rest of each is ignored" in w for w in data.profile.warnings)
    raw = frame.drop(columns="bought").iloc[2:3]
    row = typed_row(raw, data.schema)
    assert row is not None
    assert row["says"].to_numpy()[0] == coerce(raw, data.schema)["says"][0] == ("w " * 500_000)[:READ_CHARACTERS]


def test_odd_characters_are_text_like_any_other():
    """NUL, surrogate-free emoji, right-to-left marks: read from JSON lines, typed, and nothing lost but blanks."""
    says = ["a\0b", "\u202eabc", "🙂", "\t\n ", ""]
    lines = "\n".join(json.dumps({"says": t}) for t in says).encode()

    raw = read_bytes(lines, "x.jsonl")
    data, _ = prepare_frames(make_frame(says=raw["says"]), None, make_pod_job(task=TASK))

    typed = coerce(raw, data.schema)["says"]
    assert list(typed) == ["a\0b", "\u202eabc", "🙂", None, None]
    assert data.train.frame["says"].isna().any()


def write_folder(folder: Path, **classes: list[bytes]) -> DataSource:
    """A folder a class, a file a text."""
    for name, texts in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k, data in enumerate(texts):
            (folder / name / f"{k}.txt").write_bytes(data)
    return DataSource(uri=f"file://{folder}/")


def read_folder(source: DataSource, folder: Path, target: str | None = "kind") -> pd.DataFrame:
    return read_dataset(source, Asked(target=target, of_texts=True), ImageCache(folder / "cache")).frame


def test_a_folder_a_class_of_text_files_is_a_table(tmp_path: Path):
    """In the files' order; UTF-8 with and without its mark, UTF-16 with its own, compressed, empty: what a text file may be."""
    source = write_folder(
        tmp_path / "mail",
        ham=["Grüße".encode(), "\ufeffmarked".encode(), "sixteen".encode("utf-16")],
        spam=[b"two\nlines", b" \n", b"a" * 200 + b"\0b"],
    )
    (tmp_path / "mail" / "spam" / "9.txt.gz").write_bytes(gzip.compress(b"packed"))

    frame = read_folder(source, tmp_path)

    assert frame["kind"].tolist() == ["ham"] * 3 + ["spam"] * 4
    assert frame["text"].fillna("nothing").tolist() == [
        "Grüße",
        "marked",
        "sixteen",
        "two\nlines",
        "nothing",
        "a" * 200 + " b",
        "packed",
    ]
    assert list(read_folder(source, tmp_path, target=None).columns) == ["text"]


@pytest.mark.s3
def test_a_folder_of_texts_in_a_bucket_is_read_alike(s3_server: S3Server, tmp_path: Path):
    """The same rows as from disk."""
    s3_server.create_bucket("mail")
    for name, text in (("ham/1.txt", "hello"), ("spam/deep/2.txt", "buy"), ("spam/3.txt", "now")):
        s3_server.client.put_object(Bucket="mail", Key=f"all/{name}", Body=text.encode())

    keys = s3_server.write_credentials(tmp_path / "keys")
    source, asked = DataSource(uri="s3://mail/all/"), Asked(target="kind", of_texts=True)
    frame = read_dataset(source, asked, ImageCache(tmp_path / "cache"), keys).frame

    assert sorted(zip(frame["text"], frame["kind"], strict=True)) == [
        ("buy", "spam"),
        ("hello", "ham"),
        ("now", "spam"),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ok\nfranc\xe7ais", r"ham/0\.txt must be UTF-8 text; byte 8 \(0xe7\) in line 2 is not; convert it"),
        ("wide".encode("utf-16-le"), r"ham/0\.txt must be UTF-8 text, but byte 1 is zero, and many more are"),
        (b"\xff\xfea", r"ham/0\.txt must be UTF-16 text; byte 2"),
    ],
    ids=["latin", "UTF-16 without a mark", "cut UTF-16"],
)
def test_a_file_in_another_encoding_is_named_with_its_byte(data: bytes, message: str, tmp_path: Path):
    """And the reason says what to do."""
    source = write_folder(tmp_path / "mail", ham=[data, b"fine"], spam=[b"fine"])

    with pytest.raises(DataError, match=message):
        read_folder(source, tmp_path)


def test_texts_must_lie_in_folders_and_end_as_texts_do(tmp_path: Path):
    """What lies beside the folders, another suffix, and a target named as the texts' column: a reason each."""
    source = write_folder(tmp_path / "mail", ham=[b"a"], spam=[b"b"])
    with pytest.raises(DataError, match="'text' is the name of the texts' own column"):
        read_folder(source, tmp_path, target="text")
    (tmp_path / "mail" / "loose.txt").write_text("c")
    with pytest.raises(DataError, match=r"1 of 3 lie in none, such as loose\.txt"):
        read_folder(source, tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.doc").write_text("c")
    with pytest.raises(DataError, match=r"no text file below .*/other/ \(files end in \.doc\)"):
        read_folder(DataSource(uri=f"file://{tmp_path}/other", format="TextFolder"), tmp_path)
