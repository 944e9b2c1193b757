"""Extremely randomised trees: grown by scikit-learn, kept and predicted as flat arrays.

Flat arrays in safetensors load in a millisecond, do not depend on scikit-learn's version, and answer a single row
faster than scikit-learn's own forest does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, Recipe, fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters, Space
from kubeautoml_trainer.models.target import NumberTarget, load_target, number_target, save_target

_FILE = "extra_trees.safetensors"
_CHUNK_SECONDS = 0.1  # time of one step of growing; the deadline is looked at in between
_ROWS_A_BLOCK = 512  # rows predicted at once, so that the walk stays in the processor's cache
# A tree is one call that cannot be interrupted: these keep it under a second or so and its file small. Guesses.
_VALUES_A_TREE = 4_000_000
_LEAVES_A_TREE = 5_000

DEFAULTS: Parameters = {
    "trees": 100,
    "max_features": 0.5,
    "min_samples_leaf": 1,
    "min_samples_split": 2,
    "criterion": "gini",
}


@dataclass(frozen=True)
class Forest:
    """All trees behind one another; a node's left child is the node after it.

    root: int32 (trees,). feature: int32, threshold: float32 and right: int32 (nodes,); a right child below 0 says
    that the node is leaf number -right - 1. leaf: float32 (leaves, outputs).
    """

    root: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    right: np.ndarray
    leaf: np.ndarray
    target: NumberTarget | None

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        matrix = _matrix(x)
        mean = np.empty((len(matrix), self.leaf.shape[1]), dtype=np.float32)
        for first in range(0, len(matrix), _ROWS_A_BLOCK):
            part = slice(first, first + _ROWS_A_BLOCK)
            mean[part] = self.leaf[self._leaves(matrix[part])].mean(axis=1)
        if self.target is not None:
            return self.target.decode(mean[:, 0])
        return np.asarray(mean / mean.sum(axis=1, keepdims=True), dtype=np.float32)

    def _leaves(self, x: np.ndarray) -> np.ndarray:
        """The leaf that each row reaches in each tree: float32 (n, columns) -> int (n, trees)."""
        node = np.tile(self.root, len(x))
        row = np.repeat(np.arange(len(x)), len(self.root))
        walking = np.flatnonzero(self.right[node] >= 0)
        while walking.size:
            here = node[walking]
            goes_left = x[row[walking], self.feature[here]] <= self.threshold[here]
            here = np.where(goes_left, here + 1, self.right[here])
            node[walking] = here
            walking = walking[self.right[here] >= 0]
        return np.asarray(-self.right[node] - 1).reshape(len(x), len(self.root))

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        arrays = {name: getattr(self, name) for name in ("root", "feature", "threshold", "right", "leaf")}
        save_file(arrays, str(folder / _FILE))
        save_target(self.target, folder)


class ExtraTrees:
    """Randomised trees, averaged: different enough from boosting to help an ensemble."""

    name = "ExtraTrees"
    interpretable = False

    def fits(self, shape: DataShape) -> bool:
        """A leaf holds a number a class."""
        return shape.outputs <= 100

    def space(self, shape: DataShape) -> Space:
        """TabArena's, and the size of a leaf."""
        space: dict[str, Float | Int | Choice] = {
            "max_features": Float(0.1, 1.0),
            "min_samples_split": Int(2, 32, log=True),
            "min_samples_leaf": Int(1, 16, log=True),
        }
        return space | ({"criterion": Choice(("gini", "entropy"))} if shape.outputs > 1 else {})

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """A guess confirmed on Titanic, German credit and Boston: larger leaves for classes, single rows for
        numbers.
        """
        if shape.outputs > 1:
            first: Parameters = {"min_samples_leaf": 5, "max_features": 0.8, "criterion": "entropy"}
            return ((6, first), (12, {"min_samples_leaf": 2, "max_features": 0.5}))
        return ((6, {"min_samples_leaf": 1, "max_features": 0.75}), (12, {"min_samples_leaf": 2, "max_features": 1.0}))

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        recipe = Recipe(scaling="standard", categories="codes", target_means_above=2)
        features, x = fit_features(recipe, train, schema, context.seed)
        target = (
            None
            if schema.classes
            else number_target(train.y, train.weight, context.metric, standardise=True, bounded=False)
        )
        y = train.y if target is None else target.encode(train.y)
        grown = _grow(_matrix(x), y, train.weight, {**DEFAULTS, **parameters}, context, target is None)
        forest = _flatten(grown, context.task.outputs, target)
        return FittedPipeline(self.name, dict(parameters), len(forest.root), features, forest)

    def load(self, folder: Path) -> Forest:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return Forest(**load_file(str(folder / _FILE)), target=load_target(folder))
        except (OSError, TypeError, SafetensorError) as error:
            raise BundleError(f"{folder / _FILE} cannot be read: {error!r}") from error


def _grow(
    x: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray | None,
    parameters: dict[str, Any],
    context: FitContext,
    classes: bool,
) -> Any:
    """Grow trees a few at a time until there are enough or time ends; returns scikit-learn's forest."""
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    rows = max(2, _VALUES_A_TREE // max(1, x.shape[1]))
    forest = (ExtraTreesClassifier if classes else ExtraTreesRegressor)(
        n_estimators=0,
        criterion=parameters["criterion"] if classes else "squared_error",
        max_features=float(parameters["max_features"]),
        min_samples_leaf=max(int(parameters["min_samples_leaf"]), min(rows, len(x)) // _LEAVES_A_TREE),
        min_samples_split=int(parameters["min_samples_split"]),
        bootstrap=len(x) > rows,
        max_samples=rows if len(x) > rows else None,
        n_jobs=context.threads,
        random_state=context.seed,
        warm_start=True,
    )
    wanted, step, seconds = int(parameters["trees"]), context.threads, 0.0
    while forest.n_estimators < wanted:
        started = time.monotonic()
        if started + seconds > context.deadline:
            break
        forest.set_params(n_estimators=min(wanted, forest.n_estimators + step))
        forest.fit(x, y, sample_weight=weight)
        seconds = time.monotonic() - started
        if seconds < _CHUNK_SECONDS:
            step, seconds = step * 2, seconds * 2
    if not forest.n_estimators:
        raise FitTimeout("ExtraTrees: no time for one tree; give spec.budget.maxDurationSeconds more or use fewer rows")
    return forest


def _flatten(grown: Any, outputs: int, target: NumberTarget | None) -> Forest:
    """Put scikit-learn's trees behind one another."""
    columns = np.asarray(grown.classes_, dtype=np.intp) if target is None else np.zeros(1, dtype=np.intp)
    parts: list[tuple[np.ndarray, ...]] = []
    nodes = leaves = 0
    for tree in (estimator.tree_ for estimator in grown.estimators_):
        is_leaf = tree.children_left < 0
        if not np.array_equal(tree.children_left[~is_leaf], np.flatnonzero(~is_leaf) + 1):
            raise AssertionError("scikit-learn no longer stores a left child behind its parent")
        value = np.zeros((int(is_leaf.sum()), outputs), dtype=np.float32)
        value[:, columns] = tree.value[is_leaf, 0, :]
        right = np.where(is_leaf, -(np.cumsum(is_leaf) + leaves), tree.children_right + nodes)
        parts.append((np.array([nodes]), np.where(is_leaf, 0, tree.feature), _floor(tree.threshold), right, value))
        nodes, leaves = nodes + len(right), leaves + len(value)
    root, feature, threshold, right, leaf = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Forest(root.astype(np.int32), feature.astype(np.int32), threshold, right.astype(np.int32), leaf, target)


def _floor(threshold: np.ndarray) -> np.ndarray:
    """The greatest float32 not above each float64: a float32 x is <= one exactly when it is <= the other."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)


def _matrix(x: Encoded) -> np.ndarray:
    """float32 (n, columns), as scikit-learn's trees read it."""
    if not x.numbers.shape[1] + x.codes.shape[1]:
        return np.zeros((len(x), 1), dtype=np.float32)
    return np.ascontiguousarray(np.hstack([x.numbers, x.codes]), dtype=np.float32)
