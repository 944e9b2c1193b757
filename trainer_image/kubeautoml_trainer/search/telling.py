"""What a worker tells the study of its trials and hears from it, tried again while nobody answers."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.errors import StudyError
from kubeautoml.api.trials import MAX_ATTEMPTS, StudyLimits, TrialAttr
from kubeautoml.study import is_fenced, read_limits
from kubeautoml_trainer.models.base import FitTimeout
from kubeautoml_trainer.search.budget import is_surplus
from kubeautoml_trainer.search.outage import persistently
from kubeautoml_trainer.search.signals import TerminationGuard
from kubeautoml_trainer.search.trial import TrialCut

log = logging.getLogger("kubeautoml.worker")

T = TypeVar("T")

LIMITS_SECONDS = 2.0
"""How long read limits are trusted within a trial; each look is a call to the study."""


class Telling:
    """One worker's side of the study."""

    def __init__(self, study: optuna.Study, guard: TerminationGuard) -> None:
        self._study, self._guard = study, guard
        self._read: tuple[float, StudyLimits | None] = (-math.inf, None)
        """When limits were read last (`time.monotonic()`), and which."""

    def trials(self) -> list[FrozenTrial]:
        return self.persistently(lambda: self._study.get_trials(deepcopy=False))

    def hand_back_surplus(self, trial: optuna.Trial) -> bool:
        """Give up a trial if it is more than budget.maxTrials: nobody counts trials and takes one in one go.

        It ends as one that was preempted in its last attempt: it counts as nothing, and is not queued again.
        """
        max_trials = self.limits().max_trials
        if trial.number < max_trials:
            return False
        trials = self.trials()
        mine = next(t for t in trials if t.number == trial.number)
        if not is_surplus(trials, mine, max_trials):
            return False
        try:
            self.persistently(lambda: trial.set_user_attr(TrialAttr.ATTEMPT, MAX_ATTEMPTS))
            self.persistently(lambda: trial.set_user_attr(TrialAttr.PREEMPTED, True))
        except Exception as error:
            if not is_fenced(error):
                raise
        self.tell(trial, TrialState.FAIL)
        log.info("trial handed back: the budget was used up meanwhile", extra={"trial": trial.number})
        return True

    def end(self, trial: optuna.Trial, error: Exception, began: float) -> None:
        """Tell what became of a trial that did not complete."""
        if is_fenced(error):
            self.say("trial was retired", trial, began)
        elif isinstance(error, TrialCut | FitTimeout):
            # without all folds there is nothing to compare or to keep; time, not the parameters, is to blame
            self.tell(trial, TrialState.PRUNED)
            self.say("trial cut", trial, began, why=str(error))
        else:
            words = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            self.tell(trial, TrialState.FAIL, words)
            log.warning("trial failed", extra={"trial": trial.number, "error": words}, exc_info=error)

    def tell(self, trial: optuna.Trial, state: TrialState, words: str | None = None) -> None:
        """End a trial, unless somebody has ended it before. words: of what failed."""
        try:
            if words is not None:
                self.persistently(lambda: trial.set_user_attr(TrialAttr.ERROR, words))
            self.persistently(lambda: self._study.tell(trial, state=state))
        except Exception as error:
            if not is_fenced(error):
                raise

    def mark_preempted(self, trial: optuna.Trial) -> None:
        """Tell the operator to queue the trial again; if that fails it sees by itself that the pod is gone."""
        try:
            trial.set_user_attr(TrialAttr.PREEMPTED, True)
            self._study.tell(trial, state=TrialState.FAIL)
        except Exception as error:  # noqa: BLE001  # we are leaving; the operator repairs it
            log.warning("trial could not be handed back", extra={"trial": trial.number, "error": str(error)})

    def limits(self, *, fresh: bool = False) -> StudyLimits:
        """What the operator allows, as it was at most `LIMITS_SECONDS` ago, or just now.

        Raises:
            StudyError: there are none, or the study did not answer.
        """
        read_at, limits = self._read
        if fresh or limits is None or time.monotonic() - read_at > LIMITS_SECONDS:
            limits = self.persistently(lambda: read_limits(self._study)) or limits
            if limits is None:
                raise StudyError("the study has no limits; the operator writes them when it starts the workers")
            self._read = (time.monotonic(), limits)
        return limits

    def persistently(self, act: Callable[[], T], *, impatient: bool = False) -> T:
        """As `outage.persistently`. impatient: waiting is of no use once SIGTERM has come."""
        return persistently(act, abandon=lambda: impatient and self._guard.is_requested)

    def say(self, message: str, trial: optuna.Trial, began: float, **facts: object) -> None:
        seconds = round(time.monotonic() - began, 2)
        log.info(message, extra={"trial": trial.number, "seconds": seconds, **facts})
