"""Which class to say for given probabilities, so that a metric of decisions is best on rows the models were not fitted on.

Called by `ensemble.post` for the finished model, and by whatever compares models on such rows. Two classes: every threshold between
two scores is tried, exactly. More: weights of the classes, one after another. What is found must win on a nested split against the
plain rule. To compare models, which must be quick, some thresholds and rules do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kubeautoml.api.metrics import METRICS, Direction
from kubeautoml_trainer.tasks.base import Task
from kubeautoml_trainer.tasks.metrics import weights_or_ones
from kubeautoml_trainer.tasks.post import Decision

Value = Callable[[np.ndarray], float]
"""Weighted confusion matrix (classes, classes), truth by row -> value; larger is better."""

_STEPS = np.exp(np.linspace(np.log(1 / 8), np.log(8), 13))
_FINER = np.exp(np.linspace(np.log(1 / 1.4), np.log(1.4), 7))
_SWEEPS = 3
_ROWS = 20_000  # for weights of more than two classes; more move them little
_MOST_CLASSES = 100  # beyond, a sweep over weights takes too long and finds noise


TUNABLE = ("Accuracy", "BalancedAccuracy", "F1", "F1Macro", "MatthewsCorrelation", "ExpectedCost")
"""Metrics that decisions are tuned for. Precision and Recall alone are best where one class is never, or always, decided."""
_COMPARED = tuple(name for name in TUNABLE if name != "Accuracy")
"""Those that models are compared by at their best decision. The most probable class is nearly the best for accuracy, and the rest noise."""
_CUTS = 128  # tried while models are compared; the finished model's decision is exact
_POWERS = (0.0, 0.5, 1.0)  # of the inverse class shares, tried for more than two classes


def decision_value(task: Task, metric: str | None) -> Value | None:
    """The metric as a function of the confusion matrix, larger is better; None when it is not about decisions."""
    if metric is None or metric not in TUNABLE or metric not in task.of_table:
        return None
    one, sign = task.of_table[metric], 1.0 if METRICS[metric].direction is Direction.MAXIMIZE else -1.0
    return lambda table: sign * one(table)


def is_compared_decided(task: Task, metric: str) -> bool:
    """Whether models are compared by this metric at their best decision."""
    return metric in _COMPARED and metric in task.of_table


def quick_decision(task: Task, metric: str, y: np.ndarray, p: np.ndarray, weight: np.ndarray | None) -> Decision | None:
    """About the best decision for these rows; None where the metric needs none (see `_COMPARED`)."""
    value = decision_value(task, metric) if is_compared_decided(task, metric) else None
    if value is None or not len(y):
        return None
    w, classes = weights_or_ones(weight, len(y)), p.shape[1]
    if classes == 2:
        return threshold(p, y, w, value, _CUTS)
    share = np.maximum(np.bincount(y, weights=w, minlength=classes), 1e-9)
    table = costs_as_tuples(task.costs) if metric == "ExpectedCost" and task.costs is not None else ()
    rules = [Decision(tuple((share.mean() / share) ** power), table) for power in _POWERS]
    return max(rules, key=lambda rule: float(np.nan_to_num(value(_table(y, rule(p), classes, w)), nan=-np.inf)))


def out_of_fold_score(task: Task, metric: str, y: np.ndarray, p: np.ndarray, weight: np.ndarray | None) -> float:
    """A metric of predictions of rows that the model was not fitted on; metrics of decisions at about the best one for these rows.

    So a model is not blamed for probabilities far from 1/2, which the finished model's decision makes up for. One threshold is hardly
    fitted to noise; it is so for all models alike.
    """
    rule = quick_decision(task, metric, y, p, weight)
    return task.score(metric, y, p, weight, None if rule is None else rule(p))


def fit_decision(
    p: np.ndarray, y: np.ndarray, weight: np.ndarray, parts: np.ndarray, value: Value, costs: np.ndarray | None
) -> Decision | None:
    """The tuned rule where it wins on rows that did not choose it, else the plain one (None without costs).

    Args:
        p: calibrated probabilities (n, classes).
        parts: int (n,), the nested split.
        costs: (actual, predicted), or None.
    """
    table = () if costs is None else costs_as_tuples(costs)
    plain = Decision(costs=table)
    classes = p.shape[1]
    if len(np.unique(y)) < 2 or classes > _MOST_CLASSES:
        return plain if costs is not None else None

    def tuned(rows: np.ndarray) -> Decision:
        if classes == 2:
            return threshold(p[rows], y[rows], weight[rows], value)
        return class_weights(p[rows], y[rows], weight[rows], value, table)

    crossed = np.zeros(len(y), dtype=np.int64)
    for part in np.unique(parts):
        crossed[parts == part] = tuned(parts != part)(p[parts == part])
    if value(_table(y, crossed, classes, weight)) > value(_table(y, plain(p), classes, weight)):
        return tuned(np.ones(len(y), dtype=bool))
    return plain if costs is not None else None


def costs_as_tuples(costs: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(c) for c in row) for row in costs)


def threshold(p: np.ndarray, y: np.ndarray, weight: np.ndarray, value: Value, most: int | None = None) -> Decision:
    """The best cut of the second class's probability, of all cuts; of equals the one nearest to 0.5. Costs are in `value`.

    Args:
        most: try no more cuts than this, half of them spread over the rows of the second class; None tries all.
    """
    order = np.argsort(-p[:, 1], kind="stable")
    score, hit, w = p[order, 1].astype(np.float64), y[order] == 1, weight[order]
    ends = np.append(np.flatnonzero(np.diff(score) != 0), len(score) - 1)
    hits = np.concatenate([[0.0], np.cumsum(w * hit)[ends]])
    false = np.concatenate([[0.0], np.cumsum(w * ~hit)[ends]])
    between = (score[ends[:-1]] + score[ends[:-1] + 1]) / 2
    cuts = np.concatenate([[(1.0 + score[0]) / 2], between, [score[-1] / 2]])  # all, or none, of the rows at the ends
    if most is not None and len(cuts) > most:
        some = _spread(hits, false, most)
        hits, false, cuts, total = hits[some], false[some], cuts[some], (hits[-1], false[-1])
    else:
        total = hits[-1], false[-1]
    values = np.array(
        [
            value(np.array([[total[1] - f, f], [total[0] - h, h]]))
            for h, f in zip(hits.tolist(), false.tolist(), strict=True)
        ]
    )
    top = np.nanmax(values) if np.isfinite(values).any() else np.nan
    good = np.flatnonzero(values >= top - 1e-12 * max(1.0, abs(top)))
    cut = 0.5 if not len(good) else float(cuts[good[np.argmin(np.abs(cuts[good] - 0.5))]])
    cut = min(max(cut, 1e-9), 1 - 1e-9)
    return Decision((cut, 1 - cut))


def _spread(hits: np.ndarray, false: np.ndarray, most: int) -> np.ndarray:
    """Positions of about `most` cuts: even steps in hits, and in all rows."""
    steps = [np.linspace(0, mass[-1], most // 2) for mass in (hits, hits + false)]
    found = [np.searchsorted(mass, step) for mass, step in zip((hits, hits + false), steps, strict=True)]
    return np.unique(np.clip(np.concatenate(found), 0, len(hits) - 1))


def class_weights(
    p: np.ndarray, y: np.ndarray, weight: np.ndarray, value: Value, costs: tuple[tuple[float, ...], ...] = ()
) -> Decision:
    """Weights of the classes by coordinate search, coarse and then fine, from the plain rule."""
    if len(y) > _ROWS:
        some = np.linspace(0, len(y) - 1, _ROWS).astype(np.int64)
        p, y, weight = p[some], y[some], weight[some]
    classes = p.shape[1]
    found = np.ones(classes)

    def worth(weights: np.ndarray) -> float:
        decided = Decision(tuple(weights.tolist()), costs)(p)
        return value(_table(y, decided, classes, weight))

    best = worth(found)
    for sweep in range(_SWEEPS):
        before = best
        for k in range(classes):
            for step in _STEPS if sweep == 0 else _FINER:
                trial = found.copy()
                trial[k] *= step
                new = worth(trial)
                if new > best:
                    best, chosen = new, trial
                    found = chosen
        if best == before and sweep:
            break
    return Decision(tuple((found / found.sum()).tolist()), costs)


def _table(y: np.ndarray, decided: np.ndarray, classes: int, weight: np.ndarray) -> np.ndarray:
    return np.bincount(y * classes + decided, weights=weight, minlength=classes * classes).reshape(classes, classes)
