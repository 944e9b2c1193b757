"""One fit on all training rows in place of a model a fold; where it cannot be had, the best fold's model.

The rows that a fold leaves out are what the rounds were counted on; a fit on all rows has none, so it takes the mean of what the
folds found best. Leaving out one fold's rows again to stop by them is mostly worse, be the folds of one mind or not: measured with four
fits each in eighteen settings of two networks on seven sets, it lost in thirteen, by up to a tenth (Boston), and won in five, by 3 % at
most.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from statistics import fmean, geometric_mean

import numpy as np

from kubeautoml.api.metrics import METRICS, Direction, is_better
from kubeautoml_trainer.artifacts import TrialRecord
from kubeautoml_trainer.bundle import MemberFiles
from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.ensemble.build import fold_folders
from kubeautoml_trainer.ensemble.decisions import out_of_fold_score
from kubeautoml_trainer.models import family_as_fitted, family_named
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.pipeline import FittedPipeline, load_pipeline, predict_all
from kubeautoml_trainer.models.space import Parameters
from kubeautoml_trainer.models.weights import class_factors, weighed, without_class_weight
from kubeautoml_trainer.variants.base import Bench, Ground

log = logging.getLogger("kubeautoml.finalize")

LONGER = 1.3
"""A fit on all rows takes this much longer than one fold's, at most: more rows, but no rounds beyond the best. A guess."""
PATIENCE = 3.0
"""A fit may take this many times what was predicted before it is given up. A guess."""
_LEAST_SECONDS = 5.0
_ROUNDS_DONE = 0.9
"""Share of its rounds that a fit must have made to count."""
_CHECKED_ROWS = 5_000
_COMPARED, _COMPARED_ROWS = 8, 1_000
NOT_REFITTED = (
    "not fitted again on all rows (no time, or it came out worse than its folds): models of its best folds stand in"
)


@dataclass(frozen=True)
class Single:
    """One pipeline of a trial, on disk. seconds: what its fit took; is_refit: it learned from all rows."""

    folder: Path
    holdout: np.ndarray
    seconds: float
    is_refit: bool


class Refits:
    """Refits of trials, each made once however many variants want it.

    Args:
        with_holdout: whether they learn from the hold-out rows, too.
        name: folder of their files below the finalizer's.
    """

    def __init__(self, bench: Bench, *, with_holdout: bool = False, name: str = "refits") -> None:
        self._bench, self._with_holdout, self._name = bench, with_holdout, name
        self._made: dict[tuple[int, int], Single | None] = {}

    def best_fold(self, number: int) -> Single:
        """The trial's model of the first of `best_folds`: no fit."""
        return self.best_folds(number, 1)[0]

    def best_folds(self, number: int, most: int) -> list[Single]:
        """The trial's models of so many folds, at most, those with the best scores first, or with a time split the latest: no fit."""
        bench = self._bench
        record = bench.built.candidates[number].record
        folders = fold_folders(bench.shop, number)
        sign = -1.0 if METRICS[bench.shop.job.metric].direction is Direction.MAXIMIZE else 1.0
        values = dict(enumerate(record.fold_values[: len(folders)]))
        in_time = bench.shop.data.has_time
        ranked = sorted(range(len(folders)), key=lambda k: -k if in_time else sign * values.get(k, sign * inf))
        seconds = record.fit_seconds / len(folders)
        ground = bench.ground
        return [
            Single(folders[k], of_holdout(ground, load_pipeline(folders[k])), seconds, False) for k in ranked[:most]
        ]

    @property
    def by_folder(self) -> Mapping[Path, tuple[int, int]]:
        """The trial and the copy of what was fitted here, by its folder."""
        return {s.folder: key for key, s in self._made.items() if s is not None}

    def make(self, keys: Iterable[tuple[int, int]]) -> None:
        """Fit these copies of trials, the first ones first, as far as time and the fits allow; those at once that can be."""
        new = [key for key in dict.fromkeys(keys) if key not in self._made]
        found = self._bench.each(refitted, [self._task(*key) for key in new], self._bench.deadline)
        self._made |= dict(zip(new, found, strict=True))

    def refit(self, number: int) -> Single:
        """The trial fitted on all rows, or its best fold where time or the fit do not allow it."""
        return self.copy(number, 0) or self.best_fold(number)

    def copy(self, number: int, copy: int) -> Single | None:
        """The trial fitted on all rows, with the first seed or another; None where time or the fit do not allow it."""
        self.make([(number, copy)])
        return self._made[number, copy]

    def more(self, number: int, copies: int) -> list[Single]:
        """Up to so many further fits of the trial on all rows, each with a seed of its own, as time allows."""
        self.make((number, copy) for copy in range(1, copies + 1))
        return [s for copy in range(1, copies + 1) if (s := self._made[number, copy]) is not None]

    def _task(self, number: int, copy: int) -> RefitTask:
        bench = self._bench
        return RefitTask(
            record=bench.built.candidates[number].record,
            # past the seeds of the folds, which count on from the first
            seed=(bench.seed_of(number) + 1_000 * copy) % 2**31,
            with_holdout=self._with_holdout,
            folds=fold_folders(bench.shop, number),
            folder=bench.shop.scratch / self._name / f"{number}-{copy}",
            deadline=bench.deadline,
        )


@dataclass(frozen=True)
class RefitTask:
    """One fit of a trial on all rows. folds: its models of the folds. folder: where the new one goes. deadline: `time.monotonic()`."""

    record: TrialRecord
    seed: int
    with_holdout: bool
    folds: tuple[Path, ...]
    folder: Path
    deadline: float


def refitted(ground: Ground, task: RefitTask) -> Single | None:
    """The new model; None where time or the fit do not allow it."""
    record = task.record
    predicted = LONGER * record.fit_seconds / max(1, record.folds)
    began = time.monotonic()
    left = task.deadline - began
    if predicted > left:
        return None
    rows = ground.data.all_rows if task.with_holdout else ground.data.grouped
    end = began + min(left, PATIENCE * predicted + _LEAST_SECONDS)
    try:
        pipeline = fit_again(ground, record, with_rounds(record), rows, None, task.seed, end, task.folds[0]).lean()
    except Exception as error:  # noqa: BLE001  # any library's; the folds' models are there all the same
        log.warning("a refit failed", extra={"trial": record.number, "error": repr(error)[:300]})
        return None
    if not _is_sound(ground, pipeline, rows, task):
        return None
    folder = task.folder
    if folder.exists():
        folder = folder.with_name(f"{folder.name}-{time.monotonic_ns()}")
    pipeline.save(folder)
    return Single(folder, of_holdout(ground, pipeline), time.monotonic() - began, True)


def of_holdout(ground: Ground, pipeline: FittedPipeline) -> np.ndarray:
    """float32 (hold-out rows, outputs)."""
    return predict_all(pipeline, ground.data.holdout.frame, ground.task.outputs)


def _is_sound(ground: Ground, pipeline: FittedPipeline, rows: Rows, task: RefitTask) -> bool:
    """Whether it made its rounds, and scores on rows it learned from as well as the folds on rows they did not, or as one of them
    on the same rows.
    """
    record, metric = task.record, ground.job.metric
    wanted = mean_rounds(record)
    if wanted is not None and (pipeline.best_iteration or 0) < _ROUNDS_DONE * wanted:
        log.warning("a refit was cut off", extra={"trial": record.number})
        return False
    value = value_of(ground, pipeline, rows, _CHECKED_ROWS)
    if value != value or is_better(metric, record.value, value):
        # a network that is held back may well score better out of fold, as a mean of many, than alone on what it learned
        seen = value_of(ground, pipeline, rows, _COMPARED_ROWS)
        folds = [value_of(ground, load_pipeline(f), rows, _COMPARED_ROWS) for f in task.folds[:_COMPARED]]
        if not any(seen == v or is_better(metric, seen, v) for v in folds):
            log.warning("a refit is worse than its folds", extra={"trial": record.number, "value": value})
            return False
    return True


def value_of(ground: Ground, pipeline: FittedPipeline, rows: Rows, most: int) -> float:
    """Its score on at most so many of these rows."""
    if len(rows) > most:
        rows = rows.take(np.linspace(0, len(rows) - 1, most).astype(np.intp))
    pipeline.set_threads(ground.threads)
    value = out_of_fold_score(ground.task, ground.job.metric, rows.y, pipeline.predict(rows.frame), rows.weight)
    pipeline.set_threads(1)
    return value


def fit_again(
    ground: Ground,
    record: TrialRecord,
    wanted: Parameters,
    rows: Rows,
    valid: Rows | None,
    seed: int,
    deadline: float,
    fold: Path,
) -> FittedPipeline:
    """A trial's pipeline of other rows, with what a class counts as the job or the trial has it.

    Args:
        wanted: the parameters to fit with; the pipeline says those of the trial.
        valid: rows to stop by; None where the parameters say when.
        fold: one of the trial's models, which holds the pretrained weights where there are some.
    """
    schema, job = ground.data.schema, ground.job
    parameters, class_weight = without_class_weight(wanted, job.objective.class_weight)
    factors = class_factors(rows, len(schema.classes), class_weight)
    context = FitContext(ground.task, job.metric, seed, ground.threads, deadline)
    family = family_as_fitted(record.family, lambda: fold)
    some = None if valid is None else weighed(valid, factors)
    fitted = family.fit(weighed(rows, factors), some, schema, parameters, context)
    assert isinstance(fitted, FittedPipeline)
    return replace(fitted, parameters=dict(record.parameters))


def with_rounds(record: TrialRecord) -> Parameters:
    """The trial's parameters, with the number of rounds that its folds found best where its family counts rounds."""
    family, rounds = family_named(record.family), mean_rounds(record)
    name, cut_short = getattr(family, "rounds_parameter", None), getattr(family, "cut_short", None)
    if name is None or rounds is None:
        return dict(record.parameters)
    return dict(cut_short(record.parameters, rounds)) if cut_short else {**record.parameters, name: rounds}


def mean_rounds(record: TrialRecord) -> int | None:
    """The mean of the folds' best rounds; None where the family does not stop by them.

    Of a network's epochs the geometric mean: a few folds that go on for long would have the others' share learn by heart.
    """
    found = [max(1, i) for i in record.best_iterations if i is not None]
    name = getattr(family_named(record.family), "rounds_parameter", None)
    if name is None or not found:
        return None
    return max(1, round(geometric_mean(found) if name == "epochs" else fmean(found)))


def member(record: TrialRecord, weight: float, *singles: Single) -> MemberFiles:
    """One or more pipelines of a trial, which count alike, as a member of a variant."""
    return MemberFiles(record.number, record.family, record.parameters, weight, tuple(s.folder for s in singles))
