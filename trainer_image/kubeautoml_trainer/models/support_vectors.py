"""RBF support vectors for small tables: solved by libsvm under a bound, kept and predicted as plain arrays.

libsvm cannot be interrupted, so its steps are: a probe on a few rows shows what a step costs here, and from that
follow the rows and steps that fit into the time. What libsvm holds when its steps end is a usable solution.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.blocks import in_blocks
from kubeautoml_trainer.models.distances import distance_recipe
from kubeautoml_trainer.models.dummy import ConstantModel, load_constant
from kubeautoml_trainer.models.pairwise import Coupling, fit_coupling, neutral
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Choice, Float, Parameters, Space
from kubeautoml_trainer.models.target import NumberTarget, load_target, number_target, save_target
from kubeautoml_trainer.models.text_choice import taken_recipe, text_choice, with_embeddings
from kubeautoml_trainer.tasks.metrics import weights_or_ones

_FILE = "support_vectors.safetensors"
_MOST_ROWS, _MOST_WIDTH, _MOST_CLASSES = 5_000, 1_000, 20  # time grows with the square of the rows
_QUICK_ROWS = 2_000  # a fit takes a fraction of a second
_CACHE_MB = 256  # holds the kernel of 5,000 rows
_STEPS_A_ROW = 20  # measured: C = 100 on noisy rows wants 25 a row, and gains nothing in the last ones
_PROBE_ROWS, _SAFETY = 300, 2.0
_FOLDS = 3  # of the training rows, on whose left-out parts probabilities are calibrated
_FAR = 1e6  # deviations from the mean beyond which a value is only far away; its square must not overflow
_BLOCK_VALUES = 250_000  # kernel values held at once: 2 MB, which stay in the processor's cache

DEFAULTS: Parameters = {"C": 1.0, "gamma": 1.0, "epsilon": 0.1, "scaling": "standard"}


@dataclass(frozen=True)
class KernelModel:
    """scores = RBF kernel of a row and the support vectors, times coefficients, plus intercept.

    vectors: float32 (v, columns). coefficients: float64 (v, s), intercept: float64 (s,): one score for a number, one
    a pair of `classes` (intp, those that training had). gamma: of the kernel. outputs: of a prediction. coupling: turns
    scores into probabilities; None for numbers. target: how a number was written; None for classes.
    """

    vectors: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray
    gamma: float
    classes: np.ndarray
    outputs: int
    coupling: Coupling | None
    target: NumberTarget | None

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        score = self._kernel.scores(_matrix(x), self.coefficients, self.intercept, threads)
        if self.target is not None:
            return self.target.decode(score[:, 0])
        assert self.coupling is not None
        p = np.zeros((len(score), self.outputs), dtype=np.float32)
        p[:, self.classes] = self.coupling.probabilities(score)
        return p

    @cached_property
    def _kernel(self) -> _Kernel:
        return _Kernel(self.vectors, self.gamma)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        names = ("vectors", "coefficients", "intercept", "classes")
        arrays = {name: getattr(self, name) for name in names} | ({} if self.coupling is None else vars(self.coupling))
        numbers = {"gamma": np.array([self.gamma]), "outputs": np.array([self.outputs])}
        save_file(arrays | numbers, str(folder / _FILE))
        save_target(self.target, folder)


def _is_of_images(shape: DataShape) -> bool:
    """Whether there is nothing but images, whose numbers all lie between 0 and 1."""
    return 0 < shape.images == shape.features


class SupportVectors:
    """Support vector machines with a radial kernel."""

    name = "SupportVectors"
    interpretable = False
    relative_cost = 5.0

    def fits(self, shape: DataShape) -> bool:
        """On more rows the kernel takes longer than better families do."""
        return shape.rows <= _MOST_ROWS and shape.width <= _MOST_WIDTH and shape.outputs <= _MOST_CLASSES

    def space(self, shape: DataShape) -> Space:
        """A guess around libsvm's guide (Hsu, Chang, Lin 2003). `gamma` is in units of 1 / the columns' variances."""
        space: dict[str, Float | Choice] = {
            "C": Float(0.05, 500.0, log=True),
            "gamma": Float(0.02, 5.0, log=True),
            "scaling": Choice(
                ("unscaled", "standard", "robust") if _is_of_images(shape) else ("standard", "quantile", "robust")
            ),
        }
        space |= text_choice(shape)
        return space | ({} if shape.outputs > 1 else {"epsilon": Float(0.001, 0.5, log=True)})

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """For numbers a bold entry (RMSE 3.11 on Boston over 5 folds, the best of 13 tried on these same folds; C 100 on
        standardised columns 3.95), which noisy targets do not forgive, and a cautious one, the best on diabetes. Classes
        were chosen on Titanic, wine and breast cancer alike. On few rows the first comes right behind the first of the trees: digits'
        takes 1.2 s for five folds, where LightGBM takes 9 and CatBoost 16, and is the best of the three.
        """
        first = 2 if shape.rows <= _QUICK_ROWS else 7
        if _is_of_images(shape):
            # their numbers have one unit, and what varies little is mostly noise: MNIST, 1,400 digits, 0.980 against 0.972 scaled
            return (
                (3, {"C": 10.0, "gamma": 0.3, "scaling": "unscaled"}),
                (12, {"C": 10.0, "gamma": 0.1, "scaling": "robust"}),
            )
        if shape.outputs > 1:
            plain: tuple[tuple[int, Parameters], ...] = (
                (first, {"C": 10.0, "gamma": 0.3}),
                (12, {"C": 1.0, "gamma": 1.0, "scaling": "quantile"}),
            )
            return plain + with_embeddings(shape, 3, {"C": 3.0, "gamma": 0.3})
        bold: Parameters = {"C": 10.0, "gamma": 0.65, "epsilon": 0.1, "scaling": "quantile"}
        cautious: Parameters = {"C": 1.0, "gamma": 0.3, "epsilon": 0.1}
        return ((first, bold), (11, cautious), *with_embeddings(shape, 3, cautious))

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        settings = {**DEFAULTS, **parameters}
        if train.weight is not None:
            train = train.take(train.weight > 0)  # libsvm takes no others
        recipe = distance_recipe(settings["scaling"], texts=taken_recipe(settings))
        features, encoded = fit_features(recipe, train, schema, context.seed, context.deadline)
        x, weight = _matrix(encoded), weights_or_ones(train.weight, len(train))
        if schema.classes:
            if len(np.unique(train.y)) < 2:  # libsvm refuses such a target
                constant = ConstantModel(context.task.prior(train.y, train.weight))
                return FittedPipeline(self.name, dict(parameters), None, features, constant)
            model = _classifier(x, train.y, weight, settings, context)
        else:
            target = number_target(train.y, train.weight, context.metric, standardise=True, bounded=False)
            model = _regressor(x, target.encode(train.y), weight, target, settings, context)
        return FittedPipeline(self.name, dict(parameters), None, features, model)

    def load(self, folder: Path) -> KernelModel | ConstantModel:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if not (folder / _FILE).exists():
            return load_constant(folder)
        try:
            arrays = load_file(str(folder / _FILE))
            gamma, outputs = float(arrays.pop("gamma")[0]), int(arrays.pop("outputs")[0])
            coupled = {f.name for f in fields(Coupling)} & arrays.keys()
            coupling = Coupling(**{name: arrays.pop(name) for name in coupled}) if coupled else None
            return KernelModel(**arrays, gamma=gamma, outputs=outputs, coupling=coupling, target=load_target(folder))
        except (OSError, KeyError, TypeError, SafetensorError) as error:
            raise BundleError(f"{folder / _FILE} cannot be read: {error!r}") from error


@dataclass(frozen=True)
class _Solved:
    """What libsvm found; as in `KernelModel`."""

    vectors: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray
    gamma: float
    classes: np.ndarray

    def scores(self, x: np.ndarray) -> np.ndarray:
        return _Kernel(self.vectors, self.gamma).scores(x, self.coefficients, self.intercept)


def _regressor(
    x: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    target: NumberTarget,
    settings: dict[str, Any],
    context: FitContext,
) -> KernelModel:
    solver = _Solver(x, y, weight, settings, context, classes=False)
    rows = solver.sample(np.arange(len(x)), 1.0)
    solved = solver.solve(rows, 1.0)
    return KernelModel(**vars(solved), outputs=1, coupling=None, target=target)


def _classifier(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, settings: dict[str, Any], context: FitContext
) -> KernelModel:
    """Solve for all rows; calibrate by what solutions for two thirds of them say about the rest."""
    solver = _Solver(x, y, weight, settings, context, classes=True)
    # the whole takes as long as three of two thirds
    rows = solver.sample(np.arange(len(x)), 0.4)
    fold = _folds(y[rows], context.seed)
    solved = solver.solve(rows, 0.4)
    k = len(solved.classes)
    seen, truth, weights = [], [], []
    for left_out in range(_FOLDS):
        inside, outside = rows[fold != left_out], rows[fold == left_out]
        # a class that is too rare for every fold cannot be scored without it
        if time.monotonic() > context.deadline or len(outside) == 0 or len(np.unique(y[inside])) < k:
            continue
        part = solver.solve(inside, 1 / (_FOLDS - left_out))
        seen.append(part.scores(x[outside]))
        truth.append(np.searchsorted(solved.classes, y[outside]))
        weights.append(weight[outside])
    coupling = neutral(k)
    if seen:
        coupling = fit_coupling(np.concatenate(seen), np.concatenate(truth), np.concatenate(weights), k)
    return KernelModel(**vars(solved), outputs=context.task.outputs, coupling=coupling, target=None)


class _Solver:
    """libsvm on parts of the training rows, within the deadline.

    y: encoded numbers, or class indices.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray,
        settings: dict[str, Any],
        context: FitContext,
        classes: bool,
    ) -> None:
        if time.monotonic() > context.deadline:
            raise FitTimeout(
                "SupportVectors: no time for one solution; give spec.budget.maxDurationSeconds more or use fewer rows"
            )
        self.x, self.y, self.weight, self.classes = x, y, weight, classes
        self.seed, self.deadline = context.seed, context.deadline
        variance = float(np.sum(x.var(axis=0, dtype=np.float64)))
        self.gamma = float(settings["gamma"]) / (variance if variance > 0 else 1.0)
        self.settings = {"C": float(settings["C"]), "gamma": self.gamma, "cache_size": _CACHE_MB}
        if not classes:
            self.settings["epsilon"] = float(settings["epsilon"])
        self.step_seconds = self._probe()

    def _probe(self) -> float:
        """Seconds of a step, a row, of a call of libsvm on some rows."""
        rows = self._some(np.arange(len(self.x)), _PROBE_ROWS)
        began = time.monotonic()
        found = self._call(rows, _STEPS_A_ROW * _PROBE_ROWS)
        took = time.monotonic() - began
        steps = int(np.sum(found.n_iter_))
        # the rows' kernel is worth as many steps, as libsvm computes a row of it in one
        return _SAFETY * took / (len(rows) * max(steps, len(rows)))

    def sample(self, rows: np.ndarray, share: float) -> np.ndarray:
        """As many of the rows as `share` of the time left is enough for, with one step a row at least; classes keep
        their shares.
        """
        left = max(0.0, (self.deadline - time.monotonic()) * share)
        most = math.sqrt(left / self.step_seconds) if math.isfinite(left) else math.inf
        return rows if most >= len(rows) else self._some(rows, max(_PROBE_ROWS, int(most)))

    def _some(self, rows: np.ndarray, wanted: int) -> np.ndarray:
        """At most so many, of every class at least two where it has them."""
        if wanted >= len(rows):
            return rows
        order = np.random.default_rng(self.seed).permutation(rows)
        kept = order[:wanted]
        if self.classes:
            few = [order[self.y[order] == c][:2] for c in np.unique(self.y[rows])]
            kept = np.unique(np.concatenate([kept, *few]))
        return np.sort(kept)

    def solve(self, rows: np.ndarray, share: float) -> _Solved:
        """One solution, in `share` of the time left."""
        left = max(0.0, (self.deadline - time.monotonic()) * share)
        steps = _STEPS_A_ROW * len(rows)
        if math.isfinite(left):
            steps = max(1, min(steps, int(left / (self.step_seconds * len(rows)))))
        found = self._call(rows, steps)
        if not self.classes:
            return _Solved(
                self.x[rows[found.support_]],
                np.ascontiguousarray(found.dual_coef_.T),
                np.asarray(found.intercept_, dtype=np.float64),
                self.gamma,
                np.zeros(0, dtype=np.intp),
            )
        coefficients, intercept = _pairs(found)
        vectors, classes = self.x[rows[found.support_]], np.asarray(found.classes_, dtype=np.intp)
        return _Solved(vectors, coefficients, intercept, self.gamma, classes)

    def _call(self, rows: np.ndarray, steps: int) -> Any:
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import SVC, SVR

        machine = (SVC if self.classes else SVR)(max_iter=steps, **self.settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the bound is meant
            return machine.fit(self.x[rows].astype(np.float64), self.y[rows], sample_weight=self.weight[rows])


def _pairs(found: Any) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's packed one-against-one coefficients, one column a pair (i, j), i < j; positive speaks for i.

    Returns:
        float64 (v, pairs), float64 (pairs,).
    """
    k = len(found.classes_)
    if k == 2:  # the library turns the sign of two classes, so that positive speaks for the second
        return np.ascontiguousarray(-found.dual_coef_.T), -np.asarray(found.intercept_, dtype=np.float64)
    owner = np.repeat(np.arange(k), found.n_support_)
    columns = []
    for i in range(k):
        for j in range(i + 1, k):
            column = np.zeros(len(owner))
            column[owner == i] = found.dual_coef_[j - 1, owner == i]
            column[owner == j] = found.dual_coef_[i, owner == j]
            columns.append(column)
    return np.stack(columns, axis=1), np.asarray(found.intercept_, dtype=np.float64)


def _folds(y: np.ndarray, seed: int) -> np.ndarray:
    """A fold a row, each with its share of every class."""
    fold = np.empty(len(y), dtype=np.intp)
    rng = np.random.default_rng(seed)
    for c in np.unique(y):
        here = rng.permutation(np.flatnonzero(y == c))
        fold[here] = np.arange(len(here)) % _FOLDS
    return fold


class _Kernel:
    """exp(-gamma |x - v|^2) of rows x and vectors v, float32 (v, columns).

    The exponent is -gamma |x|^2 + 2 gamma x v - gamma |v|^2, the product of longer rows and longer vectors: one pass where each of its
    parts took one, 3.5 times as fast.
    """

    def __init__(self, vectors: np.ndarray, gamma: float) -> None:
        v = vectors.astype(np.float64)
        self._longer = np.vstack([v.T, np.ones(len(v)), -gamma * np.einsum("vk,vk->v", v, v)])
        self._gamma = gamma

    def scores(self, x: np.ndarray, coefficients: np.ndarray, intercept: np.ndarray, threads: int = 1) -> np.ndarray:
        """float64 (n, s) of rows float32 (n, columns); the kernel is computed block by block."""
        out = np.empty((len(x), coefficients.shape[1]))

        def answer(part: slice) -> None:
            rows = x[part].astype(np.float64)
            squares = np.einsum("nk,nk->n", rows, rows)
            longer = np.column_stack([2 * self._gamma * rows, -self._gamma * squares, np.ones(len(rows))])
            kernel = longer @ self._longer
            np.exp(np.minimum(kernel, 0, out=kernel), out=kernel)
            out[part] = kernel @ coefficients + intercept

        in_blocks(len(x), max(1, _BLOCK_VALUES // max(1, self._longer.shape[1])), threads, answer)
        return out


def _matrix(x: Encoded) -> np.ndarray:
    """float32 (n, columns): what is stored is what was trained on. One column of zeros where there is none."""
    if not x.numbers.shape[1]:
        return np.zeros((len(x), 1), dtype=np.float32)
    return np.ascontiguousarray(np.clip(x.numbers, -_FAR, _FAR), dtype=np.float32)
