"""When a fit has gone on long enough: adaptive patience on a validation loss, and the deadline."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np

from kubeautoml.api.metrics import METRICS, Direction, TaskType
from kubeautoml_trainer.tasks.base import Task

_GROWTH = 0.3  # patience grows with the best round, as in AutoGluon's adaptive early stopping


@dataclass
class Patience:
    """Sees one loss a round; knows the best round and whether to go on. Rounds count from 1.

    rounds: how long to wait at least. deadline: `time.monotonic()`.
    """

    rounds: float
    deadline: float
    best_round: int = 0
    best_loss: float = math.inf
    _slowest: float = 0.0
    _last: float = field(default_factory=time.monotonic)

    def see(self, round_: int, loss: float) -> bool:
        """Note a round's loss; True where it is the lowest so far."""
        if not (loss < self.best_loss or self.best_round == 0):
            return False
        self.best_round, self.best_loss = round_, loss
        return True

    def is_over(self, round_: int) -> bool:
        """Whether the rounds since the best one exceed the patience."""
        return round_ - self.best_round > _GROWTH * self.best_round + self.rounds

    def time_is_up(self) -> bool:
        """Whether another round, as slow as the slowest, would pass the deadline. Call once a round."""
        now = time.monotonic()
        self._slowest, self._last = max(self._slowest, now - self._last), now
        return now + self._slowest > self.deadline


def steering_loss(task: Task, metric: str, y: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> float:
    """The loss to stop by: the objective itself for numbers, the log loss for classes whatever the objective.

    Measured on Titanic and German credit (8 folds, three seeds): stopping by ROC AUC instead ends folds at rounds so
    different that their pooled out-of-fold AUC falls by 0.006 to 0.04, and the hold-out's does not rise.
    """
    name = "LogLoss" if task.type is TaskType.TABULAR_CLASSIFICATION else metric
    value = task.score(name, y, prediction, weight)
    loss = -value if METRICS[name].direction is Direction.MAXIMIZE else value
    return math.inf if math.isnan(loss) else loss
