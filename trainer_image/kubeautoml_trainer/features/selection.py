"""The dense columns that go best with the target, one by one."""

from __future__ import annotations

import numpy as np

_BLOCK = 65_536


def best_columns(x: np.ndarray, targets: np.ndarray, weight: np.ndarray, share: float) -> np.ndarray:
    """Positions of the columns with the greatest correlation with any target, increasing.

    Args:
        x: float64 (n, k) without NaN.
        targets: float64 (n, t).
        weight: float64 (n,).
        share: of the columns to keep, in (0, 1]; at least one is kept.
    """
    total = weight.sum()
    mean, truth = (weight @ x) / total, targets - np.average(targets, axis=0, weights=weight)
    square, together = np.zeros(x.shape[1]), np.zeros((x.shape[1], targets.shape[1]))
    for first in range(0, len(x), _BLOCK):
        part = slice(first, first + _BLOCK)
        centred = x[part] - mean
        square += weight[part] @ centred**2
        together += (centred * weight[part, None]).T @ truth[part]
    spread = np.sqrt(np.outer(square, weight @ truth**2))
    score = np.where(spread > 0, np.abs(together) / np.where(spread > 0, spread, 1.0), 0.0).max(axis=1, initial=0.0)
    keep = max(1, round(share * x.shape[1]))
    return np.sort(np.argsort(-score, kind="stable")[:keep])
