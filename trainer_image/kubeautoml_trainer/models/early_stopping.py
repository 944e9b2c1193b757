"""When a fit has gone on long enough: adaptive patience on a validation loss, and the deadline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kubeautoml.api.metrics import METRICS, Direction
from kubeautoml_trainer.tasks.base import Task

_MOST_ROUNDS, _DISTANCE = 10_000, 100.0
_GROWTH = 0.3  # patience grows with the best round, as in AutoGluon's adaptive early stopping

_FIRST_LOOK = 4  # rounds
_LARGEST_RATE, _WORTH_CHANGING = 0.3, 1.1
ROUNDS_WITHOUT_VALID = 300
"""Of a fit that has nothing to stop by; a guess."""
DISTANCE_IN_TIME = 15.0
"""Rounds x learning rate that a fit which stops by itself should come to; what later rounds bring is little.

Measured, a fold of digits and diamonds in a second: LightGBM at 15 0.137 (log loss) and 551 (RMSE), at its own rate 0.142 and 556, at
25 0.136 and 575. CatBoost's symmetric trees need more rounds: see there.
"""


@dataclass
class Patience:
    """Sees one loss a round; knows the best round and whether to go on. Rounds count from 1.

    rounds: how long to wait at least. deadline: `time.monotonic()`.
    """

    rounds: float
    deadline: float
    clock: Callable[[], float] = time.monotonic
    best_round: int = 0
    best_loss: float = math.inf
    _slowest: float = 0.0
    _last: float | None = None

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
        """Whether another round, as slow as the slowest, would pass the deadline. Call once a round, with one clock."""
        now = self.clock()
        self._slowest = max(self._slowest, 0.0 if self._last is None else now - self._last)
        self._last = now
        return now + self._slowest > self.deadline


@dataclass
class Pace:
    """Raises the learning rate of a boosting fit that would else be cut off half-way by its deadline.

    A booster has learned what a table has to say when rounds x learning rate reach a certain distance; cut off before, it is worse than
    one that took larger steps. So the time a round takes is looked at after a few rounds, and again after twice as many. Without a
    deadline the rate stays what it is, and so does the model.

    rate: the learning rate in force. distance: rounds x rate that should be reached in time. deadline: `time.monotonic()`. is_end: whether
    the fit ends there, having nothing else to stop by.
    """

    rate: float
    distance: float
    deadline: float
    is_end: bool = False
    clock: Callable[[], float] = time.monotonic
    travelled: float = 0.0
    """Rounds x rate so far."""
    _nominal: float = field(init=False)
    _began: float = field(init=False)
    _rounds: int = 0
    _look: int = _FIRST_LOOK

    def __post_init__(self) -> None:
        self._nominal, self._began = self.rate, self.clock()

    def step(self) -> bool:
        """Note that a round has ended; True where the rate has changed for the next one."""
        self._rounds += 1
        self.travelled += self.rate
        if self._rounds < self._look or not math.isfinite(self.deadline):
            return False
        self._look *= 2
        now = self.clock()
        a_round = max(now - self._began, 1e-9) / self._rounds
        rounds_left = max((self.deadline - now) / a_round, 1.0)
        wanted = min((self.distance - self.travelled) / rounds_left, _LARGEST_RATE)
        if wanted <= self.rate * _WORTH_CHANGING:
            return False
        self.rate = wanted
        return True

    def has_arrived(self) -> bool:
        """Whether larger steps have brought a fit to its end before its rounds were used up."""
        return self.is_end and self.rate != self._nominal and self.travelled >= self.distance

    def nominal_rounds(self, rounds: int) -> int:
        """As far as `rounds` of this fit have come, in rounds at the rate that it began with."""
        if self.rate == self._nominal or not self._rounds:
            return rounds
        return max(1, round(self.travelled * min(1.0, rounds / self._rounds) / self._nominal))


def pace_of(
    parameters: Mapping[str, Any], stops_by_itself: bool, deadline: float, distance: float = DISTANCE_IN_TIME
) -> Pace:
    """The pace of a booster with `learning_rate` and, where they are given, `iterations`. distance: for one that stops by itself."""
    rate = float(parameters["learning_rate"])
    given = parameters.get("iterations")
    if given is not None or not stops_by_itself:
        rounds = ROUNDS_WITHOUT_VALID if given is None else int(given)
        return Pace(rate, rate * rounds, deadline, is_end=True)
    return Pace(rate, distance, deadline)


def histogram_bins(columns: int) -> int:
    """Values that boosters tell apart in a column: fewer in wide tables, where counting bins takes longer than counting rows.

    Measured on 1,067 rows of 5,000 columns: a round of LightGBM takes a third of the time with 63 as with 255, for the same score.
    """
    return 255 if columns <= 1_000 else 63


def boosting_rounds(learning_rate: float) -> int:
    """How many rounds a booster may take: more for a slow learner.

    Rounds x learning rate end at 100: measured on Boston, what comes later changes no score and makes the model five
    times larger.
    """
    return int(min(_MOST_ROUNDS, _DISTANCE / learning_rate))


def least_patience(learning_rate: float) -> float:
    """Rounds without a gain that say nothing yet: more for a slow learner."""
    return max(10.0, 1.0 / learning_rate)


def steering_loss(task: Task, metric: str, y: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> float:
    """The loss to stop by: the objective itself for numbers, the log loss for classes whatever the objective.

    Measured on Titanic and German credit (8 folds, three seeds): stopping by ROC AUC instead ends folds at rounds so
    different that their pooled out-of-fold AUC falls by 0.006 to 0.04, and the hold-out's does not rise.
    """
    name = "LogLoss" if task.type.is_classification else metric
    value = task.score(name, y, prediction, weight)
    loss = -value if METRICS[name].direction is Direction.MAXIMIZE else value
    return math.inf if math.isnan(loss) else loss
