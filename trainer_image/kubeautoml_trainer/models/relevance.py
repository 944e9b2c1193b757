"""How much each column says about the target: for distances and kernels, to which all columns else count alike."""

from __future__ import annotations

import time

import numpy as np

_TREES, _STEP = 60, 10  # trees; grown between two looks at the clock
_ROWS, _LEAF = 2_000, 3  # rows a forest sees, so that a step stays short; rows of a leaf
_LEAST = 0.05  # of the most telling column's weight: a column that helps only beside others is not thrown away


def relevance(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, *, classes: bool, seed: int, deadline: float
) -> np.ndarray:
    """Weights of the columns by the importance that extremely randomised trees give them.

    Squared distances are sums over columns, so a weight is the root of an importance.

    Args:
        x: float32 (n, columns) without NaN.
        y: (n,), class indices or encoded numbers.
        deadline: `time.monotonic()` after which no more trees are grown.

    Returns:
        float32 (columns,) in [0.05, 1]; all 1 where nothing was learned.
    """
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    if len(x) > _ROWS:
        rows = np.random.default_rng(seed).choice(len(x), _ROWS, replace=False)
        x, y, weight = x[rows], y[rows], weight[rows]
    forest = (ExtraTreesClassifier if classes else ExtraTreesRegressor)(
        n_estimators=0,
        max_features=0.5,
        min_samples_leaf=min(_LEAF, max(1, len(x) // 10)),
        random_state=seed,
        warm_start=True,
    )
    while forest.n_estimators < _TREES and time.monotonic() < deadline:
        forest.set_params(n_estimators=forest.n_estimators + _STEP).fit(x, y, sample_weight=weight)
    if not forest.n_estimators:
        return np.ones(x.shape[1], dtype=np.float32)
    importance = forest.feature_importances_
    most = float(importance.max())
    if not most > 0:
        return np.ones(x.shape[1], dtype=np.float32)
    return np.asarray(np.maximum(np.sqrt(importance / most), _LEAST), dtype=np.float32)
