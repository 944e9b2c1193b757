"""Fast: the best single model that answers one row in time, fitted once on all rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from kubeautoml.api.errors import BundleError, ObjectNotFound
from kubeautoml.api.objective import ModelVariant
from kubeautoml_trainer.data.row import typed_row
from kubeautoml_trainer.data.schema import coerce
from kubeautoml_trainer.ensemble.base import Cost
from kubeautoml_trainer.ensemble.build import Workshop
from kubeautoml_trainer.ensemble.candidates import best_first
from kubeautoml_trainer.ensemble.measure import latency_ms, raw_rows
from kubeautoml_trainer.ensemble.stored import ScoredTrial, set_aside
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.variants.base import Bench, Made, post_of
from kubeautoml_trainer.variants.lean import size_of
from kubeautoml_trainer.variants.refit import NOT_REFITTED, Refits, member

GOAL_MS = 2.0
"""One row at the 99th percentile, where the job says nothing."""
_TRIED = 12
"""Trials that are measured, best first."""
_CALLS, _CALLS_SECONDS = 50, 0.5
_AGAIN, _HOPELESS = 2, 10.0
"""Times a model that was too slow is measured again, unless it was so many times too slow; a busy machine is seldom that busy."""
_SECONDS = 10.0


def choose_fast(bench: Bench, refits: Refits) -> int:
    """The number of the best trial, by cross-validation, whose single model keeps the goal; if none does, of the quickest.

    Trials are tried best first and only until one fits, so a slow one costs a look and no more.
    """
    shop, stored = bench.shop, bench.built.candidates
    ranked = best_first(
        [ScoredTrial(n, t.record.family, t.record.value) for n, t in stored.items() if t.record.family != "Dummy"]
        or [ScoredTrial(n, t.record.family, t.record.value) for n, t in stored.items()],
        shop.job.metric,
    )
    goal = Cost(min(GOAL_MS, bench.limit.latency_ms), bench.limit.size_bytes)
    rows = raw_rows(
        (shop.data.holdout if len(shop.data.holdout) else shop.data.train).frame.iloc[:64], shop.data.schema
    )
    end, measured = time.monotonic() + _SECONDS, {}
    for trial in ranked[:_TRIED]:
        try:
            folder = refits.best_fold(trial.trial).folder
        except (BundleError, ObjectNotFound) as error:
            set_aside(trial.trial, error)
            continue
        predict, size = one_row(folder, shop), size_of(folder)
        cost = Cost(latency_ms(predict, rows, _CALLS, _CALLS_SECONDS), size)
        for _ in range(_AGAIN):
            if cost.fits(goal) or not cost.latency_ms <= _HOPELESS * goal.latency_ms:
                break
            # whatever else the machine does makes a model look slower, never faster
            cost = Cost(min(cost.latency_ms, latency_ms(predict, rows, _CALLS, _CALLS_SECONDS)), size)
        if cost.fits(goal):
            return trial.trial
        measured[trial.trial] = cost
        if time.monotonic() > end:
            break
    return min(measured, key=lambda n: (not measured[n].size_bytes <= goal.size_bytes, measured[n].latency_ms))


def one_row(folder: Path, shop: Workshop) -> Callable[[pd.DataFrame], object]:
    """What the model does with one raw row."""
    pipeline, schema = load_pipeline(folder), shop.data.schema

    def predict(raw: pd.DataFrame) -> object:
        row = typed_row(raw, schema)
        return pipeline.predict(coerce(raw, schema) if row is None else row)

    return predict


def fast(bench: Bench, refits: Refits, number: int, *, fit: bool) -> Made:
    """fit: refit it, if time allows; else its best fold's model stands in."""
    stored = bench.built.candidates[number]
    single = refits.refit(number) if fit else refits.best_fold(number)
    notes = () if single.is_refit else (NOT_REFITTED,)
    return Made(
        ModelVariant.FAST,
        (member(stored.record, 1.0, single),),
        single.holdout,
        stored.oof,
        stored.record.value,
        post_of(bench.shop, stored.oof),
        single.seconds,
        notes,
    )
