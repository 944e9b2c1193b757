"""When the search ends, and how much of each budget is used. Pure functions of the spec, the study and the time."""

from __future__ import annotations

from datetime import datetime, timedelta

from kubeautoml.api.conditions import BudgetEnd
from kubeautoml.api.job import AutoMLJob, AutoMLJobStatus, BudgetUsed
from kubeautoml.api.metrics import DEFAULT_METRIC, is_better
from kubeautoml.api.trials import StudyLimits, StudySummary
from kubeautoml.plan.base import Observed, PodSeen

FINALIZE_FRACTION = 0.15
FINALIZE_SECONDS = 15.0
"""Kept for the finalizer: the larger of both, but at most half of the budget. Measured: 8 to 12 s on two cores."""

STOP_GRACE_SECONDS = 10.0
"""How long workers get to leave after a stop before their Job is deleted."""


def finalize_seconds(budget_seconds: float) -> float:
    """Share of a time budget that the search must leave for the finished model."""
    return min(budget_seconds / 2, max(FINALIZE_SECONDS, FINALIZE_FRACTION * budget_seconds))


def elapsed_seconds(status: AutoMLJobStatus, now: datetime) -> float:
    """Wall time since the start, without the time the job was suspended."""
    if status.start_time is None:
        return 0.0
    until = status.completion_time or now
    suspended = float(status.suspended_seconds)
    if status.suspended_since is not None:
        suspended += max(0.0, (until - status.suspended_since).total_seconds())
    return max(0.0, (until - status.start_time).total_seconds() - suspended)


def deadlines(job: AutoMLJob, start: datetime, suspended_seconds: float) -> tuple[float | None, float | None]:
    """Unix times at which the search and the whole job must have ended; None without a time budget."""
    budget = job.spec.budget.max_duration_seconds
    if budget is None:
        return None, None
    end = (start + timedelta(seconds=budget + suspended_seconds)).timestamp()
    return end - finalize_seconds(budget), end


def limits_of(job: AutoMLJob, start: datetime, suspended_seconds: float) -> StudyLimits:
    """What pods must know of the fields that may be edited."""
    budget = job.spec.budget
    search_deadline, job_deadline = deadlines(job, start, suspended_seconds)
    return StudyLimits(
        max_trials=budget.max_trials,
        max_failed_trials=budget.max_failed_trials,
        search_deadline=search_deadline,
        job_deadline=job_deadline,
        target_value=None if budget.target_value is None else float(budget.target_value),
        patience_trials=budget.patience_trials,
        keep_trial_artifacts=job.spec.retention.keep_trial_artifacts,
    )


def accelerator_seconds(job: AutoMLJob, observed: Observed, now: datetime) -> int:
    """Accelerators times running time: what the status says, and what was used since it was published.

    Counted in pieces because pods, and with them their times, are deleted. The pieces join: each begins at the duration
    that the last status published.
    """
    status = job.status
    if status.start_time is None:
        return 0
    begin = status.start_time.timestamp() + status.suspended_seconds + status.budget_used.duration_seconds
    end = now.replace(microsecond=0).timestamp()
    used = sum(p.accelerators * _overlap(p, begin, end) for p in observed.pods)
    return status.budget_used.accelerator_seconds + round(used)


def _overlap(pod: PodSeen, begin: float, end: float) -> float:
    """Seconds that a pod ran within a span of time."""
    if pod.started_at is None:
        return 0.0
    return max(0.0, min(pod.finished_at or end, end) - max(pod.started_at, begin))


def search_end(job: AutoMLJob, study: StudySummary, used: BudgetUsed, now: datetime) -> BudgetEnd | None:
    """The first limit that was reached, or None while the search goes on.

    Running trials count against maxTrials, so that workers start no more, but the search has ended only when they have.
    """
    budget, limits = job.spec.budget, study.limits
    metric = job.spec.objective.metric or DEFAULT_METRIC[job.spec.task.type]
    best = study.best[0].value if study.best else None
    if budget.target_value is not None and best is not None:
        target = float(budget.target_value)
        if best == target or is_better(metric, best, target):
            return BudgetEnd.TARGET_VALUE
    if study.failed >= budget.max_failed_trials:
        return BudgetEnd.MAX_FAILED_TRIALS
    if study.spent >= budget.max_trials and study.running == 0:
        return BudgetEnd.MAX_TRIALS
    if budget.max_duration_seconds is not None:
        left = budget.max_duration_seconds - used.duration_seconds
        if left <= finalize_seconds(budget.max_duration_seconds):
            return BudgetEnd.MAX_DURATION
    if budget.max_accelerator_seconds is not None and used.accelerator_seconds >= budget.max_accelerator_seconds:
        return BudgetEnd.MAX_ACCELERATOR
    if budget.patience_trials is not None and study.best and study.trials_since_best >= budget.patience_trials:
        return BudgetEnd.PATIENCE
    if study.exhausted and study.running == 0 and study.waiting == 0:
        return BudgetEnd.EXHAUSTED
    if limits is not None and limits.stop:
        # our own stop, whose reason is in the status already, or somebody's who wrote it into the study (Ctrl-C)
        ended_by = job.status.budget_used.ended_by
        enlarged = ended_by not in (None, BudgetEnd.INTERRUPTED)
        return None if enlarged else BudgetEnd.INTERRUPTED
    return None


def progress_percentage(job: AutoMLJob, study: StudySummary | None, used: BudgetUsed) -> int:
    """The budget that is furthest used, in percent; below 100 until the job has ended."""
    budget = job.spec.budget
    shares = [used.trials / budget.max_trials] if study is not None else [0.0]
    if budget.max_duration_seconds:
        shares.append(used.duration_seconds / budget.max_duration_seconds)
    if budget.max_accelerator_seconds:
        shares.append(used.accelerator_seconds / budget.max_accelerator_seconds)
    if budget.patience_trials and study is not None and study.best:
        shares.append(study.trials_since_best / budget.patience_trials)
    return min(99, int(100 * max(shares)))
