"""Which trials are run again towards the end: on small data on other folds too, on large data on all rows instead of a sample.

Few rows make scores noisy: the best of many is partly the luckiest, and the mean over folds drawn anew tells them apart. Many rows
make fits long: what is good on a sample is usually good on all of them, so exploring costs a fraction. Either way the new trial takes
the place of the one it promotes (`TrialAttr.PROMOTES`). Pure functions of the trials, so that workers agree without a leader.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.errors import BundleError, ObjectNotFound
from kubeautoml.api.metrics import METRICS, Direction
from kubeautoml.api.names import ArtifactPaths
from kubeautoml.api.pod import PodJob
from kubeautoml.api.trials import StudyLimits, TrialAttr
from kubeautoml.storage import ObjectStore
from kubeautoml_trainer.artifacts import read_predictions, read_record, unpack_models
from kubeautoml_trainer.data.base import PreparedData
from kubeautoml_trainer.data.split import refolded, resolve
from kubeautoml_trainer.search.checkpoint import FoldResult, Load
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.search.space import FAMILY

log = logging.getLogger("kubeautoml.worker")

FEW_ROWS, SMALL_ROWS = 80, 2_000
"""Effective rows (groups, where rows belong together) below which finalists are repeated five or three times."""
LARGE_ROWS, SAMPLE_ROWS = 150_000, 50_000
"""A fit on more rows than the first explores with a sample of the second; after the row caps of published AutoML practice."""

REPEATS_FROM, ALL_ROWS_FROM = 0.75, 0.5
"""Share of the search after which finalists run; guesses. Fits on all rows take long, so they begin early."""
LEAST_COMPLETED = 15
"""With fewer completed trials there is no choice that could have been lucky; a guess."""
REPEATED, ON_ALL_ROWS = 5, 12
PER_FAMILY = 3


@dataclass(frozen=True)
class Scheme:
    """repeats: rounds of folds a finalist has, 1 for none but its own. sample: training rows of a fit that is no finalist's; None is all.
    work: what a finalist costs more, in trials of its pipeline.
    """

    repeats: int = 1
    sample: int | None = None
    work: float = 1.0

    @property
    def has_finalists(self) -> bool:
        return self.repeats > 1 or self.sample is not None


def scheme_of(data: PreparedData) -> Scheme:
    """By effective size. A time split has one order only, so it is never repeated."""
    fit_rows = _rows_of_a_fit(data)
    if fit_rows > LARGE_ROWS:
        return Scheme(sample=SAMPLE_ROWS, work=fit_rows / SAMPLE_ROWS)
    rows = effective_rows(data)
    if rows >= SMALL_ROWS or data.has_time:
        return Scheme()
    repeats = 5 if rows < FEW_ROWS else 3
    return Scheme(repeats=repeats, work=repeats - 1.0)  # the first round is there already


def effective_rows(data: PreparedData) -> int:
    """Training rows that say something of their own: groups where there are some."""
    return len(data.train) if data.groups is None else len(set(data.groups.tolist()))


def _rows_of_a_fit(data: PreparedData) -> int:
    folds = data.fold[data.fold >= 0]
    smallest = np.bincount(folds).min() if len(folds) else 0
    return len(data.train) - int(smallest)


def progress(trials: Sequence[FrozenTrial], limits: StudyLimits, now: float) -> float:
    """How much of the search is over: of its trials, or of its time if that is more. `now` is Unix time."""
    spent = sum(t.state is not TrialState.WAITING for t in trials) / limits.max_trials
    starts = [t.datetime_start.timestamp() for t in trials if t.datetime_start is not None]
    if limits.search_deadline is None or not starts:
        return spent
    began = float(min(starts))
    return max(spent, (now - began) / max(1e-9, limits.search_deadline - began))


def next_finalist(
    trials: Sequence[FrozenTrial], metric: str, scheme: Scheme, done: float, lost: Collection[int] = ()
) -> int | None:
    """Number of the trial to run again now; None for an ordinary trial.

    Args:
        done: see `progress`.
        lost: trials whose artifacts cannot be read.
    """
    if not scheme.has_finalists or done < (ALL_ROWS_FROM if scheme.sample else REPEATS_FROM):
        return None
    taken = {t.user_attrs[TrialAttr.PROMOTES.value] for t in trials if TrialAttr.PROMOTES.value in t.user_attrs}
    completed = [t for t in trials if t.state is TrialState.COMPLETE and TrialAttr.PROMOTES.value not in t.user_attrs]
    completed = [t for t in completed if t.values and math.isfinite(t.values[0])]
    if len(completed) < (1 if scheme.sample else LEAST_COMPLETED):
        return None
    sign = -1.0 if METRICS[metric].direction is Direction.MAXIMIZE else 1.0
    ranked = sorted(completed, key=lambda t: (sign * t.values[0], t.number))
    families: Counter[str] = Counter()
    chosen = []
    for trial in ranked:
        family = str(trial.params.get(FAMILY, ""))
        families[family] += 1
        if families[family] <= PER_FAMILY and family != "Dummy":
            chosen.append(trial.number)
    chosen = chosen[: ON_ALL_ROWS if scheme.sample else REPEATED]
    return next((n for n in chosen if n not in taken and n not in lost), None)


@dataclass(frozen=True)
class Finalist:
    """A trial that is run again. number: the trial it promotes."""

    number: int
    entry: Entry
    scheme: Scheme

    def rounds(self, data: PreparedData, job: PodJob) -> list[np.ndarray]:
        """The further rounds of folds, the same for all finalists: int16 (train rows,) each."""
        return [folds_of_round(data, job, again) for again in range(1, self.scheme.repeats)]


def folds_of_round(data: PreparedData, job: PodJob, number: int) -> np.ndarray:
    """int16 (train rows,): the data's own folds in round 0, folds drawn anew in those after it."""
    if number == 0:
        return data.fold
    is_classes, has_groups = bool(data.schema.classes), data.groups is not None
    kind = resolve(job.dataset.split.type, is_classes=is_classes, has_groups=has_groups, has_time=False)
    seed = job.search.seed + number
    return refolded(data.fold, data.train.y, kind=kind, is_classes=is_classes, groups=data.groups, seed=seed)


def find_finalist(store: ObjectStore, job: PodJob, number: int, scheme: Scheme) -> Finalist | None:
    """The pipeline of a trial, as its record has it; None when that cannot be read."""
    try:
        record = read_record(store, job.paths, number)
    except (BundleError, ObjectNotFound) as error:
        log.warning("trial is not promoted", extra={"trial": number, "error": str(error)[:200]})
        return None
    return Finalist(number, Entry(record.family, record.parameters), scheme)


def first_round(
    store: ObjectStore, paths: ArtifactPaths, number: int, data: PreparedData, folder: Path, load: Load
) -> list[FoldResult]:
    """The folds of a completed trial as its artifacts hold them; none where these are absent or damaged, so that they are fitted again.

    Of the hold-out only the mean is kept; it stands in each fold, which comes to the same mean.
    """
    try:
        record, found = read_record(store, paths, number), read_predictions(store, paths, number)
        pipelines = [load(p) for p in unpack_models(store, paths, number, folder)]
    except (BundleError, ObjectNotFound) as error:
        log.warning("the first round is done again", extra={"trial": number, "error": str(error)[:200]})
        return []
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    folds = len(pipelines)
    return [
        FoldResult(
            pipeline,
            found.oof[data.fold == fold],
            found.holdout,
            record.fold_values[fold],
            record.fit_seconds / folds,
            record.predict_seconds / folds,
        )
        for fold, pipeline in enumerate(pipelines)
    ]
