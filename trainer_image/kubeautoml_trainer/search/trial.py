"""One trial: fit every fold, predict what it left out, score, store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from kubeautoml_trainer.artifacts import Predictions, TrialRecord, pack_pipelines
from kubeautoml_trainer.data.base import PreparedData, Rows
from kubeautoml_trainer.models.base import Family, FitContext, FitTimeout, Pipeline
from kubeautoml_trainer.search.checkpoint import Checkpoint, FoldResult
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.tasks.base import Task


class TrialCut(Exception):
    """The trial ended before all folds were done. `why` goes into the log."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True)
class Outcome:
    """A trial that ran to its end, ready to be stored."""

    record: TrialRecord
    predictions: Predictions
    models: bytes = field(repr=False)


@dataclass(frozen=True)
class TrialRun:
    """What a trial needs besides its pipeline.

    after_fold: called with (fold, its score) after each fold; raises `TrialCut` to end the trial.
    fit_deadline: called with the number of folds left, and whether the usual time was too short; gives the `time.monotonic()` by
        which the next fit must return.
    """

    data: PreparedData
    task: Task
    metric: str
    threads: int
    seed: int
    after_fold: Callable[[int, float], None]
    fit_deadline: Callable[[int, bool], float]
    checkpoint: Checkpoint


def run_trial(number: int, attempt: int, entry: Entry, family: Family, run: TrialRun) -> Outcome:
    """Fit all folds of one pipeline and score what they predict for the rows they have not seen.

    Raises:
        TrialCut: by `after_fold`.
        Exception: whatever a fit raises.
    """
    data = run.data
    oof = np.full((len(data.train), run.task.outputs), np.nan, dtype=np.float32)
    holdout = np.zeros((len(data.holdout), run.task.outputs), dtype=np.float32)
    results: list[FoldResult] = []
    folds = range(data.profile.folds)
    for fold in folds:
        train, valid, where = fold_rows(data, fold)
        result = run.checkpoint.stored(fold)
        if result is None:
            result = _run_fold(family, train, valid, entry, run, fold)
            run.checkpoint.done(fold, result)
        oof[where] = result.oof
        holdout += result.holdout / len(folds)
        results.append(result)
        run.after_fold(fold, result.value)
    validated = data.fold >= 0
    scored = data.train.take(validated)
    metrics = {name: run.task.score(name, scored.y, oof[validated], scored.weight) for name in run.task.metrics}
    pipelines = [r.pipeline for r in results]
    models = pack_pipelines(pipelines)
    record = TrialRecord(
        number=number,
        attempt=attempt,
        family=entry.family,
        parameters=dict(entry.parameters),
        value=metrics[run.metric],
        fold_values=[r.value for r in results],
        metrics=metrics,
        fit_seconds=sum(r.fit_seconds for r in results),
        predict_seconds=sum(r.predict_seconds for r in results),
        size_bytes=len(models),
        folds=len(folds),
        best_iterations=[p.best_iteration for p in pipelines],
    )
    return Outcome(record, Predictions(oof, holdout), models)


def _run_fold(family: Family, train: Rows, valid: Rows, entry: Entry, run: TrialRun, fold: int) -> FoldResult:
    """Fit one fold, predict what it left out and the hold-out, score."""
    began = time.perf_counter()
    pipeline = _fit(family, train, valid, entry, run, fold)
    fit_seconds = time.perf_counter() - began
    pipeline.set_threads(run.threads)
    oof = pipeline.predict(valid.frame)
    pipeline.set_threads(1)
    began = time.perf_counter()
    holdout = pipeline.predict(run.data.holdout.frame)
    predict_seconds = time.perf_counter() - began
    value = run.task.score(run.metric, valid.y, oof, valid.weight)
    return FoldResult(pipeline, oof, holdout, value, fit_seconds, predict_seconds)


def _fit(family: Family, train: Rows, valid: Rows, entry: Entry, run: TrialRun, fold: int) -> Pipeline:
    """Fit one fold; where its share of the time was too short for anything, once more with all that can be spared.

    On a busy machine the usual share may not even hold the features, and the folds done would be lost.
    """

    def attempt(is_short: bool) -> Pipeline:
        deadline = run.fit_deadline(run.data.profile.folds - fold, is_short)
        context = FitContext(run.task, run.metric, run.seed + fold, run.threads, deadline)
        return family.fit(train, valid, run.data.schema, entry.parameters, context)

    try:
        return attempt(False)
    except FitTimeout:
        return attempt(True)


def fold_rows(data: PreparedData, fold: int) -> tuple[Rows, Rows, np.ndarray]:
    """Training rows, validation rows, and where the latter stand in the training data.

    With a time split (rows that are only ever trained on come first) a fold is predicted from earlier rows alone.
    """
    valid = data.fold == fold
    has_time = bool((data.fold < 0).any())
    train = data.fold < fold if has_time else ~valid
    return data.train.take(train), data.train.take(valid), np.flatnonzero(valid)
