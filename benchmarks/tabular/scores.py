"""How far a prediction is from the truth: one loss for each kind of task, and the noise of a difference between two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import log_loss, roc_auc_score, root_mean_squared_error

RESAMPLES = 200
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A loss less the baseline's on the same rows, with its standard error from a paired bootstrap over the rows."""

    value: float
    standard_error: float


def in_order(predicted: FloatArray, given: list[str], classes: list[str]) -> FloatArray:
    """Columns in the order of `classes`; a class that the rival has not seen gets 0.

    Raises:
        ValueError: the shape does not fit the classes.
    """
    if predicted.ndim != 2 or predicted.shape[1] != len(given):
        raise ValueError(f"predictions have shape {predicted.shape}, expected (rows, {len(given)}) probabilities")
    columns = [predicted[:, given.index(c)] if c in given else np.zeros(len(predicted)) for c in classes]
    return np.column_stack(columns)


def loss(kind: str, y: npt.NDArray[np.object_], predicted: FloatArray, classes: list[str]) -> float:
    """Lower is better: 1 - ROC AUC, log loss (natural logarithm, clipped at 1e-15) or RMSE in the target's unit.

    `y` has shape (n,), `predicted` (n,) for values or (n, classes) in the order of `classes`.
    """
    if not np.isfinite(predicted).all():
        raise ValueError(f"{int((~np.isfinite(predicted)).sum())} predictions are not finite")
    if kind == "regression":
        return float(root_mean_squared_error(y.astype(float), predicted.reshape(len(y))))
    if kind == "binary":
        return 1 - float(roc_auc_score(y == classes[1], predicted[:, 1]))
    clipped = np.clip(predicted, 1e-15, None)
    return float(log_loss(y, clipped / clipped.sum(axis=1, keepdims=True), labels=classes))


def difference(
    kind: str, y: npt.NDArray[np.object_], ours: FloatArray, baseline: FloatArray, classes: list[str]
) -> Difference:
    """Paired: both are scored on the same resampled rows, 200 times."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(y), len(y))
        if kind != "regression" and len(np.unique(y[rows])) < 2:
            continue
        values.append(loss(kind, y[rows], ours[rows], classes) - loss(kind, y[rows], baseline[rows], classes))
    whole = loss(kind, y, ours, classes) - loss(kind, y, baseline, classes)
    return Difference(whole, float(np.std(values, ddof=1)))
