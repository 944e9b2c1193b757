"""Permutation importance of the whole ensemble on the hold-out: how much worse the score gets when a column is shuffled."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kubeautoml.api.metrics import METRICS, Direction
from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.ensemble.decisions import out_of_fold_score
from kubeautoml_trainer.tasks.base import Task

_ROWS = 1_000  # hold-out rows used at most; a guess: the error of the mean is then small beside what matters
_LEAST_ROWS = 50  # fewer say nothing of a column; a guess
_REPEATS = 5
_SHARE = 0.8  # of the time, for one pass over all columns; a batch may take a quarter of what is left
_BATCH_ROWS = 20_000  # shuffled columns are predicted together, since a model's fixed cost a call is high


@dataclass(frozen=True)
class Importance:
    """Loss of score, in the metric's own unit, positive where the column helps: mean and spread over repeats."""

    column: str
    mean: float
    spread: float
    repeats: int


def permutation_importance(
    predict: Callable[[pd.DataFrame], np.ndarray], task: Task, metric: str, rows: Rows, *, seed: int, deadline: float
) -> list[Importance]:
    """Most important first; as many repeats as the time allows, of fewer rows where the model is slow, none at all if not one is possible.

    Args:
        predict: typed rows -> predictions.
        deadline: `time.monotonic()`; checked before each batch.
    """
    rng = np.random.default_rng(seed)
    if len(rows) > _ROWS:
        rows = rows.take(np.sort(rng.choice(len(rows), _ROWS, replace=False)))
    names = list(rows.frame.columns)
    if not len(rows) or not names or time.monotonic() > deadline:
        return []
    sign = 1.0 if METRICS[metric].direction is Direction.MAXIMIZE else -1.0
    began = time.monotonic()
    predicted = predict(rows.frame)
    now = time.monotonic()
    left, a_row = deadline - now, max(now - began, 1e-9) / len(rows)
    most = _SHARE * left / (a_row * len(names))
    if most < min(len(rows), _LEAST_ROWS):
        return []
    if most < len(rows):
        some = np.sort(rng.choice(len(rows), int(most), replace=False))
        rows, predicted = rows.take(some), predicted[some]
    whole = out_of_fold_score(task, metric, rows.y, predicted, rows.weight)
    losses: dict[str, list[float]] = {n: [] for n in names}
    a_batch = max(1, int(min(_BATCH_ROWS, left / 4 / a_row) // len(rows)))
    slowest = 0.0
    for _ in range(_REPEATS):
        for start in range(0, len(names), a_batch):
            began = time.monotonic()
            if began + slowest > deadline:
                return _ranked(losses)
            part = names[start : start + a_batch]
            for name, score in zip(part, _shuffled_scores(predict, task, metric, rows, part, rng), strict=True):
                losses[name].append(sign * (whole - score))
            slowest = max(slowest, time.monotonic() - began)
    return _ranked(losses)


def _shuffled_scores(
    predict: Callable[[pd.DataFrame], np.ndarray],
    task: Task,
    metric: str,
    rows: Rows,
    names: list[str],
    rng: np.random.Generator,
) -> list[float]:
    """The score with each of these columns shuffled, from one prediction."""
    frames = []
    for name in names:
        frame = rows.frame.copy(deep=False)
        frame[name] = rows.frame[name].to_numpy()[rng.permutation(len(rows))]
        frames.append(frame)
    predicted = predict(pd.concat(frames, ignore_index=True))
    n = len(rows)
    return [
        out_of_fold_score(task, metric, rows.y, predicted[i * n : (i + 1) * n], rows.weight) for i in range(len(names))
    ]


def _ranked(losses: dict[str, list[float]]) -> list[Importance]:
    """Empty unless every column was measured at least once."""
    if not all(losses.values()):
        return []
    found = [Importance(n, float(np.mean(v)), float(np.std(v)), len(v)) for n, v in losses.items()]
    return sorted(found, key=lambda i: (-i.mean, i.column))
