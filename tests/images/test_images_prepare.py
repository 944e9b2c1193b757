"""Images as a job's data: digest, copies, folds, columns."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.data_factories import make_context
from images.image_factories import encoded, make_digit, make_folders, make_image_job
from images.image_forms import (
    DIGITS,
    LABELS,
    failing,
    pixels,
    read_images,
    write_manifest,
    write_shards,
)
from kubeautoml.api.errors import DataError
from kubeautoml_trainer.data.asked import asked_by_job
from kubeautoml_trainer.data.base import PreparedData
from kubeautoml_trainer.data.dataset import read_dataset
from kubeautoml_trainer.data.image_cache import ImageCache
from kubeautoml_trainer.data.prepare import prepare, prepare_frames
from kubeautoml_trainer.features import Recipe, fit_features


def prepared(folder: Path, **spec: Any) -> PreparedData:
    return prepare(make_context(make_image_job(folder, **spec), folder))


def test_the_digest_is_over_the_files(tmp_path: Path):
    """The same pixels in other bytes are other data; the same bytes the same, wherever the cache is."""
    make_folders(tmp_path / "train")
    job = make_image_job(tmp_path)
    first, again = (
        prepare_frames(
            read_dataset(job.dataset.train, asked_by_job(job), ImageCache(tmp_path / name)).frame, None, job
        )[0]
        for name in "ab"
    )
    file = tmp_path / "train" / "lying" / "000.png"
    file.write_bytes(encoded(Image.open(file), compress_level=1))
    other = prepare_frames(read_images(tmp_path, "train/").frame, None, job)[0]

    assert first.profile.sha256 == again.profile.sha256
    assert first.profile.sha256 != other.profile.sha256


def test_copies_of_images_across_folds_are_a_leak(tmp_path: Path):
    """Found by their pixels."""
    make_folders(tmp_path / "train", each=20)
    for name in ("lying", "standing"):
        for k, file in enumerate(sorted((tmp_path / "train" / name).iterdir())):
            (tmp_path / "train" / name / f"copy-{k}.png").write_bytes(file.read_bytes())

    assert any("copies of others that a model is trained on" in w for w in prepared(tmp_path).profile.warnings)


def test_pixels_count_when_folds_are_chosen_by_time(tmp_path: Path):
    """More of them a second of the budget, fewer folds."""
    for k in range(200):
        (tmp_path / "train" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "ab"[k % 2] / f"{k}.png").write_bytes(encoded(make_digit(k % 2, k, side=28)))
    job, context = make_image_job(tmp_path), make_context(make_image_job(tmp_path), tmp_path)
    frame = read_dataset(job.dataset.train, asked_by_job(job), ImageCache(context.scratch_dir)).frame

    folds = [prepare_frames(frame, None, job, None, seconds)[0].profile.folds for seconds in (3600.0, 60.0, 6.0)]

    assert folds == [8, 5, 3]


def test_a_job_of_images_needs_images(tmp_path: Path):
    """A table of numbers and names is another task."""
    table = pd.DataFrame({"age": range(30), "plan": ["a", "b", "c"] * 10, "label": LABELS})

    with pytest.raises(DataError) as caught:
        prepare_frames(table, None, make_image_job(tmp_path))

    assert str(caught.value) == (
        "ImageClassification needs a column of images, found: age (Number), plan (Category); give their bytes, or paths that end in "
        ".png, .jpg and the like, relative to the table; or set spec.dataset.columns.types to Image"
    )


def test_a_column_of_base64_is_images_once_the_manifest_says_so(tmp_path: Path):
    """CSV files can hold images, too."""
    texts = [base64.b64encode(encoded(d)).decode() for d in DIGITS]
    pd.DataFrame({"photo": texts, "label": LABELS}).to_csv(tmp_path / "rows.csv", index=False)
    uri = {"uri": f"file://{tmp_path}/rows.csv"}
    job = make_image_job(tmp_path, dataset={"train": uri, "columns": {"types": {"photo": "Image"}}})

    found = pixels(read_images(tmp_path, "rows.csv", job).frame, "photo")

    assert all((p == d).all() for p, d in zip(found, DIGITS, strict=True))


def test_a_column_that_is_said_to_be_images_and_is_not_ends_the_job(tmp_path: Path):
    """The first value that is none, and why."""
    pd.DataFrame({"photo": range(30), "label": LABELS}).to_csv(tmp_path / "rows.csv", index=False)
    uri = {"uri": f"file://{tmp_path}/rows.csv"}
    job = make_image_job(tmp_path, dataset={"train": uri, "columns": {"types": {"photo": "Image"}}})

    assert "such as 'photo' in row 0, which is no base64" in failing(tmp_path, "rows.csv", job=job)


def test_the_digest_does_not_depend_on_where_copies_lie(tmp_path: Path):
    """Shards are copied to another folder on each pod; a column of them may be ignored, and still counts."""
    uri = {"uri": f"file://{tmp_path}/{write_shards(tmp_path)}"}
    job = make_image_job(tmp_path, dataset={"train": uri, "columns": {"types": {"image": "Category"}}})
    frames = [read_dataset(job.dataset.train, asked_by_job(job), ImageCache(tmp_path / n)).frame for n in "ab"]

    assert [repr(v) for v in frames[0]["image"]] == [repr(v) for v in frames[1]["image"]]


def test_numbers_are_learned_from_images_too(tmp_path: Path):
    """ImageRegression: the label is a number of its own."""
    write_manifest(tmp_path)
    table = pd.read_csv(tmp_path / "labels.csv").assign(label=np.linspace(0, 5, 30))
    table.to_csv(tmp_path / "labels.csv", index=False)

    job = make_image_job(tmp_path, f"file://{tmp_path}/labels.csv", task="ImageRegression")
    data = prepare(make_context(job, tmp_path))

    assert job.metric == "Rmse"
    assert data.schema.classes == ()
    assert data.train.y.max() <= 5.0


def test_rows_without_an_image_are_rows_all_the_same(tmp_path: Path):
    """An empty path is a gap, which other columns make up for; the first row may have one."""
    write_manifest(tmp_path)
    table = pd.read_csv(tmp_path / "labels.csv").assign(age=range(30))
    table.loc[[0, 7, 8], "file"] = None
    table.to_csv(tmp_path / "labels.csv", index=False)
    job = make_image_job(tmp_path, f"file://{tmp_path}/labels.csv")

    data = prepare(make_context(job, tmp_path))

    images = [*data.train.frame["file"], *data.holdout.frame["file"]]
    features, encoded_rows = fit_features(Recipe(scaling="standard"), data.train, data.schema, 1)
    assert len(images) == 30
    assert sum(v is None for v in images) == 3
    assert np.isfinite(encoded_rows.numbers).all()
    assert np.isfinite(features.transform(data.holdout.frame).numbers).all()
