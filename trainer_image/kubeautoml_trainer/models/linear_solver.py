"""The solver of linear models: L-BFGS on a penalised loss, or the normal equations; dense and sparse columns side by side.

Written out because it must keep a deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.features import Encoded
from kubeautoml_trainer.models.base import FitTimeout
from kubeautoml_trainer.models.target import NumberTarget, load_target, save_target
from kubeautoml_trainer.tasks.metrics import weighted_quantile

_FILE = "linear.safetensors"
_MAX_STEPS = 300
_BLOCK = 65_536  # rows between two looks at the clock
_DIRECT = 2_000  # columns up to which ridge solves its normal equations
_ROUNDINGS = (0.5, 0.1, 0.02)  # of the pinball loss, in deviations of the target; the last moves no quantile by as much
MOST_NUMBERS = 2_000_000
"""Coefficients of one model: L-BFGS remembers twenty times as many, 320 MB. With more classes there is room for fewer terms."""
_COMPACT = 100_000  # coefficients from which on they are kept as float32; of a text each says little


@dataclass(frozen=True)
class LinearModel:
    """coefficients float64 (columns, k), float32 where there are many; intercept float64 (k,). One column for a number or two
    classes, else one a class or a quantile.
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


def load_linear(folder: Path) -> LinearModel:
    """Read what `LinearModel.save` wrote.

    Raises:
        BundleError: absent or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(str(folder / _FILE))
        return LinearModel(arrays["coefficients"], arrays["intercept"], load_target(folder))
    except (OSError, KeyError, SafetensorError) as error:
        raise BundleError(f"{folder / _FILE} cannot be read: {error!r}") from error


def logistic(
    x: Encoded,
    y: np.ndarray,
    weight: np.ndarray,
    outputs: int,
    penalty: float,
    deadline: float,
    scale: np.ndarray | None = None,
) -> tuple[LinearModel, int]:
    """Minimise weighted log loss + penalty / 2 * |coefficients / scale|^2; two classes share one column.

    scale: float64 (columns, k), 1 where None.
    """
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
    coefficients, intercept, steps = _descend(x, loss, start, penalty, deadline, scale=scale)
    return LinearModel(coefficients, intercept, None), steps


def ridge(
    x: Encoded,
    target: NumberTarget,
    y: np.ndarray,
    weight: np.ndarray,
    penalty: float,
    deadline: float,
    scale: np.ndarray | None = None,
) -> tuple[LinearModel, int]:
    """Minimise weighted squared error / 2 + penalty / 2 * |coefficients / scale|^2; scale as in `logistic`."""
    t = target.encode(y)
    if x.sparse is None and scale is None and x.numbers.shape[1] <= _DIRECT:
        return _normal_equations(x.numbers, t, weight, penalty, target, deadline), 1

    def loss(z: np.ndarray) -> tuple[float, np.ndarray]:
        gap = z[:, 0] - t
        return float(np.sum(weight * gap**2) / 2), (weight * gap)[:, None]

    start = np.array([np.average(t, weights=weight)])
    coefficients, intercept, steps = _descend(x, loss, start, penalty, deadline, scale=scale)
    return LinearModel(coefficients, intercept, target), steps


def quantiles(
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
    scale: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """L-BFGS from the given intercept and coefficients (zero for None); returns the best point seen when time ends.

    Args:
        loss: z float64 (n, k) -> value, gradient float64 (n, k).
        scale: float64 (columns, k); what is penalised, and moved, is coefficients / scale.
    """
    from scipy.optimize import minimize

    if x.sparse is not None:
        # once, or scipy would convert it for every product
        x = replace(x, sparse=x.sparse.astype(np.float64))
    by = 1.0 if scale is None else scale

    k, width = len(start), x.numbers.shape[1] + (0 if x.sparse is None else x.sparse.shape[1])
    best: list[Any] = [np.inf, None, 0]

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        if time.monotonic() > deadline:
            raise _OutOfTime
        b, c = point[: width * k].reshape(width, k), point[width * k :]
        best[2] += 1
        value, slope = loss(_product(x, by * b) + c)
        value += penalty / 2 * float(np.sum(b**2))
        if value < best[0]:
            best[:2] = [value, point.copy()]
        return value, np.concatenate([(by * _backward(x, slope) + penalty * b).ravel(), slope.sum(axis=0)])

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
    found = by * best[1][: width * k].reshape(width, k)
    dtype = np.float32 if x.sparse is not None and found.size > _COMPACT else np.float64
    return np.ascontiguousarray(found, dtype=dtype), best[1][width * k :].copy(), best[2]


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
