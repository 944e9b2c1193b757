"""What the operator and the pods tell each other through the study: plain values, no optuna.

The study's user attributes are the only channel between them (pods have no API token). Each attribute stays below 2 kB
and has one writer:

    limits    operator -> workers     what ends the search; read before every trial
    warm_start operator -> workers    studies of the namespace whose best trials are tried first (search.warmStartFrom)
    orders    in `StudyOrders`        trials to retire because their pod is gone (written into the trials themselves)
    data      first worker -> operator   the data was read, split and stored
    failure   a pod -> operator       why the job cannot go on (reason, message)
    search    workers -> operator     the search space is exhausted
    activity  workers -> operator     what the worker that spoke last is doing before its trials, in a few words
    stage     finalizer -> operator   what the finalizer is doing
    result    finalizer -> operator   the finished model
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class StudyAttr(StrEnum):
    """User attributes of a study."""

    LIMITS = "limits"
    WARM_START = "warm_start"
    """Names of studies that pods of this one may read, too; written before the limits."""
    DATA = "data"
    FAILURE = "failure"
    SEARCH = "search"
    ACTIVITY = "activity"
    """A sentence such as "caching images: 1,200 of 60,000, 850 a second"; empty when there is nothing to say."""
    STAGE = "stage"
    RESULT = "result"


class TrialAttr(StrEnum):
    """User attributes of a trial."""

    POD_UID = "pod_uid"
    ATTEMPT = "attempt"
    FAMILY = "family"
    PORTFOLIO = "portfolio"
    RETRY_OF = "retry_of"
    PREEMPTED = "preempted"
    ERROR = "error"
    PROMOTES = "promotes"
    """Number of the trial whose pipeline this one runs again, on more folds or more rows; it takes that one's place."""
    WORK = "work"
    """What the trial costs, in ordinary trials of its pipeline; 1 when absent."""
    OVERRAN = "overran"
    """It was ended because a fit did not return."""
    DOING = "doing"
    """What a long trial does just now, in words: written by its worker every so often."""
    RUNGS = "rungs"
    """Validation losses of the first fold's fit by the share of its epochs, where its family trains by epochs."""


@dataclass(frozen=True)
class StudyLimits:
    """What ends the search. `stop` is set once a limit was reached: workers finish nothing more and leave."""

    max_trials: int
    max_failed_trials: int
    search_deadline: float | None = None
    """Unix time at which workers stop; a trial that would end later is cut."""
    job_deadline: float | None = None
    """Unix time at which the finished model is due."""
    budget_seconds: float | None = None
    """spec.budget.maxDurationSeconds as it is now: the first worker makes fewer folds of much data where it is short."""
    target_value: float | None = None
    patience_trials: int | None = None
    keep_trial_artifacts: int | None = None
    """Best trials whose artifacts the finalizer leaves; None leaves all."""
    stop: bool = False


MOST_ROWS_REFOLDED = 20_000
"""Training rows up to which the ensemble's models learn from the hold-out in the end, too: more make little difference, and take
long. A guess."""


@dataclass(frozen=True)
class DataFacts:
    """What the first worker found when it read the data."""

    rows: int
    columns: int
    holdout_rows: int
    folds: int
    classes: int | None
    sha256: str
    warnings: tuple[str, ...] = ()
    read_seconds: float | None = None
    """How long it took to read, type and split it, without what is found out once (column types, folds, leaks): what every pod
    spends on it, and the finalizer again."""
    traits: dict[str, float] = field(default_factory=dict)
    """What kind of data it is, by name: what jobs that start warm compare (search.warmStartFrom)."""


@dataclass(frozen=True)
class Failure:
    """Why the job cannot go on, found by a pod. `stage` is "data", "output", "search" or "finalize"."""

    stage: str
    reason: str
    message: str


@dataclass(frozen=True)
class VariantFacts:
    """One form of the finished model. `value`: the objective on the hold-out; None where it is not defined, or was not measured."""

    name: str
    value: float | None
    latency_p50_ms: float | None
    """One row, in the finalizing pod."""
    size_bytes: int
    fit_seconds: float


@dataclass(frozen=True)
class JobResult:
    """The finished model, as the finalizer reports it. `metrics` are hold-out metrics by name."""

    model_uri: str
    sha256: str
    size_bytes: int
    metrics: dict[str, float]
    members: tuple[str, ...]
    trials: int
    data_sha256: str
    finished_at: float
    code_version: str
    variants: tuple[VariantFacts, ...] = ()
    """The forms of the model in the bundle; the first one's are `metrics` and `members`."""


@dataclass(frozen=True)
class RunningTrial:
    """A trial somebody says to be running. `pod_uid` is empty until the worker has written it."""

    number: int
    pod_uid: str
    attempt: int
    started_at: float
    doing: str = ""
    """What a long one does just now, such as "epoch 4 of 12, 1,900 rows a second"."""


@dataclass(frozen=True)
class FinishedTrial:
    """One scored trial. `parameters` are as the study holds them."""

    number: int
    value: float
    family: str
    parameters: dict[str, Any]
    duration_seconds: float | None


@dataclass(frozen=True)
class StudySummary:
    """All that the planner needs of a study, whatever its size."""

    waiting: int = 0
    running: int = 0
    completed: int = 0
    pruned: int = 0
    failed: int = 0
    preempted: int = 0
    running_trials: tuple[RunningTrial, ...] = ()
    best: tuple[FinishedTrial, ...] = ()
    """The ten best, best first."""
    trials_since_best: int = 0
    """Trials finished (completed or pruned) after the best one."""
    exhausted: bool = False
    """Workers found nothing more to try."""
    data: DataFacts | None = None
    failure: Failure | None = None
    activity: str = ""
    stage: str | None = None
    result: JobResult | None = None
    limits: StudyLimits | None = None
    error: str | None = None
    """The most frequent error of failed trials."""

    @property
    def spent(self) -> int:
        """Trials that count against budget.maxTrials: finished or running, not the preempted ones."""
        return self.running + self.completed + self.pruned + self.failed


@dataclass(frozen=True)
class RetireTrial:
    """End a running trial: as preempted, with its parameters queued again unless this was its last attempt (`requeue`), or as
    failed for good."""

    number: int
    attempt: int
    reason: str
    requeue: bool


@dataclass(frozen=True)
class Reopen:
    """Take back what ended a job, so that it can be tried again; finished trials stay."""

    search: bool
    """Begin the search anew: what ended it is taken back, too, and trials of the portfolio that failed are queued again. False only
    lets the model be made again."""


@dataclass(frozen=True)
class StudyOrders:
    """What the planner wants written into the study."""

    limits: StudyLimits | None = None
    """None leaves the limits as they are."""
    warm_start: tuple[str, ...] | None = None
    """Names of the studies that search.warmStartFrom means; None leaves what is written."""
    retire: tuple[RetireTrial, ...] = field(default=())
    reopen: Reopen | None = None

    def __bool__(self) -> bool:
        return any(order is not None for order in (self.limits, self.warm_start, self.reopen)) or bool(self.retire)


MAX_ATTEMPTS = 3
"""A trial whose pod went away is tried this often altogether (DESIGN: lost workers)."""
