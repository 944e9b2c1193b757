"""Forests: how scikit-learn's trees are grown under a deadline, kept, and averaged. What tree families read is here too."""

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
from kubeautoml_trainer.models.blocks import in_blocks
from kubeautoml_trainer.models.lightgbm import RECIPES, makeable
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters
from kubeautoml_trainer.models.target import NumberTarget, load_target, save_target, standard_target
from kubeautoml_trainer.models.trees import Trees, coded, decoded, flatten

MOST_CLASSES = 100
"""A leaf holds a number a class: more classes make a forest larger than a server should hold."""

_FEW_CLASSES = 20  # with more, the means of the target would be more columns than everything else
_CHUNK_SECONDS = 0.1  # time of one step of growing; the deadline is looked at in between
# A tree is one call that cannot be interrupted: these keep it under a second or so and its file small. Guesses.
_VALUES_A_TREE = 4_000_000
_LEAVES_A_TREE = 5_000
_LEAST_LEAVES = 200
# A forest of small trees may have 300 of them; one of large trees ends at about 100, where more trees gain less than
# they weigh (some 5 bytes a leaf). A guess.
_ENOUGH_TREES, _LEAVES_A_FOREST = 100, 500_000
_ROWS_TO_KEEP = 50_000  # drawn, for one of each leaf; a leaf that none reaches keeps its mean
_VALUES_A_FOREST = 20_000_000  # numbers in the leaves of a hundred trees: 80 MB


def tree_recipe(outputs: int, made: str) -> Recipe:
    """What scikit-learn's trees read: numbers without gaps, categories as codes and as the target's means, and made
    features (one of `lightgbm.RECIPES`).
    """
    means = 2 if outputs <= _FEW_CLASSES else None
    settings: dict[str, Any] = {"scaling": "standard", "target_means_above": means, **RECIPES[made]}
    return Recipe(**settings)


def made_features(shape: DataShape) -> dict[str, Float | Int | Choice]:
    """The part of a tree family's space that says which features are made."""
    made = makeable(shape)
    return {"features": Choice(made)} if len(made) > 1 and shape.outputs <= _FEW_CLASSES else {}


_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Forest:
    """Trees whose leaves are averaged. leaf: float32 (leaves, values). target: how a number was written; None for
    classes. file: the name it is stored under. quantiles: float64 (q,), rising; where there are any, a leaf holds one
    of its training rows, and the prediction is their quantiles over all trees.
    """

    trees: Trees
    leaf: np.ndarray
    target: NumberTarget | None
    file: str
    quantiles: np.ndarray

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        matrix = dense(x)
        mean = np.empty((len(matrix), len(self.quantiles) or self.leaf.shape[1]), dtype=np.float32)

        def answer(part: slice) -> None:
            reached = self.leaf[self.trees.leaves(matrix[part])]
            if len(self.quantiles):
                mean[part] = np.quantile(reached[:, :, 0], self.quantiles, axis=1).T
            else:
                mean[part] = reached.mean(axis=1)

        in_blocks(len(matrix), self.trees.block(self.leaf.shape[1]), threads, answer)
        if self.target is not None:
            return np.hstack([self.target.decode(column) for column in mean.T])
        return np.asarray(mean / mean.sum(axis=1, keepdims=True), dtype=np.float32)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        save_file(
            {**self.trees.arrays(), **coded(self.leaf), "quantiles": self.quantiles},
            str(folder / self.file),
        )
        save_target(self.target, folder)


def load_forest(folder: Path, file: str) -> Forest:
    """Read what `Forest.save` wrote.

    Raises:
        BundleError: absent or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(str(folder / file))
        return Forest(Trees.from_arrays(arrays), decoded(arrays), load_target(folder), file, arrays["quantiles"])
    except (OSError, KeyError, ValueError, IndexError, SafetensorError) as error:
        raise BundleError(f"{folder / file} cannot be read: {error!r}") from error


@dataclass(frozen=True)
class Kind:
    """One kind of forest: its family's name, scikit-learn's class without its ending, its file, its defaults.

    defaults: trees, max_features (a share, or "sqrt"), min_samples_leaf, min_samples_split, criterion (of classes),
    features (as `made_features`), and for bootstrapped trees max_samples (a share of the rows).
    """

    family: str
    library: str
    file: str
    defaults: Parameters


def fit_forest(kind: Kind, train: Rows, schema: Schema, parameters: Parameters, context: FitContext) -> FittedPipeline:
    """Grow a forest until it has its trees, is large enough, or time ends.

    Raises:
        FitTimeout: no time for one tree.
    """
    settings = {**kind.defaults, **parameters}
    recipe = tree_recipe(context.task.outputs, str(settings["features"]))
    features, encoded = fit_features(recipe, train, schema, context.seed, context.deadline)
    x = dense(encoded)
    del encoded  # of many rows, as large as the data itself
    target = standard_target(train, schema, context.metric, bounded=False)
    y = train.y if target is None else target.encode(train.y)
    grown = _unfitted(kind, x, settings, context, target is None)
    _grow(kind, grown, x, y, train.weight, int(settings["trees"]), context)
    trees, value = flatten([e.tree_ for e in grown.estimators_])
    trees = trees.with_few_splits(x)
    columns = np.asarray(grown.classes_, dtype=np.intp) if target is None else np.zeros(1, dtype=np.intp)
    quantiles = np.asarray(context.task.quantiles, dtype=np.float64)
    leaf = np.zeros((len(value), 1 if len(quantiles) else context.task.outputs), dtype=np.float32)
    leaf[:, columns] = value
    if len(quantiles):
        _keep_one_row(trees, leaf[:, 0], x, y, train.weight, context.seed)
    forest = Forest(trees, leaf, target, kind.file, quantiles)
    return FittedPipeline(kind.family, dict(parameters), len(trees), features, forest)


def _keep_one_row(
    trees: Trees, leaf: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None, seed: int
) -> None:
    """Put into each leaf the target of one of its rows, at random: over many trees these are distributed as the target
    is (Meinshausen 2006, Quantile Regression Forests, JMLR 7). A row comes in as often as it weighs.
    """
    share = None if weight is None else weight / weight.sum()
    rows = np.random.default_rng(seed).choice(len(x), min(4 * len(x), _ROWS_TO_KEEP), p=share)
    for first in range(0, len(rows), trees.block()):
        part = rows[first : first + trees.block()]
        leaf[trees.leaves(x[part])] = y[part, None]


def _unfitted(kind: Kind, x: np.ndarray, settings: dict[str, Any], context: FitContext, classes: bool) -> Any:
    """scikit-learn's forest, without a tree as yet. Of very many values each tree sees a sample."""
    from sklearn import ensemble

    rows = min(len(x), max(2, _VALUES_A_TREE // x.shape[1]))
    share = settings.get("max_samples")
    sample = rows if share is None else max(1, min(rows, round(float(share) * len(x))))
    leaves = min(_LEAVES_A_TREE, max(_LEAST_LEAVES, _VALUES_A_FOREST // (_ENOUGH_TREES * context.task.outputs)))
    wide = settings["max_features"]
    bootstraps = share is not None or sample < len(x)
    return getattr(ensemble, kind.library + ("Classifier" if classes else "Regressor"))(
        n_estimators=0,
        criterion=settings["criterion"] if classes else "squared_error",
        max_features="sqrt" if wide == "sqrt" else float(wide),
        min_samples_leaf=max(int(settings["min_samples_leaf"]), sample // leaves),
        min_samples_split=int(settings["min_samples_split"]),
        bootstrap=bootstraps,
        max_samples=sample if bootstraps else None,
        n_jobs=context.threads,
        random_state=context.seed,
        warm_start=True,
    )


def _grow(
    kind: Kind, forest: Any, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None, wanted: int, context: FitContext
) -> None:
    """Grow a few trees at a time, so that the clock can be looked at in between.

    How many there may be is settled at the hundredth, whatever the clock said: the same seed gives the same forest.
    """
    step, seconds = context.threads, 0.0
    while forest.n_estimators < wanted:
        started, done = time.monotonic(), forest.n_estimators
        if started + seconds > context.deadline:
            break
        goal = min(wanted, _ENOUGH_TREES) if done < _ENOUGH_TREES else wanted
        forest.set_params(n_estimators=min(goal, done + step))
        forest.fit(x, y, sample_weight=weight)
        if forest.n_estimators == _ENOUGH_TREES:
            leaves = sum(e.get_n_leaves() for e in forest.estimators_)
            room = _LEAVES_A_FOREST * _ENOUGH_TREES // (leaves * context.task.outputs)
            wanted = min(wanted, max(_ENOUGH_TREES, room))
        seconds = time.monotonic() - started
        if seconds < _CHUNK_SECONDS:
            step, seconds = step * 2, seconds * 2
    if not forest.n_estimators:
        raise FitTimeout(
            f"{kind.family}: no time for one tree; give spec.budget.maxDurationSeconds more or use fewer rows"
        )


def dense(x: Encoded) -> np.ndarray:
    """float32 (n, columns), as trees read it: numbers before codes; one column of zeros where there is none.

    What is too large for float32 becomes its largest number: a tree asks only on which side of a threshold it lies.
    """
    numbers = x.numbers.shape[1]
    out = np.zeros((len(x), max(1, numbers + x.codes.shape[1])), dtype=np.float32)
    out[:, :numbers] = np.clip(x.numbers, -_LARGEST, _LARGEST)
    out[:, numbers : numbers + x.codes.shape[1]] = x.codes
    return out
