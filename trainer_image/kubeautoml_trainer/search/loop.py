"""The loop of a worker: may I? -> ask -> run -> store -> tell, until a limit, a stop, or nothing is left to try."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.errors import StorageError, StudyError
from kubeautoml.api.logs import log_context
from kubeautoml.api.pod import PodContext
from kubeautoml.api.search import PrunerType
from kubeautoml.api.trials import StudyAttr, StudyLimits, TrialAttr
from kubeautoml.storage import ObjectStore
from kubeautoml.study import is_fenced, set_study_attr
from kubeautoml_trainer.artifacts import write_trial
from kubeautoml_trainer.data.base import PreparedData
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.search.allocation import Moment
from kubeautoml_trainer.search.budget import (
    FINALIST_SHARE,
    TRIAL_SHARE,
    Stop,
    families_in_time,
    fit_seconds,
    overran,
    reason_to_stop,
    tally,
)
from kubeautoml_trainer.search.checkpoint import CHECKPOINT_SECONDS, Checkpoint, FoldResult, Load
from kubeautoml_trainer.search.cost import Costs, learn_costs
from kubeautoml_trainer.search.epochs import FitWatch, is_hopeless
from kubeautoml_trainer.search.exhausted import is_almost_bred, is_exhausted, trials_to_breed
from kubeautoml_trainer.search.finalists import Finalist, find_finalist, first_round, next_finalist, progress, scheme_of
from kubeautoml_trainer.search.outage import full_disk, is_full_disk
from kubeautoml_trainer.search.plan import Entry, SearchPlan
from kubeautoml_trainer.search.pruner import MercifulPruner, make_pruner
from kubeautoml_trainer.search.sampler import PortfolioSampler, make_sampler, origin_of, seed_of
from kubeautoml_trainer.search.signals import Terminated, TerminationGuard
from kubeautoml_trainer.search.space import suggest
from kubeautoml_trainer.search.telling import Telling
from kubeautoml_trainer.search.trial import Outcome, TrialCut, TrialRun, run_trial
from kubeautoml_trainer.search.watchdog import Watchdog
from kubeautoml_trainer.tasks import task_of

log = logging.getLogger("kubeautoml.worker")

WORTH_KEEPING_SECONDS = 3.0
"""A trial that has run so long when SIGTERM comes stores the folds that it has done. A guess: well above what storing takes."""


@dataclass
class SearchLoop:
    """One worker's share of the search. `run` returns why it left."""

    context: PodContext
    data: PreparedData
    plan: SearchPlan
    study: optuna.Study
    store: ObjectStore
    guard: TerminationGuard
    load: Load = load_pipeline
    """Reads back a pipeline that an earlier attempt stored."""
    ends_overrun_fits: bool = False
    """Whether this process may be replaced when a fit does not return; a worker's own process may, a test's may not."""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    _checkpoint: Checkpoint | None = field(default=None, init=False)
    _running: tuple[optuna.Trial, float] | None = field(default=None, init=False)
    """The trial that computes, and when it began (`time.monotonic()`)."""
    _leaving: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        job = self.context.job
        self._task = task_of(job, self.data.schema)
        self._folds = self.data.profile.folds
        self._sampler = PortfolioSampler(self.plan, make_sampler(job.search.sampler, self.plan), job.search.seed)
        self._scheme = scheme_of(self.data)
        self._evolution = trials_to_breed(job.search.sampler)
        self._finalist: Finalist | None = None
        self._lost_finalists: set[int] = set()
        self._watchdog = Watchdog(self._give_up_overrun)
        self._pruner = MercifulPruner(make_pruner(job.search.pruner.type, self._folds))
        self._telling = Telling(self.study, self.guard)
        self.study.sampler = self._sampler
        self.study.pruner = self._pruner
        self._warm: set[str] = set()
        self.guard.last_words = self._hand_back

    def run(self) -> Stop | None:
        """Run trials; None when the search space is exhausted.

        Raises:
            Terminated: SIGTERM came; the running trial is marked as preempted.
            StudyError: the study did not answer for `OUTAGE_SECONDS`.
            StorageError: the output storage did not, or refuses, or this pod's disk is full; the running trial is marked as
                preempted.
        """
        metric = self.context.job.metric
        while True:
            self.guard.check()
            trials = self._telling.trials()
            seen = tally(trials, metric)
            limits = self._telling.limits(fresh=True)
            why = reason_to_stop(limits, seen, metric, time.time())
            if why is not None:
                return why
            if is_exhausted(trials, seen.waiting, self.plan, self._evolution):
                self._telling.persistently(lambda: set_study_attr(self.study, StudyAttr.SEARCH, {"exhausted": True}))
                return None
            if is_almost_bred(trials, seen.waiting, self._evolution):
                return None
            left = _left(limits)
            measured = trials if left is not None else ()  # without a clock, times decide nothing
            costs = learn_costs(measured, self._folds, accelerated=self.plan.accelerated)
            self._finalist = self._choose_finalist(trials, limits, left, costs)
            lost = overran(trials)
            families = families_in_time(self.plan.searchable, seen, metric, left, costs)
            families = [f for f in families if f not in lost]
            if self.plan.searchable and not families and not seen.waiting and self._finalist is None:
                return Stop.DEADLINE
            self._sampler.allow(Moment(tuple(families), left, costs))
            self._run_one(is_first=seen.best is None)

    def _choose_finalist(
        self, trials: list[FrozenTrial], limits: StudyLimits, left: float | None, costs: Costs
    ) -> Finalist | None:
        """The trial to run again now, if there is one that fits the time left."""
        if self.plan.only_portfolio or self._evolution is not None:
            return None
        done = progress(trials, limits, time.time())
        number = next_finalist(trials, self.context.job.metric, self._scheme, done, self._lost_finalists)
        if number is None:
            return None
        found = self._telling.persistently(lambda: find_finalist(self.store, self.context.job, number, self._scheme))
        if found is None:
            self._lost_finalists.add(number)
            return None
        seconds = costs.of(found.entry)
        if seconds is not None and left is not None and seconds * self._scheme.work > left:
            self._lost_finalists.add(number)  # there will not be more time later
            return None
        return found

    def _run_one(self, *, is_first: bool) -> None:
        """Ask, run, store, tell. SIGTERM breaks the run; it never breaks what must not be done by half."""
        with self.guard.protected():
            trial = self._claim()
            if self._telling.hand_back_surplus(trial):
                return
            self._running = None
        with log_context(trial=trial.number):  # what libraries log meanwhile is about this trial, too
            log.info("trial begins")
            self._run_to_end(trial, is_first=is_first)

    def _run_to_end(self, trial: optuna.Trial, *, is_first: bool) -> None:
        began = time.monotonic()
        self._checkpoint = None
        try:
            self._running = trial, began
            self.guard.check()
            outcome = self._try(trial, is_first)
        except Terminated:
            with self.guard.protected():
                self._hand_back()
            raise
        except StudyError:
            raise
        except Exception as error:  # whatever a library raises fails this trial and never the worker
            with self.guard.protected():
                if is_full_disk(error):
                    self._telling.mark_preempted(trial)
                    raise full_disk(self.context.scratch_dir) from error
                self._telling.end(trial, error, began)
                self._forget_checkpoint(was_ours=not is_fenced(error))
        else:
            with self.guard.protected():
                was_ours = self._keep(trial, outcome, began)
                self._forget_checkpoint(was_ours)

    def _hand_back(self) -> None:
        """Store what the running trial has done, and mark it as preempted: once, by the loop or, while a library computes and does
        not return, by the thread that watches over leaving.
        """
        with self._leaving:
            running, self._running = self._running, None
            if running is None:
                return
            trial, began = running
            if self._checkpoint is not None and time.monotonic() - began >= WORTH_KEEPING_SECONDS:
                self._checkpoint.store()
            self._telling.mark_preempted(trial)

    def _forget_checkpoint(self, was_ours: bool) -> None:
        """A trial that has ended needs no checkpoint; one that was taken from us leaves it to its next attempt."""
        if self._checkpoint is not None and was_ours:
            self._checkpoint.forget()
        self._checkpoint = None

    def _claim(self) -> optuna.Trial:
        """A trial with this pod's name on it: from then on the operator sees when it is lost."""
        finalist = self._finalist
        self._sampler.fix(None if finalist is None else finalist.entry)
        trial = self._telling.persistently(self.study.ask, impatient=True)
        self._telling.persistently(lambda: trial.set_user_attr(TrialAttr.POD_UID, self.context.pod_uid))
        if finalist is not None and TrialAttr.RETRY_OF not in trial.user_attrs:
            self._telling.persistently(lambda: trial.set_user_attr(TrialAttr.PROMOTES, finalist.number))
            self._telling.persistently(lambda: trial.set_user_attr(TrialAttr.WORK, self._scheme.work))
        return trial

    def _try(self, trial: optuna.Trial, is_first: bool) -> Outcome:
        context, job = self.context, self.context.job
        latest = trial._get_latest_trial()
        finalist = self._finalist_of(latest)
        entry = self._entry_of(trial, latest, finalist)
        origin = origin_of(self.study, latest)
        attempt = int(trial.user_attrs.get(TrialAttr.ATTEMPT, 1))
        self._checkpoint = Checkpoint(
            self.store,
            job.paths,
            origin,
            entry,
            context.scratch_dir,
            is_retry=attempt > 1,
            load=self.load,
            every_seconds=self.checkpoint_seconds,
        )

        def fit_deadline(folds_left: int, is_short: bool) -> float:
            is_cold = entry.family not in self._warm
            self._warm.add(entry.family)
            left = _left(self._telling.limits())
            takes_all = is_first or is_short
            most = FINALIST_SHARE if finalist is not None and self._scheme.sample is not None else TRIAL_SHARE
            now = time.monotonic()
            deadline = now + fit_seconds(left, folds_left, takes_all=takes_all, is_cold=is_cold, most=most)
            if self.ends_overrun_fits:
                self._watchdog.watch(deadline, None if left is None else now + left)
            return deadline

        run = TrialRun(
            data=self.data,
            task=self._task,
            metric=job.metric,
            threads=context.threads,
            seed=seed_of(job.search.seed, origin) % 2**31,
            after_fold=lambda fold, value: self._after_fold(trial, fold, value, finalist),
            fit_deadline=fit_deadline,
            checkpoint=self._checkpoint,
            repeats=() if finalist is None else finalist.rounds(self.data, job),
            known=() if finalist is None else self._known(finalist),
            most_rows=None if finalist is not None else self._scheme.sample,
            class_weight=job.objective.class_weight,
            watch=self._watch(trial, entry, self._checkpoint, finalist),
        )
        try:
            outcome = run_trial(trial.number, attempt, entry, self.plan.families[entry.family], run)
        finally:
            self._watchdog.rest()
        if not math.isfinite(outcome.record.value):
            raise ArithmeticError(f"{job.metric} of the predictions is not a number")
        return outcome

    def _watch(
        self, trial: optuna.Trial, entry: Entry, checkpoint: Checkpoint, finalist: Finalist | None
    ) -> Callable[[int], FitWatch]:
        """What the fit of each fold reports to: the first one may end the trial, unless it is one to be spared."""
        rungs: dict[str, float] = {}
        prunes = self.context.job.search.pruner.type is not PrunerType.NONE

        def decide(rung: float, value: float) -> None:
            rungs[str(rung)] = value
            self._telling.persistently(lambda: trial.set_user_attr(TrialAttr.RUNGS, dict(rungs)))
            trials = self._telling.trials()
            completed = sum(t.state is TrialState.COMPLETE for t in trials)
            if not prunes or self._pruner.spares(trial.user_attrs, completed):
                return
            if is_hopeless(trials, entry.family, rung, value):
                raise TrialCut(f"hopeless against its family after {rung:.0%} of the epochs")

        def no_decision(rung: float, value: float) -> None:
            return

        def say(words: str) -> None:
            self._telling.persistently(lambda: trial.set_user_attr(TrialAttr.DOING, words))

        return lambda fold: FitWatch(
            trial.number, fold, checkpoint, say, decide if fold == 0 and finalist is None else no_decision
        )

    def _finalist_of(self, latest: FrozenTrial) -> Finalist | None:
        """What a trial promotes: as it was just decided, or as its first attempt was."""
        number = latest.user_attrs.get(TrialAttr.PROMOTES)
        if number is None or (self._finalist is not None and self._finalist.number == number):
            return self._finalist if number is not None else None
        found = self._telling.persistently(
            lambda: find_finalist(self.store, self.context.job, int(number), self._scheme)
        )
        if found is None:
            raise TrialCut(f"trial {number}, which it promotes, cannot be read any more")
        return found

    def _known(self, finalist: Finalist) -> list[FoldResult]:
        """The first round of a finalist, which its trial has done, unless that was on a sample."""
        if self._scheme.sample is not None:
            return []
        job, scratch = self.context.job, self.context.scratch_dir / f"finalist-{finalist.number}"
        return self._telling.persistently(
            lambda: first_round(self.store, job.paths, finalist.number, self.data, scratch, self.load)
        )

    def _entry_of(self, trial: optuna.Trial, latest: FrozenTrial, finalist: Finalist | None) -> Entry:
        fixed = None if finalist is None else finalist.entry
        if finalist is None:
            number = self._sampler.entry_number(self.study, latest)
            if number is not None:
                self._telling.persistently(lambda: trial.set_user_attr(TrialAttr.PORTFOLIO, number))
                fixed = self.plan.portfolio[number]
            elif self.plan.only_portfolio:
                raise TrialCut("another worker took the last of the portfolio")
        return self._telling.persistently(lambda: suggest(trial, self.plan, fixed))

    def _give_up_overrun(self) -> bool:
        """Tell the study that the running trial's fit does not return; False if it has ended meanwhile."""
        with self._leaving:
            running, self._running = self._running, None
            if running is None:
                return False
            trial, began = running
            self._telling.persistently(lambda: trial.set_user_attr(TrialAttr.OVERRAN, True))
            self._telling.tell(trial, TrialState.PRUNED)
            self._telling.say("trial given up: a fit did not return", trial, began)
            return True

    def _after_fold(self, trial: optuna.Trial, fold: int, value: float, finalist: Finalist | None) -> None:
        """Report a fold, and see whether the trial should go on. After the last fold it is whole in any case."""
        self._watchdog.rest()
        self.guard.check()
        is_last = fold + 1 == self._folds * (1 if finalist is None else self._scheme.repeats)
        if self._pruner.is_active and math.isfinite(value) and finalist is None:
            self._telling.persistently(lambda: trial.report(value, fold))
            if not is_last and self._telling.persistently(trial.should_prune):
                raise TrialCut("hopeless against the best trial")
        if is_last:
            return
        limits = self._telling.limits()
        if limits.stop:
            raise TrialCut("the search was stopped")
        if limits.search_deadline is not None and time.time() > limits.search_deadline:
            raise TrialCut("the time for the search is over")

    def _keep(self, trial: optuna.Trial, outcome: Outcome, began: float) -> bool:
        """Store, then tell: whoever sees a completed trial finds its artifacts. False if it had been taken from us.

        Raises:
            StorageError, Terminated: it has no place to go to, or no time to wait for one; it is marked as preempted, and its next
                attempt may find the storage there again.
        """
        record = outcome.record
        try:
            self._telling.persistently(
                lambda: write_trial(self.store, self.context.job.paths, record, outcome.predictions, outcome.models),
                impatient=True,
            )
            self._telling.persistently(lambda: self.study.tell(trial, record.value))
        except (StorageError, Terminated):
            self._telling.mark_preempted(trial)
            raise
        except Exception as error:
            if not is_fenced(error):
                raise
            self._telling.say("trial was retired", trial, began)
            return False
        self._telling.say("trial completed", trial, began, family=record.family, value=round(record.value, 6))
        return True


def _left(limits: StudyLimits) -> float | None:
    """Seconds until the search must end."""
    return None if limits.search_deadline is None else limits.search_deadline - time.time()
