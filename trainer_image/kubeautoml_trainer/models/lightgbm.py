"""LightGBM: gradient-boosted trees with native categories; the best quality a second, so the first strong entry."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, Recipe, fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.early_stopping import (
    ROUNDS_WITHOUT_VALID,
    Patience,
    boosting_rounds,
    histogram_bins,
    least_patience,
    pace_of,
    steering_loss,
)
from kubeautoml_trainer.models.leaf_values import KEPT, LEAN, lightgbm_leaves
from kubeautoml_trainer.models.lightgbm_quantiles import (
    FILE as QUANTILES_FILE,
)
from kubeautoml_trainer.models.lightgbm_quantiles import (
    QuantileBoosters,
    load_quantile_boosters,
    quantile_boosters,
)
from kubeautoml_trainer.models.lightgbm_scores import BoosterScores
from kubeautoml_trainer.models.packed import read_packed, write_packed
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.prediction_only import lightgbm_text
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters, Space
from kubeautoml_trainer.models.target import NumberTarget, load_target, number_target, save_target
from kubeautoml_trainer.models.text_choice import taken_recipe, text_choice, with_embeddings
from kubeautoml_trainer.tasks.metrics import pinball, weights_or_ones

_FILE = "lightgbm.txt.zst"
_REFUSALS = 20  # rounds in a row without a split after which there is nothing left to learn; a guess

DEFAULTS: Parameters = {
    "learning_rate": 0.05,
    "num_leaves": 31,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.9,
    "min_data_in_leaf": 20,
    "lambda_l1": 0.0,
    "lambda_l2": 0.0,
    "extra_trees": False,
    "min_data_per_group": 100,
    "cat_l2": 10.0,
    "cat_smooth": 10.0,
    "max_cat_to_onehot": 4,
    "features": "none",
}

# Made features, as AutoGluon's "prep" entries of LightGBM: A arithmetic of numbers and numbers within categories, CT
# crosses of categories and means of the target, ACT both. Kept are few: what is chosen well needs no mass.
_ARITHMETIC = {"arithmetic": 32, "groups": 16}
_CROSSES = {"crosses": 24, "target_means_above": 2, "frequencies": True}
RECIPES: dict[str, dict[str, Any]] = {
    "none": {},
    "A": _ARITHMETIC,
    "CT": _CROSSES,
    "ACT": _ARITHMETIC | _CROSSES,
}

# With made features; ranks and values as ENGINE.md 1.3 has them, learning faster for the reason given below.
PREPARED: tuple[tuple[int, Parameters], ...] = (
    (
        5,
        {
            "extra_trees": True, "learning_rate": 0.05, "num_leaves": 64, "feature_fraction": 0.55,
            "bagging_fraction": 0.99, "lambda_l1": 0.91, "lambda_l2": 1.9, "min_data_in_leaf": 28,
        },
    ),
    (
        9,
        {
            "extra_trees": True, "learning_rate": 0.03, "num_leaves": 8, "feature_fraction": 0.42,
            "bagging_fraction": 0.72, "min_data_in_leaf": 15,
        },
    ),
    (
        14,
        {
            "learning_rate": 0.04, "num_leaves": 16, "feature_fraction": 0.58, "bagging_fraction": 0.96,
            "lambda_l1": 0.94, "lambda_l2": 0.99, "min_data_in_leaf": 1,
        },
    ),
)  # fmt: skip

# Rounded from the configurations published with TabArena (Erickson et al. 2025, arXiv:2506.16791) and AutoGluon's
# zero-shot portfolio. The second one learns at 0.05, not 0.018: measured on three sets, a third of the time for the
# same score.
PORTFOLIO: tuple[tuple[int, Parameters], ...] = (
    (2, {}),
    (
        4,
        {
            "extra_trees": True, "learning_rate": 0.05, "num_leaves": 39, "feature_fraction": 0.46,
            "bagging_fraction": 0.88, "lambda_l1": 0.24, "lambda_l2": 0.36, "min_data_in_leaf": 3,
            "cat_l2": 0.34, "cat_smooth": 15.0,
        },
    ),
    (
        8,
        {
            "learning_rate": 0.03, "num_leaves": 84, "feature_fraction": 0.53, "bagging_fraction": 0.98,
            "lambda_l2": 0.84, "min_data_in_leaf": 3,
        },
    ),
    (
        11,
        {
            "extra_trees": True, "learning_rate": 0.03, "num_leaves": 5, "feature_fraction": 0.6,
            "bagging_fraction": 0.9, "min_data_in_leaf": 12,
        },
    ),
    (
        13,
        {
            "extra_trees": True, "learning_rate": 0.018, "num_leaves": 180, "feature_fraction": 0.40,
            "bagging_fraction": 0.95, "lambda_l1": 0.77, "lambda_l2": 1.6, "min_data_in_leaf": 12,
        },
    ),
)  # fmt: skip

IMAGES: tuple[tuple[int, Parameters], ...] = (
    (5, {"learning_rate": 0.1, "num_leaves": 15, "feature_fraction": 0.1}),
    (
        13,
        {
            "extra_trees": True, "learning_rate": 0.05, "num_leaves": 39, "feature_fraction": 0.2,
            "bagging_fraction": 0.88, "lambda_l1": 0.24, "lambda_l2": 0.36, "min_data_in_leaf": 3,
        },
    ),
)  # fmt: skip
"""For the hundreds of numbers that an image becomes, of which a tree needs few: MNIST, 1,400 digits, 0.962 in 2 s; with 64 principal
components in their place 0.918, with all of them ten times the time."""

# What the metric is really about, where LightGBM has a loss for it.
_LOSSES = {"Mae": "regression_l1", "MedianAbsoluteError": "regression_l1", "Mape": "mape"}


@dataclass(frozen=True)
class BoosterModel:
    """A LightGBM booster cut at its best round. target: how a number was written; None for classes."""

    booster: BoosterScores = field(repr=False)
    target: NumberTarget | None

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        said = self.booster.probabilities if self.target is None else self.booster.scores
        return _prediction(said(x.numbers, threads), self.target)

    def save(self, folder: Path) -> None:
        write_packed(folder / _FILE, self.booster.text.encode())
        save_target(self.target, folder)

    def lean(self) -> BoosterModel:
        return _model(lightgbm_leaves(self.booster.text, LEAN), self.target)


class LightGBM:
    """Boosted trees."""

    name = "LightGBM"
    interpretable = False
    relative_cost = 1.0
    rounds_parameter = "iterations"

    def fits(self, shape: DataShape) -> bool:
        return True

    def space(self, shape: DataShape) -> Space:
        """TabArena's (approved by LightGBM's authors), without the parts about categories when there are none."""
        space: dict[str, Float | Int | Choice] = {
            "learning_rate": Float(0.005, 0.1, log=True),
            "num_leaves": Int(2, 200, log=True),
            "feature_fraction": Float(0.05, 0.4, log=True) if shape.images else Float(0.4, 1.0),
            "bagging_fraction": Float(0.7, 1.0),
            "min_data_in_leaf": Int(1, 64, log=True),
            "extra_trees": Choice((False, True)),
            "lambda_l1": Float(1e-4, 1.0),
            "lambda_l2": Float(1e-4, 2.0),
        }
        if shape.categories:
            space |= {
                "min_data_per_group": Int(2, 100, log=True),
                "cat_l2": Float(0.005, 2.0, log=True),
                "cat_smooth": Float(1e-3, 100.0, log=True),
                "max_cat_to_onehot": Int(8, 100, log=True),
            }
        made = makeable(shape)
        if len(made) > 1:
            space["features"] = Choice(made)
        return space | text_choice(shape)

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """The plain entries, and those with all features that can be made of such data."""
        if shape.images:
            return IMAGES
        best = makeable(shape)[-1]
        made = () if best == "none" else tuple((rank, {**entry, "features": best}) for rank, entry in PREPARED)
        return tuple(sorted((*PORTFOLIO, *made, *with_embeddings(shape, 3, {})), key=lambda ranked: ranked[0]))

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        settings = {**DEFAULTS, **parameters}
        recipe = Recipe(categories="joined", **RECIPES[str(settings["features"])], **taken_recipe(settings))
        features, x = fit_features(recipe, train, schema, context.seed, context.deadline)
        target = (
            None
            if schema.classes
            else number_target(train.y, train.weight, context.metric, standardise=False, bounded=False)
        )
        data = _Data(x, train, None if valid is None else features.transform(valid.frame), valid, target)
        if schema.quantiles:
            texts, best = _boost_quantiles(data, settings, context)
            return FittedPipeline(self.name, dict(parameters), best, features, quantile_boosters(texts))
        text, best = _boost(data, settings, context)
        return FittedPipeline(self.name, dict(parameters), best, features, _model(text, target))

    def load(self, folder: Path) -> BoosterModel | QuantileBoosters:
        if (folder / QUANTILES_FILE).exists():
            return load_quantile_boosters(folder)
        try:
            text = read_packed(folder / _FILE).decode()
        except UnicodeDecodeError as error:
            raise BundleError(f"{folder / _FILE} cannot be read: {error}") from error
        return _model(text, load_target(folder))


@dataclass(frozen=True)
class _Data:
    """Encoded rows beside the rows they come from."""

    x: Encoded
    train: Rows
    x_valid: Encoded | None
    valid: Rows | None
    target: NumberTarget | None

    def datasets(self, threads: int) -> tuple[Any, Any]:
        """LightGBM's (training, validation or None)."""
        import lightgbm as lgb

        width = self.x.numbers.shape[1]
        categories = list(range(width - self.x.codes.shape[1], width))
        made: list[Any] = [None, None]
        for k, (x, rows) in enumerate(((self.x, self.train), (self.x_valid, self.valid))):
            if x is not None and rows is not None:
                y = rows.y if self.target is None else self.target.encode(rows.y)
                made[k] = lgb.Dataset(
                    x.numbers,
                    y,
                    weight=rows.weight,
                    reference=made[0],
                    categorical_feature=categories,
                    params={"verbosity": -1, "num_threads": threads, "max_bin": histogram_bins(width)},
                )
        return made[0], made[1]


def _boost_quantiles(data: _Data, parameters: dict[str, Any], context: FitContext) -> tuple[tuple[str, ...], int]:
    """A booster a quantile, each with its share of the time left; their texts, and the mean of their best rounds."""
    texts, rounds, levels = [], [], context.task.quantiles
    for k, level in enumerate(levels):
        left = context.deadline - time.monotonic()
        share = context.deadline if not math.isfinite(left) else time.monotonic() + left / (len(levels) - k)
        text, best = _boost(data, parameters, replace(context, deadline=share), level)
        texts.append(text)
        rounds.append(best)
    return tuple(texts), round(sum(rounds) / len(rounds))


def _boost(data: _Data, parameters: dict[str, Any], context: FitContext, level: float | None = None) -> tuple[str, int]:
    """Boost until patience, rounds or time end; returns the model's text, cut at the best round, and that round.

    Args:
        level: the quantile to predict; None for what the task is about.
    """
    import lightgbm as lgb

    train_set, valid_set = data.datasets(context.threads)
    settings = _settings(parameters, len(data.train), data.target, context)
    if level is not None:
        settings |= {"objective": "quantile", "alpha": level}
    booster = lgb.Booster(settings, train_set)
    patience = Patience(least_patience(parameters["learning_rate"]), context.deadline)
    pace = pace_of(parameters, data.valid is not None, context.deadline)
    seen: list[np.ndarray] = []

    def keep(raw: np.ndarray, _: Any) -> tuple[str, float, bool]:
        seen.append(raw)
        return "unused", 0.0, True

    if valid_set is not None:
        booster.add_valid(valid_set, "valid")
    done = refused = 0
    while done < _rounds(parameters, data.valid) and not patience.time_is_up() and not patience.is_over(done):
        if booster.update():
            refused += 1
            if refused > _REFUSALS:
                break
            continue  # no split was found; another sample of columns or thresholds may find one
        done, refused = done + 1, 0
        loss = -float(done)  # without validation rows the last round is the best
        if data.valid is not None:
            booster.eval_valid(keep)
            p = _prediction(seen.pop(), data.target)
            if level is None:
                loss = steering_loss(context.task, context.metric, data.valid.y, p, data.valid.weight)
            else:
                loss = pinball(data.valid.y, p, weights_or_ones(data.valid.weight, len(data.valid)), (level,))
        patience.see(done, loss)
        if pace.step():
            booster.reset_parameter({"learning_rate": pace.rate})
        if pace.has_arrived():
            break
    if not done and time.monotonic() > context.deadline:
        raise FitTimeout("LightGBM: no time for one round; give spec.budget.maxDurationSeconds more or use fewer rows")
    best = max(patience.best_round, 1)
    text = lightgbm_leaves(lightgbm_text(booster.model_to_string(num_iteration=best)), KEPT)
    return text, pace.nominal_rounds(best)


def _rounds(parameters: dict[str, Any], valid: Rows | None) -> int:
    if "iterations" in parameters:
        return int(parameters["iterations"])
    wanted = boosting_rounds(parameters["learning_rate"])
    return wanted if valid is not None else min(wanted, ROUNDS_WITHOUT_VALID)


def _settings(
    parameters: dict[str, Any], rows: int, target: NumberTarget | None, context: FitContext
) -> dict[str, Any]:
    """LightGBM's own parameters. Leaves of a small table may be small: else nothing could be split."""
    own = {k: v for k, v in parameters.items() if k not in ("iterations", "features")}
    own["min_data_in_leaf"] = min(int(own["min_data_in_leaf"]), max(1, rows // 20))
    outputs = context.task.outputs
    if target is not None:
        own["objective"] = "regression" if target.log else _LOSSES.get(context.metric, "regression")
    else:
        own |= {"objective": "binary"} if outputs == 2 else {"objective": "multiclass", "num_class": outputs}
    return own | {
        "metric": "None",
        "bagging_freq": 1,
        "seed": context.seed,
        "num_threads": context.threads,
        "deterministic": True,
        "force_col_wise": True,
        # megabytes; a histogram for each leaf of 5,000 columns would be gigabytes
        "histogram_pool_size": 256,
        "verbosity": -1,
    }


def _model(text: str, target: NumberTarget | None) -> BoosterModel:
    """A booster that holds only what prediction needs; raises BundleError for text that is no model."""
    import lightgbm as lgb

    try:
        return BoosterModel(BoosterScores(text), target)
    except lgb.basic.LightGBMError as error:
        raise BundleError(f"{_FILE} is not a LightGBM model: {error}") from error


def makeable(shape: DataShape) -> tuple[str, ...]:
    """Which of `RECIPES` can make anything of such data, the richest last."""
    numbers = shape.features - shape.categories - shape.texts - shape.images
    arithmetic, crosses = numbers > 1 or (numbers > 0 and shape.categories > 0), shape.categories > 0
    if arithmetic and crosses:
        return ("none", "A", "CT", "ACT")
    return ("none", "A") if arithmetic else ("none", "CT") if crosses else ("none",)


def _prediction(raw: np.ndarray, target: NumberTarget | None) -> np.ndarray:
    """float32 (n, outputs) of what the booster gives: numbers, the second class's probability, or a row of them."""
    if target is not None:
        return target.decode(raw)
    return (np.stack([1 - raw, raw], axis=1) if raw.ndim == 1 else raw).astype(np.float32)
