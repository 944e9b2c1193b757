"""One trial: fit every fold, predict what it left out, score, store."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kubeautoml.api.objective import ClassWeight
from kubeautoml_trainer.artifacts import Predictions, TrialRecord, files_bytes, pack_pipelines
from kubeautoml_trainer.data.base import PreparedData, Rows
from kubeautoml_trainer.data.split import sampled
from kubeautoml_trainer.ensemble.decisions import out_of_fold_score
from kubeautoml_trainer.models.base import Family, FitContext, FitProgress, FitTimeout, Pipeline, Unwatched
from kubeautoml_trainer.models.pipeline import predict_all
from kubeautoml_trainer.models.weights import class_factors, weighed, without_class_weight
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
    repeats: further rounds of folds, each int16 (train rows,) like `PreparedData.fold`; a row's prediction is the mean over rounds.
    known: results of the first folds, if another trial of this pipeline has them already.
    most_rows: training rows of a fit; None takes all there are.
    watch: called with a fold before it is fitted; gives what the fit reports its progress to.
    """

    data: PreparedData
    task: Task
    metric: str
    threads: int
    seed: int
    after_fold: Callable[[int, float], None]
    fit_deadline: Callable[[int, bool], float]
    checkpoint: Checkpoint
    repeats: Sequence[np.ndarray] = ()
    known: Sequence[FoldResult] = ()
    most_rows: int | None = None
    class_weight: ClassWeight = ClassWeight.AUTO
    watch: Callable[[int], FitProgress] = lambda fold: Unwatched()


def run_trial(number: int, attempt: int, entry: Entry, family: Family, run: TrialRun) -> Outcome:
    """Fit all folds of one pipeline and score what they predict for the rows they have not seen.

    Raises:
        TrialCut: by `after_fold`.
        Exception: whatever a fit raises.
    """
    data = run.data
    rounds = (data.fold, *run.repeats)
    folds = range(data.profile.folds * len(rounds))
    oof = np.zeros((len(data.train), run.task.outputs), dtype=np.float32)
    holdout = np.zeros((len(data.holdout), run.task.outputs), dtype=np.float32)
    results: list[FoldResult] = []
    for fold in folds:
        here = _Fold(fold, len(folds), *divmod(fold, data.profile.folds))
        result = run.known[fold] if fold < len(run.known) else run.checkpoint.stored(fold)
        if result is None:
            result = _run_fold(family, entry, run, here, rounds[here.round])
            run.checkpoint.done(fold, result)
        oof[rounds[here.round] == here.of_round] += result.oof / len(rounds)
        holdout += result.holdout / len(folds)
        results.append(result)
        run.after_fold(fold, result.value)
    validated = data.fold >= 0
    oof[~validated] = np.nan
    scored = data.train.take(validated)
    metrics = {name: run.task.score(name, scored.y, oof[validated], scored.weight) for name in run.task.metrics}
    metrics[run.metric] = out_of_fold_score(run.task, run.metric, scored.y, oof[validated], scored.weight)
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
        size_bytes=files_bytes(models),
        folds=len(folds),
        best_iterations=[p.best_iteration for p in pipelines],
    )
    return Outcome(record, Predictions(oof, holdout), models)


@dataclass(frozen=True)
class _Fold:
    """Where a trial stands: the fold's number of all of them, its round, and its number in that."""

    number: int
    of: int
    round: int
    of_round: int


def _run_fold(family: Family, entry: Entry, run: TrialRun, here: _Fold, folds: np.ndarray) -> FoldResult:
    """Fit one fold, predict what it left out and the hold-out, score."""
    train, valid, _ = fold_rows(run.data, here.of_round, folds, run.most_rows)
    began = time.perf_counter()
    pipeline = _fit(family, train, valid, entry, run, here)
    fit_seconds = time.perf_counter() - began
    pipeline.set_threads(run.threads)
    began = time.perf_counter()
    oof = pipeline.predict(valid.frame)
    predict_seconds = run.threads * (time.perf_counter() - began)
    pipeline.set_threads(1)
    began = time.perf_counter()
    holdout = predict_all(pipeline, run.data.holdout.frame, run.task.outputs)
    if len(holdout):
        predict_seconds = time.perf_counter() - began
    value = out_of_fold_score(run.task, run.metric, valid.y, oof, valid.weight)
    return FoldResult(pipeline, oof, holdout, value, fit_seconds, predict_seconds)


def _fit(family: Family, train: Rows, valid: Rows, entry: Entry, run: TrialRun, here: _Fold) -> Pipeline:
    """Fit one fold; where its share of the time was too short for anything, once more with all that can be spared.

    On a busy machine the usual share may not even hold the features, and the folds done would be lost. Class weights are on the rows
    learned from and on those that tell when to stop; not on those that are scored.
    """

    parameters, class_weight = without_class_weight(entry.parameters, run.class_weight)
    factors = class_factors(train, len(run.data.schema.classes), class_weight)
    train, valid = weighed(train, factors), weighed(valid, factors)

    def attempt(is_short: bool) -> Pipeline:
        deadline = run.fit_deadline(here.of - here.number, is_short)
        watched = run.watch(here.number)
        context = FitContext(run.task, run.metric, run.seed + here.number, run.threads, deadline, watched)
        return family.fit(train, valid, run.data.schema, parameters, context)

    try:
        return attempt(False)
    except FitTimeout:
        return attempt(True)


def fold_rows(
    data: PreparedData, fold: int, folds: np.ndarray | None = None, most_rows: int | None = None
) -> tuple[Rows, Rows, np.ndarray]:
    """Training rows, validation rows, and where the latter stand in the training data.

    With a time split (rows that are only ever trained on come first) a fold is predicted from earlier rows alone. Of one with a
    single fold the other rows are trained on, too.

    Args:
        folds: int16 (train rows,); the data's own when None.
        most_rows: training rows beyond which a sample is taken, the same for all trials.
    """
    folds = data.fold if folds is None else folds
    valid = folds == fold
    has_time = bool((folds < 0).any())
    train = np.flatnonzero(folds < fold if has_time else ~valid)
    if most_rows is not None and len(train) > most_rows:
        train = train[sampled(data.train.y[train], most_rows, bool(data.schema.classes), seed=fold)]
    # A name for these rows, so that features fitted on them can be used again
    named = replace(
        data.train.take(train),
        groups=None if data.groups is None else data.groups[train],
        identity=f"{data.profile.sha256}/{hashlib.blake2b(train.tobytes(), digest_size=16).hexdigest()}",
    )
    return named, data.train.take(valid), np.flatnonzero(valid)
