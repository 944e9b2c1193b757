"""The loop of a worker: may I? -> ask -> run -> store -> tell, until a limit, a stop, or nothing is left to try."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import optuna
from optuna.trial import TrialState

from kubeautoml.api.errors import StudyError
from kubeautoml.api.pod import PodContext
from kubeautoml.api.trials import StudyAttr, StudyLimits, TrialAttr
from kubeautoml.storage import ObjectStore
from kubeautoml.study import is_fenced, read_limits, set_study_attr
from kubeautoml_trainer.artifacts import write_trial
from kubeautoml_trainer.data.base import PreparedData
from kubeautoml_trainer.models.base import FitTimeout
from kubeautoml_trainer.search.budget import Stop, Tally, fit_seconds, reason_to_stop, tally
from kubeautoml_trainer.search.plan import SearchPlan
from kubeautoml_trainer.search.pruner import MercifulPruner, make_pruner
from kubeautoml_trainer.search.sampler import PortfolioSampler, make_sampler, seed_of, suggest
from kubeautoml_trainer.search.signals import Terminated, TerminationGuard
from kubeautoml_trainer.search.trial import Outcome, TrialCut, TrialRun, run_trial
from kubeautoml_trainer.tasks import task_for

log = logging.getLogger("kubeautoml.worker")

T = TypeVar("T")

LIMITS_SECONDS = 2.0
"""How long read limits are trusted within a trial; each look is a call to the study."""

OUTAGE_SECONDS = 120.0
"""A finished trial waits this long for a study that does not answer before the worker gives up."""

WORKERS_GUESS = 8
"""Sizes TPE's random start where the real number of workers, which may change, is not known."""


@dataclass
class SearchLoop:
    """One worker's share of the search. `run` returns why it left."""

    context: PodContext
    data: PreparedData
    plan: SearchPlan
    study: optuna.Study
    store: ObjectStore
    guard: TerminationGuard
    _limits: tuple[float, StudyLimits | None] = field(default=(-math.inf, None), init=False)

    def __post_init__(self) -> None:
        job = self.context.job
        self._task = task_for(job.task.type, self.data.schema)
        self._sampler = PortfolioSampler(
            self.plan, make_sampler(job.search.sampler.type, self.plan, WORKERS_GUESS), job.search.seed
        )
        self._pruner = MercifulPruner(make_pruner(job.search.pruner.type, self.data.profile.folds))
        self.study.sampler = self._sampler
        self.study.pruner = self._pruner

    def run(self) -> Stop | None:
        """Run trials; None when the search space is exhausted.

        Raises:
            Terminated: SIGTERM came; the running trial is marked as preempted.
            StudyError: the study did not answer for `OUTAGE_SECONDS`.
        """
        metric = self.context.job.metric
        while True:
            trials = self._trials()
            seen = tally(trials, metric)
            why = reason_to_stop(self._read_limits(fresh=True), seen, metric, time.time())
            if why is not None:
                return why
            if self._is_exhausted(trials, seen):
                set_study_attr(self.study, StudyAttr.SEARCH, {"exhausted": True})
                return None
            self._run_one(persistently(self.study.ask), seen)

    def _is_exhausted(self, trials: list[optuna.trial.FrozenTrial], seen: Tally) -> bool:
        """Whether only the portfolio counts and all of it has been taken."""
        first_attempts = sum(TrialAttr.RETRY_OF not in t.user_attrs for t in trials)
        return self.plan.only_portfolio and first_attempts >= len(self.plan.portfolio) and not seen.waiting

    def _run_one(self, trial: optuna.Trial, seen: Tally) -> None:
        began = time.monotonic()
        try:
            with self.guard.interruptible():
                outcome = self._try(trial, seen)
            self._keep(trial, outcome)
            self._say(
                "trial completed", trial, began, family=outcome.record.family, value=round(outcome.record.value, 6)
            )
            self.guard.check()
        except TrialCut as cut:
            self._finish(trial, TrialState.PRUNED)
            self._say("trial cut", trial, began, why=cut.why)
        except Terminated:
            self._mark_preempted(trial)
            raise
        except StudyError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a library raises fails this trial and never the worker
            if is_fenced(error):
                self._say("trial was retired", trial, began)
                return
            self._fail(trial, error, began)

    def _try(self, trial: optuna.Trial, seen: Tally) -> Outcome:
        context, job = self.context, self.context.job
        trial.set_user_attr(TrialAttr.POD_UID, context.pod_uid)
        latest = trial._get_latest_trial()
        number = self._sampler.entry_number(self.study, latest)
        if number is not None:
            trial.set_user_attr(TrialAttr.PORTFOLIO, number)
        elif self.plan.only_portfolio:
            raise TrialCut("another worker took the last of the grid")
        entry = suggest(trial, self.plan, None if number is None else self.plan.portfolio[number])
        folds = self.data.profile.folds
        is_first = not seen.durations

        def fit_deadline() -> float:
            limits = self._read_limits()
            left = None if limits.search_deadline is None else limits.search_deadline - time.time()
            return time.monotonic() + fit_seconds(left, folds, is_first)

        run = TrialRun(
            data=self.data,
            task=self._task,
            metric=job.metric,
            threads=context.threads,
            seed=seed_of(job.search.seed, number if number is not None else trial.number) % 2**31,
            after_fold=lambda fold, value: self._after_fold(trial, fold, value),
            fit_deadline=fit_deadline,
        )
        attempt = int(trial.user_attrs.get(TrialAttr.ATTEMPT, 1))
        try:
            outcome = run_trial(trial.number, attempt, entry, self.plan.families[entry.family], run)
        except FitTimeout as error:
            raise TrialCut(str(error)) from error
        if not math.isfinite(outcome.record.value):
            raise ArithmeticError(f"{job.metric} of the predictions is not a number")
        return outcome

    def _after_fold(self, trial: optuna.Trial, fold: int, value: float) -> None:
        """Report a fold, and see whether the trial should go on. After the last fold it is whole in any case."""
        is_last = fold + 1 == self.data.profile.folds
        if self._pruner.is_active and math.isfinite(value):
            trial.report(value, fold)
            if not is_last and trial.should_prune():
                raise TrialCut("hopeless against the best trial")
        limits = self._read_limits()
        if is_last:
            return
        if limits.stop:
            raise TrialCut("the search was stopped")
        if limits.search_deadline is not None and time.time() > limits.search_deadline:
            raise TrialCut("the time for the search is over")

    def _keep(self, trial: optuna.Trial, outcome: Outcome) -> None:
        """Store, then tell: whoever sees a completed trial finds its artifacts. Not interrupted by SIGTERM."""
        write_trial(self.store, self.context.job.paths, outcome.record, outcome.predictions, outcome.models)
        persistently(lambda: self.study.tell(trial, outcome.record.value))

    def _finish(self, trial: optuna.Trial, state: TrialState) -> None:
        try:
            persistently(lambda: self.study.tell(trial, state=state))
        except Exception as error:
            if not is_fenced(error):
                raise

    def _fail(self, trial: optuna.Trial, error: Exception, began: float) -> None:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        try:
            persistently(lambda: trial.set_user_attr(TrialAttr.ERROR, words))
        except Exception as other:
            if not is_fenced(other):
                raise
        self._finish(trial, TrialState.FAIL)
        log.warning("trial failed", extra={"trial": trial.number, "error": words}, exc_info=error)
        self._say("trial failed", trial, began, error=words)

    def _mark_preempted(self, trial: optuna.Trial) -> None:
        """Tell the operator to queue the trial again; if that fails it sees by itself that the pod is gone."""
        try:
            trial.set_user_attr(TrialAttr.PREEMPTED, True)
            self.study.tell(trial, state=TrialState.FAIL)
        except Exception as error:  # noqa: BLE001  # we are leaving; the operator repairs it
            log.warning("trial could not be handed back", extra={"trial": trial.number, "error": str(error)})

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return persistently(lambda: self.study.get_trials(deepcopy=False))

    def _read_limits(self, *, fresh: bool = False) -> StudyLimits:
        read_at, limits = self._limits
        if fresh or limits is None or time.monotonic() - read_at > LIMITS_SECONDS:
            limits = persistently(lambda: read_limits(self.study)) or limits
            if limits is None:
                raise StudyError("the study has no limits; the operator writes them when it starts the workers")
            self._limits = (time.monotonic(), limits)
        return limits

    def _say(self, message: str, trial: optuna.Trial, began: float, **facts: object) -> None:
        seconds = round(time.monotonic() - began, 2)
        log.info(message, extra={"trial": trial.number, "seconds": seconds, **facts})


def persistently(act: Callable[[], T], seconds: float = OUTAGE_SECONDS) -> T:
    """Do something with the study, again and again while it does not answer: an outage must cost no finished trial.

    Raises:
        Exception: at once if the trial was retired, else the last one after so many seconds.
    """
    deadline, wait = time.monotonic() + seconds, 0.2
    while True:
        try:
            return act()
        except Exception as error:
            if is_fenced(error) or isinstance(error, ValueError | TypeError | KeyError) or time.monotonic() > deadline:
                raise
            log.warning(
                "the study does not answer; trying again", extra={"error": f"{type(error).__name__}: {error}"[:200]}
            )
            time.sleep(wait)
            wait = min(5.0, wait * 2)
