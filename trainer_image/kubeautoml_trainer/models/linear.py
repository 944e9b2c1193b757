"""Linear models: logistic regression and ridge over scaled numbers, one-hot categories and TF-IDF words.

The solver is written out (L-BFGS on the penalised loss, or the normal equations) because it must keep a deadline and
take dense and sparse columns side by side.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, Recipe, fit_features
from kubeautoml_trainer.features.polynomials import MAX_NUMBERS
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters, Space
from kubeautoml_trainer.models.target import NumberTarget, load_target, number_target, save_target
from kubeautoml_trainer.tasks.metrics import weighted_quantile, weights_or_ones

_FILE = "linear.safetensors"
_MAX_STEPS = 300
_BLOCK = 65_536  # rows between two looks at the clock
_DIRECT = 2_000  # columns up to which ridge solves its normal equations
_MAX_ROWS = 200_000  # more teach a linear model nothing, and cost time that better families need; a guess
_MAX_QUANTILE_ROWS = 50_000  # each takes a column a quantile, and more steps; a guess
_ROUNDINGS = (0.5, 0.1, 0.02)  # of the pinball loss, in deviations of the target; the last moves no quantile by as much
_MAX_POLYNOMIAL_ROWS = 50_000  # 465 columns more; a guess
_SELECTABLE = 10  # columns from which on leaving some out is worth a try; a guess
_HIGH_CARDINALITY = 30  # levels above which a column also gets the target's mean

DEFAULTS: Parameters = {
    "C": 1.0,
    "scaling": "skew",
    "categories": "onehot",
    "min_level_rows": 2,
    "target_prior_rows": 10.0,
    "polynomial": False,
    "keep_share": 1.0,
}


@dataclass(frozen=True)
class LinearModel:
    """coefficients float64 (columns, k), intercept float64 (k,): one column for a number or two classes, else one a
    class or a quantile.
    """

    coefficients: np.ndarray
    intercept: np.ndarray
    target: NumberTarget | None

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        z = _product(x, self.coefficients) + self.intercept
        if self.target is None:
            return _probabilities(z).astype(np.float32)
        decoded = [self.target.decode(column) for column in z.T]
        return np.sort(np.hstack(decoded), axis=1)  # quantiles may cross

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        save_file({"coefficients": self.coefficients, "intercept": self.intercept}, str(folder / _FILE))
        save_target(self.target, folder)


class Linear:
    """Logistic regression for classes, ridge for numbers, quantile regression for quantiles of a number."""

    name = "Linear"
    interpretable = True

    def fits(self, shape: DataShape) -> bool:
        return True

    def space(self, shape: DataShape) -> Space:
        """The penalty, and what is done to the columns before: the part of a pipeline that TPOT searches."""
        space: dict[str, Float | Int | Choice] = {
            "C": Float(1e-3, 1e3, log=True),
            "scaling": Choice(("skew", "unscaled", "standard", "quantile", "robust")),
        }
        if shape.categories:
            space |= {
                "categories": Choice(("onehot", "means")),
                "min_level_rows": Int(1, 50, log=True),
                "target_prior_rows": Float(1.0, 100.0, log=True),
            }
        if _polynomial_pays(shape):
            space["polynomial"] = Choice((False, True))
        if shape.features >= _SELECTABLE:
            space["keep_share"] = Choice((1.0, 0.5, 0.25))
        return space

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """Plain; all products of two numbers, as cheap (five folds: Boston's RMSE 4.9 becomes 3.4, apartments' 284 161)."""
        plain: tuple[tuple[int, Parameters], ...] = ((1, {"C": 1.0}), (15, {"C": 0.1, "scaling": "quantile"}))
        return plain + (((7, {"C": 0.1, "polynomial": True}),) if _polynomial_pays(shape) else ())

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        settings = {**DEFAULTS, **parameters}
        train = _some(train, context.seed, _MAX_QUANTILE_ROWS if schema.quantiles else _MAX_ROWS)
        by_means = settings["categories"] == "means"
        recipe = Recipe(
            scaling=settings["scaling"],  # type: ignore[arg-type]
            categories="codes" if by_means else "onehot",
            max_levels=1000 if by_means else 100,
            min_level_rows=int(settings["min_level_rows"]),
            target_means_above=0 if by_means else _HIGH_CARDINALITY,
            target_prior_rows=float(settings["target_prior_rows"]),
            text="sparse",
            cyclic=True,
            calendar=True,
            polynomial=bool(settings["polynomial"]),
            keep_share=float(settings["keep_share"]),
        )
        features, x = fit_features(recipe, train, schema, context.seed, context.deadline)
        weight = weights_or_ones(train.weight, len(train))
        penalty = 1.0 / float(settings["C"])
        if schema.classes:
            model, steps = _logistic(x, train.y, weight, context.task.outputs, penalty, context.deadline)
        else:
            target = number_target(train.y, train.weight, context.metric, standardise=True, bounded=False)
            if schema.quantiles:
                model, steps = _quantiles(x, target, train.y, weight, penalty, schema.quantiles, context.deadline)
            else:
                model, steps = _ridge(x, target, train.y, weight, penalty, context.deadline)
        return FittedPipeline(self.name, dict(parameters), steps, features, model)

    def load(self, folder: Path) -> LinearModel:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(str(folder / _FILE))
            return LinearModel(arrays["coefficients"], arrays["intercept"], load_target(folder))
        except (OSError, KeyError, SafetensorError) as error:
            raise BundleError(f"{folder / _FILE} cannot be read: {error!r}") from error


def _polynomial_pays(shape: DataShape) -> bool:
    """Few numbers, and not so many rows that hundreds of columns take long."""
    numbers = shape.features - shape.categories - shape.texts
    return 2 <= numbers <= MAX_NUMBERS and shape.rows <= _MAX_POLYNOMIAL_ROWS


def _some(rows: Rows, seed: int, most: int) -> Rows:
    """All rows, or a random sample of so many."""
    if len(rows) <= most:
        return rows
    return rows.take(np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False)))


def _logistic(
    x: Encoded, y: np.ndarray, weight: np.ndarray, outputs: int, penalty: float, deadline: float
) -> tuple[LinearModel, int]:
    """Minimise weighted log loss + penalty / 2 * |coefficients|^2; two classes share one column."""
    k = 1 if outputs == 2 else outputs
    truth = y[:, None].astype(np.float64) if k == 1 else np.eye(outputs)[y]

    def loss(z: np.ndarray) -> tuple[float, np.ndarray]:
        if k == 1:
            value = np.sum(weight * (np.logaddexp(0, z) - truth * z)[:, 0])
            return value, weight[:, None] * (_probabilities(z)[:, 1:] - truth)
        top = z.max(axis=1, keepdims=True)
        norm = top + np.log(np.exp(z - top).sum(axis=1, keepdims=True))
        return np.sum(weight * (norm[:, 0] - np.sum(z * truth, axis=1))), weight[:, None] * (np.exp(z - norm) - truth)

    share = np.clip(np.average(truth, axis=0, weights=weight), 1e-6, 1 - 1e-6)
    start = np.log(share / (1 - share)) if k == 1 else np.log(share)
    coefficients, intercept, steps = _descend(x, loss, start, penalty, deadline)
    return LinearModel(coefficients, intercept, None), steps


def _ridge(
    x: Encoded, target: NumberTarget, y: np.ndarray, weight: np.ndarray, penalty: float, deadline: float
) -> tuple[LinearModel, int]:
    """Minimise weighted squared error / 2 + penalty / 2 * |coefficients|^2."""
    t = target.encode(y)
    if x.sparse is None and x.numbers.shape[1] <= _DIRECT:
        return _normal_equations(x.numbers, t, weight, penalty, target, deadline), 1

    def loss(z: np.ndarray) -> tuple[float, np.ndarray]:
        gap = z[:, 0] - t
        return float(np.sum(weight * gap**2) / 2), (weight * gap)[:, None]

    start = np.array([np.average(t, weights=weight)])
    coefficients, intercept, steps = _descend(x, loss, start, penalty, deadline)
    return LinearModel(coefficients, intercept, target), steps


def _quantiles(
    x: Encoded,
    target: NumberTarget,
    y: np.ndarray,
    weight: np.ndarray,
    penalty: float,
    quantiles: tuple[float, ...],
    deadline: float,
) -> tuple[LinearModel, int]:
    """Minimise weighted pinball loss + penalty / 2 * |coefficients|^2, one column a quantile.

    The kink of the loss is rounded off, q u + h log(1 + exp(-u / h)), ever less: each width h starts from what the one before found.
    Then each intercept moves so that the share q of the training rows lies below, which rounding had blurred.

    Source: Zheng 2011, "Gradient descent algorithms for quantile regression with smooth approximation".
    """
    t, q = target.encode(y)[:, None], np.asarray(quantiles)
    shift = np.array([weighted_quantile(t[:, 0], weight, level) for level in quantiles])
    coefficients: np.ndarray | None = None
    steps = 0
    for width in _ROUNDINGS:

        def loss(z: np.ndarray, h: float = width) -> tuple[float, np.ndarray]:
            u = t - z
            value = np.sum(weight[:, None] * (q * u + h * np.logaddexp(0, -u / h)))
            return float(value), weight[:, None] * (1 / (1 + np.exp(np.clip(u / h, -500, 500))) - q)

        try:
            coefficients, shift, more = _descend(x, loss, shift, penalty, deadline, coefficients)
        except FitTimeout:
            if coefficients is None:
                raise
            break
        steps += more
    assert coefficients is not None
    away = t - _product(x, coefficients)
    exact = np.array(
        [weighted_quantile(column, weight, level) for column, level in zip(away.T, quantiles, strict=True)]
    )
    return LinearModel(coefficients, exact, target), steps


def _normal_equations(
    x: np.ndarray, t: np.ndarray, weight: np.ndarray, penalty: float, target: NumberTarget, deadline: float
) -> LinearModel:
    """Solve in one step; rows are summed up block by block, and only as many as time allows."""
    k = x.shape[1]
    left, right = np.zeros((k + 1, k + 1)), np.zeros(k + 1)
    for first in range(0, len(x), _BLOCK):
        if time.monotonic() > deadline:
            if first == 0:
                raise _too_late()
            break
        part = slice(first, first + _BLOCK)
        block = np.hstack([x[part], np.ones((len(x[part]), 1))])
        weighted = block * weight[part, None]
        left += weighted.T @ block
        right += weighted.T @ t[part]
    left[np.arange(k), np.arange(k)] += penalty
    solution = np.linalg.lstsq(left, right, rcond=None)[0]
    return LinearModel(np.ascontiguousarray(solution[:k, None]), solution[k:], target)


def _descend(
    x: Encoded,
    loss: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    penalty: float,
    deadline: float,
    coefficients: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """L-BFGS from the given intercept and coefficients (zero for None); returns the best point seen when time ends.

    Args:
        loss: z float64 (n, k) -> value, gradient float64 (n, k).
    """
    from scipy.optimize import minimize

    k, width = len(start), x.numbers.shape[1] + (0 if x.sparse is None else x.sparse.shape[1])
    best: list[Any] = [np.inf, None, 0]

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        if time.monotonic() > deadline:
            raise _OutOfTime
        b, c = point[: width * k].reshape(width, k), point[width * k :]
        best[2] += 1
        value, slope = loss(_product(x, b) + c)
        value += penalty / 2 * float(np.sum(b**2))
        if value < best[0]:
            best[:2] = [value, point.copy()]
        return value, np.concatenate([(_backward(x, slope) + penalty * b).ravel(), slope.sum(axis=0)])

    try:
        minimize(
            objective,
            np.concatenate([np.zeros(width * k) if coefficients is None else coefficients.ravel(), start]),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _MAX_STEPS, "maxfun": 2 * _MAX_STEPS, "ftol": 1e-8, "gtol": 3e-5 * len(x)},
        )
    except _OutOfTime:
        if best[1] is None:
            raise _too_late() from None
    return np.ascontiguousarray(best[1][: width * k].reshape(width, k)), best[1][width * k :].copy(), best[2]


class _OutOfTime(Exception):
    """Ends the search from inside the objective."""


def _too_late() -> FitTimeout:
    return FitTimeout("Linear: no time for one step; give spec.budget.maxDurationSeconds more or use fewer rows")


def _product(x: Encoded, coefficients: np.ndarray) -> np.ndarray:
    dense = x.numbers.shape[1]
    z = x.numbers @ coefficients[:dense]
    return z if x.sparse is None else np.asarray(z + x.sparse @ coefficients[dense:])


def _backward(x: Encoded, slope: np.ndarray) -> np.ndarray:
    dense = x.numbers.T @ slope
    return dense if x.sparse is None else np.vstack([dense, x.sparse.T @ slope])


def _probabilities(z: np.ndarray) -> np.ndarray:
    """float64 (n, classes) of one log-odds column or of one score a class."""
    if z.shape[1] == 1:
        p = 1 / (1 + np.exp(-np.clip(z, -500, 500)))
        return np.hstack([1 - p, p])
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))
