"""Scores many possible next members at once; the metrics most used have a form that is fast enough for hundreds of picks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from kubeautoml_trainer.ensemble.decisions import out_of_fold_score
from kubeautoml_trainer.tasks.base import Task

_FLOOR = float(np.finfo(np.float32).eps)


class Scorer(Protocol):
    """Knows all candidates' predictions."""

    def scores(self, picks: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """The objective after adding each of `candidates` (positions) to `picks` (int, times each is in already)."""
        ...


def scorer_for(task: Task, metric: str, stack: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> Scorer:
    """The fastest scorer for a metric.

    Args:
        stack: float32 (candidates, n, outputs), finite.
    """
    if metric in ("Rmse", "Mse", "R2"):
        return SquaredError(metric, stack[:, :, 0], y, weight)
    if metric == "LogLoss":
        return LogLoss(stack, y, weight)
    if metric == "RocAuc" and weight is None and task.outputs == 2:
        # with two classes the areas of both are equal, so the second's will do
        return BinaryRanking(stack[:, :, 1], y == 1)
    return AnyMetric(task, metric, stack, y, weight)


class AnyMetric:
    """Through the task's own metric (of decisions: at their best); keeps the running sum of the picks."""

    def __init__(self, task: Task, metric: str, stack: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
        self._task, self._metric, self._y, self._weight = task, metric, y, weight
        self._sum = _RunningSum(stack)

    def scores(self, picks: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        means = self._sum.means(picks, candidates)
        return np.array([out_of_fold_score(self._task, self._metric, self._y, p, self._weight) for p in means])


class SquaredError:
    """From the products of all residuals: afterwards a pick costs nothing, however many rows there are."""

    def __init__(self, metric: str, stack: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
        w = np.ones(len(y)) if weight is None else weight.astype(np.float64)
        w = w / w.sum()
        residual = (stack.astype(np.float64) - y) * np.sqrt(w)
        self._products = residual @ residual.T
        self._metric = metric
        self._spread = float(np.sum(w * (y - np.sum(w * y)) ** 2))

    def scores(self, picks: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        before = self._products @ picks
        total = picks @ before + 2 * before[candidates] + np.diag(self._products)[candidates]
        mse = np.maximum(total, 0.0) / (picks.sum() + 1) ** 2
        if self._metric == "R2":
            return np.asarray(1 - mse / self._spread) if self._spread > 0 else np.full(len(candidates), np.nan)
        return np.asarray(np.sqrt(mse) if self._metric == "Rmse" else mse)


class LogLoss:
    """Needs only each row's probability of its true class."""

    def __init__(self, stack: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> None:
        self._sum = _RunningSum(stack[:, np.arange(len(y)), y])
        self._weight = None if weight is None else weight / weight.sum()

    def scores(self, picks: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        losses = (-np.log(np.clip(p, _FLOOR, 1 - _FLOOR)) for p in self._sum.means(picks, candidates))
        return np.array([np.average(loss, weights=self._weight) for loss in losses])


class BinaryRanking:
    """ROC AUC of unweighted rows by one plain sort, the truth riding in the lowest bit of the score."""

    def __init__(self, stack: np.ndarray, hit: np.ndarray) -> None:
        self._sum = _RunningSum(stack)
        self._hit = hit.astype(np.uint32)
        self._hits = int(hit.sum())

    def scores(self, picks: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        return np.array([self._area(p) for p in self._sum.means(picks, candidates)])

    def _area(self, score: np.ndarray) -> float:
        misses = len(score) - self._hits
        if not self._hits or not misses:
            return float("nan")
        keys = np.maximum(score, 0).astype(np.float32).view(np.uint32)  # bits of floats >= 0 sort like the floats
        keys &= ~np.uint32(1)
        keys |= self._hit
        keys.sort()
        hit = keys & 1
        keys |= 1
        ends = np.append(np.flatnonzero(keys[1:] != keys[:-1]), len(keys) - 1)  # last of each run of ties
        hits = np.cumsum(hit, dtype=np.int64)[ends]
        below = ends + 1 - hits  # misses up to here
        hits_here = np.diff(hits, prepend=0)
        below[1:] += below[:-1].copy()  # misses before the run, and those up to its end: ties count half
        return float(hits_here @ below / 2 / (self._hits * misses))


class _RunningSum:
    """The sum of the picks so far, updated by what changed since it was asked last."""

    def __init__(self, stack: np.ndarray) -> None:
        self._stack = np.ascontiguousarray(stack)
        self._total = np.zeros(stack.shape[1:], dtype=np.float64)
        self._picks = np.zeros(len(stack), dtype=np.int64)

    def means(self, picks: np.ndarray, candidates: np.ndarray) -> Iterator[np.ndarray]:
        """The mean prediction with each candidate added; each is overwritten by the next, for speed."""
        for k in np.flatnonzero(picks != self._picks):
            self._total += (picks[k] - self._picks[k]) * self._stack[k].astype(np.float64)
        self._picks = picks.copy()
        mean, count = np.empty_like(self._total), picks.sum() + 1
        for k in candidates:
            np.add(self._total, self._stack[k], out=mean)
            mean /= count
            yield mean
