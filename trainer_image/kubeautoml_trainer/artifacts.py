"""What a trial leaves in object storage, and how it is read back.

Under `ArtifactPaths.trial(n)`: `oof.npy` (out-of-fold predictions), `holdout.npy`, `models.tar` (one pipeline a fold), and last
`trial.json`. A trial without `trial.json` does not exist: its worker was killed while it wrote.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml.api.names import ArtifactPaths
from kubeautoml.storage import ObjectStore
from kubeautoml_trainer.models.base import Pipeline
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.models.space import Value

RECORD, OOF, HOLDOUT, MODELS = "trial.json", "oof.npy", "holdout.npy", "models.tar"

_MEMBER = re.compile(r"\.|(\./)?\d+(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
"""Below 0, 1, ...: what `pack_pipelines` writes."""
_ANY_MEMBER = re.compile(r"\.|(\./)?[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class TrialRecord:
    """What is known of a completed trial. `metrics` are over the out-of-fold predictions."""

    number: int
    attempt: int
    family: str
    parameters: dict[str, Value]
    value: float
    fold_values: list[float]
    metrics: dict[str, float]
    fit_seconds: float
    predict_seconds: float
    """To predict the hold-out with all folds, one thread; where there is none, the rows that each fold left out, all threads together."""
    size_bytes: int
    """Of the files of all folds' pipelines, as they stand in a bundle; an archive of small ones takes up to twice as much."""
    folds: int
    best_iterations: list[int | None] = field(default_factory=list)


@dataclass(frozen=True)
class Predictions:
    """oof: float32 (train rows, outputs), NaN where a row is never validated; holdout: float32 (hold-out rows, outputs)."""

    oof: np.ndarray
    holdout: np.ndarray


def pack_pipelines(pipelines: list[Pipeline]) -> bytes:
    """The pipelines of the folds as a tar, in folders 0, 1, ..."""
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, pipeline in enumerate(pipelines):
            pipeline.save(Path(folder) / str(number))
        tar.add(folder, arcname=".")
    return buffer.getvalue()


def files_bytes(models: bytes) -> int:
    """What the files of `pack_pipelines` take, without what an archive adds to each."""
    with tarfile.open(fileobj=io.BytesIO(models), mode="r:") as tar:
        return sum(m.size for m in tar if m.isfile())


def write_trial(
    store: ObjectStore, paths: ArtifactPaths, record: TrialRecord, predictions: Predictions, models: bytes
) -> None:
    """Store everything of a trial; the record last."""
    store.write(paths.trial(record.number, MODELS), models)
    store.write(paths.trial(record.number, OOF), array_bytes(predictions.oof))
    store.write(paths.trial(record.number, HOLDOUT), array_bytes(predictions.holdout))
    store.write(paths.trial(record.number, RECORD), json.dumps(asdict(record)).encode())


def read_record(store: ObjectStore, paths: ArtifactPaths, number: int) -> TrialRecord:
    """The record of a trial.

    Raises:
        ObjectNotFound: the trial was never finished.
        BundleError: the record is damaged.
    """
    text = store.read(paths.trial(number, RECORD))
    try:
        return TrialRecord(**json.loads(text))
    except (ValueError, TypeError) as error:
        known = ", ".join(f.name for f in fields(TrialRecord))
        raise BundleError(f"{paths.trial(number, RECORD)} is no record with {known}: {error}") from error


def read_predictions(store: ObjectStore, paths: ArtifactPaths, number: int) -> Predictions:
    """The predictions of a trial.

    Raises:
        ObjectNotFound: absent.
        BundleError: damaged.
    """
    return Predictions(_array(store, paths.trial(number, OOF)), _array(store, paths.trial(number, HOLDOUT)))


def unpack_models(store: ObjectStore, paths: ArtifactPaths, number: int, folder: Path) -> list[Path]:
    """Put a trial's fitted pipelines into a folder, which is emptied first; returns their folders 0, 1, ..., one a fold.

    Raises:
        ObjectNotFound: absent.
        BundleError: damaged.
    """
    shutil.rmtree(folder, ignore_errors=True)
    uri = paths.trial(number, MODELS)
    data = store.read(uri)
    try:
        unpack_tar(data, folder, _MEMBER)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise BundleError(f"{uri} cannot be unpacked: {error}") from error
    folds = sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    if [p.name for p in folds] != [str(i) for i in range(len(folds))] or not folds:
        raise BundleError(f"{uri} must hold folders 0, 1, ... of pipelines, got {[p.name for p in folds]}")
    return folds


def load_pipelines(store: ObjectStore, paths: ArtifactPaths, number: int, scratch: Path) -> list[Pipeline]:
    """The fitted pipelines of a trial, a fold each; unpacked below `scratch`.

    Raises:
        ObjectNotFound: absent.
        BundleError: damaged.
    """
    return [load_pipeline(p) for p in unpack_models(store, paths, number, scratch / f"trial-{number}")]


def unpack_tar(data: bytes, folder: Path, names: re.Pattern[str] = _ANY_MEMBER) -> None:
    """Unpack into a new folder; only files and folders whose names are as expected, none of them outside.

    Raises:
        ValueError: another member is in it.
        TarError, OSError: damaged, or the disk is full.
    """
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar.getmembers():
            if not (names.fullmatch(member.name) and (member.isfile() or member.isdir())):
                raise ValueError(f"unexpected member {member.name!r}")
        _extract(tar, folder)


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    """Write the files. tarfile's own filters came with Python 3.11.4, and distributions still ship older ones."""
    for member in tar.getmembers():
        source = tar.extractfile(member)
        if source is not None:
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read())


def array_bytes(array: np.ndarray) -> bytes:
    """The array as float32, in NumPy's own format."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array, dtype=np.float32), allow_pickle=False)
    return buffer.getvalue()


def _array(store: ObjectStore, uri: str) -> np.ndarray:
    return array_from(store.read(uri), uri)


def array_from(data: bytes, uri: str) -> np.ndarray:
    """What `array_bytes` made; the name is for the message.

    Raises:
        BundleError: damaged, or another kind of array.
    """
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BundleError(f"{uri} is no array: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != 2:
        raise BundleError(f"{uri} must be a float32 array (rows, outputs)")
    return array
