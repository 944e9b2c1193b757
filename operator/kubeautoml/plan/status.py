"""status from facts: counters, leaderboard, artifacts, conditions; and when a change is worth an API write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from kubeautoml.api.conditions import (
    Condition,
    ConditionStatus,
    ConditionType,
    Reason,
    find_condition,
    set_condition,
)
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.job_status import Artifacts, AutoMLJobStatus, BudgetUsed, RankedTrial, TrialCounts
from kubeautoml.api.pod import PodJob
from kubeautoml.api.problems import printable
from kubeautoml.api.trials import FinishedTrial, StudySummary
from kubeautoml.api.values import CAMEL_PATTERN
from kubeautoml.plan.base import Observed, Settings
from kubeautoml.plan.budget import accelerator_seconds, elapsed_seconds, trials_before

TIME_ONLY_SECONDS = 60.0
"""When only the clock has moved, the status is published this often: long trials must not cost an API write each tick."""

LOST_ACCELERATOR_SECONDS = 15.0
"""Accelerator seconds of one pod that may go uncounted."""

FEW_TRIALS_INTERVALS = 6
"""So many intervals pass before a few trials alone, or other words in a condition, are published."""

MAX_PARAMETER_NAME = 48
MAX_PARAMETER_TEXT = 32
MAX_PARAMETERS = 12
MAX_MESSAGE = 768
"""Bytes of a hyperparameter's name and value, hyperparameters of a trial in the leaderboard, bytes of a condition's message:
the object stays below 32 KiB whatever the search space. All of them are in leaderboard.csv."""


@dataclass(frozen=True)
class Fact:
    """What a condition says."""

    status: ConditionStatus
    reason: Reason | str
    message: str = ""


def true(reason: Reason | str, message: str = "") -> Fact:
    return Fact(ConditionStatus.TRUE, reason, message)


def false(reason: Reason | str, message: str = "") -> Fact:
    return Fact(ConditionStatus.FALSE, reason, message)


def unknown(reason: Reason, message: str = "") -> Fact:
    return Fact(ConditionStatus.UNKNOWN, reason, message)


def with_conditions(
    status: AutoMLJobStatus, facts: Mapping[ConditionType, Fact], generation: int, now: datetime
) -> AutoMLJobStatus:
    """The status with these conditions set; a condition that says nothing new keeps its time."""
    conditions = status.conditions
    for kind, fact in facts.items():
        conditions = set_condition(
            conditions,
            Condition(
                type=kind,
                status=fact.status,
                reason=fact.reason if _is_reason(fact.reason) else Reason.INTERNAL_ERROR,
                message=clipped(printable(" ".join(fact.message.split())), MAX_MESSAGE),
                last_transition_time=now.replace(microsecond=0),
                observed_generation=generation,
            ),
        )
    return status.model_copy(update={"conditions": conditions, "observed_generation": generation})


def kept(status: AutoMLJobStatus, kind: ConditionType, fact: Fact) -> Fact:
    """The fact, in the words of the condition where it says the same already: what was found out is told to the end."""
    old = find_condition(status.conditions, kind)
    same = old is not None and (old.status, old.reason) == (fact.status, fact.reason)
    return Fact(fact.status, fact.reason, old.message) if same and old is not None else fact


def clipped(text: str, most: int) -> str:
    """The text, cut to so many bytes of UTF-8; a cut one ends with three dots."""
    data = text.encode()
    return text if len(data) <= most else data[: most - 3].decode(errors="ignore") + "..."


def _is_reason(reason: str) -> bool:
    """A reason may come from a pod, by way of the study."""
    return len(reason) <= 64 and re.fullmatch(CAMEL_PATTERN, reason) is not None


def is_status(status: AutoMLJobStatus, kind: ConditionType, value: ConditionStatus) -> bool:
    """Whether that condition has that status."""
    found = find_condition(status.conditions, kind)
    return found is not None and found.status is value


def with_study(job: AutoMLJob, observed: Observed, now: datetime) -> AutoMLJobStatus:
    """The status with counters, best trials and used budgets as they are now."""
    study = observed.study or StudySummary()
    ranked = tuple(_ranked(t) for t in study.best[:10])
    used = BudgetUsed(
        trials=max(0, study.spent - trials_before(job.status)),
        duration_seconds=int(elapsed_seconds(job.status, now)),
        accelerator_seconds=accelerator_seconds(job, observed, now),
        ended_by=job.status.budget_used.ended_by,
    )
    counts = TrialCounts(
        total=study.spent + study.preempted,
        running=study.running,
        completed=study.completed,
        pruned=study.pruned,
        failed=study.failed,
        preempted=study.preempted,
    )
    return job.status.model_copy(
        update={"trials": counts, "best": ranked[0] if ranked else None, "leaderboard": ranked, "budget_used": used}
    )


def artifacts_of(job: AutoMLJob) -> Artifacts:
    """Where everything is once the finalizer has written it."""
    paths = PodJob.of(job).paths
    return Artifacts(
        root_uri=paths.root,
        model_uri=paths.model,
        leaderboard_uri=paths.leaderboard,
        metrics_uri=paths.metrics,
        report_uri=paths.report,
        pipeline_uri=paths.pipeline,
    )


def worth_publishing(
    old: AutoMLJobStatus, new: AutoMLJobStatus, settings: Settings, max_accelerator_seconds: int | None = None
) -> AutoMLJobStatus:
    """`new`, or `old` when all that has changed are counters, too few of them and too soon.

    The time of the last update is the duration that it published: nothing else needs to be remembered. Accelerator seconds
    that are not published are lost with their pod, so where they are limited, a hundredth of the limit is enough.
    """
    if _hard(old) != _hard(new):
        return new
    since = new.budget_used.duration_seconds - old.budget_used.duration_seconds
    interval = settings.status_interval_seconds
    held = new.budget_used.accelerator_seconds - old.budget_used.accelerator_seconds
    if max_accelerator_seconds and held >= max(LOST_ACCELERATOR_SECONDS, max_accelerator_seconds / 100):
        is_due = since >= interval
    elif (old.trials, old.leaderboard) == (new.trials, new.leaderboard):
        has_news = [c.message for c in old.conditions] != [c.message for c in new.conditions]
        is_due = since >= min(TIME_ONLY_SECONDS, FEW_TRIALS_INTERVALS * interval if has_news else TIME_ONLY_SECONDS)
    elif _ended(new) - _ended(old) >= settings.status_trials:
        is_due = since >= interval
    else:
        is_due = since >= FEW_TRIALS_INTERVALS * interval
    return new if is_due else old


def _ended(status: AutoMLJobStatus) -> int:
    counts = status.trials
    return counts.completed + counts.pruned + counts.failed + counts.preempted


def _hard(status: AutoMLJobStatus) -> tuple[object, ...]:
    """What somebody may be waiting for."""
    conditions = tuple((c.type, c.status, c.reason, c.observed_generation) for c in status.conditions)
    soft = {"conditions", "trials", "best", "leaderboard", "progress_percentage", "budget_used"}
    rest = status.model_dump(exclude=soft)
    return conditions, status.budget_used.ended_by, status.best is None, tuple(rest.items())


def _ranked(trial: FinishedTrial) -> RankedTrial:
    shown = [(k, v) for k, v in trial.parameters.items() if k != "family"]
    return RankedTrial(
        trial=trial.number,
        value=format(trial.value, ".6g"),
        family=clipped(trial.family, MAX_PARAMETER_TEXT),
        parameters={clipped(k, MAX_PARAMETER_NAME): _text(v) for k, v in shown[:MAX_PARAMETERS]},
        duration_seconds=None if trial.duration_seconds is None else round(trial.duration_seconds),
    )


def _text(value: object) -> str:
    text = format(value, ".6g") if isinstance(value, float) else str(value)
    return clipped(text, MAX_PARAMETER_TEXT)
