"""Nearest neighbours: a row is like the rows around it. Weak alone, different from all others in an ensemble."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.blocks import in_blocks
from kubeautoml_trainer.models.distances import distance_recipe, smallest
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.relevance import relevance
from kubeautoml_trainer.models.space import Choice, Int, Parameters, Space
from kubeautoml_trainer.models.target import NumberTarget, load_target, save_target, standard_target
from kubeautoml_trainer.models.text_choice import taken_recipe, text_choice, with_embeddings
from kubeautoml_trainer.tasks.metrics import weights_or_ones

_FILE = "nearest_neighbors.safetensors"
_MOST_ROWS, _MOST_WIDTH = 50_000, 500
# Distances, or differences of candidates, held at once: they stay in the cache, unless the stored rows, which each block reads anew,
# would then be read for a few rows at a time.
_BLOCK_IN_CACHE, _BLOCK_VALUES, _ROWS_A_BLOCK = 500_000, 4_000_000, 64
_FAR = 1e6  # deviations from the mean beyond which a value is only far away; its square must not overflow
_SPARE = 8  # candidates beyond k that float32 picks, for float64 to choose from
_PRIOR_ROWS = 1.0  # of the classes' shares beside k neighbours, or a class not among them would be impossible; a guess
# Values (rows x columns) kept, so that one prediction takes some milliseconds whatever the distance; a guess.
_VALUES = {"euclidean": 10_000_000, "cosine": 10_000_000, "manhattan": 2_000_000, "minkowski": 500_000}
_FEW_CLASSES = 20
_PROBES = 8  # rows predicted to learn how long one takes

DEFAULTS: Parameters = {
    "k": 20,
    "distance": "euclidean",
    "weights": "distance",
    "scaling": "quantile",
    "columns": "alike",
}


@dataclass(frozen=True)
class Neighbors:
    """The training rows themselves.

    x: float32 (n, columns), multiplied by `columns`, float32 (columns,). y: float64 (n,), encoded numbers or class
    indices. weight: float64 (n,). prior: float32 (outputs,), shares of the classes. target: how a number was written;
    None for classes.
    """

    x: np.ndarray
    columns: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    prior: np.ndarray
    k: int
    distance: str
    weights: str
    target: NumberTarget | None

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        asked = _directed(_matrix(x) * self.columns, self.distance)
        found = np.empty((len(asked), len(self.prior) if self.target is None else 1), dtype=np.float32)

        def answer(part: slice) -> None:
            found[part] = self._predict(asked[part])

        in_blocks(len(asked), _block(self.x, self.k), threads, answer)
        return found

    def _predict(self, asked: np.ndarray) -> np.ndarray:
        near, distance = self._nearest(asked)
        vote = self.weight[near] * (_closeness(distance) if self.weights == "distance" else 1.0)
        total = vote.sum(axis=1)
        # neighbours that all weigh nothing count alike
        vote = np.where(total[:, None] > 0, vote, 1.0)
        vote = vote / vote.sum(axis=1, keepdims=True)
        if self.target is not None:
            return self.target.decode((vote * self.y[near]).sum(axis=1))
        classes = len(self.prior)
        place = np.arange(len(asked))[:, None] * classes + self.y[near].astype(np.intp)
        share = np.bincount(place.ravel(), weights=vote.ravel(), minlength=len(asked) * classes)
        k = near.shape[1]
        mixed = (k * share.reshape(len(asked), classes) + _PRIOR_ROWS * self.prior) / (k + _PRIOR_ROWS)
        return np.asarray(mixed, dtype=np.float32)

    def _nearest(self, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places and distances of the k nearest rows: intp and float64 (n, k), in no order."""
        k = min(self.k, len(self.x))
        near, counts = smallest(self._rough(asked), min(k + _SPARE, len(self.x)))
        exact = np.where(counts, _exact(asked, self.x, near, self.distance), np.inf)
        best = np.argsort(exact, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(near, best, axis=1), np.take_along_axis(exact, best, axis=1)

    def _rough(self, asked: np.ndarray) -> np.ndarray:
        """float32 (asked, n): grows with the distance, but rounded, for choosing candidates."""
        if self.distance in ("euclidean", "cosine"):
            return np.asarray(np.column_stack([-2 * asked, np.ones(len(asked), np.float32)]) @ self._longer)
        total = np.zeros((len(asked), len(self.x)), dtype=np.float32)
        for theirs, own in zip(asked.T, self._columns, strict=True):
            gap = np.abs(theirs[:, None] - own)
            total += gap if self.distance == "manhattan" else gap * np.sqrt(gap)
        return total

    @cached_property
    def _longer(self) -> np.ndarray:
        """float32 (columns + 1, n): the rows and their squares, so that one product is the squared distance but for the asked row's own."""
        return np.ascontiguousarray(np.vstack([self.x.T, np.einsum("nk,nk->n", self.x, self.x)]))

    @cached_property
    def _columns(self) -> np.ndarray:
        return np.ascontiguousarray(self.x.T)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        arrays = {"x": self.x, "columns": self.columns, "y": self.y, "weight": self.weight, "prior": self.prior}
        settings = {"k": str(self.k), "distance": self.distance, "weights": self.weights}
        save_file(arrays, str(folder / _FILE), metadata=settings)
        save_target(self.target, folder)


class NearestNeighbors:
    """Votes of the nearest rows."""

    name = "NearestNeighbors"
    interpretable = False
    relative_cost = 1.0

    def fits(self, shape: DataShape) -> bool:
        """Every prediction looks at every row."""
        return shape.rows <= _MOST_ROWS and shape.width <= _MOST_WIDTH

    def space(self, shape: DataShape) -> Space:
        """TabArena's, and which scale the numbers are brought to."""
        return {
            "k": Int(1, max(2, min(500, shape.rows // 2)), log=True),
            "distance": Choice(("euclidean", "manhattan", "minkowski", "cosine")),
            "weights": Choice(("distance", "uniform")),
            "scaling": Choice(("quantile", "standard", "robust")),
            "columns": Choice(("alike", "relevance")),
            **text_choice(shape),
        }

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """Columns by relevance: measured on Boston (RMSE 4.78 to 4.35), wine and Titanic, where it helps; on diabetes
        and breast cancer it costs 1 %. Fewer neighbours for numbers.
        """
        k = 20 if shape.outputs > 1 else 10
        encoded = with_embeddings(shape, 13, {"k": k, "distance": "cosine", "scaling": "standard"})
        return (*encoded, (16, {"k": k, "columns": "relevance"}))

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        settings = {**DEFAULTS, **parameters}
        recipe = distance_recipe(
            settings["scaling"], with_means=context.task.outputs <= _FEW_CLASSES, texts=taken_recipe(settings)
        )
        if train.weight is not None:
            train = train.take(train.weight > 0)  # they would take the places of those that count
        features, x = fit_features(recipe, train, schema, context.seed, context.deadline)
        target = standard_target(train, schema, context.metric, bounded=False)
        model = _model(x, train, target, settings, context)
        return FittedPipeline(self.name, dict(parameters), None, features, _in_time(model, x, valid, context))

    def load(self, folder: Path) -> Neighbors:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(folder / _FILE), framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in ("x", "columns", "y", "weight", "prior")}
                settings = file.metadata()
            k, distance, weights = int(settings["k"]), settings["distance"], settings["weights"]
            return Neighbors(**arrays, k=k, distance=distance, weights=weights, target=load_target(folder))
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise BundleError(f"{folder / _FILE} cannot be read: {error!r}") from error


def _model(
    x: Encoded, train: Rows, target: NumberTarget | None, settings: dict[str, Any], context: FitContext
) -> Neighbors:
    """Keep all rows, or a sample of them where one prediction would take too long."""
    distance, values = str(settings["distance"]), _matrix(x)
    y = train.y if target is None else target.encode(train.y)
    weight = weights_or_ones(train.weight, len(train)).astype(np.float64)
    columns = np.ones(values.shape[1], dtype=np.float32)
    if settings["columns"] == "relevance":
        columns = relevance(values, y, weight, classes=target is None, seed=context.seed, deadline=context.deadline)
    model = Neighbors(
        x=_directed(values * columns, distance),
        columns=columns,
        y=np.asarray(y, dtype=np.float64),
        weight=weight,
        prior=context.task.prior(train.y, train.weight),
        k=int(settings["k"]),
        distance=distance,
        weights=str(settings["weights"]),
        target=target,
    )
    return _sample(model, _VALUES[distance] // values.shape[1], context.seed)


def _sample(model: Neighbors, rows: int, seed: int) -> Neighbors:
    """At most so many rows, at random."""
    if rows >= len(model.x):
        return model
    kept = np.sort(np.random.default_rng(seed).choice(len(model.x), max(1, rows), replace=False))
    return replace(model, x=model.x[kept], y=model.y[kept], weight=model.weight[kept])


def _in_time(model: Neighbors, x: Encoded, valid: Rows | None, context: FitContext) -> Neighbors:
    """Leave out rows where predicting the validation rows would take more than half of the time that is left."""
    started = time.monotonic()
    if started > context.deadline:
        raise FitTimeout(
            "NearestNeighbors: no time for one prediction; give spec.budget.maxDurationSeconds more or use fewer rows"
        )
    model.predict(Encoded(x.numbers[:_PROBES], x.codes[:_PROBES]))
    now = time.monotonic()
    needed = (now - started) / min(_PROBES, len(x)) * (0 if valid is None else len(valid))
    left = max(0.0, context.deadline - now) / 2
    return model if needed <= left else _sample(model, int(len(model.x) * left / needed), context.seed)


def _exact(asked: np.ndarray, x: np.ndarray, near: np.ndarray, distance: str) -> np.ndarray:
    """float64 (asked, candidates): the distances themselves."""
    gap = np.abs(asked[:, None, :].astype(np.float64) - x[near])
    if distance == "manhattan":
        return np.asarray(gap.sum(axis=2))
    if distance == "minkowski":
        return np.asarray((gap * np.sqrt(gap)).sum(axis=2) ** (2 / 3))
    squares = np.einsum("nck,nck->nc", gap, gap)
    return np.asarray(squares / 2 if distance == "cosine" else np.sqrt(squares))


def _closeness(distance: np.ndarray) -> np.ndarray:
    """1 / distance, (n, k); of rows that lie on others, only those count, as in scikit-learn."""
    same = distance == 0
    close = 1 / np.where(same, 1.0, distance)
    return np.where(same.any(axis=1, keepdims=True), same, close)


def _block(x: np.ndarray, k: int) -> int:
    """Rows to predict at once."""
    values: int = max(len(x), min(k + _SPARE, len(x)) * x.shape[1])
    return max(1, min(_ROWS_A_BLOCK, _BLOCK_VALUES // values), _BLOCK_IN_CACHE // values)


def _matrix(x: Encoded) -> np.ndarray:
    """float32 (n, columns); one column of zeros where there is none."""
    wide = x.numbers if x.numbers.shape[1] else np.zeros((len(x), 1))
    return np.ascontiguousarray(np.clip(wide, -_FAR, _FAR), dtype=np.float32)


def _directed(values: np.ndarray, distance: str) -> np.ndarray:
    """Rows of length 1 where only the direction counts."""
    if distance != "cosine":
        return values
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(length > 0, length, np.float32(1)), dtype=np.float32)
