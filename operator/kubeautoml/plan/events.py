"""Events: one for each transition that people wait for, and for what the operator did."""

from __future__ import annotations

from kubeautoml.api.conditions import BudgetEnd, ConditionStatus, ConditionType, Reason, find_condition
from kubeautoml.api.job_status import AutoMLJobStatus
from kubeautoml.api.objects import EventOrder
from kubeautoml.api.trials import MAX_ATTEMPTS, RetireTrial
from kubeautoml.plan.budget import elapsed_seconds
from kubeautoml.plan.scene import Scene

C = ConditionType


def transitions(old: AutoMLJobStatus, new: AutoMLJobStatus) -> tuple[EventOrder, ...]:
    """An event for every condition that people wait for, when it changes."""
    told = {
        C.ACCEPTED: (ConditionStatus.FALSE,),
        C.DATA_READY: (ConditionStatus.TRUE, ConditionStatus.FALSE),
        C.SUCCEEDED: (ConditionStatus.TRUE, ConditionStatus.FALSE),
        C.READY: (ConditionStatus.TRUE, ConditionStatus.FALSE),
    }
    events = []
    for kind, statuses in told.items():
        before, after = find_condition(old.conditions, kind), find_condition(new.conditions, kind)
        if after is None or after.status not in statuses:
            continue
        if before is None or (before.status, before.reason) != (after.status, after.reason):
            bad = after.status is ConditionStatus.FALSE
            events.append(EventOrder("Warning" if bad else "Normal", after.reason, after.message or kind.value))
    return tuple(events)


def requeue_events(retire: tuple[RetireTrial, ...]) -> tuple[EventOrder, ...]:
    """One event for each lost trial: it is tried again, or given up."""
    return tuple(
        EventOrder("Warning", Reason.TRIAL_REQUEUED, f"trial {t.number}: {t.reason}; attempt {t.attempt + 1} is queued")
        if t.requeue and t.attempt < MAX_ATTEMPTS
        else EventOrder("Warning", t.reason, f"trial {t.number}: {t.reason}; given up after attempt {t.attempt}")
        for t in retire
    )


def budget_events(scene: Scene, ended_by: BudgetEnd) -> tuple[EventOrder, ...]:
    """The end of the search, told once."""
    if scene.job.status.budget_used.ended_by == ended_by:
        return ()
    seconds = int(elapsed_seconds(scene.job.status, scene.now))
    words = f"the search ended after {scene.study.completed} completed trials and {seconds} s: {ended_by}"
    return (EventOrder("Normal", Reason.BUDGET_REACHED, words),)
