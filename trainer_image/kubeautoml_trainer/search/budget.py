"""Whether a worker starts another trial. Pure functions of the limits, the trials and the time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.metrics import is_better
from kubeautoml.api.trials import MAX_ATTEMPTS, StudyLimits, TrialAttr
from kubeautoml_trainer.search.cost import Costs
from kubeautoml_trainer.search.space import FAMILY

STORE_SECONDS = 0.5
"""Kept free before the deadline for storing a trial. Measured: 0.05 to 0.3 s to local disk; a guess for a bucket."""

LEAST_FIT_SECONDS = 1.0
"""A fit gets this long, if there is as much: below it most models are worth nothing; a guess."""

TRIAL_SHARE = 0.25
"""No trial may take more than this share of the time left, once there is a first model.

Measured on Titanic: with a half, one trial of 24 s came out no better than its neighbours of 2 s.
"""
FINALIST_SHARE = 0.9
"""The same for one that runs on all rows: it was predicted to fit, and cut short it is worse than the trial on the sample."""

COLD_SHARE = 0.25
"""A family's first fit in a process may take this share of the time left."""


class Stop(StrEnum):
    """Why a worker leaves."""

    STOPPED = "stopped"
    MAX_TRIALS = "max trials"
    DEADLINE = "deadline"
    FAILED_TRIALS = "failed trials"
    TARGET = "target value"
    PATIENCE = "patience"


@dataclass(frozen=True)
class Tally:
    """What the trials of a study add up to."""

    waiting: int
    spent: int
    """Pipelines that have run, are running, or were preempted and will run again; each counts once, however often it was tried."""
    failed: int
    best: float | None
    since_best: int
    seconds: Mapping[str, float]
    """Family -> median seconds of its completed trials."""
    bests: Mapping[str, float]
    """Family -> its best value."""


def tally(trials: Sequence[FrozenTrial], metric: str) -> Tally:
    """Count once what the decisions need."""
    preempted = {t.number for t in trials if t.state is TrialState.FAIL and t.user_attrs.get(TrialAttr.PREEMPTED)}
    best: float | None = None
    since = 0
    done = sorted((t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)), key=_end)
    for trial in done:
        value = trial.values[0] if trial.state is TrialState.COMPLETE and trial.values else None
        if value is not None and (best is None or is_better(metric, value, best)):
            best, since = value, 0
        else:
            since += 1
    complete = [t for t in done if t.state is TrialState.COMPLETE]
    return Tally(
        waiting=sum(t.state is TrialState.WAITING for t in trials),
        spent=sum(not _is_given_up(t) for t in _latest_attempts(trials).values()),
        failed=sum(t.state is TrialState.FAIL and t.number not in preempted for t in trials),
        best=best,
        since_best=since,
        seconds=_median_seconds(complete),
        bests=_bests(complete, metric),
    )


def _bests(complete: Sequence[FrozenTrial], metric: str) -> dict[str, float]:
    bests: dict[str, float] = {}
    for trial in complete:
        family = str(trial.params.get(FAMILY, ""))
        if trial.values and (family not in bests or is_better(metric, trial.values[0], bests[family])):
            bests[family] = trial.values[0]
    return bests


def _median_seconds(complete: Sequence[FrozenTrial]) -> dict[str, float]:
    by_family: dict[str, list[float]] = {}
    for trial in complete:
        if trial.duration is not None:
            by_family.setdefault(str(trial.params.get(FAMILY, "")), []).append(trial.duration.total_seconds())
    return {family: statistics.median(seconds) for family, seconds in by_family.items()}


def _end(trial: FrozenTrial) -> float:
    return trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0


def reason_to_stop(limits: StudyLimits, seen: Tally, metric: str, now: float) -> Stop | None:
    """Why no further trial is started; None to go on. `now` is Unix time."""
    if limits.stop:
        return Stop.STOPPED
    if limits.search_deadline is not None and now + STORE_SECONDS >= limits.search_deadline:
        return Stop.DEADLINE
    if seen.failed >= limits.max_failed_trials:
        return Stop.FAILED_TRIALS
    target = limits.target_value
    if target is not None and seen.best is not None and (seen.best == target or is_better(metric, seen.best, target)):
        return Stop.TARGET
    if limits.patience_trials is not None and seen.best is not None and seen.since_best >= limits.patience_trials:
        return Stop.PATIENCE
    # a queued retry was counted when it ran first, so it is always taken
    if seen.spent >= limits.max_trials and not seen.waiting:
        return Stop.MAX_TRIALS
    return None


def is_surplus(trials: Sequence[FrozenTrial], mine: FrozenTrial, max_trials: int) -> bool:
    """Whether workers that looked at the same moment have together taken more than the budget has, and `mine` is too much.

    Pipelines that ran to their end go first, then those that are running or will run again, the earlier before the later; attempts
    at one pipeline are one. So a retry has the place of its first attempt, which may have been too much already.
    """
    latest = _latest_attempts(trials)
    own = first_attempt(mine, {t.number: t for t in trials})
    if own < max_trials:
        return False
    before = [t for origin, t in latest.items() if origin != own and _goes_before(t, origin, own)]
    return len(before) >= max_trials


def _goes_before(trial: FrozenTrial, origin: int, own: int) -> bool:
    if _is_given_up(trial):
        return False
    has_ended = trial.state.is_finished() and not trial.user_attrs.get(TrialAttr.PREEMPTED.value)
    return bool(has_ended or origin < own)


def _latest_attempts(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Number of the first attempt -> the last one."""
    by_number = {t.number: t for t in trials}
    return {first_attempt(t, by_number): t for t in sorted(trials, key=lambda t: t.number)}


def first_attempt(trial: FrozenTrial, by_number: Mapping[int, FrozenTrial]) -> int:
    """Number of the trial that a retry goes back to; its own when it is none."""
    while (before := trial.user_attrs.get(TrialAttr.RETRY_OF.value)) is not None and int(before) in by_number:
        trial = by_number[int(before)]
    return int(trial.number)


def _is_given_up(trial: FrozenTrial) -> bool:
    """Preempted in its last attempt, or handed back as surplus: it counts as nothing and is not queued again."""
    attrs = trial.user_attrs
    is_lost = trial.state is TrialState.FAIL and bool(attrs.get(TrialAttr.PREEMPTED.value))
    return is_lost and int(attrs.get(TrialAttr.ATTEMPT.value, 1)) >= MAX_ATTEMPTS


def families_in_time(
    families: Sequence[str], seen: Tally, metric: str, left: float | None, costs: Costs | None = None
) -> list[str]:
    """Families worth another trial in the time left; a family that never ran is given the chance, unless what is known of others
    says that it will not end.

    When the slow ones do not fit any more, only the better half of the families counts: measured on Boston, the last
    seconds otherwise went into eighty linear models.
    """

    def seconds(family: str) -> float:
        guess = costs.of_family(family) if costs is not None else None
        return seen.seconds.get(family, guess if guess is not None else 0.0)

    in_time = [f for f in families if left is None or seconds(f) < left - STORE_SECONDS]
    if len(in_time) == len(families):
        return in_time
    known = [seen.bests[f] for f in families if f in seen.bests]
    middle = statistics.median(known) if known else 0.0
    return [f for f in in_time if f not in seen.bests or not is_better(metric, middle, seen.bests[f])]


def overran(trials: Sequence[FrozenTrial]) -> set[str]:
    """Families with a fit that did not return: they are not asked again on this data."""
    return {str(t.params.get(FAMILY, "")) for t in trials if t.user_attrs.get(TrialAttr.OVERRAN.value)}


def fit_seconds(
    left: float | None, folds_left: int, *, takes_all: bool, is_cold: bool, most: float = TRIAL_SHARE
) -> float:
    """Longest time of one fit, so that the trial ends in time and no one trial can eat the budget.

    takes_all: the trial may use all the time, such as the study's first one: any model is better than none.
    is_cold: the family's first fit in this process, which pays for importing its libraries (torch: 2 to 8 s).
    most: share of the time left that the trial may take.
    """
    if left is None:
        return float("inf")
    usable = max(0.0, left - STORE_SECONDS)
    share = usable / max(1, folds_left)
    if takes_all:
        return share
    return max(most * share, min(share, LEAST_FIT_SECONDS), COLD_SHARE * usable if is_cold else 0.0)
