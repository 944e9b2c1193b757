"""Which class to say for given probabilities, so that a metric of decisions is best on rows the models were not fitted on.

Called by `ensemble.post`. Two classes: every threshold between two scores is tried, exactly. More: weights of the classes, one
after another. What is found must win on a nested split against the plain rule.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kubeautoml_trainer.tasks.post import Decision

Value = Callable[[np.ndarray], float]
"""Weighted confusion matrix (classes, classes), truth by row -> value; larger is better."""

_STEPS = np.exp(np.linspace(np.log(1 / 8), np.log(8), 13))
_FINER = np.exp(np.linspace(np.log(1 / 1.4), np.log(1.4), 7))
_SWEEPS = 3
_ROWS = 20_000  # for weights of more than two classes; more move them little
_MOST_CLASSES = 100  # beyond, a sweep over weights takes too long and finds noise


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


def threshold(p: np.ndarray, y: np.ndarray, weight: np.ndarray, value: Value) -> Decision:
    """The best cut of the second class's probability, of all cuts; of equals the one nearest to 0.5. Costs are in `value`."""
    order = np.argsort(-p[:, 1], kind="stable")
    score, hit, w = p[order, 1].astype(np.float64), y[order] == 1, weight[order]
    ends = np.append(np.flatnonzero(np.diff(score) != 0), len(score) - 1)
    hits = np.concatenate([[0.0], np.cumsum(w * hit)[ends]])
    false = np.concatenate([[0.0], np.cumsum(w * ~hit)[ends]])
    between = (score[ends[:-1]] + score[ends[:-1] + 1]) / 2
    cuts = np.concatenate([[(1.0 + score[0]) / 2], between, [score[-1] / 2]])  # all, or none, of the rows at the ends
    values = np.array(
        [
            value(np.array([[false[-1] - f, f], [hits[-1] - h, h]]))
            for h, f in zip(hits.tolist(), false.tolist(), strict=True)
        ]
    )
    top = np.nanmax(values) if np.isfinite(values).any() else np.nan
    good = np.flatnonzero(values >= top - 1e-12 * max(1.0, abs(top)))
    cut = 0.5 if not len(good) else float(cuts[good[np.argmin(np.abs(cuts[good] - 0.5))]])
    cut = min(max(cut, 1e-9), 1 - 1e-9)
    return Decision((cut, 1 - cut))


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
