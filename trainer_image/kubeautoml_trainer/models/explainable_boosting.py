"""Explainable boosting machine (Lou et al. 2013, doi:10.1145/2487575.2487579; interpret-core, MIT): boosted trees of one
column or two, so that the model is a table a column and a person can read it.

The library fits; what remains is an `AdditiveModel`, which predicts what the library would, to the last bit of the score
but for the intercept.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, Features, Recipe, fit_features
from kubeautoml_trainer.features.names import column_names
from kubeautoml_trainer.models.additive import AdditiveModel, Term, load_additive
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Float, Int, Parameters, Space
from kubeautoml_trainer.models.target import NumberTarget, standard_target
from kubeautoml_trainer.tasks.metrics import weights_or_ones

_MOST_ROWS, _MOST_WIDTH, _MOST_CLASSES = 200_000, 500, 30
# rows x pairs of columns that are ranked, as nothing can end that once it runs: some seconds; a guess
_MOST_PAIR_CELLS = 100_000_000
# Of all pairs' tables together; the library holds some arrays of them, 50 bytes a cell at its peak. It bins numbers, but not codes: five
# columns of a thousand levels each took half a gigabyte.
_MOST_TABLE_CELLS = 4_000_000
# Measured on Boston, four folds: with these and a learning rate of 0.04 in place of the library's 64, 100 and 0.015 the
# error is the same within 1 %, in a tenth of the time.
_PAIR_BINS, _STOPPING_ROUNDS = 32, 50
# What the library does with each value before and behind the boosting, where nothing can end it, in values sorted: measured,
# 0.65 against 0.07 microseconds, and as much again for a busy machine. It may take this share of the time left.
_VALUES_SORTED, _SHARE_AROUND = 20.0, 0.4
_FEW_VALUES = 300_000  # take a fifth of a second, whatever the time
_LEAST_ROWS = 200
_BAGS = 2  # models that are averaged where there are no validation rows and each leaves some rows out; a guess
_FEW_ROWS = 30  # up to here no rows are left out, and the rounds are few
_FEW_ROUNDS = 100

DEFAULTS: Parameters = {
    "learning_rate": 0.04,
    "max_leaves": 3,
    "interactions": 1.0,
    "smoothing_rounds": 25,
    "min_samples_leaf": 4,
    "max_bins": 256,
}


class ExplainableBoosting:
    """A table a column, and tables for the pairs that matter most."""

    name = "ExplainableBoosting"
    interpretable = True
    relative_cost = 4.0

    def fits(self, shape: DataShape) -> bool:
        """Each step looks at one column, so many columns take long, and many classes; more rows than this hardly move a table.
        Guesses.
        """
        is_small = shape.rows <= _MOST_ROWS and shape.width <= _MOST_WIDTH and shape.outputs <= _MOST_CLASSES
        return is_small and not shape.images  # nobody reads hundreds of curves of edges

    def space(self, shape: DataShape) -> Space:
        """TabArena's (Erickson et al. 2025, arXiv:2506.16791), with less smoothing, which is what takes the time."""
        space: dict[str, Any] = {
            "learning_rate": Float(0.005, 0.2, log=True),
            "max_leaves": Int(2, 3),
            "smoothing_rounds": Int(0, 200),
            "min_samples_leaf": Int(2, 20, log=True),
        }
        return space | ({} if _has_many_classes(shape) else {"interactions": Float(0.0, 3.0)})

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """Own defaults, and tables of single columns alone, which are easiest to read.

        Measured on Titanic, fair, Boston and hr (the folds pooled): log loss 0.454, 0.531, error 3.57 and log loss 0.661 where
        LightGBM has 0.455, 0.536, 3.44 and 0.614; the mean of both is better than either on Titanic and Boston.
        """
        return ((9, {}),) if _has_many_classes(shape) else ((9, {}), (18, {"interactions": 0.0}))

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        features, x = fit_features(Recipe(categories="codes"), train, schema, context.seed)
        target = standard_target(train, schema, context.metric, bounded=True)
        data = _data(x, train, None if valid is None else features.transform(valid.frame), valid, target)
        if time.monotonic() > context.deadline:
            raise FitTimeout("ExplainableBoosting: no time for one round; give spec.budget.maxDurationSeconds more")
        data = in_time(data, context.deadline, context.seed)
        model = constant_model(x, len(data.classes), target, context.task.outputs, data.classes)
        if len(data.classes) != 1 and x.numbers.shape[1] + x.codes.shape[1]:
            booster = _boosted(data, {**DEFAULTS, **parameters}, target, context)
            model = additive_model(booster, features, x, data.classes, context.task.outputs, target)
        return FittedPipeline(self.name, dict(parameters), None, features, _settled(model, data))

    def load(self, folder: Path) -> AdditiveModel:
        return load_additive(folder)


def _has_many_classes(shape: DataShape) -> bool:
    """Pairs are not for more than two classes: the library's tables of them cannot be read."""
    return shape.task.is_classification and shape.outputs > 2


@dataclass(frozen=True)
class Data:
    """What the library sees: training rows, then validation rows.

    matrix: float64 (n, numbers + codes). y: encoded numbers, or places in `classes`. classes: intp, the classes that the
    training rows have; empty for numbers. weight: float64 (n,). trains: bool (n,). nominal: positions from which on
    columns are codes.
    """

    matrix: np.ndarray
    y: np.ndarray
    classes: np.ndarray
    weight: np.ndarray
    trains: np.ndarray
    nominal: int

    def of_rows(self, kept: np.ndarray) -> Data:
        """Only these rows, and the classes that training rows among them have."""
        y, trains = self.y[kept], self.trains[kept]
        classes = self.classes
        if len(classes):
            places = np.unique(y[trains])
            known = np.isin(y, places)
            kept, y, trains, classes = kept[known], np.searchsorted(places, y[known]), trains[known], classes[places]
        return Data(self.matrix[kept], y, classes, self.weight[kept], trains, self.nominal)


def _data(x: Encoded, train: Rows, seen: Encoded | None, valid: Rows | None, target: NumberTarget | None) -> Data:
    """Without the rows that weigh nothing, which the library refuses."""
    matrix, y, weight = _matrix(x), train.y, weights_or_ones(train.weight, len(train))
    classes = np.zeros(0, dtype=np.intp) if target is not None else np.unique(train.y[weight > 0]).astype(np.intp)
    trains = np.ones(len(train), dtype=bool)
    if seen is not None and valid is not None:
        known = np.ones(len(valid), dtype=bool) if target is not None else np.isin(valid.y, classes)
        matrix = np.vstack([matrix, _matrix(seen)[known]])
        y = np.concatenate([y, valid.y[known]])
        weight = np.concatenate([weight, weights_or_ones(valid.weight, len(valid))[known]])
        trains = np.arange(len(y)) < len(train)
    matrix, y, trains, weight = (a[weight > 0] for a in (matrix, y, trains, weight))
    y = target.encode(y) if target is not None else np.searchsorted(classes, y)
    return Data(matrix, y, classes, weight, trains, x.numbers.shape[1])


def _matrix(x: Encoded) -> np.ndarray:
    return np.hstack([x.numbers, x.codes.astype(np.float64)])


def in_time(data: Data, deadline: float, seed: int) -> Data:
    """The data, or of many rows a sample that leaves most of the time to the boosting; how long a value takes is tried on one
    column.

    Raises:
        FitTimeout: not even a few rows.
    """
    rows, columns = data.matrix.shape
    if rows * columns < _FEW_VALUES:
        return data
    tries = []
    for _ in range(3):
        began = time.monotonic()
        np.sort(data.matrix[:, :1], axis=0)
        now = time.monotonic()
        tries.append(now - began)
    a_row = min(tries) / rows * columns * _VALUES_SORTED
    left = _SHARE_AROUND * (deadline - now)
    if rows * a_row <= left:
        return data
    count = int(left / a_row)
    if count < min(_LEAST_ROWS, rows):
        raise FitTimeout(
            "ExplainableBoosting: no time for one round; give spec.budget.maxDurationSeconds more or use fewer rows"
        )
    kept = np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))
    kept = kept if data.trains[kept].any() else np.flatnonzero(data.trains)[:count]
    return data.of_rows(kept)


def _boosted(data: Data, settings: dict[str, Any], target: NumberTarget | None, context: FitContext) -> Any:
    """The library's model. Where there are no validation rows, two models that leave 15 % out each are averaged."""
    from interpret.glassbox import ExplainableBoostingClassifier, ExplainableBoostingRegressor

    rows, columns = data.matrix.shape
    pairs = columns * (columns - 1) // 2
    interactions = 0 if len(data.classes) > 2 else min(pairs, round(float(settings["interactions"]) * columns))
    if rows * pairs > _MOST_PAIR_CELLS:
        interactions = 0
    has_valid, is_small = not data.trains.all(), rows <= _FEW_ROWS
    bags = None if not has_valid and not is_small else np.where(data.trains, 1, -1).astype(np.int8)[:, None]
    outer_bags = _BAGS if bags is None else 1
    library = ExplainableBoostingRegressor if target is not None else ExplainableBoostingClassifier
    booster = library(
        feature_types=["continuous"] * data.nominal + ["nominal"] * (columns - data.nominal),
        max_bins=int(settings["max_bins"]),
        max_interaction_bins=_PAIR_BINS,
        early_stopping_rounds=_STOPPING_ROUNDS,
        interactions=interactions,
        exclude=_large_pairs(data, interactions),
        outer_bags=outer_bags,
        learning_rate=float(settings["learning_rate"]),
        smoothing_rounds=int(settings["smoothing_rounds"]),
        interaction_smoothing_rounds=int(settings["smoothing_rounds"]),
        max_leaves=int(settings["max_leaves"]),
        min_samples_leaf=int(settings["min_samples_leaf"]),
        n_jobs=1,
        random_state=context.seed,
        **({"max_rounds": _FEW_ROUNDS} if is_small and not has_valid else {}),
    )
    with _ended_by(context.deadline, outer_bags * (2 if interactions else 1)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that missing values are not in its own plots
        booster.fit(data.matrix, data.y, sample_weight=data.weight, bags=bags)
    return booster


def _large_pairs(data: Data, interactions: int) -> list[tuple[int, int]]:
    """Pairs of columns whose tables would have more cells than their share of the most there may be."""
    levels = [_PAIR_BINS] * data.nominal + [len(np.unique(codes)) for codes in data.matrix[:, data.nominal :].T]
    most = _MOST_TABLE_CELLS / max(1, interactions)
    return [(a, b) for a, b in combinations(range(len(levels)), 2) if levels[a] * levels[b] > most]


@contextmanager
def _ended_by(deadline: float, runs: int) -> Iterator[None]:
    """Bound the library's boosting: each of its runs gets an even share of the time left, and ends with the best it has.

    A callback that is given to the estimator itself makes it start a process, to share a stop flag between parallel jobs;
    here is one job, so the callback is put where the library calls its own `boost`.
    """
    from interpret.glassbox._ebm import _ebm as library

    own, left, began = library.boost, runs, time.monotonic()
    around: list[float] = []

    def bounded(**arguments: Any) -> Any:
        nonlocal left
        now = time.monotonic()
        around.append(now - began)  # what comes behind the boosting takes no longer than what came before it
        end = now + (deadline - around[0] - now) / max(1, left)
        left -= 1
        return own(**{**arguments, "callback": lambda *_: time.monotonic() > end})

    library.boost = bounded
    try:
        yield
    finally:
        library.boost = own


def constant_model(
    x: Encoded, scores: int, target: NumberTarget | None, outputs: int, classes: np.ndarray
) -> AdditiveModel:
    """No term at all: where there is one class, or no column."""
    width = 1 if target is not None or scores <= 2 else scores
    return AdditiveModel(x.numbers.shape[1], (), {}, np.zeros(width), classes, outputs, target)


def additive_model(
    booster: Any, features: Features, x: Encoded, classes: np.ndarray, outputs: int, target: NumberTarget | None
) -> AdditiveModel:
    """The library's tables as they are."""
    names, numbers = column_names(features), x.numbers.shape[1]
    bins: dict[str, np.ndarray] = {}
    terms = []
    for columns, scores in zip(booster.term_features_, booster.term_scores_, strict=True):
        used = []
        for column in columns:
            levels = booster.bins_[column]
            level = min(len(levels), len(columns)) - 1
            used.append(f"{column}.{level}")
            found = levels[level]
            size = 0 if column < numbers else len(features.levels[column - numbers].levels) + 2
            bins[used[-1]] = np.asarray(found, dtype=np.float64) if column < numbers else _by_code(found, size)
        name = " & ".join(names[c] for c in columns)
        terms.append(Term(name, tuple(int(c) for c in columns), tuple(used), 0.0, np.asarray(scores)))
    intercept = np.atleast_1d(np.asarray(booster.intercept_, dtype=np.float64))
    model = AdditiveModel(numbers, tuple(terms), bins, intercept, classes, outputs, target)
    sizes = model.sizes(x)
    return replace(model, terms=tuple(replace(t, importance=s) for t, s in zip(terms, sizes, strict=True)))


def _by_code(categories: dict[str, int], size: int) -> np.ndarray:
    """The library knows a code as text; a code that training never had goes to the last bin."""
    out = np.full(size, -1, dtype=np.int64)
    for code, place in categories.items():
        out[int(float(code))] = place
    return out


def _settled(model: AdditiveModel, data: Data) -> AdditiveModel:
    """The model with an intercept that the training rows alone decide: the library's also looks at the validation rows.

    For numbers the residuals' mean becomes 0, for classes the probabilities' mean is each class's share, by scaling them
    in turn (Deming and Stephan 1940).
    """
    y, weight, matrix = data.y[data.trains], data.weight[data.trains], data.matrix[data.trains]
    x = Encoded(matrix[:, : data.nominal], matrix[:, data.nominal :].astype(np.int32))
    if model.target is not None:
        gap = float(np.average(y - model.score(x)[:, 0], weights=weight))
        return replace(model, intercept=model.intercept + gap)
    if len(data.classes) == 1:
        return model
    share = np.bincount(y, weights=weight, minlength=len(data.classes)) / weight.sum()
    score = model.score(x)
    if score.shape[1] == 1:
        score = np.hstack([np.zeros_like(score), score])
    shift = np.zeros(len(share))
    for _ in range(50):
        moved = score + shift
        p = np.exp(moved - moved.max(axis=1, keepdims=True))
        mean = np.average(p / p.sum(axis=1, keepdims=True), axis=0, weights=weight)
        step = np.log(np.maximum(share, 1e-12) / np.maximum(mean, 1e-12))
        shift = shift + step
        if math.isclose(float(np.abs(step).max()), 0.0, abs_tol=1e-9):
            break
    return replace(model, intercept=model.intercept + (shift if len(model.intercept) > 1 else shift[1:] - shift[:1]))
