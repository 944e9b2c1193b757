"""Intervals and sets of classes that hold the truth as often as asked, from errors on rows the models were not fitted on.

Called by `ensemble.post`. The calibration rows are the out-of-fold predictions (cross-conformal, Vovk 2015; CV+, Barber et al.
2021, arXiv:1905.02928); the model that predicts later is the mean of the folds', a little better, so coverage errs to the safe
side.
"""

from __future__ import annotations

import numpy as np

from kubeautoml_trainer.tasks.post import Conformal, middle

_BIN_ROWS = 300  # a bin's tail must have enough rows; a guess: 15 beyond each end at 90 %
_MOST_BINS = 10
_CLASS_ROWS = 30  # a class with fewer is calibrated with all others


def number_intervals(prediction: np.ndarray, y: np.ndarray, weight: np.ndarray, coverage: float) -> Conformal:
    """Errors by bin of the prediction, so that intervals are wide where errors are large.

    One output: the error's own quantiles on both sides, so that they may be lopsided. Several (quantiles): what must be added to
    the outermost ones on both sides (conformalised quantile regression, Romano et al. 2019, arXiv:1905.03222).
    """
    where = middle(prediction)
    bins = int(min(_MOST_BINS, max(1, len(y) // _BIN_ROWS)))
    edges = np.unique(np.quantile(where, np.linspace(0, 1, bins + 1)[1:-1])) if bins > 1 else np.zeros(0)
    at = np.searchsorted(edges, where, side="right")
    low, high = prediction[:, 0].astype(np.float64), prediction[:, -1].astype(np.float64)
    below, above = [], []
    for k in range(len(edges) + 1):
        here = at == k if np.sum(at == k) >= _BIN_ROWS // 3 else np.ones(len(y), dtype=bool)
        if prediction.shape[1] == 1:
            alpha = (1 - coverage) / 2
            error, w = y[here] - low[here], weight[here]
            below.append(-upper_quantile(-error, w, 1 - alpha))
            above.append(upper_quantile(error, w, 1 - alpha))
        else:
            outside = np.maximum(low[here] - y[here], y[here] - high[here])
            more = upper_quantile(outside, weight[here], coverage)
            below.append(-more)
            above.append(more)
    return Conformal(coverage, tuple(edges.tolist()), tuple(below), tuple(above))


def class_sets(p: np.ndarray, y: np.ndarray, weight: np.ndarray, coverage: float) -> Conformal:
    """Each class's own least probability, so that each class is covered (Mondrian; LAC, Sadinle et al. 2019)."""
    own = p[np.arange(len(y)), y].astype(np.float64)
    for_all = 1 - upper_quantile(1 - own, weight, coverage)
    least = []
    for k in range(p.shape[1]):
        here = y == k
        enough = np.sum(here) >= max(_CLASS_ROWS, 1 / (1 - coverage))
        value = 1 - upper_quantile(1 - own[here], weight[here], coverage) if enough else for_all
        least.append(float(max(0.0, value)))
    return Conformal(coverage, least=tuple(least))


def upper_quantile(values: np.ndarray, weight: np.ndarray, level: float) -> float:
    """The smallest value that at least `level` of the rows, and one more row that is not there yet, stay below or at.

    >>> upper_quantile(np.arange(1.0, 10.0), np.ones(9), 0.8)
    8.0
    """
    order = np.argsort(values, kind="stable")
    mass = np.cumsum(weight[order])
    n = len(values)
    wanted = level * (n + 1) / n * mass[-1]
    place = int(np.searchsorted(mass, wanted - 1e-9 * mass[-1], side="left"))
    return float(values[order[min(place, n - 1)]])
