"""Gaussian process regression for small tables: a kernel with a length a column, learned by marginal likelihood.

Where rows are few and the target is smooth it beats trees, as on Boston. After Rasmussen and Williams 2006,
chapters 2 and 5; classes are regressed, each against the rest (chapter 6.5), and calibrated on leave-one-out scores, which come
for nothing. The prior on the lengths grows with the columns as in Hvarfner et al. 2024 (arXiv:2402.02229), which keeps wide
tables from being learned by heart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.platt import calibrate, softmax
from kubeautoml_trainer.models.space import Choice, Float, Parameters, Space
from kubeautoml_trainer.models.target import NumberTarget, load_target, number_target, save_target
from kubeautoml_trainer.tasks.metrics import weights_or_ones

_FILE = "gaussian_process.safetensors"
_MOST_ROWS, _MOST_FEATURES, _MOST_CLASSES = (
    2_000,
    100,
    20,
)  # time grows with the cube of the rows; a guess at what is worth it
_LEARNING_ROWS = 500  # rows that kernel and noise are learned from; more change them little
_MOST_COLUMNS = 300  # after one-hot
_STEPS = 60  # of L-BFGS; it converges in 20 to 50
_BLOCK_VALUES = 100_000  # kernel values held at once: they stay in the processor's cache
_LOG_RANGE = 7.0  # how far a log parameter may go from its start

DEFAULTS: Parameters = {"kernel": "matern32", "noise": 0.1, "scaling": "standard"}


@dataclass(frozen=True)
class Hyperparameters:
    """lengths: float64 (columns,), scale: variance of the function, noise: variance of the target beside it."""

    lengths: np.ndarray
    scale: float
    noise: float


@dataclass(frozen=True)
class ProcessModel:
    """scores = kernel of a row and the training rows, times coefficients.

    rows: float64 (v, columns), in units of the lengths. coefficients: float64 (v, s), times the function's variance: one score for
    a number, one a class that training had. classes, slope and bias: intp (s,), float64 (1,) and (s,), which turn scores into
    probabilities. outputs: of a prediction. target: how a number was written; None for classes.
    """

    rows: np.ndarray
    coefficients: np.ndarray
    lengths: np.ndarray
    kernel: str
    classes: np.ndarray
    slope: np.ndarray
    bias: np.ndarray
    outputs: int
    target: NumberTarget | None

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        scaled = x.numbers / self.lengths
        out = np.empty((len(scaled), self.coefficients.shape[1]))

        def answer(part: slice) -> None:
            distances = np.sqrt(_squared_distances(scaled[part], self.rows))
            out[part] = CORRELATIONS[self.kernel].of(distances) @ self.coefficients

        in_blocks(len(scaled), max(1, _BLOCK_VALUES // max(1, len(self.rows))), threads, answer)
        if self.target is not None:
            return self.target.decode(out[:, 0])
        p = np.zeros((len(out), self.outputs), dtype=np.float32)
        p[:, self.classes] = softmax(self.slope * out + self.bias)
        return p

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        names = ("rows", "coefficients", "lengths", "classes", "slope", "bias")
        numbers = {"kernel": KERNELS.index(self.kernel), "outputs": self.outputs}
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in names}
        save_file({**arrays, **{n: np.array([v], dtype=np.int64) for n, v in numbers.items()}}, str(folder / _FILE))
        save_target(self.target, folder)


class GaussianProcess:
    """Exact Gaussian process regression."""

    name = "GaussianProcess"
    interpretable = False
    relative_cost = 8.0

    def fits(self, shape: DataShape) -> bool:
        """Small tables; each class is solved for."""
        is_small = shape.rows <= _MOST_ROWS and shape.features <= _MOST_FEATURES and shape.outputs <= _MOST_CLASSES
        return is_small and not shape.images

    def space(self, shape: DataShape) -> Space:
        """Smoothness, where the noise starts, and how columns are scaled. A guess."""
        return {
            "kernel": Choice(KERNELS),
            "noise": Float(0.003, 1.0, log=True),
            "scaling": Choice(("standard", "quantile", "robust")),
        }

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """Measured on Boston, five splits: rough kernels 9.6 and 9.9, boosting with exact splits 10.4."""
        if shape.outputs > 1:
            return ((13, {}),)
        return ((6, {}), (12, {"kernel": "matern12"}))

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        settings = {**DEFAULTS, **parameters}
        if train.weight is not None:
            train = train.take(train.weight > 0)
        recipe = distance_recipe(settings["scaling"])
        features, encoded = fit_features(recipe, train, schema, context.seed)
        x, weight = encoded.numbers, weights_or_ones(train.weight, len(train))
        if x.shape[1] > _MOST_COLUMNS:
            raise FitTimeout(f"GaussianProcess: {x.shape[1]} columns after one-hot are more than {_MOST_COLUMNS}")
        classes, target = np.unique(train.y) if schema.classes else np.zeros(0, dtype=np.intp), None
        if not x.shape[1] or (schema.classes and len(classes) < 2):  # nothing to learn from, or nothing to tell apart
            constant = ConstantModel(context.task.prior(train.y, train.weight))
            return FittedPipeline(self.name, dict(parameters), None, features, constant)
        if schema.classes:
            y = (train.y[:, None] == classes).astype(np.float64)
            y = (y - y.mean(axis=0)) / y.std(axis=0)
        else:
            target = number_target(train.y, train.weight, context.metric, standardise=True, bounded=False)
            y = target.encode(train.y)[:, None]
        model = _fit(x, y, weight, settings, classes, target, context)
        return FittedPipeline(self.name, dict(parameters), None, features, model)

    def load(self, folder: Path) -> ProcessModel | ConstantModel:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if not (folder / _FILE).exists():
            return load_constant(folder)
        try:
            arrays = load_file(str(folder / _FILE))
            kernel, outputs = KERNELS[int(arrays.pop("kernel")[0])], int(arrays.pop("outputs")[0])
            return ProcessModel(**arrays, kernel=kernel, outputs=outputs, target=load_target(folder))
        except (OSError, KeyError, TypeError, IndexError, SafetensorError) as error:
            raise BundleError(f"{folder / _FILE} cannot be read: {error!r}") from error


def _fit(
    x: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    settings: dict[str, Any],
    classes: np.ndarray,
    target: NumberTarget | None,
    context: FitContext,
) -> ProcessModel:
    """Learn kernel and noise from a part of the rows; then all rows vote, if there is time for them."""
    order = np.random.default_rng(context.seed).permutation(len(x))
    part = np.sort(order[:_LEARNING_ROWS])
    kernel = str(settings["kernel"])
    problem = Likelihood(kernel, x[part], y[part], weight[part])
    found, seconds = _maximise(problem, float(settings["noise"]), context.deadline)
    cost = seconds * (len(x) / len(part)) ** 3
    rows = np.arange(len(x)) if time.monotonic() + cost < context.deadline else part
    scaled = x[rows] / found.lengths
    k = found.scale * CORRELATIONS[kernel].of(np.sqrt(_own_distances(scaled)))
    k[np.diag_indices_from(k)] += found.noise / weight[rows]
    inverse = _inverse(k)
    alpha = inverse @ y[rows]
    slope, bias = np.ones(1), np.zeros(len(classes))
    if target is None:
        left_out = y[rows] - alpha / np.diag(inverse)[:, None]  # Rasmussen and Williams, equation 5.12
        slope, bias = calibrate(left_out, y[rows].argmax(axis=1), weight[rows])
    outputs = context.task.outputs
    return ProcessModel(scaled, found.scale * alpha, found.lengths, kernel, classes, slope, bias, outputs, target)


class _OutOfTime(Exception):
    """The deadline came while the likelihood was climbed."""


def _maximise(problem: Likelihood, noise: float, deadline: float) -> tuple[Hyperparameters, float]:
    """The most likely hyperparameters found in time, and the seconds of one look.

    Raises:
        FitTimeout: there was no time for one.
    """
    from scipy.optimize import minimize

    start = problem.start(noise)
    best, best_loss, slowest = start, math.inf, 0.0

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, best_loss, slowest
        began = time.monotonic()
        if began + slowest > deadline:
            raise _OutOfTime
        value, gradient = problem.loss(theta)
        slowest = max(slowest, time.monotonic() - began)
        if value < best_loss:
            best, best_loss = theta.copy(), value
        return value, gradient

    try:
        bounds = [(t - _LOG_RANGE, t + _LOG_RANGE) for t in start]
        minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS})
    except _OutOfTime:
        if math.isinf(best_loss):
            raise FitTimeout(
                "GaussianProcess: no time for one look at the rows; give spec.budget.maxDurationSeconds more"
            ) from None
    return problem.read(best), slowest


class Likelihood:
    """Negative log marginal likelihood of hyperparameters, with the prior on the lengths, and its gradient.

    x: float64 (n, columns), scaled. y: float64 (n, s), each column standardised. weight: float64 (n,); weight 2 halves the noise.
    theta: logarithms of the lengths, the scale and the noise.
    """

    def __init__(self, kernel: str, x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
        self._kernel, self._x, self._y, self._weight = kernel, x, y, weight
        # Hvarfner et al. 2024: log length ~ Normal(sqrt(2) + log(columns) / 2, sqrt(3)); the start is what is likely for one column
        self._mean = math.sqrt(2.0) + 0.5 * math.log(x.shape[1])
        self._variance = 3.0

    def start(self, noise: float) -> np.ndarray:
        """Where the climb begins."""
        columns = self._x.shape[1]
        lengths = np.full(columns, math.log(2.0 * math.sqrt(columns)))
        return np.concatenate([lengths, [0.0, math.log(noise)]])

    def read(self, theta: np.ndarray) -> Hyperparameters:
        values = np.exp(theta)
        return Hyperparameters(values[:-2], float(values[-2]), float(values[-1]))

    def loss(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Value and gradient; a kernel that cannot be factored is infinitely unlikely."""
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        h = self.read(theta)
        scaled = self._x / h.lengths
        distances, correlation = np.sqrt(_own_distances(scaled)), CORRELATIONS[self._kernel]
        c = correlation.of(distances)
        own = h.noise / self._weight
        k = h.scale * c
        k[np.diag_indices_from(k)] += own
        try:
            factor = cho_factor(k, lower=True)
        except LinAlgError:
            return 1e25, np.zeros_like(theta)
        alpha = cho_solve(factor, self._y)
        inverse = cho_solve(factor, np.eye(len(k)))
        w = alpha.shape[1] * inverse - alpha @ alpha.T  # d loss / d K, twice
        m = w * correlation.slope(distances, c) * h.scale
        # sum over pairs of m * (difference of a column)^2, for all columns by products of matrices
        by_column = 2 * (m.sum(axis=1) @ scaled**2) - 2 * np.einsum("ij,ij->j", scaled, m @ scaled)
        d_scale = 0.5 * float(np.sum(w * c)) * h.scale
        d_noise = 0.5 * float(np.sum(np.diag(w) * own))
        away = theta[:-2] - self._mean
        value = (
            0.5 * np.sum(self._y * alpha)
            + alpha.shape[1] * np.log(np.diag(factor[0])).sum()
            + 0.5 * np.sum(away**2) / self._variance
        )
        gradient = np.concatenate([0.5 * by_column + away / self._variance, [d_scale, d_noise]])
        return float(value), gradient


@dataclass(frozen=True)
class Correlation:
    """of: distances in units of the lengths -> correlation. slope: the same distances, and that -> d correlation / d log length of a
    column, which is this times the squared difference in that column.
    """

    of: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray, np.ndarray], np.ndarray]


_ROOT_3, _ROOT_5 = math.sqrt(3.0), math.sqrt(5.0)

CORRELATIONS = {
    # the slope of equal rows: they are alike whatever the lengths
    "matern12": Correlation(lambda r: np.exp(-r), lambda r, c: np.where(r > 1e-6, c / np.maximum(r, 1e-6), 0.0)),
    "matern32": Correlation(lambda r: (1 + _ROOT_3 * r) * np.exp(-_ROOT_3 * r), lambda r, c: 3 * c / (1 + _ROOT_3 * r)),
    "matern52": Correlation(
        lambda r: (1 + _ROOT_5 * r + 5 / 3 * r**2) * np.exp(-_ROOT_5 * r),
        lambda r, c: 5 / 3 * (1 + _ROOT_5 * r) / (1 + _ROOT_5 * r + 5 / 3 * r**2) * c,
    ),
    "rbf": Correlation(lambda r: np.exp(-0.5 * r**2), lambda r, c: c),
}
KERNELS = tuple(CORRELATIONS)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    d = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * (a @ b.T)
    return np.asarray(np.maximum(d, 0.0))


def _own_distances(a: np.ndarray) -> np.ndarray:
    """A row is exactly 0 from itself: a rough kernel would show the rounding."""
    d = _squared_distances(a, a)
    np.fill_diagonal(d, 0.0)
    return d


def _inverse(k: np.ndarray) -> np.ndarray:
    """K^-1; a kernel of nearly equal rows gets a little more noise until it can be factored."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    jitter, unit = 0.0, np.eye(len(k))
    while True:
        try:
            return np.asarray(cho_solve(cho_factor(k + jitter * unit, lower=True), unit))
        except LinAlgError:
            jitter = max(1e-8 * float(np.mean(np.diag(k))), jitter * 10)
