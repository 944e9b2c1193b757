"""A few numbers as the second level: ridge, or logistic regression, of what the greedy mean misses. Called by `ensemble.stacking`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from kubeautoml_trainer.models.second_level import SecondLevel, added_columns, margins, mean_margin, predictions

if TYPE_CHECKING:
    from kubeautoml_trainer.ensemble.stacking import FirstLevel, Split

_PENALTIES = (1.0, 0.1, 0.01, 1e-3, 1e-4)  # a row, in units of columns of spread 1; from nearly nothing to nearly free


class Linear:
    """Ridge, or logistic regression, of what is missing on how far the models are from their mean."""

    name = "Linear"

    def path(self, data: FirstLevel, split: Split, most: int | None) -> list[SecondLevel]:
        first = data.first[:, split.learned]
        mean = mean_margin(first, split.base, data.scale)
        columns = added_columns(first, mean, data.scale)
        w = data.weight[split.learned]
        # the mean itself is a column about its own middle, so that a slope does not move everything
        middle = np.average(mean, axis=0, weights=w)
        columns[-2] -= middle
        spread = np.sqrt(np.average(columns**2, axis=1, weights=w))
        usable = spread > 1e-9 * np.maximum(1.0, np.abs(middle))
        columns /= np.where(usable, spread, np.inf)[:, None, :]
        y = data.rows.y[split.learned]
        made: list[SecondLevel] = []
        found = np.zeros((len(columns), mean.shape[1]))
        for penalty in _PENALTIES[:most]:
            if time.monotonic() > data.deadline:
                raise TimeoutError
            if data.scale == "probabilities":
                found = _logistic(mean, columns, y, w, penalty, data.task.outputs, found)
            else:
                found = _ridge(margins(y[:, None], data.scale) - mean, columns, w, penalty)
            coefficients = np.where(usable, found / np.where(usable, spread, 1.0), 0.0)
            coefficients[-1] -= coefficients[-2] * middle
            made.append(SecondLevel(split.base, data.scale, coefficients))
        return made


def _ridge(missing: np.ndarray, columns: np.ndarray, w: np.ndarray, penalty: float) -> np.ndarray:
    """float64 (k, 1), minimising the weighted mean of squared errors + penalty * |b|^2."""
    x = columns[:, :, 0]
    left = (x * w) @ x.T / w.sum() + penalty * np.eye(len(x))
    return np.asarray(np.linalg.solve(left, (x * w) @ missing / w.sum()))


def _logistic(
    mean: np.ndarray,
    columns: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    penalty: float,
    outputs: int,
    start: np.ndarray,
) -> np.ndarray:
    """float64 (k, margins), minimising the weighted mean log loss + penalty / 2 * |b|^2."""
    from scipy.optimize import minimize

    k, n, c = columns.shape
    truth = (y[:, None] == 1).astype(np.float64) if c == 1 else np.eye(outputs)[y]
    share, rows = w / w.sum(), np.arange(n)
    of_class = np.ascontiguousarray(np.moveaxis(columns, 2, 0))  # (margins, k, n): products then are matrix products

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        b = flat.reshape(k, c)
        z = mean + np.matmul(b.T[:, None, :], of_class)[:, 0].T
        p = predictions(z, "probabilities")
        value = -float(share @ np.log(np.maximum(p[rows, y], 1e-300))) + penalty / 2 * float(np.sum(b**2))
        slope = (p[:, 1:] if c == 1 else p) - truth
        gradient = np.matmul(of_class, (slope * share[:, None]).T[:, :, None])[:, :, 0].T
        return value, (gradient + penalty * b).ravel()

    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return np.asarray(found.x.reshape(k, c))
