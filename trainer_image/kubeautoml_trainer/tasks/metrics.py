"""Metrics as plain functions of arrays, weighted throughout; every one returns NaN where it is not defined.

Written out rather than taken from scikit-learn: they run in every early-stopping round, and a server should not pay
for importing them. `y` and `prediction` are as in `tasks.base.MetricFunction`. In the classification part, `hit` is
bool (n,), "is this class", and `weight` is never None.
"""

from __future__ import annotations

import numpy as np

NAN = float("nan")
# Predictions are stored as float32: nothing below its epsilon can be told from zero.
PROBABILITY_FLOOR = float(np.finfo(np.float32).eps)


def weights_or_ones(weight: np.ndarray | None, n: int) -> np.ndarray:
    """float64 (n,)."""
    return np.ones(n) if weight is None else np.asarray(weight, dtype=np.float64)


# ---- ranking: one class against the rest


def roc_auc(hit: np.ndarray, score: np.ndarray, weight: np.ndarray) -> float:
    """Probability that a hit scores above a miss, ties counting half.

    >>> roc_auc(np.array([False, True, True]), np.array([0.2, 0.2, 0.9]), np.ones(3))
    0.75
    """
    order = np.argsort(score, kind="stable")
    last = _last_of_ties(score[order])
    hits = np.cumsum(weight[order] * hit[order])[last]
    misses = np.cumsum(weight[order] * ~hit[order])[last]
    if not hits.size or hits[-1] <= 0 or misses[-1] <= 0:
        return NAN
    hits_here = np.diff(hits, prepend=0.0)
    misses_below = np.concatenate(([0.0], misses[:-1]))
    misses_here = misses - misses_below
    return float(np.sum(hits_here * (misses_below + 0.5 * misses_here)) / (hits[-1] * misses[-1]))


def average_precision(hit: np.ndarray, score: np.ndarray, weight: np.ndarray) -> float:
    """Precision averaged over the steps in recall, from the highest score down."""
    hits, seen = _from_the_top(hit, score, weight)
    if not hits.size or hits[-1] <= 0:
        return NAN
    precision = hits / np.maximum(seen, np.finfo(float).tiny)
    return float(np.sum(np.diff(hits, prepend=0.0) * precision) / hits[-1])


def recall_at_precision(hit: np.ndarray, score: np.ndarray, weight: np.ndarray, least: float) -> float:
    """The largest recall of all thresholds whose precision is at least `least`; 0 when none has it.

    >>> recall_at_precision(np.array([True, False, True]), np.array([0.9, 0.5, 0.4]), np.ones(3), 0.9)
    0.5
    """
    hits, seen = _from_the_top(hit, score, weight)
    if not hits.size or hits[-1] <= 0:
        return NAN
    good = hits >= least * seen * (1 - 1e-12)
    return float(np.max(hits[good], initial=0.0) / hits[-1])


def _from_the_top(hit: np.ndarray, score: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of the hits, and of all, at and above each threshold, from the highest down."""
    order = np.argsort(-score, kind="stable")
    last = _last_of_ties(score[order])
    return np.cumsum(weight[order] * hit[order])[last], np.cumsum(weight[order])[last]


def _last_of_ties(ordered: np.ndarray) -> np.ndarray:
    """Positions at which a run of equal scores ends."""
    if not ordered.size:
        return np.zeros(0, dtype=np.intp)
    return np.append(np.flatnonzero(np.diff(ordered) != 0), ordered.size - 1)


# ---- probabilities


def log_loss(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray) -> float:
    """Mean negative log-probability of the true class; probabilities are kept away from 0 and 1 and rows
    renormalised.
    """
    p = np.clip(prediction.astype(np.float64), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    p_true = p[np.arange(len(y)), y] / p.sum(axis=1)
    return _mean(-np.log(p_true), weight)


def brier(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray) -> float:
    """Mean squared distance between probabilities and truth; for two classes that of one column (the usual half)."""
    p = prediction.astype(np.float64)
    truth = np.eye(p.shape[1])[y]
    distance = np.sum((p - truth) ** 2, axis=1)
    return _mean(distance / 2 if p.shape[1] == 2 else distance, weight)


def expected_calibration_error(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray, bins: int = 15) -> float:
    """How far stated probabilities are from what happens, over bins of equal mass: of the second of two classes, else of the class
    that is most probable.
    """
    if not len(y):
        return NAN
    p = prediction.astype(np.float64)
    stated = p[:, 1] if p.shape[1] == 2 else p.max(axis=1)
    hit = y == (1 if p.shape[1] == 2 else np.argmax(p, axis=1))
    order = np.argsort(stated, kind="stable")
    mass = np.cumsum(weight[order])
    bin_ = np.minimum((mass - weight[order] / 2) / max(mass[-1], 1e-300) * bins, bins - 1).astype(np.int64)
    gap = np.bincount(bin_, weights=weight[order] * (hit[order] - stated[order]), minlength=bins)
    return _ratio(np.sum(np.abs(gap)), mass[-1], NAN)


# ---- decisions: `table` is the weighted confusion matrix, truth by row


def confusion(y: np.ndarray, decided: np.ndarray, classes: int, weight: np.ndarray) -> np.ndarray:
    """float64 (classes, classes)."""
    return np.bincount(y * classes + decided, weights=weight, minlength=classes * classes).reshape(classes, classes)


def accuracy(table: np.ndarray) -> float:
    return _ratio(np.trace(table), table.sum(), NAN)


def balanced_accuracy(table: np.ndarray) -> float:
    """Mean recall over the classes present."""
    support = table.sum(axis=1)
    present = support > 0
    return float(np.mean(np.diag(table)[present] / support[present])) if present.any() else NAN


def matthews(table: np.ndarray) -> float:
    """Correlation of decisions and truth; 0 for constant decisions, NaN when the truth has one class."""
    total, truth, decided = table.sum(), table.sum(axis=1), table.sum(axis=0)
    spread_truth = total**2 - np.sum(truth**2)
    spread_decided = total**2 - np.sum(decided**2)
    if np.count_nonzero(truth) < 2:
        return NAN
    return _ratio(np.trace(table) * total - truth @ decided, np.sqrt(spread_truth * spread_decided), 0.0)


def precision_of(table: np.ndarray, k: int) -> float:
    """0 when class k is never decided: a model that never dares should not look undefined."""
    return _ratio(table[k, k], table[:, k].sum(), 0.0)


def recall_of(table: np.ndarray, k: int) -> float:
    return _ratio(table[k, k], table[k].sum(), NAN)


def f1_of(table: np.ndarray, k: int) -> float:
    return NAN if table[k].sum() <= 0 else _ratio(2 * table[k, k], table[k].sum() + table[:, k].sum(), 0.0)


def f1_macro(table: np.ndarray) -> float:
    """Unweighted mean of F1 over the classes present in truth or decisions."""
    both = table.sum(axis=0) + table.sum(axis=1)
    present = both > 0
    return float(np.mean(2 * np.diag(table)[present] / both[present])) if present.any() else NAN


def expected_cost(table: np.ndarray, costs: np.ndarray) -> float:
    """Mean cost of a row; `costs` is (actual, predicted), as the table."""
    return _ratio(np.sum(table * costs), table.sum(), NAN) if table.sum() > 0 else NAN


def support_weighted(values: np.ndarray, table: np.ndarray) -> float:
    """Mean of one value a class, weighted by the class's share of the truth; NaN values belong to absent classes."""
    support = table.sum(axis=1)
    return _ratio(np.sum(np.where(support > 0, np.nan_to_num(values), 0.0) * support), support.sum(), NAN)


# ---- numbers: y and prediction are float64 (n,)


def pinball(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray, quantiles: tuple[float, ...]) -> float:
    """Mean over rows and quantiles of the loss whose best constant is the quantile; prediction is (n, quantiles).

    Source: Koenker and Bassett 1978.
    """
    error = y[:, None] - prediction.astype(np.float64)
    q = np.asarray(quantiles)
    return _mean(np.mean(np.maximum(q * error, (q - 1) * error), axis=1), weight)


def mse(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray) -> float:
    return _mean((y - prediction) ** 2, weight)


def rmse(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray) -> float:
    return float(np.sqrt(mse(y, prediction, weight)))


def mae(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray) -> float:
    return _mean(np.abs(y - prediction), weight)


def median_absolute_error(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray) -> float:
    return weighted_median(np.abs(y - prediction), weight)


def weighted_median(values: np.ndarray, weight: np.ndarray) -> float:
    """The value that splits the weight in halves; the mean of two where the split falls between them."""
    keep = weight > 0
    if not keep.any():
        return NAN
    order = np.argsort(values[keep], kind="stable")
    ordered, total = values[keep][order], np.cumsum(weight[keep][order])
    half = total[-1] / 2
    low = int(np.searchsorted(total, half - 1e-12 * total[-1], side="left"))
    high = int(np.searchsorted(total, half + 1e-12 * total[-1], side="right"))
    return float((ordered[low] + ordered[min(high, ordered.size - 1)]) / 2)


def weighted_quantile(values: np.ndarray, weight: np.ndarray, q: float) -> float:
    """The smallest value that holds a share q of the weight at or below it: it makes the pinball loss least."""
    keep = weight > 0
    if not keep.any():
        return NAN
    order = np.argsort(values[keep], kind="stable")
    total = np.cumsum(weight[keep][order])
    place = int(np.searchsorted(total, (q - 1e-12) * total[-1], side="left"))
    return float(values[keep][order][min(place, order.size - 1)])


def r2(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray) -> float:
    """Share of the variance explained; NaN when the truth does not vary."""
    spread = np.sum(weight * (y - _mean(y, weight)) ** 2)
    return NAN if len(y) < 2 or spread <= 0 else float(1 - np.sum(weight * (y - prediction) ** 2) / spread)


def mape(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray) -> float:
    """Mean |error| / |truth| over the rows whose truth is not zero (there the ratio is not defined)."""
    keep = y != 0
    return _mean(np.abs((y[keep] - prediction[keep]) / y[keep]), weight[keep])


def rmsle(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray) -> float:
    """Root mean squared error of log(1 + value); NaN with a negative truth, negative predictions count as 0."""
    if np.any(y < 0):
        return NAN
    return float(np.sqrt(_mean((np.log1p(y) - np.log1p(np.maximum(prediction, 0))) ** 2, weight)))


def _mean(values: np.ndarray, weight: np.ndarray) -> float:
    return _ratio(np.sum(values * weight), np.sum(weight), NAN)


def _ratio(above: float, below: float, otherwise: float) -> float:
    return float(above / below) if below > 0 else otherwise
