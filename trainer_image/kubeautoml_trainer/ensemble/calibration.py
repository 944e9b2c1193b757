"""Better probabilities from out-of-fold ones: slope, slope and shifts, or a rising curve; whichever wins on rows it has not seen.

Called by `ensemble.post`. Sources: Guo et al. 2017, arXiv:1706.04599 (temperature, vector scaling); Zadrozny and Elkan 2002
(isotonic).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kubeautoml_trainer.tasks import metrics as m
from kubeautoml_trainer.tasks.post import FLOOR, RANK_SHARE, Calibration

ISOTONIC_ROWS = 10_000
"""Rows from which a curve is worth a try (scikit-learn's advice is "well above 1,000")."""
LEAST_ROWS = 50
"""Fewer say nothing about probabilities; a guess."""
_PARTS = 5
_SURE = 0.5  # standard errors by which a step towards more parameters must win; a guess
_FIT_ROWS = 200_000  # more rows do not move a handful of numbers
_POINTS = 200  # of a curve

Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], Calibration]


def fit_calibration(
    p: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    parts: np.ndarray,
    keeps: Callable[[np.ndarray, np.ndarray], bool] = lambda before, after: True,
) -> Calibration | None:
    """The simplest calibration that lowers the log loss on rows it was not fitted on; None when none does.

    Args:
        p: probabilities (n, classes) of rows the models were not fitted on.
        parts: int (n,), the nested split: each part is calibrated by the others.
        keeps: (before, after) -> whether what else matters, such as a ranking, is no worse; both are (n, classes).
    """
    if len(y) < LEAST_ROWS or len(np.unique(y)) < 2:
        return None
    best, best_p, best_loss = None, p, _losses(p, y)
    for fit in (fit_slope, fit_shift):
        crossed = _crossed(fit, p, y, weight, parts)
        gain = best_loss - _losses(crossed, y)
        if _mean(gain, weight) > (0.0 if fit is fit_slope else _SURE * _standard_error(gain, weight)) and keeps(
            p, crossed
        ):
            best, best_p, best_loss = fit, crossed, best_loss - gain
    if p.shape[1] == 2 and len(y) >= ISOTONIC_ROWS:
        crossed = _crossed(fit_curve, p, y, weight, parts)
        error = m.expected_calibration_error
        is_nearer = error(y, crossed, weight) < error(y, best_p, weight)
        if is_nearer and _mean(best_loss - _losses(crossed, y), weight) >= 0 and keeps(p, crossed):
            best = fit_curve
    return None if best is None else best(p, y, weight)


def fit_slope(p: np.ndarray, y: np.ndarray, weight: np.ndarray) -> Calibration:
    """One number: 1 / temperature."""
    return _fit_affine(p, y, weight, with_shift=False)


def fit_shift(p: np.ndarray, y: np.ndarray, weight: np.ndarray) -> Calibration:
    """A slope, and a shift for each class: also puts right what class weights did to the probabilities."""
    return _fit_affine(p, y, weight, with_shift=True)


def fit_curve(p: np.ndarray, y: np.ndarray, weight: np.ndarray) -> Calibration:
    """Two classes: a rising curve through the centres of the blocks of an isotonic regression.

    Between centres it rises in a straight line, so that it makes no ties within the range, and `RANK_SHARE` of the probability
    itself makes none outside.
    """
    x, level, mass = isotonic(p[:, 1], y == 1, weight)
    if len(x) > _POINTS:
        cuts = np.unique(np.searchsorted(np.cumsum(mass), np.linspace(0, mass.sum(), _POINTS), side="left"))
        cuts = np.unique(np.clip(cuts, 0, len(x) - 1))
        x, level = x[cuts], level[cuts]
    goal = np.clip((level - RANK_SHARE * x) / (1 - RANK_SHARE), 0.0, 1.0)
    return Calibration(curve_from=tuple(x.tolist()), curve_to=tuple(np.maximum.accumulate(goal).tolist()))


def isotonic(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks of the rising step function that is nearest to y in weighted squares: (mean x, level, weight), rising in both.

    >>> x, level, mass = isotonic(np.array([1.0, 2, 3]), np.array([0, 1, 0]), np.ones(3))
    >>> x.tolist(), level.tolist(), mass.tolist()
    ([1.0, 2.5], [0.0, 0.5], [1.0, 2.0])
    """
    keep = weight > 0
    values, place = np.unique(x[keep].astype(np.float64), return_inverse=True)
    mass = np.bincount(place, weights=weight[keep])
    total = np.bincount(place, weights=weight[keep] * y[keep])
    blocks: list[tuple[float, float, float]] = []  # mass, sum of y, sum of x
    for w, s, v in zip(mass.tolist(), total.tolist(), (mass * values).tolist(), strict=True):
        block = (w, s, v)
        while blocks and blocks[-1][1] * block[0] >= block[1] * blocks[-1][0]:
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1], last[2] + block[2])
        blocks.append(block)
    w, s, v = (np.array(column) for column in zip(*blocks, strict=True))
    return v / w, s / w, w


def _fit_affine(p: np.ndarray, y: np.ndarray, weight: np.ndarray, *, with_shift: bool) -> Calibration:
    """Minimise the log loss of softmax(slope * log p + shift); a slight pull to slope 1 and shift 0 keeps it finite."""
    from scipy.optimize import minimize

    if len(y) > _FIT_ROWS:
        some = np.linspace(0, len(y) - 1, _FIT_ROWS).astype(np.int64)
        p, y, weight = p[some], y[some], weight[some]
    n, k = p.shape
    logs = np.log(np.clip(p.astype(np.float64), FLOOR, 1.0))
    logs -= logs.max(axis=1, keepdims=True)
    share, pull, rows = weight / weight.sum(), 1.0 / max(1, n), np.arange(n)

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        shift = np.concatenate([theta[1:], [0.0]]) if with_shift else np.zeros(k)
        z = theta[0] * logs + shift
        z -= z.max(axis=1, keepdims=True)
        e = np.exp(z)
        total = e.sum(axis=1)
        wrong = e / total[:, None]
        wrong[rows, y] -= 1.0
        wrong *= share[:, None]
        value = float(share @ (np.log(total) - z[rows, y]))
        slope = np.array([np.sum(wrong * logs)])
        gradient = np.concatenate([slope, wrong.sum(axis=0)[:-1]]) if with_shift else slope
        away = np.concatenate([[theta[0] - 1.0], theta[1:]])
        return value + pull * float(away @ away) / 2, gradient + pull * away

    start = np.concatenate([[1.0], np.zeros(k - 1 if with_shift else 0)])
    bounds = [(0.05, 20.0)] + [(-20.0, 20.0)] * (len(start) - 1)
    theta = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 200}).x
    shift = (*(float(v) for v in theta[1:]), 0.0) if with_shift else ()
    return Calibration(slope=float(theta[0]), shift=shift)


def _crossed(fit: Fit, p: np.ndarray, y: np.ndarray, weight: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Each part calibrated by the others."""
    out = p.astype(np.float64)
    for part in np.unique(parts):
        here = parts == part
        if np.any(~here) and np.sum(weight[~here]) > 0:
            out[here] = fit(p[~here], y[~here], weight[~here])(p[here])
    return out


def nested_parts(n: int, groups: np.ndarray | None, seed: int) -> np.ndarray:
    """int64 (n,): five parts at random; rows of a group stay together."""
    rng = np.random.default_rng(seed)
    if groups is None:
        return np.asarray(rng.permutation(n) % _PARTS, dtype=np.int64)
    known, place = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    parts = rng.permutation(len(known)) % max(2, min(_PARTS, len(known)))
    return np.asarray(parts[place], dtype=np.int64)


def _losses(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    q = np.clip(p.astype(np.float64), m.PROBABILITY_FLOOR, 1 - m.PROBABILITY_FLOOR)
    return np.asarray(-np.log(q[np.arange(len(y)), y] / q.sum(axis=1)))


def _mean(values: np.ndarray, weight: np.ndarray) -> float:
    return float(values @ weight / weight.sum())


def _standard_error(values: np.ndarray, weight: np.ndarray) -> float:
    spread = _mean((values - _mean(values, weight)) ** 2, weight)
    effective = weight.sum() ** 2 / np.sum(weight**2)
    return float(np.sqrt(spread / effective))
