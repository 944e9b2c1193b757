"""Gradient boosting with exact splits, for small tables: grown by scikit-learn, kept and predicted as flat arrays.

Exact thresholds beat histograms where there are few rows (on Boston better than any booster by histogram); they cost too much where
there are many.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.blocks import by_shares, in_blocks
from kubeautoml_trainer.models.dummy import ConstantModel, load_constant
from kubeautoml_trainer.models.early_stopping import Patience, boosting_rounds, least_patience, steering_loss
from kubeautoml_trainer.models.forest import dense, made_features, tree_recipe
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Float, Int, Parameters, Space
from kubeautoml_trainer.models.target import NumberTarget, load_target, save_target, standard_target
from kubeautoml_trainer.models.tree_walker import Walker, WayForMany
from kubeautoml_trainer.models.trees import Trees, flatten

_FILE = "gradient_boosting.safetensors"
_MOST_ROWS, _MOST_CLASSES = 5_000, 20  # an exact split looks at every row; a guess
_VALUES_A_ROUND = 5_000_000  # (row, column, class) values: a round, which cannot be interrupted, takes some seconds
_ROUNDS_WITHOUT_VALID = 300  # a guess, for a fit that has nothing to stop by

DEFAULTS: Parameters = {
    "learning_rate": 0.04,
    "max_depth": 4,
    "max_features": 0.4,
    "subsample": 0.7,
    "min_samples_leaf": 1,
    "features": "none",
}

# What the metric is really about, where scikit-learn has a loss for it.
_LOSSES = {"Mae": "absolute_error", "MedianAbsoluteError": "absolute_error"}


@dataclass(frozen=True)
class BoostedTrees:
    """start + the sum of the leaves reached: each round adds a leaf to each score.

    trees: round by round, and in a round one for each of k scores. leaf: float32 (leaves,), times the learning rate.
    start: float64 (k,). classes: intp, those that training had; for two of them there is one score, of the second.
    outputs: of a prediction. target: how a number was written; None for classes.
    """

    trees: Trees
    leaf: np.ndarray
    start: np.ndarray
    classes: np.ndarray
    outputs: int
    target: NumberTarget | None
    _walker: WayForMany[Walker] = field(default_factory=WayForMany, init=False, repr=False, compare=False)

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        matrix, k = dense(x), len(self.start)
        walker = self._walker.of(len(matrix), lambda: Walker(self.trees.nodes(self.leaf), matrix.shape[1], k))
        if walker is not None:
            sums = by_shares(len(matrix), threads, lambda rows: walker.sums(matrix[rows]))
            return _prediction(self.start + sums, self.classes, self.outputs, self.target)
        score = np.empty((len(matrix), k))

        def answer(part: slice) -> None:
            reached = self.leaf[self.trees.leaves(matrix[part])].astype(np.float64)
            score[part] = self.start + reached.reshape(len(reached), -1, k).sum(axis=1)

        in_blocks(len(matrix), self.trees.block(), threads, answer)
        return _prediction(score, self.classes, self.outputs, self.target)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        outputs = np.array([self.outputs], dtype=np.int64)
        more = {"leaf": self.leaf, "start": self.start, "classes": self.classes, "outputs": outputs}
        save_file({**self.trees.arrays(), **more}, str(folder / _FILE))
        save_target(self.target, folder)


class GradientBoosting:
    """Boosted trees with exact splits."""

    name = "GradientBoosting"
    interpretable = False
    relative_cost = 5.0
    rounds_parameter = "iterations"

    def fits(self, shape: DataShape) -> bool:
        """On more rows the boosters by histogram are as good and many times faster."""
        values = shape.rows * shape.width * shape.outputs
        return shape.rows <= _MOST_ROWS and shape.outputs <= _MOST_CLASSES and values <= _VALUES_A_ROUND

    def space(self, shape: DataShape) -> Space:
        """A guess around the defaults."""
        return {
            "learning_rate": Float(0.01, 0.2, log=True),
            "max_depth": Int(2, 8),
            "max_features": Float(0.1, 1.0),
            "subsample": Float(0.4, 1.0),
            "min_samples_leaf": Int(1, 32, log=True),
            **made_features(shape),
        }

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """The defaults, good on Boston; classes want larger leaves (measured on Titanic and breast cancer)."""
        if shape.outputs > 1:
            return ((7, {"max_depth": 4, "min_samples_leaf": 5, "subsample": 0.6}),)
        return ((7, {}),)

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        if train.weight is not None:
            train = train.take(train.weight > 0)  # scikit-learn counts no class that weighs nothing
        settings = {**DEFAULTS, **parameters}
        recipe = tree_recipe(context.task.outputs, str(settings["features"]))
        features, x = fit_features(recipe, train, schema, context.seed, context.deadline)
        target = standard_target(train, schema, context.metric, bounded=False)
        if target is None and len(np.unique(train.y)) < 2:  # scikit-learn refuses such a target
            constant = ConstantModel(context.task.prior(train.y, train.weight))
            return FittedPipeline(self.name, dict(parameters), None, features, constant)
        held_out = None if valid is None else (dense(features.transform(valid.frame)), valid)
        model, best = _boost(dense(x), train, held_out, target, settings, context)
        return FittedPipeline(self.name, dict(parameters), best, features, model)

    def load(self, folder: Path) -> BoostedTrees | ConstantModel:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if not (folder / _FILE).exists():
            return load_constant(folder)
        try:
            arrays = load_file(str(folder / _FILE))
            leaf, start, classes, outputs = (arrays[name] for name in ("leaf", "start", "classes", "outputs"))
            trees = Trees.from_arrays(arrays)
            return BoostedTrees(trees, leaf, start, classes, int(outputs[0]), load_target(folder))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise BundleError(f"{folder / _FILE} cannot be read: {error!r}") from error


class _Monitor:
    """scikit-learn's callback after each round: ends training by patience on the validation loss, and by the
    deadline.
    """

    def __init__(
        self,
        held_out: tuple[np.ndarray, Rows] | None,
        target: NumberTarget | None,
        patience: Patience,
        context: FitContext,
    ) -> None:
        self.held_out, self.target, self.patience, self.context = held_out, target, patience, context
        self.score = np.zeros(0)

    def __call__(self, done: int, booster: Any, _: Any) -> bool:
        """True ends training. done: rounds before this one."""
        loss = -float(done)  # without validation rows the last round is the best
        if self.held_out is not None:
            x, rows = self.held_out
            if done == 0:
                self.score = np.tile(_start(booster, self.target), (len(rows), 1))
            for k, tree in enumerate(booster.estimators_[done]):
                self.score[:, k] += booster.learning_rate * tree.tree_.predict(x)[:, 0]
            p = _prediction(self.score, _classes(booster, self.target), self.context.task.outputs, self.target)
            loss = steering_loss(self.context.task, self.context.metric, rows.y, p, rows.weight)
        self.patience.see(done + 1, loss)
        return self.patience.is_over(done + 1) or self.patience.time_is_up()


def _boost(
    x: np.ndarray,
    train: Rows,
    held_out: tuple[np.ndarray, Rows] | None,
    target: NumberTarget | None,
    parameters: dict[str, Any],
    context: FitContext,
) -> tuple[BoostedTrees, int]:
    """Boost until patience, rounds or time end; returns the model, cut at the best round, and that round."""
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    rounds = int(parameters.get("iterations", boosting_rounds(parameters["learning_rate"])))
    settings = {
        "n_estimators": rounds
        if held_out is not None or "iterations" in parameters
        else min(rounds, _ROUNDS_WITHOUT_VALID),
        "learning_rate": float(parameters["learning_rate"]),
        "max_depth": int(parameters["max_depth"]),
        "max_features": float(parameters["max_features"]),
        # a share of very few rows may be none at all
        "subsample": max(float(parameters["subsample"]), min(1.0, 2 / len(train))),
        "min_samples_leaf": int(parameters["min_samples_leaf"]),
        "random_state": context.seed,
    }
    if target is None:
        booster, y = GradientBoostingClassifier(**settings), train.y
    else:
        loss = "squared_error" if target.log else _LOSSES.get(context.metric, "squared_error")
        booster, y = GradientBoostingRegressor(loss=loss, **settings), target.encode(train.y)
    patience = Patience(least_patience(settings["learning_rate"]), context.deadline)
    if patience.time_is_up():
        raise FitTimeout(
            "GradientBoosting: no time for one round; give spec.budget.maxDurationSeconds more or use fewer rows"
        )
    booster.fit(x, y, sample_weight=train.weight, monitor=_Monitor(held_out, target, patience, context))
    best = patience.best_round
    trees, value = flatten([tree.tree_ for round_ in booster.estimators_[:best] for tree in round_])
    leaf = (value[:, 0] * settings["learning_rate"]).astype(np.float32)
    classes = _classes(booster, target)
    return BoostedTrees(trees, leaf, _start(booster, target), classes, context.task.outputs, target), best


def _start(booster: Any, target: NumberTarget | None) -> np.ndarray:
    """float64 (scores,): what boosting starts from, as scikit-learn has it."""
    if target is not None:
        return np.asarray(booster.init_.predict(np.zeros((1, 1))), dtype=np.float64).reshape(1)
    least = np.finfo(np.float64).eps
    share = np.clip(booster.init_.class_prior_, least, 1 - least)
    if len(share) == 2:
        return np.asarray(np.log(share[1:] / (1 - share[1:])))
    log = np.log(share)
    return np.asarray(log - log.mean())


def _classes(booster: Any, target: NumberTarget | None) -> np.ndarray:
    """intp (classes,): those that training had."""
    return np.zeros(0, dtype=np.intp) if target is not None else np.asarray(booster.classes_, dtype=np.intp)


def _prediction(score: np.ndarray, classes: np.ndarray, outputs: int, target: NumberTarget | None) -> np.ndarray:
    """float32 (n, outputs) of scores float64 (n, k); a class that training never had gets nothing."""
    if target is not None:
        return target.decode(score[:, 0])
    if score.shape[1] == 1:
        score = np.hstack([np.zeros_like(score), score])
    e = np.exp(score - score.max(axis=1, keepdims=True))
    p = np.zeros((len(score), outputs), dtype=np.float32)
    p[:, classes] = e / e.sum(axis=1, keepdims=True)
    return p
