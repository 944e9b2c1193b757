"""Reads what trials left in object storage; a trial whose artifacts are damaged or gone is set aside, never fatal."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from kubeautoml.api.errors import AccessDenied, BundleError, ObjectNotFound
from kubeautoml.api.names import ArtifactPaths
from kubeautoml.storage import ObjectStore
from kubeautoml_trainer.artifacts import TrialRecord, read_predictions, read_record

log = logging.getLogger("kubeautoml.finalize")

_READERS = 8


@dataclass(frozen=True)
class ScoredTrial:
    """A completed trial, as the study knows it.

    promoted: the trial that it took the place of, run again on other folds too, or on more rows.
    """

    trial: int
    family: str
    value: float
    promoted: int | None = None


@dataclass(frozen=True)
class StoredTrial:
    """A completed trial with its record and predictions (see `artifacts.Predictions`)."""

    record: TrialRecord
    oof: np.ndarray = field(repr=False)
    holdout: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Shapes:
    """What a trial's predictions must look like to belong to this job's rows."""

    train_rows: int
    holdout_rows: int
    outputs: int


def read_trials(
    store: ObjectStore, paths: ArtifactPaths, numbers: Sequence[int], shapes: Shapes
) -> dict[int, StoredTrial]:
    """Those of the trials that can be read and fit these rows; a warning for each that cannot."""
    with ThreadPoolExecutor(_READERS) as pool:
        read = pool.map(lambda n: _read_trial(store, paths, n, shapes), numbers)
        return {n: t for n, t in zip(numbers, read, strict=True) if t is not None}


def read_records(store: ObjectStore, paths: ArtifactPaths, numbers: Sequence[int]) -> dict[int, TrialRecord]:
    """The records that can be read."""

    def one(number: int) -> TrialRecord | None:
        try:
            return read_record(store, paths, number)
        except (BundleError, ObjectNotFound):
            return None

    with ThreadPoolExecutor(_READERS) as pool:
        return {n: r for n, r in zip(numbers, pool.map(one, numbers), strict=True) if r is not None}


def set_aside(number: int, why: object) -> None:
    """Say that a trial will not be used."""
    log.warning("trial set aside", extra={"trial": number, "why": str(why)})


def _read_trial(store: ObjectStore, paths: ArtifactPaths, number: int, shapes: Shapes) -> StoredTrial | None:
    try:
        record, predictions = read_record(store, paths, number), read_predictions(store, paths, number)
    except AccessDenied:
        raise
    except (BundleError, ObjectNotFound) as error:
        set_aside(number, error)
        return None
    for name, array, rows in (
        ("oof", predictions.oof, shapes.train_rows),
        ("holdout", predictions.holdout, shapes.holdout_rows),
    ):
        if array.shape != (rows, shapes.outputs):
            set_aside(number, f"{name}.npy must have shape {(rows, shapes.outputs)}, got {array.shape}")
            return None
    return StoredTrial(record, predictions.oof, predictions.holdout)
