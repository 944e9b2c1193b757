"""How far a training is, and what its learning rate is there: steps where there is time for them, else what time there is.

Nothing depends on the clock while the planned steps fit before the deadline. Once they do not, the rest of the schedule is spread over
the steps that still do, again and again as the pace becomes known: a short budget gives a short, fully annealed training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_COLD_STEPS = 2  # the first steps of a process choose and compile kernels, and tell nothing about the pace
_OF_COLD = 0.5  # what a later step takes of a cold one, at least; a guess
_MEASURED_STEPS = 6  # after which the pace is known
_SLACK = 0.93  # of the time left may be planned; the rest is for a machine that others use too; a guess


@dataclass
class Schedule:
    """Counts steps; knows the share of the training that is behind, from 0 to 1.

    steps: as many as are wanted. deadline: `time.monotonic()` by which all must be done. afterwards: seconds kept free before it, for what
    comes after the last validation. validation: steps' worth of time that a validation takes, before one was seen. every: steps from one
    validation to the next.
    """

    steps: int
    deadline: float
    afterwards: float = 0.0
    validation: float = 0.0
    every: int = 1
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    reached: float = 0.0
    is_short: bool = False
    _measured: int = field(default=0, init=False)
    _since: float = field(default=0.0, init=False)
    _began: float = field(default=0.0, init=False)
    _validation_seconds: float | None = field(default=None, init=False)

    def step(self) -> float:
        """Begin a step; returns the share of the training that is behind at its middle."""
        self._look()
        share = (1.0 - self.reached) / self.left
        middle = self.reached + share / 2
        self.reached = 1.0 if self.left <= 1 else self.reached + share
        self.done += 1
        return middle

    def validated(self, seconds: float) -> None:
        """A validation is over, and took so long: from now on the measured pace holds it."""
        self._validation_seconds = max(seconds, self._validation_seconds or 0.0)

    @property
    def is_over(self) -> bool:
        """Whether the schedule has come to its end, or another step as long as the last one would pass the deadline."""
        now = self.clock()
        took = now - self._began if self._measured else 0.0
        took *= _OF_COLD if self._measured <= _COLD_STEPS else 1.0
        return self.reached >= 1.0 or now + took + self._reserve_after(took) > self.deadline

    @property
    def left(self) -> int:
        """Steps that are still to come, 1 at least."""
        planned = max(1, self.steps - self.done)
        pace = self.seconds_a_step
        if pace is None or math.isinf(self.deadline):
            return planned
        fitting = int(_SLACK * (self.deadline - self._reserve_after(pace) - self.clock()) / pace)
        if fitting >= planned:
            return planned
        self.is_short = True
        return max(1, fitting)

    @property
    def seconds_a_step(self) -> float | None:
        """Of those of this process, validation included; None while too few were made."""
        if self._measured < _COLD_STEPS + _MEASURED_STEPS:
            return None
        pure = (self.clock() - self._since) / (self._measured - _COLD_STEPS)
        return max(1e-9, pure if self._validation_seconds is not None else pure * (1 + self.validation / self.every))

    def _reserve_after(self, step: float) -> float:
        """Seconds for the last validation, and for what comes after it, where a step takes so many."""
        known = self._validation_seconds
        return self.afterwards + (self.validation * step if known is None else known)

    def _look(self) -> None:
        self._began = self.clock()
        if self._measured == _COLD_STEPS:
            self._since = self._began
        self._measured += 1


def one_cycle(progress: float, warm_up: float) -> float:
    """Factor of the learning rate: a straight line up, and one down to 0 (Smith and Topin 2018, arXiv:1708.07120; as in airbench,
    Jordan 2024, arXiv:2404.00498).

    >>> [round(one_cycle(p, 0.2), 2) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if progress < warm_up:
        return progress / warm_up
    return max(0.0, (1.0 - progress) / (1.0 - warm_up))


def cosine(progress: float, warm_up: float) -> float:
    """Factor of the learning rate: a straight line up, and half a wave down to 0 (Loshchilov and Hutter 2017, arXiv:1608.03983).

    >>> [round(cosine(p, 0.0), 2) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]
    """
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (progress - warm_up) / (1.0 - warm_up))))


SHAPES: dict[str, Callable[[float, float], float]] = {"one_cycle": one_cycle, "cosine": cosine}
"""By the name that searches use; (progress, share of warm-up) -> factor."""
