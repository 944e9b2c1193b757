"""What every pod of a job does first: read the data, agree on the schema, the hold-out and the folds, and type the rows.

All of it follows from the data, the manifest and the seed, so pods need not wait for each other: whoever is first stores profile
and folds, the others use those, after a look at whether they read the same data.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa

from kubeautoml.api.conditions import Reason
from kubeautoml.api.dataset import ColumnType, DataSource, SplitType
from kubeautoml.api.errors import DataError, ObjectNotFound, PredictionError
from kubeautoml.api.pod import PodContext, PodJob
from kubeautoml.storage import open_store
from kubeautoml_trainer.activity import SILENT, Activity
from kubeautoml_trainer.data.asked import asked_by_job, asked_of_test
from kubeautoml_trainer.data.base import PreparedData, Profile, Rows, Schema
from kubeautoml_trainer.data.dataset import read_dataset
from kubeautoml_trainer.data.image_cache import ImageCache, cached_images, temporary_cache
from kubeautoml_trainer.data.infer import infer_column
from kubeautoml_trainer.data.profile import digest_of, store_profile, stored_profile
from kubeautoml_trainer.data.roles import groups_of, time_of, weights_of
from kubeautoml_trainer.data.schema import coerce, frame_of, typed_values
from kubeautoml_trainer.data.split import Assignment, assign, resolve
from kubeautoml_trainer.data.stored_images import with_stored_images
from kubeautoml_trainer.data.target import Target, find_column, read_target, to_labels
from kubeautoml_trainer.data.texts import column_of_texts
from kubeautoml_trainer.data.values import shown, to_numbers
from kubeautoml_trainer.data.warn import data_warnings
from kubeautoml_trainer.tasks import POINT

_SAMPLED, _LETTERS = 200, 6.0
"""Values that tell how long a column's texts are, and letters of a word with its space."""


def prepare(context: PodContext, budget_seconds: float | None = None, activity: Activity = SILENT) -> PreparedData:
    """Read, check, profile and split; store what later pods check theirs against.

    budget_seconds: what the job may take; fewer folds are made of much data where it is short.
    activity: hears how far it is.

    Raises:
        DataError: the data cannot be used; the message is for the author of the manifest.
        StorageError: a location cannot be read or written.
    """
    job, patience = context.job, context.storage_patience_seconds
    cache = ImageCache(context.scratch_dir / "images", context.threads, activity.counted("fetching and caching images"))
    cache.clear_leftovers()
    try:
        found = read_dataset(
            job.dataset.train, asked_by_job(job), cache, context.train_credentials_dir, patience_seconds=patience
        )
        raw, said, test = found.frame, found.warnings, None
        if job.dataset.test:
            asked = asked_of_test(raw, job)
            found = read_dataset(
                job.dataset.test, asked, cache, context.test_credentials_dir, patience_seconds=patience
            )
            test, said = found.frame, (*said, *found.warnings)
    except ObjectNotFound as error:
        raise DataError(str(error), reason=Reason.DATASET_NOT_FOUND) from error
    store = open_store(job.output.uri, context.output_credentials_dir, patience_seconds=patience)
    stored = stored_profile(store, job)
    frames = [raw]
    del raw, found  # `prepare_frames` holds it alone, and lets go of it as soon as it can
    prepared, assignment = prepare_frames(frames.pop(), test, job, stored, budget_seconds, said)
    # what Arrow's pool keeps for later would count as this pod's memory for as long as it trains
    pa.default_memory_pool().release_unused()
    if stored is None:
        store_profile(store, job, prepared.profile, assignment)
    return prepared


def prepare_frames(
    raw: pd.DataFrame,
    test: pd.DataFrame | None,
    job: PodJob,
    stored: tuple[Profile, Assignment] | None = None,
    budget_seconds: float | None = None,
    warnings: Sequence[str] = (),
) -> tuple[PreparedData, Assignment]:
    """The same from frames: no storage, so that tests and notebooks can call it. Images may be bytes or arrays.

    warnings: about how they were read.

    Raises:
        DataError: the data cannot be used, or is not what `stored` was made from.
    """
    raw, test, warnings = _with_images(raw, test, job, warnings)
    sha256 = digest_of(raw, test)
    if stored is not None and stored[0].sha256 != sha256:
        raise DataError(
            f"the data at {job.dataset.train.uri} has changed since the job started; trials on different rows cannot be compared: "
            "create a new job",
            reason=Reason.INVALID_DATA,
        )
    target = read_target(raw, job.task)
    raw = _kept(raw, target.usable)
    groups = groups_of(raw, job.dataset.split.group_column)
    began = time.perf_counter()
    assignment = stored[1] if stored else _assignment(raw, test, target, groups, job, budget_seconds)
    keep = ~assignment.holdout
    schema, about_columns = (stored[0].schema, []) if stored else _schema(raw, target, job, keep)
    once_seconds = time.perf_counter() - began
    weight, times = weights_of(raw, job), time_of(raw, job)
    columns = {c.name: raw[c.name] for c in schema.features}
    del raw  # so that each raw column is gone when its typed one is there
    frames = _typed_parts(columns, schema, job.dataset.train, (keep, assignment.holdout))
    train = _part(frames[0], target.y, weight, keep)
    holdout = _part(frames[1], target.y, weight, assignment.holdout)
    if test is not None:
        holdout = _test_rows(test, schema, job)
    elif groups is not None:
        holdout = replace(holdout, groups=groups[assignment.holdout])
    fold = assignment.fold[keep]
    began = time.perf_counter()
    profile = (
        stored[0]
        if stored
        else Profile(
            schema=schema,
            rows=len(train),
            holdout_rows=len(holdout),
            folds=int(fold.max()) + 1,
            sha256=sha256,
            warnings=(
                *warnings,
                *target.warnings,
                *data_warnings(
                    train,
                    fold,
                    holdout,
                    schema,
                    kind=None if test is not None else _kind(job),
                    time=None if times is None else times[keep],
                    split=job.dataset.split,
                ),
                *_class_warnings(train, holdout, schema),
                *about_columns,
            ),
        )
    )
    once_seconds += time.perf_counter() - began
    groups = None if groups is None else groups[keep]
    return PreparedData(profile, train, fold, holdout, groups, once_seconds), assignment


def _with_images(
    raw: pd.DataFrame, test: pd.DataFrame | None, job: PodJob, warnings: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame | None, Sequence[str]]:
    """The frames with their images decoded, for those that `read_dataset` did not make."""
    with temporary_cache() as cache:
        where = "the training rows"
        found = with_stored_images(raw, asked_by_job(job), cache, where, where)
        if test is None:
            return found.frame, None, (*warnings, *found.warnings)
        where = "the test rows"
        tested = with_stored_images(test, asked_of_test(found.frame, job), cache, where, where)
    return found.frame, tested.frame, (*warnings, *found.warnings, *tested.warnings)


def _assignment(
    raw: pd.DataFrame,
    test: pd.DataFrame | None,
    target: Target,
    groups: np.ndarray | None,
    job: PodJob,
    budget_seconds: float | None,
) -> Assignment:
    split, is_classes = job.dataset.split, job.task.type.is_classification
    kind = _kind(job)
    assignment = assign(
        target.y,
        kind=kind,
        is_classes=is_classes,
        test_fraction=0.0 if test is not None else float(split.test_fraction),
        folds=split.folds,
        values_a_second=0.0 if budget_seconds is None else _values(raw, target) / budget_seconds,
        seed=job.search.seed,
        groups=groups,
        time=time_of(raw, job),
    )
    lost = sorted(set(range(len(target.classes))) - set(target.y[~assignment.holdout].tolist()))
    if lost:
        names = ", ".join(f"'{target.classes[c]}'" for c in lost[:5])
        raise DataError(
            f"spec.dataset.split: a {kind} split keeps all rows of class {names} for the hold-out, so they cannot be learned; "
            "add rows, or choose another split.type",
            reason=Reason.TOO_FEW_ROWS,
        )
    return assignment


def _values(raw: pd.DataFrame, target: Target) -> int:
    """What a fit has to look at: all values, the words of texts one by one, once for each class where there are more than two."""
    outputs = len(target.classes) if len(target.classes) > 2 else 1
    words = sum(_words(raw.iloc[:, k]) for k in range(raw.shape[1]))
    return round(len(raw) * max(1.0, words - 1) * outputs)


def _words(column: pd.Series) -> float:
    """Words of a middling value, about, or pixels; 1 for what is neither text nor image."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return 1.0
    images = cached_images(column)
    if images is not None:
        return float(images.size.bytes)
    some = column.iloc[:: max(1, len(column) // _SAMPLED)]
    lengths = [len(v) for v in some if isinstance(v, str)]
    return max(1.0, float(np.mean(lengths)) / _LETTERS) if lengths else 1.0


def _kind(job: PodJob) -> SplitType:
    """How rows are split, Auto resolved."""
    split = job.dataset.split
    return resolve(
        split.type,
        is_classes=job.task.type.is_classification,
        has_groups=split.group_column is not None,
        has_time=split.time_column is not None,
    )


def _part(frame: pd.DataFrame, y: np.ndarray, weight: np.ndarray | None, where: np.ndarray) -> Rows:
    """The rows where the mask is true, of which `frame` holds the features; their mean weight is 1."""
    weight = None if weight is None else weight[where]
    if weight is not None and weight.sum() > 0:
        weight = weight / weight.mean()
    return Rows(frame, y[where], weight)


def _typed_parts(
    columns: dict[str, pd.Series], schema: Schema, source: DataSource, masks: Sequence[np.ndarray]
) -> list[pd.DataFrame]:
    """The typed rows of each mask. `columns` is used up: raw text and typed values of all rows are never there at once."""
    parts: list[dict[str, np.ndarray]] = [{} for _ in masks]
    for column in schema.features:
        try:
            # infinities, which `infer` has warned of, become missing
            values = typed_values(columns.pop(column.name), column, infinite_is_missing=True)
        except PredictionError as error:
            raise DataError(f"{source.uri}: {error}", reason=Reason.INVALID_DATA) from error
        for part, mask in zip(parts, masks, strict=True):
            part[column.name] = values[mask]
    return [frame_of(part, int(mask.sum())) for part, mask in zip(parts, masks, strict=True)]


def _class_warnings(train: Rows, holdout: Rows, schema: Schema) -> list[str]:
    absent = [c for i, c in enumerate(schema.classes) if not (holdout.y == i).any()]
    if not absent or not len(holdout):
        return []
    names = ", ".join(f"'{c}'" for c in absent[:5]) + (", ..." if len(absent) > 5 else "")
    return [f"the hold-out has no row of class {names}; scores on it say nothing about them"]


def _kept(raw: pd.DataFrame, usable: np.ndarray) -> pd.DataFrame:
    return raw if usable.all() else raw[usable].reset_index(drop=True)


def _schema(raw: pd.DataFrame, target: Target, job: PodJob, train: np.ndarray) -> tuple[Schema, list[str]]:
    """Types of all columns that may be features, described by their training rows, and what is worth a warning."""
    columns = job.dataset.columns
    for name in (*columns.types, *columns.ignore):
        find_column(name, raw, "spec.dataset.columns")
    left_out = {job.task.target, columns.weight, job.dataset.split.group_column, *columns.ignore}
    names = [str(n) for n in raw.columns if n not in left_out]
    types = dict(columns.types)
    found = [infer_column(n, raw[n], types.get(n), train) for n in names]
    if POINT.get(job.task.type) is ColumnType.TEXT:
        point = column_of_texts([i.column for i in found], raw, types)
        found = [
            infer_column(n, raw[n], ColumnType.TEXT, train) if n == point else i
            for n, i in zip(names, found, strict=True)
        ]
    schema = Schema(
        target=job.task.target,
        columns=tuple(i.column for i in found),
        classes=target.classes,
        positive_class=target.positive_class,
        quantiles=tuple(float(q) for q in job.task.quantiles),
    )
    if not schema.features:
        raise DataError(
            f"no column but '{job.task.target}' can be learned from; found: "
            + (", ".join(f"{c.name} ({c.type.value})" for c in schema.columns[:10]) or "none"),
            reason=Reason.INVALID_DATA,
        )
    if POINT.get(job.task.type) is ColumnType.IMAGE and all(c.type is not ColumnType.IMAGE for c in schema.features):
        raise DataError(
            f"{job.task.type} needs a column of images, found: "
            + ", ".join(f"{c.name} ({c.type.value})" for c in schema.columns[:10])
            + "; give their bytes, or paths that end in .png, .jpg and the like, relative to the table; or set "
            "spec.dataset.columns.types to Image",
            reason=Reason.INVALID_DATA,
        )
    return schema, [w for i in found for w in i.warnings]


def _typed(raw: pd.DataFrame, schema: Schema, source: DataSource) -> pd.DataFrame:
    """Test rows by the schema of the training rows; infinities become missing, as they do there."""
    try:
        return coerce(raw, schema, infinite_is_missing=True)
    except PredictionError as error:
        raise DataError(f"{source.uri}: {error}", reason=Reason.INVALID_DATA) from error


def _test_rows(test: pd.DataFrame, schema: Schema, job: PodJob) -> Rows:
    """The rows of dataset.test, coded as the training rows are."""
    assert job.dataset.test is not None
    uri = job.dataset.test.uri
    raw = find_column(schema.target, test, "spec.task.target (dataset.test)", Reason.TARGET_NOT_FOUND)
    y = _test_classes(raw, schema, uri) if schema.classes else _test_numbers(raw, schema, uri)
    usable = np.isfinite(y)
    if not usable.any():
        raise DataError(f"{uri} has no row with a value of '{schema.target}'", reason=Reason.DATASET_EMPTY)
    kept = _kept(test, usable)
    y = y[usable]
    frame = _typed(kept, schema, job.dataset.test)
    return Rows(frame, y.astype(np.int64) if schema.classes else y, weights_of(kept, job))


def _test_classes(raw: pd.Series, schema: Schema, uri: str) -> np.ndarray:
    labels = to_labels(raw)
    known = labels.map({c: i for i, c in enumerate(schema.classes)})
    unknown = labels[known.isna() & labels.notna()]
    if not unknown.empty:
        raise DataError(
            f"{uri}: class '{unknown.iloc[0]}' of '{schema.target}' is not among the training rows, "
            f"which have {', '.join(schema.classes[:20])}",
            reason=Reason.TARGET_UNUSABLE,
        )
    return np.asarray(known.to_numpy(dtype=np.float64))


def _test_numbers(raw: pd.Series, schema: Schema, uri: str) -> np.ndarray:
    parsed = to_numbers(raw)
    bad = parsed.bad | np.isinf(parsed.values)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{uri}: '{schema.target}' must hold finite numbers, got {shown(raw.iloc[row])} in row {row}",
            reason=Reason.TARGET_UNUSABLE,
        )
    return parsed.values
