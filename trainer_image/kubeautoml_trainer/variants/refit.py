"""One fit on all training rows in place of a model a fold; where it cannot be had, the best fold's model.

The rows that a fold leaves out are what the rounds were counted on; a fit on all rows has none, so it takes the mean of what the
folds found best. Leaving out one fold's rows again to stop by them is mostly worse, be the folds of one mind or not: measured with four
fits each in eighteen settings of two networks on seven sets, it lost in thirteen, by up to a tenth (Boston), and won in five, by 3 % at
most.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
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
from kubeautoml_trainer.variants.base import Bench

log = logging.getLogger("kubeautoml.finalize")

LONGER = 1.3
"""A fit on all rows takes this much longer than one fold's, at most: more rows, but no rounds beyond the best. A guess."""
PATIENCE = 3.0
"""A fit may take this many times what was predicted before it is given up. A guess."""
_LEAST_SECONDS = 2.0
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
        rows: what they learn from; the training rows when None.
        name: folder of their files below the finalizer's.
    """

    def __init__(self, bench: Bench, rows: Rows | None = None, name: str = "refits") -> None:
        self._bench = bench
        data = bench.shop.data
        self._rows = replace(data.train, groups=data.groups) if rows is None else rows
        self._name = name
        self._made: dict[int, Single] = {}
        self._more: dict[tuple[int, int], Single | None] = {}

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
        return [Single(folders[k], self._holdout(load_pipeline(folders[k])), seconds, False) for k in ranked[:most]]

    def refit(self, number: int) -> Single:
        """The trial fitted on all training rows, or its best fold where time or the fit do not allow it."""
        if number not in self._made:
            self._made[number] = self._refit(number) or self.best_fold(number)
        return self._made[number]

    @property
    def by_folder(self) -> Mapping[Path, tuple[int, int]]:
        """The trial and the copy of what was fitted here, by its folder."""
        first = {s.folder: (number, 0) for number, s in self._made.items() if s.is_refit}
        return first | {s.folder: key for key, s in self._more.items() if s is not None}

    def copy(self, number: int, copy: int) -> Single | None:
        """The trial fitted on all rows, with the first seed or another; None where time or the fit do not allow it."""
        if (number, copy) not in self._more:
            self._more[number, copy] = self._refit(number, copy)
        return self._more[number, copy]

    def more(self, number: int, copies: int) -> list[Single]:
        """Up to so many further fits of the trial on all training rows, each with a seed of its own, as time allows."""
        made = []
        for copy in range(1, copies + 1):
            single = self.copy(number, copy)
            if single is None:
                break
            made.append(single)
        return made

    def _refit(self, number: int, copy: int = 0) -> Single | None:
        bench, record = self._bench, self._bench.built.candidates[number].record
        predicted = LONGER * record.fit_seconds / max(1, record.folds)
        left = bench.deadline - time.monotonic()
        if predicted > left:
            return None
        began = time.monotonic()
        try:
            pipeline = self._fit(record, copy, began + min(left, PATIENCE * predicted + _LEAST_SECONDS))
        except Exception as error:  # noqa: BLE001  # any library's; the folds' models are there all the same
            log.warning("a refit failed", extra={"trial": number, "error": repr(error)[:300]})
            return None
        if not self._is_sound(pipeline, record):
            return None
        folder = bench.shop.scratch / self._name / f"{number}-{copy}"
        if folder.exists():
            folder = folder.with_name(f"{number}-{copy}-{time.monotonic_ns()}")
        pipeline.save(folder)
        return Single(folder, self._holdout(pipeline), time.monotonic() - began, True)

    def _holdout(self, pipeline: FittedPipeline) -> np.ndarray:
        shop = self._bench.shop
        return predict_all(pipeline, shop.data.holdout.frame, shop.task.outputs)

    def _fit(self, record: TrialRecord, copy: int, deadline: float) -> FittedPipeline:
        # past the seeds of the folds, which count on from the first
        seed = (self._bench.seed_of(record.number) + 1_000 * copy) % 2**31
        return fit_again(self._bench, record, with_rounds(record), self._rows, None, seed, deadline)

    def _is_sound(self, pipeline: FittedPipeline, record: TrialRecord) -> bool:
        """Whether it made its rounds, and scores on rows it learned from as well as the folds on rows they did not, or as one of them
        on the same rows.
        """
        shop = self._bench.shop
        wanted = mean_rounds(record)
        if wanted is not None and (pipeline.best_iteration or 0) < _ROUNDS_DONE * wanted:
            log.warning("a refit was cut off", extra={"trial": record.number})
            return False
        value = self._value(pipeline, _CHECKED_ROWS)
        metric = shop.job.metric
        if value != value or is_better(metric, record.value, value):
            # a network that is held back may well score better out of fold, as a mean of many, than alone on what it learned
            seen = self._value(pipeline, _COMPARED_ROWS)
            folds = [
                self._value(load_pipeline(f), _COMPARED_ROWS) for f in fold_folders(shop, record.number)[:_COMPARED]
            ]
            if not any(seen == v or is_better(metric, seen, v) for v in folds):
                log.warning("a refit is worse than its folds", extra={"trial": record.number, "value": value})
                return False
        return True

    def _value(self, pipeline: FittedPipeline, most: int) -> float:
        """Its score on at most so many of the rows it was to learn from."""
        shop, rows = self._bench.shop, self._rows
        if len(rows) > most:
            rows = rows.take(np.linspace(0, len(rows) - 1, most).astype(np.intp))
        pipeline.set_threads(self._bench.threads)
        value = out_of_fold_score(shop.task, shop.job.metric, rows.y, pipeline.predict(rows.frame), rows.weight)
        pipeline.set_threads(1)
        return value


def fit_again(
    bench: Bench, record: TrialRecord, wanted: Parameters, rows: Rows, valid: Rows | None, seed: int, deadline: float
) -> FittedPipeline:
    """A trial's pipeline of other rows, with what a class counts as the job or the trial has it.

    Args:
        wanted: the parameters to fit with; the pipeline says those of the trial.
        valid: rows to stop by; None where the parameters say when.
    """
    shop = bench.shop
    parameters, class_weight = without_class_weight(wanted, shop.job.objective.class_weight)
    factors = class_factors(rows, len(shop.data.schema.classes), class_weight)
    context = FitContext(shop.task, shop.job.metric, seed, bench.threads, deadline)
    family = family_as_fitted(record.family, lambda: fold_folders(shop, record.number)[0])
    some = None if valid is None else weighed(valid, factors)
    fitted = family.fit(weighed(rows, factors), some, shop.data.schema, parameters, context)
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
