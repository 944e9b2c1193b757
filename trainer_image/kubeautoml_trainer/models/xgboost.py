"""XGBoost: boosted trees by histogram, with native categories; a second opinion beside LightGBM."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, Recipe, fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.blocks import by_shares
from kubeautoml_trainer.models.early_stopping import (
    ROUNDS_WITHOUT_VALID,
    Patience,
    boosting_rounds,
    histogram_bins,
    least_patience,
    pace_of,
    steering_loss,
)
from kubeautoml_trainer.models.forest import dense, made_features
from kubeautoml_trainer.models.lightgbm import RECIPES
from kubeautoml_trainer.models.packed import read_packed, write_packed
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.prediction_only import xgboost_ubj
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters, Space
from kubeautoml_trainer.models.target import NumberTarget, load_target, save_target, standard_target
from kubeautoml_trainer.models.text_choice import taken_recipe, text_choice, with_embeddings

_FILE = "xgboost.ubj.zst"
_MOST_CLASSES = 100  # a tree a class and round
# One round cannot be interrupted; a round over this many (row, column, class) values takes some ten seconds.
_VALUES_A_ROUND = 3_000_000_000

DEFAULTS: Parameters = {
    "learning_rate": 0.05,
    "max_depth": 6,
    "min_child_weight": 1.0,
    "subsample": 0.8,
    "colsample_bylevel": 0.9,
    "colsample_bynode": 1.0,
    "reg_alpha": 0.0,
    "reg_lambda": 1.0,
    "grow_policy": "depthwise",
    "max_leaves": 0,
    "max_cat_to_onehot": 8,
    "features": "none",
}

# What the metric is really about, where XGBoost has a loss for it.
_LOSSES = {"Mae": "reg:absoluteerror", "MedianAbsoluteError": "reg:absoluteerror"}


@dataclass(frozen=True)
class XGBoostModel:
    """An XGBoost booster cut at its best round. target: how a number was written; None for classes."""

    raw: bytes = field(repr=False)
    target: NumberTarget | None
    booster: Any = field(repr=False, compare=False)

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        # others may ask the booster meanwhile, so it cannot be told to take more threads
        table = dense(x)
        said = by_shares(len(table), threads, lambda rows: self.booster.inplace_predict(table[rows]))
        return _prediction(said, self.target)

    def save(self, folder: Path) -> None:
        write_packed(folder / _FILE, self.raw)
        save_target(self.target, folder)


class XGBoost:
    """Boosted trees."""

    name = "XGBoost"
    interpretable = False
    relative_cost = 2.0
    rounds_parameter = "iterations"

    def fits(self, shape: DataShape) -> bool:
        """A round must be short, for it is what a deadline waits for."""
        small = shape.rows * max(1, shape.features) * shape.outputs <= _VALUES_A_ROUND
        return shape.outputs <= _MOST_CLASSES and small

    def space(self, shape: DataShape) -> Space:
        """TabArena's, without the part about categories when there are none."""
        space: dict[str, Float | Int | Choice] = {
            "learning_rate": Float(0.005, 0.1, log=True),
            "max_depth": Int(4, 10, log=True),
            "min_child_weight": Float(1e-3, 5.0, log=True),
            "subsample": Float(0.6, 1.0),
            "colsample_bylevel": Float(0.6, 1.0),
            "colsample_bynode": Float(0.6, 1.0),
            "reg_alpha": Float(1e-4, 5.0, log=True),
            "reg_lambda": Float(1e-4, 5.0, log=True),
            "grow_policy": Choice(("depthwise", "lossguide")),
            "max_leaves": Int(8, 1024, log=True, when={"grow_policy": "lossguide"}),
        }
        space |= made_features(shape) | text_choice(shape)
        return space | ({"max_cat_to_onehot": Int(8, 100, log=True)} if shape.categories else {})

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """pytabkit's tuned defaults, rounded (Holzmüller et al. 2024, arXiv:2407.04491)."""
        if shape.outputs > 1:
            tuned: Parameters = {
                "learning_rate": 0.08, "max_depth": 6, "min_child_weight": 5e-6, "subsample": 0.65,
                "colsample_bylevel": 0.9, "reg_lambda": 0.0,
            }  # fmt: skip
        else:
            tuned = {
                "learning_rate": 0.05, "max_depth": 9, "min_child_weight": 2.0, "subsample": 0.7,
                "colsample_bylevel": 0.9, "reg_lambda": 0.0,
            }  # fmt: skip
        return (
            (4, tuned),
            *with_embeddings(shape, 8, tuned),
        )  # as quick as LightGBM and unlike it: on diamonds the better one

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        settings = {**DEFAULTS, **parameters}
        recipe = Recipe(**RECIPES[str(settings.pop("features"))], **taken_recipe(settings))
        features, x = fit_features(recipe, train, schema, context.seed, context.deadline)
        target = standard_target(train, schema, context.metric, bounded=False)
        seen = None if valid is None else features.transform(valid.frame)
        raw, best = _boost(x, train, seen, valid, target, settings, context)
        return FittedPipeline(self.name, dict(parameters), best, features, _model(raw, target))

    def load(self, folder: Path) -> XGBoostModel:
        return _model(read_packed(folder / _FILE), load_target(folder))


def _boost(
    x: Encoded,
    train: Rows,
    seen: Encoded | None,
    valid: Rows | None,
    target: NumberTarget | None,
    parameters: dict[str, Any],
    context: FitContext,
) -> tuple[bytes, int]:
    """Boost until patience, rounds or time end; returns the model, cut at the best round, and that round."""
    import xgboost as xgb

    y = train.y if target is None else target.encode(train.y)
    kinds = ["q"] * x.numbers.shape[1] + ["c"] * x.codes.shape[1] or ["q"]
    own = {"feature_types": kinds, "enable_categorical": True, "nthread": context.threads}
    bins = histogram_bins(len(kinds))
    data = xgb.QuantileDMatrix(dense(x), y, weight=train.weight, max_bin=bins, **own)
    held_out = None
    if seen is not None and valid is not None:  # the loss of quantiles refuses a matrix without targets
        held_out = xgb.DMatrix(dense(seen), valid.y if target is None else target.encode(valid.y), **own)
    settings = _settings(parameters, y, train.weight, target, context) | {"max_bin": bins}
    booster = xgb.Booster(settings, [data] if held_out is None else [data, held_out])
    patience = Patience(least_patience(parameters["learning_rate"]), context.deadline)
    pace = pace_of(parameters, held_out is not None, context.deadline)
    wanted, done = _rounds(parameters, valid), 0
    while done < wanted and not patience.time_is_up() and not patience.is_over(done):
        booster.update(data, done)
        done += 1
        loss = -float(done)  # without validation rows the last round is the best
        if valid is not None and held_out is not None:
            p = _prediction(booster.predict(held_out), target)  # remembers the rounds before
            loss = steering_loss(context.task, context.metric, valid.y, p, valid.weight)
        patience.see(done, loss)
        if pace.step():
            booster.set_param({"learning_rate": pace.rate})
        if pace.has_arrived():
            break
    if not done:
        raise FitTimeout("XGBoost: no time for one round; give spec.budget.maxDurationSeconds more or use fewer rows")
    return xgboost_ubj(bytes(booster[: patience.best_round].save_raw("ubj"))), pace.nominal_rounds(patience.best_round)


def _rounds(parameters: dict[str, Any], valid: Rows | None) -> int:
    if "iterations" in parameters:
        return int(parameters["iterations"])
    wanted = boosting_rounds(parameters["learning_rate"])
    return wanted if valid is not None else min(wanted, ROUNDS_WITHOUT_VALID)


def _settings(
    parameters: dict[str, Any],
    y: np.ndarray,
    weight: np.ndarray | None,
    target: NumberTarget | None,
    context: FitContext,
) -> dict[str, Any]:
    """XGBoost's own parameters. Leaves bounded by number need no bound on depth."""
    own = {k: v for k, v in parameters.items() if k != "iterations"}
    if own["grow_policy"] == "depthwise":
        own["max_leaves"] = 0
    outputs = context.task.outputs
    if context.task.quantiles:
        own |= {"objective": "reg:quantileerror", "quantile_alpha": str(list(context.task.quantiles))}
    elif target is not None:
        own["objective"] = "reg:squarederror" if target.log else _LOSSES.get(context.metric, "reg:squarederror")
    elif outputs == 2:
        # XGBoost's own start is infinite where a fold has one class only
        own |= {
            "objective": "binary:logistic",
            "base_score": float(np.clip(np.average(y, weights=weight), 1e-6, 1 - 1e-6)),
        }
    else:
        own |= {"objective": "multi:softprob", "num_class": outputs}
    return own | {
        "tree_method": "hist",
        "seed": context.seed,
        "nthread": context.threads,
        "disable_default_eval_metric": True,
        "verbosity": 0,
    }


def _model(raw: bytes, target: NumberTarget | None) -> XGBoostModel:
    """A booster that holds only what prediction needs; raises BundleError for bytes that are no model."""
    import xgboost as xgb

    try:
        return XGBoostModel(raw, target, xgb.Booster({"nthread": 1}, model_file=bytearray(raw)))
    except xgb.core.XGBoostError as error:
        raise BundleError(f"{_FILE} is not an XGBoost model: {error}") from error


def _prediction(raw: np.ndarray, target: NumberTarget | None) -> np.ndarray:
    """float32 (n, outputs) of what the booster gives: numbers, the second class's probability, or a row of either."""
    if target is not None:
        columns = raw[:, None] if raw.ndim == 1 else raw
        return np.sort(np.hstack([target.decode(c) for c in columns.T]), axis=1)  # quantiles may cross
    return (np.stack([1 - raw, raw], axis=1) if raw.ndim == 1 else raw).astype(np.float32)
