"""Images and tables of them that cannot be used: what is said, where, and what to do."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.data_factories import make_context
from images.image_factories import encoded, make_folders, make_image_job
from images.image_forms import (
    DIGITS,
    LABELS,
    failing,
    read_images,
    write_manifest,
    write_tar,
)
from kubeautoml.api.dataset import DataFormat
from kubeautoml.api.errors import DataError
from kubeautoml_trainer.data.prepare import prepare


def test_a_few_broken_images_are_left_out_and_told_of(tmp_path: Path):
    """Cut off, empty or no image at all: up to one in ten."""
    make_folders(tmp_path / "train")
    files = sorted((tmp_path / "train" / "lying").iterdir())
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:40])
    files[2].write_bytes(b"<html>not found</html>")
    (tmp_path / "train" / "Thumbs.db").write_bytes(b"not an image, and not named as one")

    found = read_images(tmp_path, "train/")

    assert len(found.frame) == 37
    assert found.warnings == (
        f"3 of 40 rows are left out, whose 'image' cannot be read, such as file://{files[0]}, which is empty (0 bytes)",
    )


def test_many_broken_images_end_the_job(tmp_path: Path):
    """Something is wrong with all of them, and a model of the rest would be another one."""
    make_folders(tmp_path / "train", each=10)
    for file in sorted((tmp_path / "train" / "lying").iterdir())[:3]:
        file.write_bytes(b"")

    assert failing(tmp_path) == (
        "at most 10% of the images may be unreadable, 3 of the first 3 of 20 are, such as "
        f"file://{tmp_path}/train/lying/000.png, which is empty (0 bytes); upload them again, or leave their rows out"
    )


def test_a_table_that_names_missing_images_is_told_which(tmp_path: Path):
    """One is left out; many are an error, whose words hold the path as it was looked for."""
    write_manifest(tmp_path)
    (tmp_path / "train" / "lying" / "00.png").unlink()
    few = read_images(tmp_path, "labels.csv")
    for file in (tmp_path / "train" / "lying").iterdir():
        file.unlink()
    (tmp_path / "labels.csv").rename(tmp_path / "again.csv")

    assert few.warnings == (
        f"1 of 30 rows are left out, whose 'file' cannot be read, such as file://{tmp_path}/train/lying/00.png, which does not exist",
    )
    assert f"such as file://{tmp_path}/train/lying/00.png, which does not exist; upload" in failing(
        tmp_path, "again.csv"
    )


def test_a_table_that_names_files_elsewhere_is_told_what_it_may_name(tmp_path: Path):
    """Only object storage and files are read."""
    names = [f"https://example.com/{k}.png" for k in range(30)]
    pd.DataFrame({"file": names, "label": LABELS}).to_csv(tmp_path / "labels.csv", index=False)

    assert (
        "such as https://example.com/0.png, which must begin with s3:// or file://, or be a path relative to its table"
        in failing(tmp_path, "labels.csv")
    )


def test_a_table_cannot_name_files_of_the_machine(tmp_path: Path):
    """A manifest in a bucket that names file:// URIs, which only this pod has."""
    from kubeautoml_trainer.data.image_sources import resolved

    assert resolved("file:///etc/a.png", "s3://lake/labels.csv") is None
    assert resolved("../../../other/a.png", "s3://lake/x/labels.csv") == "s3://lake/other/a.png"


def test_a_folder_without_class_folders_says_what_it_needs(tmp_path: Path):
    """Images that lie side by side have no label."""
    (tmp_path / "train").mkdir()
    for k in range(12):
        (tmp_path / "train" / f"{k:02}.png").write_bytes(encoded(DIGITS[k]))

    assert failing(tmp_path) == (
        f"images below file://{tmp_path}/train/ must lie in folders that are named by their 'label', such as "
        f"file://{tmp_path}/train/cat/1.jpg, but 12 of 12 lie in none, such as 00.png; or give a table with columns for path and 'label'"
    )


def test_a_folder_without_images_is_empty(tmp_path: Path):
    """No file at all, or none that ends as images do."""
    (tmp_path / "train").mkdir()
    empty = failing(tmp_path)
    (tmp_path / "train" / "a.doc").write_bytes(b"x")

    assert empty == f"no file matches file://{tmp_path}/train/; check bucket, path and spelling"
    assert failing(tmp_path, data_format=DataFormat.IMAGE_FOLDER).startswith(
        f"there is no image below file://{tmp_path}/train/ (files end in .doc); images end in .png, .jpg"
    )
    assert failing(tmp_path, "train").endswith(
        f"no file matches file://{tmp_path}/train; for the files below it: file://{tmp_path}/train/"
    )


def test_one_class_is_nothing_to_learn(tmp_path: Path):
    """As in tables."""
    make_folders(tmp_path / "train")
    for file in (tmp_path / "train" / "lying").iterdir():
        file.unlink()

    with pytest.raises(DataError, match="column 'label' has the same value, 'standing', in every row"):
        prepare(make_context(make_image_job(tmp_path), tmp_path))


def test_a_target_that_is_the_image_is_refused(tmp_path: Path):
    """The column of the files needs its name for itself."""
    make_folders(tmp_path / "train", each=3)
    job = make_image_job(tmp_path).model_copy(
        update={"task": make_image_job(tmp_path).task.model_copy(update={"target": "image"})}
    )

    assert failing(tmp_path, job=job) == (
        "spec.task.target: 'image' is the name of the images' own column; choose another, such as 'label'"
    )


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": np.zeros(3)}, "must hold arrays named x_train and y_train"),
        ({"x": np.zeros((3, 2, 2, 2, 2))}, "must have shape (images, height, width)"),
        ({"x": np.full((3, 2, 2), -1.5)}, "must hold values from 0 to 255, or from 0 to 1, has -1.5 to -1.5"),
        (
            {"x": np.zeros((3, 2, 2)), "y": np.zeros(2)},
            "y must have one value for each of the 3 images, has shape (2, 1)",
        ),
        ({"x": np.array([["a"]])}, "must have shape"),
    ],
)
def test_arrays_that_are_no_images_are_refused(arrays: dict[str, np.ndarray], words: str, tmp_path: Path):
    """The file, the array, the rule, and what it holds."""
    np.savez(tmp_path / "a.npz", **arrays)

    assert words in failing(tmp_path, "a.npz")


def test_arrays_that_unpack_to_more_than_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Before they are unpacked."""
    monkeypatch.setattr("kubeautoml_trainer.data.image_sources.MAX_ARRAY_BYTES", 1 << 10)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 28, 28), dtype=np.uint8))

    assert "a.npz must hold at most 0 GiB, holds 0.0; write several, or tar files" in failing(tmp_path, "a.npz")


def test_a_damaged_shard_or_archive_is_named(tmp_path: Path):
    """Cut off in the middle, or something else under that name."""
    write_tar(tmp_path / "a.tar", {f"{k}.png": encoded(DIGITS[k]) for k in range(30)})
    (tmp_path / "cut.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:-12_000])
    (tmp_path / "b.npz").write_bytes(b"nothing")
    (tmp_path / "c.tar").write_bytes(b"nothing")

    assert f"file://{tmp_path}/cut.tar is no tar file, or is cut off" in failing(tmp_path, "cut.tar")
    (tmp_path / "d.tar.gz").write_bytes(gzip.compress(b"x" * 999, mtime=0)[:-9])
    assert f"file://{tmp_path}/d.tar.gz cannot be decompressed" in failing(tmp_path, "d.tar.gz")
    assert f"file://{tmp_path}/b.npz is no .npz file" in failing(tmp_path, "b.npz")
    assert f"file://{tmp_path}/c.tar is no tar file" in failing(tmp_path, "c.tar")


def test_a_scratch_disk_that_is_too_small_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """How much is needed, how much is there."""
    make_folders(tmp_path / "train", each=5)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"total": 10_000, "free": 1_500}))

    assert failing(tmp_path) == (
        "10 images of 12 x 12 pixels need 1.4e-06 GB of scratch disk, 1e-06 GB are free; raise the ephemeral storage of "
        "spec.workers.resources, or give fewer images"
    )
