"""CatBoost: symmetric boosted trees that take categories as words; the strongest default, and the slowest of the
boosters.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, Recipe, fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.dummy import ConstantModel, load_constant
from kubeautoml_trainer.models.early_stopping import (
    ROUNDS_WITHOUT_VALID,
    Pace,
    Patience,
    boosting_rounds,
    least_patience,
    pace_of,
)
from kubeautoml_trainer.models.leaf_values import KEPT, LEAN, round_catboost_leaves
from kubeautoml_trainer.models.packed import read_packed, write_packed
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.prediction_only import forget_training
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters, Space
from kubeautoml_trainer.models.target import NumberTarget, load_target, save_target, standard_target
from kubeautoml_trainer.models.text_choice import taken_recipe, text_choice, with_embeddings

_FILE = "catboost.cbm.zst"
_MANY_ROWS = 20_000
_PROBE_ROUNDS = 20  # so few are lost by a new start
_DISTANCE_IN_TIME = 80.0
"""Rounds x learning rate that a fit should come to. Measured, a fold of digits in 1 and 3 s: log loss 0.114 and 0.089 at a rate of 0.3,
0.197 and 0.111 cut off at 0.1; in 8 s it comes to 0.086."""

DEFAULTS: Parameters = {"learning_rate": 0.05, "depth": 6, "features": "none"}
# CatBoost crosses and encodes categories itself: A is arithmetic of numbers and numbers within categories.
RECIPES: dict[str, dict[str, Any]] = {"none": {}, "A": {"arithmetic": 32, "groups": 16}}

# What the metric is really about, where CatBoost has a loss for it.
_LOSSES = {"Mae": "MAE", "MedianAbsoluteError": "MAE", "Mape": "MAPE"}


@dataclass(frozen=True)
class CatBoostModel:
    """A CatBoost model cut at its best round. target: how a number was written; None for classes."""

    booster: Any
    target: NumberTarget | None

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        if self.target is not None:
            raw = np.asarray(self.booster.predict(_data(x), thread_count=threads))
            if raw.ndim == 1:
                return self.target.decode(raw)
            decoded = [self.target.decode(column) for column in raw.T]
            return np.sort(np.hstack(decoded), axis=1)  # quantiles may cross
        p = self.booster.predict(_data(x), prediction_type="Probability", thread_count=threads)
        return np.asarray(p, dtype=np.float32)

    def save(self, folder: Path) -> None:
        plain = folder / "catboost.cbm"
        self.booster.save_model(str(plain), format="cbm")  # it writes to a file only
        write_packed(folder / _FILE, plain.read_bytes())
        plain.unlink()
        save_target(self.target, folder)

    def lean(self) -> CatBoostModel:
        import catboost

        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder, "catboost.cbm")
            self.booster.save_model(str(plain), format="cbm")
            booster = catboost.CatBoost().load_model(str(plain))  # a copy, or one read from memory, cannot be changed
        round_catboost_leaves(booster, LEAN)
        return CatBoostModel(booster, self.target)


class CatBoost:
    """Boosted symmetric trees."""

    name = "CatBoost"
    interpretable = False
    relative_cost = 6.0
    rounds_parameter = "iterations"

    def fits(self, shape: DataShape) -> bool:
        """A tree a class makes many classes slow."""
        return shape.outputs <= 50

    def space(self, shape: DataShape) -> Space:
        """TabArena's, without the parts about categories when there are none."""
        space: dict[str, Float | Int | Choice] = {
            "learning_rate": Float(0.005, 0.1, log=True),
            "depth": Int(4, 8),
            "subsample": Float(0.7, 1.0),
            "colsample_bylevel": Float(0.85, 1.0),
            "l2_leaf_reg": Float(1e-4, 5.0, log=True),
            "leaf_estimation_iterations": Int(1, 20, log=True),
            "grow_policy": Choice(("SymmetricTree", "Depthwise")),
        }
        if shape.categories:
            space |= {"one_hot_max_size": Int(8, 100, log=True), "max_ctr_complexity": Int(2, 5)}
        numbers = shape.features - shape.categories - shape.texts
        if numbers > 1 or (numbers and shape.categories):
            space["features"] = Choice(tuple(RECIPES))
        return space | text_choice(shape)

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """First a quick one, last the library's default (rounded, as AutoGluon and TabArena run it).

        Measured on Boston, Titanic and German credit: a learning rate of 0.1, 64 borders and one-hot up to 20 levels
        score like the default in a tenth of its time; on many rows depth 6 takes over from depth 5.
        """
        quick = {"learning_rate": 0.1, "border_count": 64, "one_hot_max_size": 20}
        return (
            (3, quick | {"depth": 5 if shape.rows < _MANY_ROWS else 6}),
            (9, quick | {"depth": 6, "subsample": 0.8}),
            (14, {"learning_rate": 0.05, "depth": 6}),
            *with_embeddings(shape, 10, quick | {"depth": 6}),
        )

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        settings = {**DEFAULTS, **parameters}
        recipe = Recipe(categories="strings", **RECIPES[str(settings.pop("features"))], **taken_recipe(settings))
        features, x = fit_features(recipe, train, schema, context.seed, context.deadline)
        if not _varies(x) or _one_class(train, schema):  # CatBoost refuses such tables
            constant = ConstantModel(context.task.prior(train.y, train.weight))
            return FittedPipeline(self.name, dict(parameters), None, features, constant)
        target = standard_target(train, schema, context.metric, bounded=False)
        seen = None if valid is None else features.transform(valid.frame)
        booster, rounds = _boost(x, train, seen, valid, target, settings, context)
        return FittedPipeline(self.name, dict(parameters), rounds, features, CatBoostModel(booster, target))

    def load(self, folder: Path) -> CatBoostModel | ConstantModel:
        import catboost

        if not (folder / _FILE).exists():
            return load_constant(folder)
        try:
            return CatBoostModel(catboost.CatBoost().load_model(blob=read_packed(folder / _FILE)), load_target(folder))
        except catboost.CatBoostError as error:
            raise BundleError(f"{folder / _FILE} is not a CatBoost model: {error}") from error


class _Stop:
    """CatBoost's callback: ends training by patience on the validation loss, by the deadline, and for a new start with another
    learning rate, which CatBoost cannot change on its way.
    """

    def __init__(self, patience: Patience, pace: Pace | None) -> None:
        self.patience, self.pace = patience, pace
        self.starts_anew = False

    def after_iteration(self, info: Any) -> bool:
        """False ends training."""
        if self.pace is not None and info.iteration <= _PROBE_ROUNDS and self.pace.step():
            self.starts_anew = True
            return False
        if "validation" in info.metrics:
            (values,) = info.metrics["validation"].values()
            self.patience.see(info.iteration, values[-1])
            if self.patience.is_over(info.iteration):
                return False
        return not self.patience.time_is_up()


def _boost(
    x: Encoded,
    train: Rows,
    seen: Encoded | None,
    valid: Rows | None,
    target: NumberTarget | None,
    parameters: dict[str, Any],
    context: FitContext,
) -> tuple[Any, int]:
    """Boost until patience, rounds or time end; the model, which CatBoost itself cuts at the best round, and that round, at the learning
    rate asked for.
    """
    import catboost

    def pool(encoded: Encoded, rows: Rows) -> Any:
        y = rows.y if target is None else target.encode(rows.y)
        return catboost.Pool(_data(encoded), y, weight=rows.weight)

    if time.monotonic() > context.deadline:
        raise FitTimeout("CatBoost: no time for one round; give spec.budget.maxDurationSeconds more or use fewer rows")
    held_out = pool(seen, valid) if seen is not None and valid is not None else None
    learned = pool(x, train)
    pace = pace_of(parameters, held_out is not None, context.deadline, _DISTANCE_IN_TIME)
    settings = _settings(parameters, target, context, valid is not None)

    nominal = pace.rate

    def attempt(watched: Pace | None) -> tuple[Any, bool]:
        stop = _Stop(Patience(least_patience(pace.rate), context.deadline), watched)
        rounds = max(1, round(settings["iterations"] * nominal / pace.rate))
        booster = catboost.CatBoost(settings | {"learning_rate": pace.rate, "iterations": rounds})
        booster.fit(learned, eval_set=held_out, callbacks=[stop])
        return booster, stop.starts_anew

    booster, starts_anew = attempt(pace)
    if starts_anew:
        booster, _ = attempt(None)
    forget_training(booster)
    round_catboost_leaves(booster, KEPT)
    return booster, round(booster.tree_count_ * pace.rate / nominal)


def _settings(
    parameters: dict[str, Any], target: NumberTarget | None, context: FitContext, stops: bool
) -> dict[str, Any]:
    """CatBoost's own parameters."""
    own = dict(parameters)
    outputs = context.task.outputs
    if "iterations" not in own:
        rounds = boosting_rounds(own["learning_rate"])
        own["iterations"] = rounds if stops else min(rounds, ROUNDS_WITHOUT_VALID)
    if "subsample" in own:
        own["bootstrap_type"] = "Bernoulli"
    if target is not None:
        own["loss_function"] = "RMSE" if target.log else _LOSSES.get(context.metric, "RMSE")
        if context.task.quantiles:
            own["loss_function"] = "MultiQuantile:alpha=" + ",".join(f"{q:g}" for q in context.task.quantiles)
    else:
        own |= (
            {"loss_function": "Logloss"} if outputs == 2 else {"loss_function": "MultiClass", "classes_count": outputs}
        )
    return own | {
        "random_seed": context.seed,
        "thread_count": context.threads,
        "use_best_model": stops,
        "allow_const_label": True,
        "allow_writing_files": False,
        "logging_level": "Silent",
    }


def _data(x: Encoded) -> Any:
    """CatBoost's quickest way in: float32 numbers and bytes."""
    import catboost

    words = x.strings if x.strings is not None and x.strings.shape[1] else None
    numbers = np.ascontiguousarray(x.numbers, dtype=np.float32) if x.numbers.shape[1] else None
    return catboost.FeaturesData(num_feature_data=numbers, cat_feature_data=words)


def _one_class(rows: Rows, schema: Schema) -> bool:
    """Whether all rows are of one class, as the early part of a time split may be."""
    return bool(schema.classes) and bool((rows.y == rows.y[0]).all())


def _varies(x: Encoded) -> bool:
    """Whether any column has two values."""
    first = np.where(np.isnan(x.numbers[:1]), np.inf, x.numbers[:1])
    numbers = bool(np.any(np.where(np.isnan(x.numbers), np.inf, x.numbers) != first))
    return numbers or (x.strings is not None and bool(np.any(x.strings != x.strings[:1])))
