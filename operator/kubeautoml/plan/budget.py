"""When the search ends, and how much of each budget is used. Pure functions of the spec, the study and the time.

Time is the operator's wall clock, which may jump. It is believed only as far as the pods' clocks agree (`believed`): one that
is behind what they have written counts as theirs. Else a clock that has gone back was set right, and moves the start of the job
back with it (`with_start`), so that the time used goes on from what was published; it never becomes less. A clock that goes
forward looks like an operator that was away, and its time counts.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from kubeautoml.api.conditions import BudgetEnd
from kubeautoml.api.dataset import SplitType
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.job_status import AutoMLJobStatus, BudgetUsed
from kubeautoml.api.metrics import default_metric, is_better
from kubeautoml.api.names import Component
from kubeautoml.api.objective import ModelVariant, RefitRows
from kubeautoml.api.trials import MOST_ROWS_REFOLDED, DataFacts, StudyLimits, StudySummary
from kubeautoml.plan.base import Observed, PodSeen

FINALIZE_FRACTION = 0.15
FINALIZE_SECONDS = 15.0
"""Kept for the finalizer while nothing is known of the data: the larger of both, but at most half of the budget."""

FINALIZE_BASE_SECONDS = 10.0
"""What the finalizer needs on small data. Measured: 8 to 12 s on two cores."""
FINALIZE_READINGS = 2.0
"""What it needs for the size of the data, in times of reading it: it reads all again, and predicts the hold-out with every member."""
REFIT_SECONDS, REFIT_FRACTION, MOST_REFIT_SECONDS = 5.0, 0.07, 300.0
"""For fitting members once more: so many seconds, and of the budget so large a share, of so many seconds at most, both for the variants
that take one fit on all rows in place of the folds' and for an ensemble that learns from the hold-out rows. Measured in jobs of 60 s: the
former takes 3 to 6 s, the latter 8 to 19 s for the whole ensemble, of which as much is done as there is time for."""

ONE_REFIT = 0.25
"""Of that, for `Fast` alone, which is one fit, on few rows. Measured: 0.5 to 1 s."""

STOP_GRACE_SECONDS = 10.0
"""How long workers get to leave after a stop before their Job is deleted."""


def finalize_seconds(budget_seconds: float, data: DataFacts | None = None, *, refits: float = 1.0) -> float:
    """Share of a time budget that the search must leave for the finished model: on little data less than a fixed share would be,
    on much data more. `data` is known once a worker has read it. refits: see the function `refits`.
    """
    need = FINALIZE_FRACTION * budget_seconds
    if data is not None and data.read_seconds is not None:
        need = FINALIZE_BASE_SECONDS + FINALIZE_READINGS * data.read_seconds
        need += REFIT_SECONDS * min(1.0, refits) + refits * min(MOST_REFIT_SECONDS, REFIT_FRACTION * budget_seconds)
    return min(budget_seconds / 2, max(FINALIZE_SECONDS, need))


CLOCK_TOLERANCE_SECONDS = 5.0
"""Clocks of two machines that take turns in leading may differ by this much without a correction."""

DAWN = datetime(1970, 1, 1, tzinfo=UTC)
"""No job began before, whatever somebody wrote into its status."""

ACCELERATOR_SPARE_SECONDS = 15.0
"""Kept of maxAcceleratorSeconds for each accelerator of the finalizer. Measured: 8 to 12 s."""

DEADLINE_TOLERANCE_SECONDS = 2.0
"""A deadline that is foretold (accelerator seconds) is written anew when it moves by more than this."""


def believed(now: datetime, observed: Observed) -> datetime:
    """The time, or that of the pods when ours is behind it: what they do by their clocks must not look like the future.

    The newest trial tells, since trials are numbered; before there is one, the pods' start.
    """
    running = observed.study.running_trials if observed.study else ()
    newest = max(running, key=lambda t: t.number, default=None)
    started = (p.started_at for p in observed.pods if _trains(p) and p.is_alive and p.started_at is not None)
    seen = newest.started_at if newest is not None else max(started, default=0.0)
    is_behind = seen > now.timestamp() + CLOCK_TOLERANCE_SECONDS
    return datetime.fromtimestamp(seen, now.tzinfo) if is_behind else now


def elapsed_seconds(status: AutoMLJobStatus, now: datetime) -> float:
    """Wall time since the start, without the time the job was suspended; never less than was published."""
    return max(float(status.budget_used.duration_seconds), _elapsed(status, now))


def with_start(status: AutoMLJobStatus, now: datetime) -> AutoMLJobStatus:
    """The status with a start that fits the clock: when that has gone back, the time used stays what was published."""
    if status.start_time is None or status.suspended_since is not None:
        return status
    suspended = status.suspended_seconds
    behind = status.budget_used.duration_seconds - ((now - status.start_time).total_seconds() - suspended)
    if behind <= CLOCK_TOLERANCE_SECONDS:
        return status
    behind = min(behind, (status.start_time - DAWN).total_seconds())
    return status.model_copy(update={"start_time": status.start_time - timedelta(seconds=int(behind))})


def paused(status: AutoMLJobStatus, now: datetime) -> AutoMLJobStatus:
    """The status of a job whose time does not count from now on."""
    if status.start_time is None or status.suspended_since is not None:
        return status
    return status.model_copy(update={"suspended_since": now.replace(microsecond=0)})


def resumed(status: AutoMLJobStatus, now: datetime) -> AutoMLJobStatus:
    """The status of a job whose time counts: with a start, no end, and a pause that is over added up."""
    if status.completion_time is not None:
        status = status.model_copy(update={"completion_time": None})
    if status.start_time is None:
        status = status.model_copy(update={"start_time": now.replace(microsecond=0)})
    if status.suspended_since is not None:
        length = max(0, int((now - status.suspended_since).total_seconds()))
        status = status.model_copy(
            update={"suspended_seconds": status.suspended_seconds + length, "suspended_since": None}
        )
    return with_start(status, now)


def _elapsed(status: AutoMLJobStatus, now: datetime) -> float:
    if status.start_time is None:
        return 0.0
    until = status.completion_time or now
    suspended = float(status.suspended_seconds)
    if status.suspended_since is not None:
        suspended += max(0.0, (until - status.suspended_since).total_seconds())
    return max(0.0, (until - status.start_time).total_seconds() - suspended)


def deadlines(
    job: AutoMLJob, start: datetime, suspended_seconds: float, data: DataFacts | None = None
) -> tuple[float | None, float | None]:
    """Unix times at which the search and the whole job must have ended; None without a time budget."""
    budget = job.spec.budget.max_duration_seconds
    if budget is None:
        return None, None
    end = (start + timedelta(seconds=budget + suspended_seconds)).timestamp()
    return end - finalize_seconds(budget, data, refits=refits(job, data)), end


def refits(job: AutoMLJob, data: DataFacts | None) -> float:
    """How often time is kept to fit members once more: for variants of one fit each, as all are of a time split, and for an ensemble
    that is to learn from the hold-out.
    """
    output, dataset = job.spec.output, job.spec.dataset
    has_time = dataset.split.time_column is not None and dataset.split.type in (SplitType.AUTO, SplitType.TIME)
    has_few_rows = data is not None and 0 < data.rows <= MOST_ROWS_REFOLDED
    others = set(output.variants) - {ModelVariant.QUALITY}
    single = 1.0 if has_time or others else 0.0
    if others == {ModelVariant.FAST} and has_few_rows and not has_time:
        single = ONE_REFIT
    learns = (
        ModelVariant.QUALITY in output.variants
        and output.refit_on is RefitRows.ALL_ROWS
        and dataset.test is None
        and not has_time
        and has_few_rows
        and data is not None
        and data.holdout_rows > 0
    )
    return single + learns


def trials_before(status: AutoMLJobStatus) -> int:
    """Trials of earlier tries, which budgets do not count: the study, and with it the workers' count, goes on over them."""
    return status.retry.trials_before if status.retry else 0


def failed_trials_before(status: AutoMLJobStatus) -> int:
    """Likewise, those that failed."""
    return status.retry.failed_trials_before if status.retry else 0


def limits_of(
    job: AutoMLJob,
    start: datetime,
    suspended_seconds: float,
    accelerator_deadline: float | None = None,
    data: DataFacts | None = None,
) -> StudyLimits:
    """What pods must know of the fields that may be edited; the search ends at the earlier of its deadlines."""
    budget = job.spec.budget
    search_deadline, job_deadline = deadlines(job, start, suspended_seconds, data)
    known = [d for d in (search_deadline, accelerator_deadline) if d is not None]
    search_deadline = min(known) if known else None
    return StudyLimits(
        max_trials=budget.max_trials + trials_before(job.status),
        max_failed_trials=budget.max_failed_trials + failed_trials_before(job.status),
        search_deadline=search_deadline,
        job_deadline=job_deadline,
        budget_seconds=None if budget.max_duration_seconds is None else float(budget.max_duration_seconds),
        target_value=None if budget.target_value is None else float(budget.target_value),
        patience_trials=budget.patience_trials,
        keep_trial_artifacts=job.spec.retention.keep_trial_artifacts,
    )


def steady_limits(limits: StudyLimits, known: StudyLimits | None) -> StudyLimits:
    """`known` when `limits` only tell another second of a deadline: each writing costs every worker a look."""
    if known is None or known.search_deadline is None or limits.search_deadline is None:
        return limits
    is_near = abs(limits.search_deadline - known.search_deadline) <= DEADLINE_TOLERANCE_SECONDS
    return known if is_near and replace(limits, search_deadline=known.search_deadline) == known else limits


def accelerator_spare(job: AutoMLJob, accelerators: int) -> float:
    """Accelerator seconds that the search leaves for the finalizer, which holds as many accelerators as a worker."""
    budget = job.spec.budget.max_accelerator_seconds or 0
    return min(budget / 2, ACCELERATOR_SPARE_SECONDS * accelerators)


def accelerator_deadline(
    job: AutoMLJob, used: BudgetUsed, observed: Observed, spare: float, now: datetime
) -> float | None:
    """Unix time at which the accelerators that are at work now will have used the budget up; None while none is."""
    budget = job.spec.budget.max_accelerator_seconds
    at_work = sum(p.accelerators for p in observed.pods if _trains(p) and p.is_alive and p.started_at is not None)
    if budget is None or at_work == 0:
        return None
    return now.timestamp() + max(0.0, budget - spare - used.accelerator_seconds) / at_work


def accelerator_seconds(job: AutoMLJob, observed: Observed, now: datetime) -> int:
    """Accelerators times running time: what the status says, and what was used since it was published.

    Counted in pieces because pods, and with them their times, are deleted. The pieces join: each begins at the duration
    that the last status published, and none reaches into a pause. What is lost is the time of a pod between the last status
    and its deletion, which `status.worth_publishing` keeps short, and its last seconds after a suspension.
    """
    status = job.status
    if status.start_time is None:
        return 0
    begin = status.start_time.timestamp() + status.suspended_seconds + status.budget_used.duration_seconds
    until = min(now, status.suspended_since) if status.suspended_since else now
    end = until.replace(microsecond=0).timestamp()
    used = sum(p.accelerators * _overlap(p, begin, end) for p in observed.pods if _trains(p))
    return status.budget_used.accelerator_seconds + round(used)


def _trains(pod: PodSeen) -> bool:
    return pod.component in (Component.WORKER, Component.FINALIZER)


def _overlap(pod: PodSeen, begin: float, end: float) -> float:
    """Seconds that a pod ran within a span of time."""
    if pod.started_at is None:
        return 0.0
    return max(0.0, min(pod.finished_at or end, end) - max(pod.started_at, begin))


def search_end(job: AutoMLJob, study: StudySummary, used: BudgetUsed, spare: float = 0.0) -> BudgetEnd | None:
    """The first limit that was reached, or None while the search goes on.

    Running trials count against maxTrials, so that workers start no more, but the search has ended only when as many have
    ended: a limit that was lowered below them ends it at once.

    Args:
        spare: accelerator seconds to leave for the finalizer.
    """
    budget, limits = job.spec.budget, study.limits
    metric = job.spec.objective.metric or default_metric(job.spec.task.type, bool(job.spec.task.quantiles))
    best = study.best[0].value if study.best else None
    if budget.target_value is not None and best is not None:
        target = float(budget.target_value)
        if best == target or is_better(metric, best, target):
            return BudgetEnd.TARGET_VALUE
    if study.failed - failed_trials_before(job.status) >= budget.max_failed_trials:
        return BudgetEnd.MAX_FAILED_TRIALS
    if study.spent - study.running - trials_before(job.status) >= budget.max_trials:
        return BudgetEnd.MAX_TRIALS
    if budget.max_duration_seconds is not None:
        left = budget.max_duration_seconds - used.duration_seconds
        if left <= finalize_seconds(budget.max_duration_seconds, study.data, refits=refits(job, study.data)):
            return BudgetEnd.MAX_DURATION
    most = budget.max_accelerator_seconds
    if most is not None and used.accelerator_seconds >= most - spare:
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
