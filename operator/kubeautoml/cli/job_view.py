"""One job on one screen, for `kubectl automl status`: what it does, what is left of its budgets, best trials, conditions, pods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kubeautoml.api.conditions import ConditionStatus, find_condition
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.names import LABEL_COMPONENT
from kubeautoml.api.objects import Manifest
from kubeautoml.cli.view import (
    age_of,
    conditions_table,
    counts,
    duration,
    leaderboard_table,
    live_progress,
    metric_of,
    plain_table,
    short_number,
    state,
    variants_table,
)
from kubeautoml.controller.observe import pod_seen
from kubeautoml.plan.retry import wants_retry

PODS_SHOWN = 12
"""Rows of pods in the live view; a search may have hundreds."""

_LABEL = 11


@dataclass(frozen=True)
class Seen:
    """One job as it was seen last, and what else is known of it."""

    job: AutoMLJob
    pods: tuple[Manifest, ...] = ()
    note: str = ""
    """What keeps this from being all, or new."""


def live_screen(seen: Seen, now: datetime) -> RenderableType:
    """While the job goes on: every line is cut to the terminal, so that the height changes with the news alone."""
    job = seen.job
    parts: list[RenderableType] = [_head(job, now), *(_fact(*f, cut=True) for f in _facts(job, now))]
    if job.status.leaderboard:
        parts += ["", leaderboard_table(job)]
    parts += ["", conditions_table(job, one_line=True)]
    if seen.pods:
        parts += ["", pods_table(seen.pods, now, most=PODS_SHOWN)]
    if seen.note:
        parts += ["", Text(seen.note, style="yellow", no_wrap=True, overflow="ellipsis")]
    return Group(*parts)


def full_screen(seen: Seen, now: datetime, *, wide: bool = False) -> list[RenderableType]:
    """All of it, nothing cut: what is printed once, text without breaks of ours so that addresses can be copied."""
    job = seen.job
    parts: list[RenderableType] = [_head(job, now), *(_fact(*f) for f in _facts(job, now)), *_places(job)]
    if job.status.leaderboard:
        parts += ["", leaderboard_table(job)]
    if job.status.model is not None and job.status.model.variants:
        parts += ["", variants_table(job)]
    if job.status.conditions:
        parts += ["", conditions_table(job)]
    if seen.pods:
        parts += ["", pods_table(seen.pods, now, wide=wide)]
    if (next_step := what_next(job)) or seen.note:
        parts += ["", *(Text(words) for words in (next_step, seen.note) if words)]
    return parts


def what_next(job: AutoMLJob) -> str:
    """What somebody does with a job that has failed; empty for others."""
    succeeded = find_condition(job.status.conditions, "Succeeded")
    if succeeded is None or succeeded.status is not ConditionStatus.FALSE or wants_retry(job):
        return ""
    name = f"{job.metadata.name} -n {job.metadata.namespace}"
    return f"Next: mend what Succeeded says (kubectl automl logs {name}), then: kubectl automl retry {name}"


def has_ended(job: AutoMLJob) -> bool:
    """Whether watching on is of no use: the job has failed, was refused, or what it is to serve answers or never will.

    One that somebody has just asked to be tried again has not, though the operator has not said so yet.
    """
    conditions = job.status.conditions
    accepted, succeeded, ready = (find_condition(conditions, c) for c in ("Accepted", "Succeeded", "Ready"))
    if succeeded is not None and succeeded.status is ConditionStatus.FALSE:
        return not wants_retry(job)
    if succeeded is not None and succeeded.status is ConditionStatus.TRUE:
        return ready is not None and ready.status is not ConditionStatus.UNKNOWN
    return accepted is not None and accepted.status is ConditionStatus.FALSE and job.status.start_time is None


def has_failed(job: AutoMLJob) -> bool:
    """Whether it has ended, and not as it was meant to."""
    ready = find_condition(job.status.conditions, "Ready")
    return has_ended(job) and (ready is None or ready.status is not ConditionStatus.TRUE)


def activity(job: AutoMLJob) -> str:
    """What is being done just now, in the words of whoever does it; empty when nothing is."""
    reading, succeeded = (find_condition(job.status.conditions, c) for c in ("DataReady", "Succeeded"))
    if succeeded is None or succeeded.status is not ConditionStatus.UNKNOWN:
        return ""
    if reading is not None and reading.status is ConditionStatus.UNKNOWN and reading.message:
        return reading.message
    # of "10 trials completed, 2 running, of at most 500; trial 3: epoch 4 of 12" the counts have a line of their own
    counted, _, doing = succeeded.message.partition("; ")
    return doing if counted.endswith(f"of at most {job.spec.budget.max_trials}") else succeeded.message


def budget_words(job: AutoMLJob, now: datetime) -> Iterator[str]:
    """Each budget that the job has, as used of how much."""
    budget, used = job.spec.budget, job.status.budget_used
    yield f"{used.trials} of {budget.max_trials} trials"
    if budget.max_duration_seconds is not None:
        spent = max(float(used.duration_seconds), budget.max_duration_seconds * live_progress_of_time(job, now))
        left = "" if job.status.completion_time else f" ({duration(budget.max_duration_seconds - spent)} left)"
        yield f"{duration(spent)} of {duration(budget.max_duration_seconds)}{left}"
    if budget.max_accelerator_seconds is not None:
        yield f"{duration(used.accelerator_seconds)} of {duration(budget.max_accelerator_seconds)} accelerator time"
    if budget.target_value is not None:
        yield f"target {short_number(str(budget.target_value))}"
    if used.ended_by:
        yield f"ended by {used.ended_by}"


def live_progress_of_time(job: AutoMLJob, now: datetime) -> float:
    """Share of the time budget that is used, moving with the clock while time counts."""
    budget, status = job.spec.budget.max_duration_seconds, job.status
    if not budget or status.start_time is None or status.completion_time or status.suspended_since:
        return 0.0
    return max(0.0, (now - status.start_time).total_seconds() - status.suspended_seconds) / budget


def pods_table(pods: tuple[Manifest, ...], now: datetime, *, most: int | None = None, wide: bool = False) -> Table:
    """A line a pod: what it is for, how it is and since when."""
    table = plain_table("POD", "ROLE", "STATUS", "AGE", *["NODE", "IP"] * wide)
    if any(pod_seen(pod).message for pod in pods[:most]):
        table.add_column("MESSAGE")  # it may wrap, so rich takes room from this column first
    for pod in pods[:most]:
        seen, meta = pod_seen(pod), pod["metadata"]
        status = "Terminating" if seen.is_deleting else seen.reason or seen.phase
        at = [pod.get("spec", {}).get("nodeName", ""), pod.get("status", {}).get("podIP", "")] * wide
        row = [meta["name"], meta.get("labels", {}).get(LABEL_COMPONENT, ""), status]
        row += [age_of(meta.get("creationTimestamp"), now), *at]
        message = Text(" ".join(seen.message.split()), no_wrap=True, overflow="ellipsis")
        table.add_row(*row, *[message][: len(table.columns) - len(row)])
    if most is not None and len(pods) > most:
        table.add_row(f"and {len(pods) - most} more")
    return table


def _head(job: AutoMLJob, now: datetime) -> RenderableType:
    is_over = job.status.completion_time is not None
    percent = float(job.status.progress_percentage) if is_over else live_progress(job, now)
    name = f"{job.metadata.namespace}/{job.metadata.name}"
    head = Table.grid(padding=(0, 1))
    head.add_column(overflow="ellipsis", no_wrap=True)
    for _ in range(3):
        head.add_column(no_wrap=True)
    bar = ProgressBar(total=100, completed=percent, width=20)
    head.add_row(Text(name, style="bold"), Text(state(job), style="cyan"), bar, f"{percent:3.0f}%")
    return head


def _facts(job: AutoMLJob, now: datetime) -> Iterator[tuple[str, str]]:
    best = job.status.best
    yield "Trials", counts(job)
    if best is not None:
        yield "Best", f"{metric_of(job)} {short_number(best.value)} ({best.family}, trial {best.trial})"
    yield "Budget", ", ".join(budget_words(job, now))
    if doing := activity(job):
        yield "Activity", doing


def _places(job: AutoMLJob) -> Iterator[Text]:
    status = job.status
    places = {
        "Model": status.model.uri if status.model else None,
        "Endpoint": status.serving.url if status.serving else None,
        "Report": status.artifacts.report_uri if status.artifacts else None,
    }
    for name, place in places.items():
        if place:
            yield _fact(name, place)


def _fact(name: str, value: str, *, cut: bool = False) -> Text:
    words = f"{name + ':':<{_LABEL}}{' '.join(value.split())}"
    return Text(words, no_wrap=True, overflow="ellipsis") if cut else Text(words)
