"""Whether a worker starts another trial. Pure functions of the limits, the trials and the time."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.metrics import is_better
from kubeautoml.api.trials import StudyLimits, TrialAttr

MIN_SHARE = 0.6
"""With less than this share of a cheap trial's time left, starting one would only waste the time; a guess."""


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
    """Running, completed, pruned and failed ones; not the preempted, which run again."""
    failed: int
    best: float | None
    since_best: int
    durations: tuple[float, ...]
    """Seconds of completed trials."""


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
        spent=sum(t.state is not TrialState.WAITING and t.number not in preempted for t in trials),
        failed=sum(t.state is TrialState.FAIL and t.number not in preempted for t in trials),
        best=best,
        since_best=since,
        durations=tuple(t.duration.total_seconds() for t in complete if t.duration is not None),
    )


def _end(trial: FrozenTrial) -> float:
    return trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0


def reason_to_stop(limits: StudyLimits, seen: Tally, metric: str, now: float) -> Stop | None:
    """Why no further trial is started; None to go on. `now` is Unix time."""
    if limits.stop:
        return Stop.STOPPED
    if limits.search_deadline is not None and not _is_worth_starting(limits.search_deadline - now, seen.durations):
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


def _is_worth_starting(left: float, durations: Sequence[float]) -> bool:
    """Whether a cheap trial could still end in the time left; the first trial is always worth a try."""
    if left <= 0:
        return False
    if len(durations) < 4:
        return True
    return left > MIN_SHARE * statistics.quantiles(durations, n=4)[0]


def fit_seconds(left: float | None, folds: int, is_first: bool) -> float:
    """Longest time of one fit: a share of what is left, so that no one trial can eat the budget.

    The first trial of a study may use all of it: any model is better than none.
    """
    if left is None:
        return float("inf")
    return left / folds if is_first else max(1.0, min(left, 0.5 * left / max(1, folds) + 1.0))
