"""Balanced: few members, fitted on all rows, once or a few times. Far smaller and faster than the ensemble, at nearly its quality."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from kubeautoml.api.metrics import METRICS, Direction
from kubeautoml.api.objective import ModelVariant
from kubeautoml_trainer.artifacts import TrialRecord
from kubeautoml_trainer.ensemble.base import UNLIMITED, Cost, Second, combined, combined_oof, weighted_mean
from kubeautoml_trainer.ensemble.build import Built, Workshop
from kubeautoml_trainer.ensemble.decisions import out_of_fold_score
from kubeautoml_trainer.ensemble.stored import StoredTrial
from kubeautoml_trainer.variants.base import Bench, Made, post_of
from kubeautoml_trainer.variants.refit import NOT_REFITTED, Refits, Single, member

LEANER, LOSS = 7.0, 0.005
"""How many times faster than the ensemble for one row, and smaller, the model should be, and what leaving members out for that may cost, as
a share of the ensemble's cross-validated value. Promised are 6 times and a hundredth; refits need a part of the latter. One fit in place
of a model a fold is as many times leaner as there are folds, so mostly all members can stay, and should: on German credit (one split) the
model lost 1.4 % with all and 1.8 % without those that were hardly missed, on Titanic -0.1 % and 0.0 %."""
LEAST, MOST_LOSS = 6.0, 0.0075
"""The same where that cannot be had."""
SPARED = 0.0005
"""And where neither can: then only what brings next to nothing goes."""
ROW_MS: Mapping[str, float] = {
    "Dummy": 0.01, "Linear": 0.14, "LightGBM": 0.08, "CatBoost": 0.17, "XGBoost": 0.26, "ExtraTrees": 0.27, "RandomForest": 0.23,
    "GradientBoosting": 0.12, "SupportVectors": 0.12, "GaussianProcess": 0.12, "NeuralNetwork": 0.13, "TabM": 0.75,
    "NearestNeighbors": 0.25, "ExplainableBoosting": 0.12, "NaiveBayesSvm": 0.14,
    "TextNet": 0.3, "ConvNet": 3.0, "TextEncoder": 10.0, "ImageEncoder": 15.0, "TabularFoundation": 20.0,
}  # fmt: skip
"""What a family's defaults take for one row of Titanic, measured alone, and 1.3 times that, as one of several fares; of networks for images
and texts, guesses by order of magnitude. Fixed, so that the same trials make the same model however busy the machine is."""
FIXED_MS, _OTHER_MS = 0.15, 0.13
"""What a model takes for a row besides its members."""
BY_CHANCE = ("LightGBM", "CatBoost", "XGBoost", "GradientBoosting", "NeuralNetwork", "TabM", "ConvNet", "TextNet")
"""Families that another seed makes another model of; forests are a mean of many already."""
MOST_COPIES, FOLDS_A_COPY = 3, 7
_SCORED_ROWS = 20_000
_HEAVIEST, _SECONDS = 8, 5.0
"""Members of which all subsets are tried, 255 at most, and for how long. Measured on 20,000 rows: a few milliseconds each."""


def balanced(bench: Bench, refits: Refits, *, fit: bool) -> Made:
    """fit: make refits, as far as time allows; else the best folds' models stand in."""
    built, shop = bench.built, bench.shop
    weights, second = lean(shop, built, bench.limit)
    # the heaviest first: it is the one that must not be missing when time ends
    order = sorted(weights, key=lambda n: -weights[n])
    singles = {n: [refits.refit(n) if fit else refits.best_fold(n)] for n in order}
    if bench.limit == UNLIMITED:
        copies = copies_of(built.candidates, built.selection.weights, weights)
        for n in order:
            if singles[n][0].is_refit:
                singles[n] += refits.more(n, copies[n] - 1)
            else:
                singles[n] = refits.best_folds(n, copies[n])
    oof = combined_oof({n: built.candidates[n].oof for n in weights}, weights, second)
    return Made(
        ModelVariant.BALANCED,
        tuple(member(built.candidates[n].record, w, *singles[n]) for n, w in weights.items()),
        combined({n: _mean(s) for n, s in singles.items()}, weights, second, shop.data.holdout.frame),
        oof,
        score(shop, oof),
        post_of(shop, oof),
        sum(s.seconds for each in singles.values() for s in each),
        _notes(singles),
        None if second is None else built.second,
    )


def lean(shop: Workshop, built: Built, limit: Cost) -> tuple[dict[int, float], Second | None]:
    """The members worth their cost, and the second level where all members are lean enough, or where the first alone would lose what
    `LOSS` does not allow.

    A second level needs all the models it was fitted to, so it is the dear way; a limit on costs rules it out.
    """
    selection, second = built.selection, built.selection.second
    if second is None or limit != UNLIMITED:
        return lean_weights(shop, built.candidates, selection.first_weights, limit), None
    if leaner(built.candidates, selection.weights, selection.weights) >= LEANER:
        return selection.weights, second
    weights = lean_weights(shop, built.candidates, selection.first_weights, limit)
    sign = 1.0 if METRICS[shop.job.metric].direction is Direction.MAXIMIZE else -1.0
    oof = {n: t.oof for n, t in built.candidates.items()}
    rows = np.isfinite(second.oof).all(axis=1)
    some = shop.data.train.take(rows)

    def value(p: np.ndarray) -> float:
        return sign * out_of_fold_score(shop.task, shop.job.metric, some.y, p[rows], some.weight)

    whole = value(combined_oof(oof, selection.weights, second))
    if value(weighted_mean({n: oof[n] for n in weights}, weights)) >= whole - LOSS * abs(whole):
        return weights, None
    return selection.weights, second


def _mean(singles: Sequence[Single]) -> np.ndarray:
    """float64 (hold-out rows, outputs), as a loaded member has it."""
    return np.asarray(sum(s.holdout.astype(np.float64) for s in singles) / len(singles))


def copies_of(
    members: Mapping[int, StoredTrial], weights: Mapping[int, float], left: Mapping[int, float]
) -> dict[int, int]:
    """How often each member is fitted again, with other seeds, where chance has a part in its fit and its folds are many.

    One fit on all rows loses what the mean over folds' seeds gained. Measured on Boston and diabetes (three splits; RMSE of 8 folds, one
    refit, three): NeuralNetwork 3.30 3.41 3.32 and 55.3 56.1 55.0, CatBoost 3.53 3.54 3.49 and 55.3 55.4 55.2. The heaviest come
    first, as long as the model stays `LEANER` than the ensemble by as much, for which repeated folds on few rows leave room.
    """
    copies = dict.fromkeys(left, 1)
    most = {n: members[n].record.folds // FOLDS_A_COPY for n in left if members[n].record.family in BY_CHANCE}
    for copy in range(2, MOST_COPIES + 1):
        for n in sorted(most, key=lambda n: -left[n]):
            more = {**copies, n: copy}
            if copy <= most[n] and copies[n] == copy - 1 and leaner(members, weights, left, more) >= LEANER:
                copies = more
    return copies


def _notes(singles: Mapping[int, Sequence[Single]]) -> tuple[str, ...]:
    kept = sorted(n for n, s in singles.items() if not s[0].is_refit)
    if not kept:
        return ()
    trials = ", ".join(str(n) for n in kept)
    return (f"trial {trials}: {NOT_REFITTED}",)


def score(shop: Workshop, oof: np.ndarray) -> float | None:
    """The job's metric on the rows that have out-of-fold predictions; None where it is not defined."""
    seen = np.isfinite(oof).all(axis=1)
    rows = shop.data.train.take(seen)
    value = out_of_fold_score(shop.task, shop.job.metric, rows.y, oof[seen], rows.weight)
    return float(value) if abs(value) < float("inf") else None


def lean_weights(
    shop: Workshop, members: Mapping[int, StoredTrial], weights: Mapping[int, float], limit: Cost
) -> dict[int, float]:
    """The ensemble's weights; where all members make no lean model, without those it can spare.

    Args:
        limit: what the result may cost; members are also left out, the lightest first, until their sizes and times fit it.
    """
    rows = _some_rows(members, weights)
    truth = shop.data.train.take(rows)
    sign = 1.0 if METRICS[shop.job.metric].direction is Direction.MAXIMIZE else -1.0

    def value(chosen: Mapping[int, float]) -> float:
        p = weighted_mean({n: members[n].oof[rows] for n in chosen}, _normed(chosen))
        return sign * out_of_fold_score(shop.task, shop.job.metric, truth.y, p, truth.weight)

    whole = value(weights)

    def loss(chosen: Mapping[int, float]) -> float:
        return (whole - value(chosen)) / (abs(whole) or 1.0)

    left = dict(weights)
    if leaner(members, weights, left) < LEANER:
        tried = [_Subset(some, leaner(members, weights, some), loss(some)) for some in _subsets(weights)]
        for lean_enough, most in ((LEANER, LOSS), (LEAST, MOST_LOSS)):
            able = [t for t in tried if t.leaner >= lean_enough and t.loss <= most]
            if able:
                left = min(able, key=lambda t: t.loss).weights
                break
        else:
            left = max((t for t in tried if t.loss <= SPARED), key=lambda t: t.leaner, default=tried[0]).weights
    while len(left) > 1 and not _estimate(shop, members, left).fits(limit):
        del left[min(left, key=lambda n: (left[n], -n))]
    return _normed(left)


def leaner(
    members: Mapping[int, StoredTrial],
    weights: Mapping[int, float],
    left: Mapping[int, float],
    copies: Mapping[int, int] | None = None,
) -> float:
    """About how many times faster for one row, and smaller, than with all folds of all; the lesser of the two.

    copies: models of each that is left; one for None.
    """

    def times(model: Callable[[TrialRecord], float], fixed: float = 0.0) -> float:
        records = {n: members[n].record for n in weights}
        whole = fixed + sum(r.folds * model(r) for r in records.values())
        return whole / (fixed + sum((copies or {}).get(n, 1) * model(records[n]) for n in left) or 1.0)

    faster = times(lambda r: ROW_MS.get(r.family, _OTHER_MS), FIXED_MS)
    return min(faster, times(lambda r: r.size_bytes / r.folds))


def _share(members: Mapping[int, StoredTrial], left: Mapping[int, float], number: int) -> float:
    """Part of the size and of the time that is this member's."""
    bytes_ = sum(members[n].record.size_bytes for n in left) or 1
    seconds = sum(members[n].record.predict_seconds for n in left) or 1.0
    record = members[number].record
    return record.size_bytes / bytes_ + record.predict_seconds / seconds


def _estimate(shop: Workshop, members: Mapping[int, StoredTrial], left: Mapping[int, float]) -> Cost:
    """One fold of each member; its time for one row cannot be known without a try, so that of many rows says the least it is."""
    rows = max(1, len(shop.data.holdout))
    records = [members[n].record for n in left]
    return Cost(
        sum(1000 * r.predict_seconds / r.folds / rows for r in records),
        sum(r.size_bytes / r.folds for r in records),
    )


@dataclass(frozen=True)
class _Subset:
    """Some members, how much leaner they are than all folds of all, and the share of the value that is lost with the others."""

    weights: dict[int, float]
    leaner: float
    loss: float


def _subsets(weights: Mapping[int, float]) -> Iterator[dict[int, float]]:
    """All of the heaviest members, large ones first, with their weights; as many as there is time for."""
    heaviest = sorted(weights, key=lambda n: (-weights[n], n))[:_HEAVIEST]
    end = time.monotonic() + _SECONDS
    for size in range(len(heaviest), 0, -1):
        for chosen in combinations(heaviest, size):
            if time.monotonic() > end:
                return
            yield {n: weights[n] for n in chosen}


def _normed(weights: Mapping[int, float]) -> dict[int, float]:
    total = sum(weights.values())
    return {n: w / total for n, w in weights.items()}


def _some_rows(members: Mapping[int, StoredTrial], weights: Mapping[int, float]) -> np.ndarray:
    """Rows that all members predict, every so-manieth of many."""
    seen = np.all([np.isfinite(members[n].oof).all(axis=1) for n in weights], axis=0)
    rows = np.flatnonzero(seen)
    return rows[:: max(1, len(rows) // _SCORED_ROWS)]
