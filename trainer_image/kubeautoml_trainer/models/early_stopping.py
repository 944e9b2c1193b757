"""When a fit has gone on long enough: adaptive patience on the job's metric, and the deadline."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from kubeautoml.api.metrics import METRICS, Direction, TaskType
from kubeautoml_trainer.tasks.base import Task

_GROWTH = 0.3  # patience grows with the best round, as in AutoGluon's adaptive early stopping


def steering_metric(task: Task, metric: str) -> str:
    """The metric to stop by: the objective itself for numbers, the log loss for classes whatever the objective.

    Measured on Titanic and German credit (8 folds, three seeds): stopping by ROC AUC instead ends folds at rounds so
    different that their pooled out-of-fold AUC falls by 0.006 to 0.04, and the hold-out's does not rise.
    """
    return "LogLoss" if task.type is TaskType.TABULAR_CLASSIFICATION else metric


@dataclass
class Watch:
    """Sees one value a round; knows the best round and whether to go on. Rounds count from 1."""

    task: Task
    metric: str
    patience: float
    deadline: float
    best_round: int = 0
    best_value: float = float("nan")
    _slowest: float = 0.0
    _last: float = field(default_factory=time.monotonic)

    def see(self, round_: int, y: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> bool:
        """Note a round's validation predictions; True where it is the best so far."""
        value = self.task.score(self.metric, y, prediction, weight)
        better = np.isnan(self.best_value) or self._is_better(value)
        if better:
            self.best_round, self.best_value = round_, value
        return bool(better)

    def is_over(self, round_: int) -> bool:
        """Whether the rounds since the best one exceed the patience."""
        return round_ - self.best_round > _GROWTH * self.best_round + self.patience

    def time_is_up(self) -> bool:
        """Whether another round, as slow as the slowest, would pass the deadline. Call once a round."""
        now = time.monotonic()
        self._slowest, self._last = max(self._slowest, now - self._last), now
        return now + self._slowest > self.deadline

    def _is_better(self, value: float) -> bool:
        if METRICS[self.metric].direction is Direction.MAXIMIZE:
            return value > self.best_value
        return value < self.best_value
