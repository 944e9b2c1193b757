"""How a job looks to a person: tables and the live view, from the object's own status. The study is not asked."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kubeautoml.api.conditions import ConditionStatus, find_condition
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.job_status import RankedTrial
from kubeautoml.api.metrics import default_metric

UNBOUNDED = 500
"""Columns of what no person looks at: nothing is cut or wrapped for a pipe."""


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the process with 1: that somebody reads no more is no failure, and `main` knows what it is."""
        raise BrokenPipeError


def output_console(width: int | None = None) -> Console:
    """Stdout: as wide as the terminal, and cut at nothing where it is none. Brackets in the user's own words are no markup."""
    natural = None if sys.stdout.isatty() else UNBOUNDED
    return _Output(width=width or natural, markup=False, highlight=False, emoji=False)


def plain_table(*columns: str, right: tuple[str, ...] = (), header_style: str = "bold") -> Table:
    """A table as kubectl prints them; no column wraps."""
    table = Table(box=None, pad_edge=False, header_style=header_style)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    return table


def duration(seconds: float) -> str:
    """1h 5m, 4m 3s, 12s."""
    whole = max(0, int(seconds))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"


def age(job: AutoMLJob, now: datetime) -> str:
    """Since creation, as kubectl writes it (12s, 4m, 3h, 2d)."""
    return age_of(job.metadata.creation_timestamp, now)


def age_of(created: str | None, now: datetime) -> str:
    """Since a stamp of the API server."""
    if not created:
        return ""
    seconds = int((now - datetime.fromisoformat(created)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"


def metric_of(job: AutoMLJob) -> str:
    """The metric that the job optimises."""
    return job.spec.objective.metric or default_metric(job.spec.task.type, bool(job.spec.task.quantiles))


def state(job: AutoMLJob) -> str:
    """One word for where a job stands: the reason of the condition that says most."""
    conditions = job.status.conditions
    accepted = find_condition(conditions, "Accepted")
    if accepted is None:
        return "Pending"
    succeeded = find_condition(conditions, "Succeeded")
    ready = find_condition(conditions, "Ready")
    if accepted.status is ConditionStatus.FALSE:
        return accepted.reason
    if succeeded is not None and succeeded.status is ConditionStatus.TRUE and ready is not None:
        return ready.reason
    admitted = find_condition(conditions, "Admitted")
    has_failed = succeeded is not None and succeeded.status is ConditionStatus.FALSE
    if admitted is not None and admitted.status is ConditionStatus.FALSE and not has_failed:
        return admitted.reason
    return succeeded.reason if succeeded is not None else accepted.reason


def short_number(value: str | None, digits: int = 5) -> str:
    """A decimal string with so many significant digits, written out where that is shorter to read."""
    if value is None:
        return ""
    text = f"{float(value):.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text and abs(float(text)) < 1e9 else text


def leaderboard_table(job: AutoMLJob) -> Table:
    """Rank, trial, family, score, time and the first hyperparameters."""
    metric = metric_of(job).upper()
    table = plain_table("RANK", "TRIAL", "FAMILY", metric, "TIME", right=("RANK", "TRIAL", metric, "TIME"))
    # Rich takes room from columns that may wrap, and only then from all: this one gives way, cut rather than wrapped.
    table.add_column("PARAMETERS")
    for rank, trial in enumerate(job.status.leaderboard, start=1):
        seconds = "" if trial.duration_seconds is None else duration(trial.duration_seconds)
        parameters = Text(parameter_text(trial), style="dim", no_wrap=True, overflow="ellipsis")
        table.add_row(str(rank), str(trial.trial), trial.family, short_number(trial.value), seconds, parameters)
    return table


def variants_table(job: AutoMLJob) -> Table:
    """What each form of the finished model reaches and costs."""
    numbers = (metric_of(job).upper(), "ONE ROW", "SIZE", "FIT")
    table = plain_table("VARIANT", *numbers, right=numbers)
    for v in job.status.model.variants if job.status.model else ():
        row = "" if v.latency_p50_ms is None else f"{v.latency_p50_ms} ms"
        value = "" if v.value is None else short_number(v.value)
        table.add_row(v.name, value, row, f"{v.size_bytes / 1e6:.3g} MB", duration(v.fit_seconds))
    return table


def parameter_text(trial: RankedTrial) -> str:
    """name=value ..., without the family's prefix."""
    return " ".join(f"{k.removeprefix(trial.family + '.')}={short_text(v)}" for k, v in trial.parameters.items())


def short_text(value: str) -> str:
    """A number with four digits, any other text as it is."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


def counts(job: AutoMLJob) -> str:
    """Trials by what became of them; zeros are left out."""
    trials = job.status.trials
    numbers = {n: getattr(trials, n) for n in ("completed", "running", "pruned", "failed", "preempted")}
    return ", ".join(f"{number} {name}" for name, number in numbers.items() if number) or "no trial yet"


def seconds_left(job: AutoMLJob, now: datetime) -> float | None:
    """Until the time budget ends; None without one or before the start."""
    budget, started = job.spec.budget.max_duration_seconds, job.status.start_time
    if budget is None or started is None:
        return None
    return budget + job.status.suspended_seconds - (now - started).total_seconds()


def live_progress(job: AutoMLJob, now: datetime) -> float:
    """Percent of the budget, moving with the clock between two updates of the status."""
    left, budget = seconds_left(job, now), job.spec.budget.max_duration_seconds
    by_time = 0.0 if left is None or not budget else 100 * (1 - left / budget)
    return min(100.0, max(float(job.status.progress_percentage), by_time))


def live_view(job: AutoMLJob, now: datetime | None = None) -> RenderableType:
    """Progress bar, time left, best score, leaderboard."""
    now = now or datetime.now(UTC)
    percent = live_progress(job, now)
    left = seconds_left(job, now)
    head = Table.grid(padding=(0, 1))
    head.add_row(
        Text(f"{job.metadata.namespace}/{job.metadata.name}", style="bold"),
        Text(state(job), style="cyan"),
        ProgressBar(total=100, completed=percent, width=20),
        f"{percent:3.0f}%",
        "" if left is None else f"{duration(left)} left",
    )
    best = job.status.best
    line = f"{counts(job)}" + (f"; best {metric_of(job)} {short_number(best.value)} ({best.family})" if best else "")
    parts: list[RenderableType] = [head, Text(line)]
    reading = find_condition(job.status.conditions, "DataReady")
    if reading is not None and reading.status is ConditionStatus.UNKNOWN and reading.message:
        parts.append(Text(reading.message, style="dim"))
    if job.status.leaderboard:
        parts.append(leaderboard_table(job))
    return Group(*parts)


def conditions_table(job: AutoMLJob, *, one_line: bool = False) -> Table:
    """The conditions, as kubectl describe shows them; one_line: messages are cut rather than wrapped."""
    table = plain_table("CONDITION", "STATUS", "REASON")
    table.add_column("MESSAGE", overflow="fold")
    for c in job.status.conditions:
        message = Text(c.message, no_wrap=True, overflow="ellipsis") if one_line else Text(c.message)
        table.add_row(c.type, c.status.value, c.reason, message)
    return table
