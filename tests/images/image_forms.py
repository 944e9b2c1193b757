"""Thirty digits in every form that a data set of images may have, and how a worker reads them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from images.image_factories import encoded, make_cache, make_digit, make_image_job
from kubeautoml.api.dataset import DataFormat, DataSource
from kubeautoml.api.errors import DataError
from kubeautoml.api.pod import PodJob
from kubeautoml_trainer.data.asked import asked_by_job
from kubeautoml_trainer.data.base import Dataset
from kubeautoml_trainer.data.dataset import read_dataset


def read_images(
    folder: Path, uri: str, job: PodJob | None = None, data_format: DataFormat = DataFormat.AUTO
) -> Dataset:
    """The rows as a worker reads them."""
    source = DataSource(uri=f"file://{folder}/{uri}", format=data_format)
    return read_dataset(source, asked_by_job(job or make_image_job(folder)), make_cache(folder))


def pixels(frame: pd.DataFrame, name: str = "image") -> list[np.ndarray]:
    """What was read of each row."""
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


def failing(folder: Path, uri: str = "train/", **options: Any) -> str:
    """What is said where reading ends in an error."""
    with pytest.raises(DataError) as caught:
        read_images(folder, uri, **options)
    return str(caught.value)
