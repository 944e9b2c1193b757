"""The status of an AutoMLJob: what was observed."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field, StringConstraints

from kubeautoml.api.conditions import Condition
from kubeautoml.api.values import ApiModel, DecimalString

Count = Annotated[int, Field(ge=0, le=10**12)]
"""A number in the status; what somebody else writes there beyond this counts as unreadable."""

MAX_RETRY_REQUEST = 64
"""Characters of the annotation kubeautoml.dev/retry that are read."""

MAX_ACCEPTED_SPEC = 4 * 1024
"""Characters of status.acceptedSpec: a part of the 32 KiB that an object may have. A longer one is not kept."""


class TrialCounts(ApiModel):
    """Trials by what became of them."""

    total: Count = 0
    """All trials that were started."""
    running: Count = 0
    """Trials that are being run."""
    completed: Count = 0
    """Trials with a score."""
    pruned: Count = 0
    """Trials stopped early because they were hopeless."""
    failed: Count = 0
    """Trials that ended in an error."""
    preempted: Count = 0
    """Trials whose pod went away; each was queued again."""


class BudgetUsed(ApiModel):
    """How much of each budget is spent."""

    trials: Count = 0
    """Trials finished or running."""
    duration_seconds: Count = 0
    """Wall time, without the time it was suspended."""
    accelerator_seconds: Count = 0
    """Accelerator seconds, summed over workers and finalizer."""
    ended_by: str | None = None
    """Limit that ended the search, such as MaxTrials."""


class RankedTrial(ApiModel):
    """One trial of the leaderboard."""

    trial: int
    """Number in the study."""
    value: DecimalString
    """Cross-validated value of the objective."""
    family: str
    """Model family."""
    parameters: dict[str, str] = Field(default_factory=dict)
    """Hyperparameters, as text."""
    duration_seconds: int | None = None
    """Time the trial took."""


class Artifacts(ApiModel):
    """Where the results are."""

    root_uri: str | None = None
    """Folder of all artifacts of this job."""
    model_uri: str | None = None
    """The bundle."""
    leaderboard_uri: str | None = None
    """All trials, as CSV."""
    metrics_uri: str | None = None
    """Hold-out metrics, as JSON."""
    report_uri: str | None = None
    """The report, as HTML."""
    pipeline_uri: str | None = None
    """The pipeline as Python code."""


class VariantStatus(ApiModel):
    """What one form of the model reaches, and what it costs."""

    name: str
    """Quality, Balanced, Fast or Distilled."""
    value: DecimalString | None = None
    """The objective on the hold-out."""
    latency_p50_ms: DecimalString | None = None
    """Median time for one row in the finalizing pod, in milliseconds."""
    size_bytes: Count
    """Size of the files that it needs."""
    fit_seconds: Count
    """What its models took to fit."""


class ModelStatus(ApiModel):
    """The model that came out."""

    name: str
    """Name of the AutoMLModel."""
    version: str
    """Version, such as v1."""
    uri: str
    """The bundle."""
    sha256: str
    """Digest of bundle.json, which holds the digests of all other files."""
    metrics: dict[str, DecimalString] = Field(default_factory=dict)
    """Hold-out metrics of the first variant."""
    variants: tuple[VariantStatus, ...] = Field(default=(), max_length=4)
    """Forms of the model in the bundle; the first one answers unless serving.variant says otherwise."""


class ServingStatus(ApiModel):
    """The endpoint."""

    url: str | None = None
    """Address inside the cluster."""
    model_version: str | None = None
    """Version that answers."""
    ready_replicas: int = 0
    """Server pods that are ready."""


class RetryStatus(ApiModel):
    """What the annotation kubeautoml.dev/retry has brought about."""

    request: Annotated[str, StringConstraints(max_length=MAX_RETRY_REQUEST)] = ""
    """The annotation's value that was answered last; another one puts the job, if it has failed, back to work."""
    count: Count = 0
    """How often the job was put back to work."""
    trials_before: Count = 0
    """Trials of earlier tries, which budget.maxTrials does not count."""
    failed_trials_before: Count = 0
    """Failed trials of earlier tries, which budget.maxFailedTrials does not count."""


class AutoMLJobStatus(ApiModel):
    """What was observed. Counts and the top ten, never a list of trials."""

    observed_generation: int = 0
    """metadata.generation this status describes."""
    conditions: tuple[Condition, ...] = ()
    """Accepted, DataReady, Admitted, Succeeded, Ready, Reconciling, Stalled."""
    start_time: AwareDatetime | None = None
    """When the first worker was asked for; moved when the clock is set back, so that the time used stays true."""
    completion_time: AwareDatetime | None = None
    """When the job succeeded or failed."""
    suspended_seconds: Annotated[int, Field(ge=0, le=10**10)] = 0
    """Wall time spent suspended or waiting in a queue, which no budget counts."""
    suspended_since: AwareDatetime | None = None
    """When the current suspension, or wait in a queue, began."""
    progress_percentage: Annotated[int, Field(ge=0, le=100)] = 0
    """Share of the budget that is used, in percent; 100 when the job ended."""
    trials: TrialCounts = Field(default_factory=TrialCounts)
    """Trials by what became of them."""
    budget_used: BudgetUsed = Field(default_factory=BudgetUsed)
    """How much of each budget is spent."""
    best: RankedTrial | None = None
    """The best trial so far."""
    leaderboard: tuple[RankedTrial, ...] = Field(default=(), max_length=10)
    """The ten best trials."""
    artifacts: Artifacts | None = None
    """Where the results are."""
    model: ModelStatus | None = None
    """The model that came out."""
    serving: ServingStatus | None = None
    """The endpoint."""
    retry: RetryStatus | None = None
    """What the annotation kubeautoml.dev/retry has brought about; absent where there was none."""
    accepted_spec: Annotated[str, StringConstraints(max_length=MAX_ACCEPTED_SPEC)] | None = None
    """The part of the spec that may be edited as it was when it was last accepted, as JSON: what goes on running while a
    later edit is refused."""
