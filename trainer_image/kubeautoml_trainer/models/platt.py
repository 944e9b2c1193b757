"""Probabilities from scores of models that give none: Platt 1999, for any number of classes."""

from __future__ import annotations

import math

import numpy as np


def calibrate(score: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find slope and bias so that softmax(slope * score + bias) has the least log loss; for two classes this is
    Platt's scaling.

    Args:
        score: float64 (n, classes) of rows that the scores have not seen.
        y: (n,), places of the true classes.

    Returns:
        float64 (1,), float64 (classes,). Drawn to slope 1 and bias 0 with the weight of about one row.
    """
    from scipy.optimize import minimize

    n, k = score.shape
    truth = np.eye(k)[y]

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        slope, bias = math.exp(point[0]), point[1:]
        z = slope * score + bias
        p = softmax(z)
        value = -float(np.sum(weight * np.log(np.maximum(p[np.arange(n), y], 1e-300)))) + float(point @ point) / 2
        gap = weight[:, None] * (p - truth)
        return value, np.concatenate([[np.sum(gap * score) * slope], gap.sum(axis=0)]) + point

    # a slope beyond e^2 would make much of what a solver's tolerance leaves open
    found = minimize(loss, np.zeros(k + 1), jac=True, method="L-BFGS-B", bounds=[(-5, 2), *[(-20, 20)] * k]).x
    return np.array([math.exp(found[0])]), np.asarray(found[1:])


def softmax(z: np.ndarray) -> np.ndarray:
    """Rows of probabilities of rows of scores."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))
