"""What every pod of a job does first: read the data, agree on the schema, the hold-out and the folds, and type the rows.

All of it follows from the data, the manifest and the seed, so pods need not wait for each other: whoever is first stores profile
and folds, the others compute the same and check it against what is stored.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import DataError, ObjectNotFound, PredictionError
from kubeautoml.api.job import ColumnType, DataSource
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.pod import PodContext, PodJob
from kubeautoml.storage import ObjectStore, open_store
from kubeautoml_trainer.data.base import PreparedData, Profile, Rows, Schema
from kubeautoml_trainer.data.infer import infer_column
from kubeautoml_trainer.data.read import read_table
from kubeautoml_trainer.data.schema import coerce, schema_from_json, schema_to_json
from kubeautoml_trainer.data.split import Assignment, assign, resolve
from kubeautoml_trainer.data.target import Target, find_column, read_target
from kubeautoml_trainer.data.values import is_textual, to_numbers, to_seconds, to_texts
from kubeautoml_trainer.data.warn import data_warnings


def prepare(context: PodContext) -> PreparedData:
    """Read, check, profile and split; store what later pods check theirs against.

    Raises:
        DataError: the data cannot be used; the message is for the author of the manifest.
        StorageError: a location cannot be read or written.
    """
    job = context.job
    try:
        raw = read_table(job.dataset.train, context.train_credentials_dir)
        test = read_table(job.dataset.test, context.test_credentials_dir) if job.dataset.test else None
    except ObjectNotFound as error:
        raise DataError(str(error), reason=Reason.DATASET_NOT_FOUND) from error
    prepared, assignment = prepare_frames(raw, test, job)
    store = open_store(job.output.uri, context.output_credentials_dir)
    _agree(store, job, prepared, assignment)
    return prepared


def prepare_frames(raw: pd.DataFrame, test: pd.DataFrame | None, job: PodJob) -> tuple[PreparedData, Assignment]:
    """The same from frames: no storage, so that tests and notebooks can call it."""
    task = job.task
    target = read_target(raw, task)
    raw = _kept(raw, target.usable)
    weight = _weights(raw, job)
    schema, warnings = _schema(raw, target, job)
    is_classes = task.type is TaskType.TABULAR_CLASSIFICATION
    split = job.dataset.split
    groups, time = _column(raw, split.group_column, "groupColumn"), _column(raw, split.time_column, "timeColumn")
    kind = resolve(split.type, is_classes=is_classes, has_groups=groups is not None, has_time=time is not None)
    assignment = assign(
        target.y,
        kind=kind,
        is_classes=is_classes,
        test_fraction=0.0 if test is not None else float(split.test_fraction),
        folds=split.folds,
        seed=job.search.seed,
        groups=None if groups is None else to_texts(groups).values.astype(str),
        time=None if time is None else _time_order(time),
    )
    frame = _typed(raw, schema, job.dataset.train)
    rows = Rows(frame, target.y, weight)
    keep = ~assignment.holdout
    train, fold = rows.take(keep), assignment.fold[keep]
    holdout = rows.take(assignment.holdout) if test is None else _test_rows(test, schema, target, job)
    holdout = replace(holdout, frame=holdout.frame.reset_index(drop=True))
    train = replace(train, frame=train.frame.reset_index(drop=True))
    profile = Profile(
        schema=schema,
        rows=len(train),
        holdout_rows=len(holdout),
        folds=int(fold.max()) + 1,
        sha256=_digest(raw, test),
        warnings=(*target.warnings, *warnings, *data_warnings(raw, train, schema)),
    )
    kept_groups = None if groups is None else to_texts(groups).values[keep]
    return PreparedData(profile, train, fold, holdout, kept_groups), assignment


def _kept(raw: pd.DataFrame, usable: np.ndarray) -> pd.DataFrame:
    return raw if usable.all() else raw[usable].reset_index(drop=True)


def _schema(raw: pd.DataFrame, target: Target, job: PodJob) -> tuple[Schema, list[str]]:
    """Types of all columns that may be features, and what is worth a warning."""
    columns = job.dataset.columns
    for name in (*columns.types, *columns.ignore):
        find_column(name, raw, "spec.dataset.columns")
    left_out = {job.task.target, columns.weight, job.dataset.split.group_column, *columns.ignore}
    found = [infer_column(str(n), raw[n], columns.types.get(str(n))) for n in raw.columns if n not in left_out]
    schema = Schema(
        target=job.task.target,
        columns=tuple(i.column for i in found),
        classes=target.classes,
        positive_class=target.positive_class,
    )
    if not schema.features:
        raise DataError(
            f"no column but '{job.task.target}' can be learned from; found: "
            + (", ".join(f"{c.name} ({c.type.value})" for c in schema.columns[:10]) or "none"),
            reason=Reason.INVALID_DATA,
        )
    return schema, [w for i in found for w in i.warnings]


def _typed(raw: pd.DataFrame, schema: Schema, source: DataSource) -> pd.DataFrame:
    """Training rows by their own schema; infinities, which `infer` has warned of, become missing."""
    numbers = [c.name for c in schema.features if c.type is ColumnType.NUMBER]
    cleaned = {}
    for name in numbers:
        words = next(frozenset(c.missing_words) for c in schema.features if c.name == name)
        values = to_numbers(raw[name], words).values
        if np.isinf(values).any():
            cleaned[name] = np.where(np.isinf(values), np.nan, values)
    try:
        return coerce(raw.assign(**cleaned) if cleaned else raw, schema)
    except PredictionError as error:
        raise DataError(f"{source.uri}: {error}", reason=Reason.INVALID_DATA) from error


def _test_rows(test: pd.DataFrame, schema: Schema, target: Target, job: PodJob) -> Rows:
    """The rows of dataset.test, coded as the training rows are."""
    assert job.dataset.test is not None
    raw = find_column(job.task.target, test, "spec.task.target (dataset.test)", Reason.TARGET_NOT_FOUND)
    if target.classes:
        texts = pd.Series(to_texts(raw).values, dtype=object)
        known = texts.map({c: i for i, c in enumerate(target.classes)})
        unknown = texts[known.isna() & texts.notna()]
        if not unknown.empty:
            raise DataError(
                f"{job.dataset.test.uri}: class '{unknown.iloc[0]}' of '{job.task.target}' is not among the training rows",
                reason=Reason.TARGET_UNUSABLE,
            )
        y = known.to_numpy(dtype=np.float64)
    else:
        y = to_numbers(raw).values
    usable = np.isfinite(y)
    if not usable.any():
        raise DataError(
            f"{job.dataset.test.uri} has no row with a value of '{job.task.target}'", reason=Reason.DATASET_EMPTY
        )
    test = _kept(test, usable)
    y = y[usable]
    return Rows(
        _typed(test, schema, job.dataset.test), y.astype(np.int64) if target.classes else y, _weights(test, job)
    )


def _weights(raw: pd.DataFrame, job: PodJob) -> np.ndarray | None:
    name = job.dataset.columns.weight
    if name is None:
        return None
    parsed = to_numbers(find_column(name, raw, "spec.dataset.columns.weight"))
    if parsed.any_bad or not np.isfinite(parsed.values).all() or (parsed.values < 0).any() or parsed.values.sum() <= 0:
        raise DataError(
            f"spec.dataset.columns.weight: column '{name}' must hold numbers of at least 0", reason=Reason.INVALID_DATA
        )
    return np.asarray(parsed.values / parsed.values.mean())


def _column(raw: pd.DataFrame, name: str | None, field: str) -> pd.Series | None:
    return None if name is None else find_column(name, raw, f"spec.dataset.split.{field}")


def _time_order(time: pd.Series) -> np.ndarray:
    """Numbers that grow with time; unknown times come first."""
    numbers = to_numbers(time)
    values = to_seconds(time).values if is_textual(time) and numbers.any_bad else numbers.values
    if np.isnan(values).all():
        raise DataError(
            f"spec.dataset.split.timeColumn: column '{time.name}' must hold dates or numbers",
            reason=Reason.INVALID_DATA,
        )
    return np.asarray(np.nan_to_num(values, nan=-np.inf))


def _digest(raw: pd.DataFrame, test: pd.DataFrame | None) -> str:
    """SHA-256 over the values of all rows, as Arrow lays them out."""
    digest = hashlib.sha256()
    for frame in (raw,) if test is None else (raw, test):
        for name in frame.columns:
            column = frame[name].map(repr) if pd.api.types.is_object_dtype(frame[name].dtype) else frame[name]
            digest.update(str(name).encode())
            found = pa.array(column, from_pandas=True)
            chunks = found.chunks if isinstance(found, pa.ChunkedArray) else [found]
            # concatenated, so that the bytes do not depend on how a reader cut the file into blocks
            whole = pa.concat_arrays(chunks) if len(chunks) > 1 else chunks[0]
            for buffer in whole.buffers():
                digest.update(b"-" if buffer is None else buffer)
    return digest.hexdigest()


def _agree(store: ObjectStore, job: PodJob, prepared: PreparedData, assignment: Assignment) -> None:
    """Store profile and folds, or check that those stored are ours.

    Raises:
        DataError: they are not: the data changed while the job runs.
    """
    paths, profile = job.paths, prepared.profile
    if store.exists(paths.profile):
        stored = profile_from_json(store.read(paths.profile).decode())
        if stored.sha256 != profile.sha256:
            raise DataError(
                f"the data at {job.dataset.train.uri} has changed since the job started; trials on different rows cannot be compared: "
                "create a new job",
                reason=Reason.INVALID_DATA,
            )
        return
    folds = pd.DataFrame(
        {"row": np.arange(len(assignment.fold)), "fold": assignment.fold, "holdout": assignment.holdout}
    )
    buffer = io.BytesIO()
    folds.to_parquet(buffer, index=False)
    store.write(paths.folds, buffer.getvalue())
    store.write(paths.profile, profile_to_json(profile).encode())


def profile_to_json(profile: Profile) -> str:
    """Text that `profile_from_json` reads."""
    body = {
        "rows": profile.rows,
        "holdout_rows": profile.holdout_rows,
        "folds": profile.folds,
        "sha256": profile.sha256,
        "warnings": list(profile.warnings),
        "schema": json.loads(schema_to_json(profile.schema)),
    }
    return json.dumps(body, indent=1, ensure_ascii=False)


def profile_from_json(text: str) -> Profile:
    """The profile in a text."""
    body = json.loads(text)
    return Profile(
        schema=schema_from_json(json.dumps(body["schema"])),
        rows=body["rows"],
        holdout_rows=body["holdout_rows"],
        folds=body["folds"],
        sha256=body["sha256"],
        warnings=tuple(body["warnings"]),
    )
