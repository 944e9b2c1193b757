"""Folders, tables, tar shards and arrays of images to one frame; and what is said of those that cannot be used."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.data_factories import make_context
from images.image_factories import encoded, make_cache, make_digit, make_folders, make_image_job, make_picture
from kubeautoml.api.dataset import ColumnType, DataFormat, DataSource
from kubeautoml.api.errors import DataError
from kubeautoml.api.pod import PodJob
from kubeautoml_trainer.data.base import PreparedData
from kubeautoml_trainer.data.dataset import Dataset, asked_by_job, read_dataset
from kubeautoml_trainer.data.image_cache import ImageCache, Size, cached_images, stored_size
from kubeautoml_trainer.data.image_sources import Inline
from kubeautoml_trainer.data.prepare import prepare, prepare_frames
from kubeautoml_trainer.features import Recipe, fit_features


def read(folder: Path, uri: str, job: PodJob | None = None, data_format: DataFormat = DataFormat.AUTO) -> Dataset:
    """The rows as a worker reads them."""
    source = DataSource(uri=f"file://{folder}/{uri}", format=data_format)
    return read_dataset(source, asked_by_job(job or make_image_job(folder)), make_cache(folder))


def pixels(frame: pd.DataFrame, name: str = "image") -> list[np.ndarray]:
    return [v.pixels for v in frame[name]]


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


DIGITS = [make_digit(k % 2, k) for k in range(30)]
LABELS = [("lying", "standing")[k % 2] for k in range(30)]


def write_folder(folder: Path) -> str:
    for k, (image, label) in enumerate(zip(DIGITS, LABELS, strict=True)):
        (folder / "train" / label).mkdir(parents=True, exist_ok=True)
        (folder / "train" / label / f"{k:02}.png").write_bytes(encoded(image))
    return "train/"


def write_manifest(folder: Path) -> str:
    write_folder(folder)
    names = [f"train/{label}/{k:02}.png" for k, label in enumerate(LABELS)]
    pd.DataFrame({"file": names, "label": LABELS}).to_csv(folder / "labels.csv", index=False)
    return "labels.csv"


def write_names(folder: Path) -> str:
    write_folder(folder)
    names = [f"{k:02}.png" for k in range(30)]
    pd.DataFrame({"id": names, "label": LABELS}).to_csv(folder / "train" / "labels.csv", index=False)
    (folder / "train" / "NOTES.txt").write_text("who took them, and when\n")
    return "train/"


def write_lines(folder: Path) -> str:
    write_folder(folder)
    rows = [{"file": f"file://{folder}/train/{label}/{k:02}.png", "label": label} for k, label in enumerate(LABELS)]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "labels.jsonl"


def write_parquet(folder: Path) -> str:
    pd.DataFrame({"photo": [encoded(d) for d in DIGITS], "label": LABELS}).to_parquet(folder / "rows.parquet")
    return "rows.parquet"


def write_structs(folder: Path) -> str:
    structs = [{"bytes": encoded(d), "path": f"{k}.png"} for k, d in enumerate(DIGITS)]
    pd.DataFrame({"photo": structs, "label": LABELS}).to_parquet(folder / "rows.parquet")
    return "rows.parquet"


def write_shards(folder: Path) -> str:
    for shard in range(2):
        members: dict[str, bytes] = {}
        for k in range(15 * shard, 15 * shard + 15):
            members |= {f"{k:02}.png": encoded(DIGITS[k]), f"{k:02}.cls": LABELS[k].encode()}
        write_tar(folder / "shards" / f"part-{shard}.tar", members)
    return "shards/*.tar"


def write_packed_shard(folder: Path) -> str:
    write_json_shard(folder)
    (folder / "all.tar.gz").write_bytes(gzip.compress((folder / "all.tar").read_bytes(), mtime=0))
    return "all.tar.gz"


def write_json_shard(folder: Path) -> str:
    members: dict[str, bytes] = {}
    for k in range(30):
        members[f"a/{k}.png"] = encoded(DIGITS[k])
        members[f"a/{k}.json"] = json.dumps({"label": LABELS[k], "height": k}).encode()
    write_tar(folder / "all.tar", members)
    return "all.tar"


def write_arrays(folder: Path) -> str:
    np.savez(
        folder / "digits.npz", x_train=np.stack(DIGITS)[..., 0], y_train=np.array(LABELS), x_test=np.zeros((1, 12, 12))
    )
    return "digits.npz"


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
    frame = read(tmp_path, write(tmp_path)).frame
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
    found = read(tmp_path, "labels.csv")

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

    frame = read(tmp_path, "labels.csv", job).frame

    assert (cached_images(frame["file"]) is not None) == are_there


def test_arrays_that_are_not_used_are_named(tmp_path: Path):
    """A test set in the same file counts once the manifest says so."""
    assert read(tmp_path, write_arrays(tmp_path)).warnings == (
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
    first = pixels(read(tmp_path, "a.npz").frame)[0]

    assert (*first.shape, int(first[0, 0, 0])) == expected


def test_mixed_sizes_and_channels_are_stored_alike(tmp_path: Path):
    """The median of heights and widths; colours as soon as one has some, wherever it stands."""
    for k in range(12):
        (tmp_path / "train" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        image = make_picture(k, 10 + k, 20, 3 if k == 11 else 1)
        (tmp_path / "train" / "ab"[k % 2] / f"{k:02}.png").write_bytes(encoded(image))

    found = pixels(read(tmp_path, "train/").frame)

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


def test_a_cache_is_made_once(tmp_path: Path):
    """Later trials, and a container that starts again, never read the files."""
    make_folders(tmp_path / "train", each=6)
    first = read(tmp_path, "train/").frame
    stamps = [(p, p.stat()) for p in (tmp_path / "train").rglob("*.png")]
    for path, stat in stamps:
        path.write_bytes(b"\0" * stat.st_size)
        import os

        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    again = read(tmp_path, "train/").frame

    assert all((a == b).all() for a, b in zip(pixels(first), pixels(again), strict=True))


def test_half_a_cache_is_not_taken_for_whole(tmp_path: Path):
    """A worker that is killed leaves a folder that nobody looks at; whatever breaks leaves none."""

    class Broken:
        name = "broken"

        def read(self) -> bytes:
            raise RuntimeError("killed")

    cache = make_cache(tmp_path)
    fine = [Inline(d, str(k)) for k, d in enumerate(DIGITS)]
    with pytest.raises(RuntimeError):
        cache.of("key", [*fine, Broken()], Size(12, 12, 1))
    left = [p.name for p in cache.folder.iterdir()]
    whole = cache.of("key", [*fine, Inline(DIGITS[0], "last")], Size(12, 12, 1))

    assert left == []
    assert (whole.array[:30] == np.stack(DIGITS)).all()


def test_what_a_killed_worker_left_is_cleared_away(tmp_path: Path):
    """Its container starts again on the same disk."""
    make_folders(tmp_path / "train")
    context = make_context(make_image_job(tmp_path), tmp_path)
    left = context.scratch_dir / "images" / ".partial-x"
    left.mkdir(parents=True)
    (left / "pixels.bin").write_bytes(b"half")

    prepare(context)

    (kept,) = (context.scratch_dir / "images").iterdir()
    assert {p.name for p in kept.iterdir()} == {"pixels.bin", "digests.bin", "facts.json"}


def test_progress_is_told(tmp_path: Path):
    """Images done, of how many; the last time when all are."""
    told: list[tuple[int, int]] = []
    cache = ImageCache(tmp_path, told=lambda done, of: told.append((done, of)))

    cache.of("key", [Inline(d, "x") for d in DIGITS])

    assert told[-1] == (30, 30)


# What cannot be used


def test_a_few_broken_images_are_left_out_and_told_of(tmp_path: Path):
    """Cut off, empty or no image at all: up to one in ten."""
    make_folders(tmp_path / "train")
    files = sorted((tmp_path / "train" / "lying").iterdir())
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:40])
    files[2].write_bytes(b"<html>not found</html>")
    (tmp_path / "train" / "Thumbs.db").write_bytes(b"not an image, and not named as one")

    found = read(tmp_path, "train/")

    assert len(found.frame) == 37
    assert found.warnings == (
        f"3 of 40 rows are left out, whose 'image' cannot be read, such as file://{files[0]}, which is empty (0 bytes)",
    )


def failing(folder: Path, uri: str = "train/", **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, uri, **options)
    return str(caught.value)


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
    few = read(tmp_path, "labels.csv")
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


# What follows from the data


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
    other = prepare_frames(read(tmp_path, "train/").frame, None, job)[0]

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

    found = pixels(read(tmp_path, "rows.csv", job).frame, "photo")

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
