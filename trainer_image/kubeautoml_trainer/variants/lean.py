"""Which members of an ensemble a lean model keeps: what one model of each costs beside all folds of all, and what is lost without some."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from kubeautoml.api.metrics import METRICS, Direction
from kubeautoml.api.objective import RefitRows
from kubeautoml_trainer.artifacts import TrialRecord
from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.ensemble.base import UNLIMITED, Cost, Second, combined_oof, weighted_mean
from kubeautoml_trainer.ensemble.build import Built, Workshop
from kubeautoml_trainer.ensemble.decisions import out_of_fold_score
from kubeautoml_trainer.ensemble.stored import StoredTrial

LEANER, LOSS = 7.0, 0.005
"""How many times faster than the ensemble for one row, and smaller, the model should be, and what leaving members out for that may cost, as
a share of the ensemble's cross-validated value. Promised are 6 times and a hundredth; refits need a part of the latter. One fit in place
of a model a fold is as many times leaner as there are folds, so mostly all members can stay, and should: on German credit (one split) the
model lost 1.4 % with all and 1.8 % without those that were hardly missed, on Titanic -0.1 % and 0.0 %."""
LEAST, MOST_LOSS = 6.0, 0.0075
"""The same where that cannot be had."""
SPARED = 0.0005
"""What next to nothing is. Where leaving out such members alone makes the model lean, only they go: computers (one split) lost 1.01 % with
the heavier of two members, of which both would have been 6.2 times leaner; and where no subset is lean, they go as well."""
ROW_MS: Mapping[str, float] = {
    "Dummy": 0.01, "Linear": 0.14, "LightGBM": 0.08, "CatBoost": 0.17, "XGBoost": 0.26, "ExtraTrees": 0.27, "RandomForest": 0.23,
    "GradientBoosting": 0.12, "SupportVectors": 0.12, "GaussianProcess": 0.12, "NeuralNetwork": 0.13, "TabM": 0.75,
    "NearestNeighbors": 0.25, "ExplainableBoosting": 0.12, "NaiveBayesSvm": 0.14,
    "TextNet": 0.3, "ConvNet": 3.0, "TextEncoder": 10.0, "ImageEncoder": 15.0, "TabularFoundation": 20.0,
}  # fmt: skip
"""What a family's defaults take for one row of Titanic, measured alone, and 1.3 times that, as one of several fares; of networks for images
and texts, guesses by order of magnitude. Fixed, so that the same trials make the same model however busy the machine is."""
FIXED_MS, SECOND_MS, _OTHER_MS = 0.15, 0.3, 0.13
"""What a model takes for a row besides its members, and what a second level does."""
GROWING = ("ExtraTrees", "RandomForest", "NearestNeighbors", "SupportVectors", "GaussianProcess", "TabularFoundation")
"""Families whose models are the larger the more rows they have learned from."""
LEAN_BYTES: Mapping[str, float] = {"LightGBM": 0.8, "CatBoost": 0.7}
"""Families whose refits are told in fewer digits (`models.leaf_values`), and what is left of their bytes. Measured on wine and digits."""
_SCORED_ROWS = 20_000
_HEAVIEST, _SECONDS = 8, 5.0
"""Members of which all subsets are tried, 255 at most, and for how long. Measured on 20,000 rows: up to 3 ms each."""


@dataclass(frozen=True)
class Leanness:
    """What an ensemble costs, to compare a model with.

    members: all trials, by number. weights: of those in the ensemble, all folds of each. growth: rows that a refit learns from, in
    those of a fold. fold_bytes, refit_bytes: of one model on disk, where there is one; else the former are the mean of the trial's, and
    the latter follow from the former.
    """

    members: Mapping[int, StoredTrial] = field(repr=False)
    weights: Mapping[int, float]
    has_second: bool = False
    growth: float = 1.0
    fold_bytes: Mapping[int, float] = field(default_factory=dict, repr=False)
    refit_bytes: Mapping[int, float] = field(default_factory=dict, repr=False)

    def leaner(
        self, left: Mapping[int, float], copies: Mapping[int, int] | None = None, *, with_second: bool = False
    ) -> float:
        """About how many times faster for one row, and smaller, than the ensemble; the lesser of the two.

        Args:
            left: members with so many models of each as `copies` has, one for None.
        """
        whole = [(self.members[n].record, self.members[n].record.folds) for n in self.weights]
        some = [(self.members[n].record, (copies or {}).get(n, 1)) for n in left]
        faster = _row_ms(whole, self.has_second) / _row_ms(some, with_second)
        smaller = sum(k * self._of_fold(r) for r, k in whole) / (sum(k * self._of_refit(r) for r, k in some) or 1.0)
        return min(faster, smaller)

    def _of_fold(self, record: TrialRecord) -> float:
        return self.fold_bytes.get(record.number, record.size_bytes / record.folds)

    def _of_refit(self, record: TrialRecord) -> float:
        growth = self.growth if record.family in GROWING else LEAN_BYTES.get(record.family, 1.0)
        return self.refit_bytes.get(record.number, self._of_fold(record) * growth)


def _row_ms(models: list[tuple[TrialRecord, int]], has_second: bool) -> float:
    return FIXED_MS + SECOND_MS * has_second + sum(k * ROW_MS.get(r.family, _OTHER_MS) for r, k in models)


def leanness_of(shop: Workshop, built: Built) -> Leanness:
    """What all folds of the built ensemble cost."""
    data, job = shop.data, shop.job
    folds = int(data.fold.max()) + 1
    learned = len(data.train) * (1 - 1 / folds) if folds > 1 else len(data.train)
    complete = job.output.refit_on is RefitRows.ALL_ROWS and job.dataset.test is None
    rows = len(data.train) + (len(data.holdout) if complete else 0)
    on_disk = {m.trial: sum(size_of(f) for f in m.folders) / len(m.folders) for m in built.files}
    has_second = built.selection.second is not None
    return Leanness(built.candidates, built.selection.weights, has_second, rows / learned, on_disk)


def size_of(folder: Path) -> int:
    """Bytes of its files."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def lean(shop: Workshop, built: Built, limit: Cost) -> tuple[dict[int, float], Second | None]:
    """The members worth their cost, and the second level where all members are lean enough, or where the first alone would lose what
    `LOSS` does not allow.

    A second level needs all the models it was fitted to, so it is the dear way; a limit on costs rules it out.
    """
    selection, second = built.selection, built.selection.second
    than = leanness_of(shop, built)
    if second is not None and limit == UNLIMITED and than.leaner(selection.weights, with_second=True) >= LEANER:
        return selection.weights, second
    weights = lean_weights(shop, than, selection.first_weights, limit)
    if second is None or limit != UNLIMITED:
        return weights, None
    oof = {n: t.oof for n, t in built.candidates.items()}
    rows = np.isfinite(second.oof).all(axis=1)
    some = shop.data.train.take(rows)
    whole = _value(shop, some, combined_oof(oof, selection.weights, second)[rows])
    first = _value(shop, some, weighted_mean({n: oof[n][rows] for n in weights}, weights))
    if first >= whole - LOSS * abs(whole):
        return weights, None
    return selection.weights, second


def lean_weights(shop: Workshop, than: Leanness, weights: Mapping[int, float], limit: Cost) -> dict[int, float]:
    """The weights; where all members make no lean model, without those it can spare.

    Args:
        weights: of the first level, the second left out.
        limit: what the result may cost; members are also left out, the lightest first, until their sizes and times fit it.
    """
    members = than.members
    rows = _some_rows(members, weights)
    oof, truth = {n: members[n].oof[rows] for n in weights}, shop.data.train.take(rows)

    def value(chosen: Mapping[int, float]) -> float:
        return _value(shop, truth, weighted_mean({n: oof[n] for n in chosen}, _normed(chosen)))

    whole = value(weights)

    def loss(chosen: Mapping[int, float]) -> float:
        return (whole - value(chosen)) / (abs(whole) or 1.0)

    left = dict(weights)
    if than.leaner(left) < LEANER:
        tried = [_Subset(some, than.leaner(some), loss(some)) for some in _subsets(weights)]
        for lean_enough, most in ((LEANER, SPARED), (LEAST, SPARED), (LEANER, LOSS), (LEAST, MOST_LOSS)):
            able = [t for t in tried if t.leaner >= lean_enough and t.loss <= most]
            if able:
                left = min(able, key=lambda t: t.loss).weights
                break
        else:
            left = max((t for t in tried if t.loss <= SPARED), key=lambda t: t.leaner, default=tried[0]).weights
    while len(left) > 1 and not _estimate(shop, members, left).fits(limit):
        del left[min(left, key=lambda n: (left[n], -n))]
    return _normed(left)


def _value(shop: Workshop, rows: Rows, p: np.ndarray) -> float:
    """The job's metric of out-of-fold predictions of the rows; higher is better."""
    sign = 1.0 if METRICS[shop.job.metric].direction is Direction.MAXIMIZE else -1.0
    return sign * out_of_fold_score(shop.task, shop.job.metric, rows.y, p, rows.weight)


def _estimate(shop: Workshop, members: Mapping[int, StoredTrial], left: Mapping[int, float]) -> Cost:
    """One fold of each member; its time for one row cannot be known without a try, so that of many rows says the least it is."""
    rows = len(shop.data.holdout) or max(1, np.count_nonzero(shop.data.fold >= 0) / shop.data.profile.folds)
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
