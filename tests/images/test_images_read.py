"""Folders, tables, tar shards and arrays of images to one frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.data_factories import make_context
from images.image_factories import encoded, make_cache, make_folders, make_image_job, make_picture
from images.image_forms import (
    DIGITS,
    LABELS,
    pixels,
    read_images,
    write_arrays,
    write_folder,
    write_json_shard,
    write_lines,
    write_manifest,
    write_names,
    write_packed_shard,
    write_parquet,
    write_shards,
    write_structs,
)
from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.image_cache import Size, cached_images, stored_size
from kubeautoml_trainer.data.image_sources import Inline
from kubeautoml_trainer.data.prepare import prepare, prepare_frames


@pytest.mark.parametrize(
    "write",
    [
        write_folder,
        write_manifest,
        write_names,
        write_lines,
        write_parquet,
        write_structs,
        write_shards,
        write_json_shard,
        write_packed_shard,
        write_arrays,
    ],
)
def test_every_form_of_a_data_set_gives_the_same_images_and_labels(write: Any, tmp_path: Path):
    """Auto tells them apart; each row has its own picture and its own label."""
    frame = read_images(tmp_path, write(tmp_path)).frame
    name = next(c for c in frame.columns if cached_images(frame[c]) is not None)

    found = {p.tobytes(): label for p, label in zip(pixels(frame, name), frame["label"], strict=True)}

    assert found == {d.tobytes(): label for d, label in zip(DIGITS, LABELS, strict=True)}


def test_a_job_over_a_folder_has_one_feature(tmp_path: Path):
    """The image; paths stay as identifiers, which no model uses."""
    make_folders(tmp_path / "train")
    data = prepare(make_context(make_image_job(tmp_path), tmp_path))

    image, path = data.schema.columns
    assert (image.name, image.type, image.height, image.width, image.channels) == ("image", ColumnType.IMAGE, 12, 12, 1)
    assert (path.name, path.type) == ("path", ColumnType.IDENTIFIER)
    assert data.schema.classes == ("lying", "standing")
    view = data.train.frame["image"].iloc[0]
    assert view.shape == (12, 12, 1)
    assert view.flags.c_contiguous
    assert not view.flags.writeable


def test_other_columns_of_a_table_of_images_are_features_too(tmp_path: Path):
    """Several images a row, numbers and words: one job."""
    write_manifest(tmp_path)
    table = pd.read_csv(tmp_path / "labels.csv").assign(age=range(30), other=lambda f: f["file"].iloc[::-1].tolist())
    table.to_csv(tmp_path / "labels.csv", index=False)
    found = read_images(tmp_path, "labels.csv")

    data, _ = prepare_frames(found.frame, None, make_image_job(tmp_path))

    assert {c.name: c.type for c in data.schema.features} == {
        "file": ColumnType.IMAGE,
        "age": ColumnType.NUMBER,
        "other": ColumnType.IMAGE,
    }


@pytest.mark.parametrize("are_there", [True, False])
def test_a_table_that_names_files_has_images_if_they_are_there(are_there: bool, tmp_path: Path):
    """In a job that is not about images a file name may be no more than a name."""
    write_manifest(tmp_path)
    job = make_image_job(tmp_path, task="TabularClassification")
    if not are_there:
        table = pd.read_csv(tmp_path / "labels.csv").assign(file=[f"gone/{k}.png" for k in range(30)])
        table.to_csv(tmp_path / "labels.csv", index=False)

    frame = read_images(tmp_path, "labels.csv", job).frame

    assert (cached_images(frame["file"]) is not None) == are_there


def test_arrays_that_are_not_used_are_named(tmp_path: Path):
    """A test set in the same file counts once the manifest says so."""
    assert read_images(tmp_path, write_arrays(tmp_path)).warnings == (
        f"x_test of file://{tmp_path}/digits.npz is not used; name the file in spec.dataset.test, too, to evaluate on it",
    )


def test_one_file_of_arrays_is_training_and_test(tmp_path: Path):
    """dataset.test takes x_test of the same file."""
    x, y = np.stack(DIGITS)[..., 0], np.array(LABELS)
    np.savez(tmp_path / "all.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    uri = {"uri": f"file://{tmp_path}/all.npz"}
    job = make_image_job(tmp_path, dataset={"train": uri, "test": uri})

    data = prepare(make_context(job, tmp_path))

    assert (len(data.train), len(data.holdout)) == (20, 10)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (np.full((2, 3, 4), 200, dtype=np.uint8), (3, 4, 1, 200)),
        (np.full((2, 3, 4, 3), 200, dtype=np.int64), (3, 4, 3, 200)),
        (np.full((2, 3, 8, 9), 200, dtype=np.uint8), (8, 9, 3, 200)),
        (np.full((2, 9), 0.2), (3, 3, 1, 51)),
        (np.full((2, 9), 7.0), (3, 3, 1, 7)),
        (np.full((2, 3, 3), 0x80FF, dtype=np.uint16), (3, 3, 1, 0x80)),
        (np.full((2, 3, 3), True), (3, 3, 1, 255)),
    ],
    ids=["grey", "colour", "channels first", "shares of squares", "whole floats", "sixteen bits", "booleans"],
)
def test_arrays_of_all_usual_forms_are_images(x: np.ndarray, expected: tuple[int, ...], tmp_path: Path):
    """Shape and type are told from the array."""
    np.savez(tmp_path / "a.npz", images=x, labels=np.arange(2))
    first = pixels(read_images(tmp_path, "a.npz").frame)[0]

    assert (*first.shape, int(first[0, 0, 0])) == expected


def test_mixed_sizes_and_channels_are_stored_alike(tmp_path: Path):
    """The median of heights and widths; colours as soon as one has some, wherever it stands."""
    for k in range(12):
        (tmp_path / "train" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        image = make_picture(k, 10 + k, 20, 3 if k == 11 else 1)
        (tmp_path / "train" / "ab"[k % 2] / f"{k:02}.png").write_bytes(encoded(image))

    found = pixels(read_images(tmp_path, "train/").frame)

    assert {p.shape for p in found} == {(16, 20, 3)}
    assert (found[0][:, :, 0] == found[0][:, :, 2]).all()


def test_colour_that_comes_late_colours_what_is_stored_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The size is told from a sample, which may hold grey images only."""
    monkeypatch.setattr("kubeautoml_trainer.data.image_cache.SAMPLE", 2)
    images = [make_picture(k, 4, 4, 3 if k == 5 else 1) for k in range(8)]

    found = make_cache(tmp_path).of("key", [Inline(i, str(k)) for k, i in enumerate(images)])

    assert found.size == Size(4, 4, 3)
    assert all((np.broadcast_to(i, (4, 4, 3)) == a).all() for i, a in zip(images, found.array, strict=True))


@pytest.mark.parametrize(
    ("sizes", "images", "expected"),
    [
        ([(28, 28, 1)], 60_000, Size(28, 28, 1)),
        ([(3000, 4000, 3)], 1_000, Size(168, 224, 3)),
        ([(3000, 4000, 3)], 1_000_000, Size(66, 87, 3)),
        ([(1, 9, 1)], 10, Size(1, 9, 1)),
    ],
)
def test_the_stored_size_follows_the_data(sizes: Any, images: int, expected: Size):
    """Small images stay as they are, large ones are as large as networks take them, and as many as there are must fit."""
    assert stored_size(sizes, images) == expected
