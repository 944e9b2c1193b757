"""AutoMLJob: data in, the best model out. The docstring of a field is what `kubectl explain` shows."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from kubeautoml.api.dataset import Dataset, Uri
from kubeautoml.api.job_status import AutoMLJobStatus
from kubeautoml.api.kinds import ApiObject
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.objective import ModelConstraint, ModelVariant, Objective, RefitRows
from kubeautoml.api.placement import Placement
from kubeautoml.api.search import Search
from kubeautoml.api.values import ApiModel, CamelName, ColumnName, DecimalString, LocalRef, ObjectName, Resources


class Task(ApiModel):
    """What is to be learned."""

    type: TaskType
    """Kind of task."""
    target: ColumnName
    """Column that holds what is to be predicted."""
    positive_class: Annotated[str, StringConstraints(max_length=256)] | None = None
    """Class that counts as positive in a two-class task (precision, recall, F1); default: the one called 1, yes, true, y, t or positive,
    else the rarer one."""
    quantiles: list[DecimalString] = Field(default_factory=list, max_length=9)
    """Regressions: predict these quantiles of the target, in rising order, such as ["0.1", "0.5", "0.9"], in place of its mean."""


class Budget(ApiModel):
    """When the search ends: the first limit that is reached. Edits take effect at once."""

    max_trials: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Trials that are finished or running."""
    max_duration_seconds: Annotated[int, Field(ge=1, le=30 * 86400)] | None = None
    """Wall time of the whole job, from its start to the finished model."""
    max_accelerator_seconds: Annotated[int, Field(ge=1)] | None = None
    """Seconds of accelerators, summed over workers and finalizer, from the start of a pod to its end."""
    target_value: DecimalString | None = None
    """Score that is good enough."""
    max_failed_trials: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Failed trials (preempted ones do not count) after which the search gives up."""
    patience_trials: Annotated[int, Field(ge=1)] | None = None
    """Trials without improvement after which the search ends."""


class Workers(ApiModel):
    """The pods that run trials."""

    parallelism: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Workers at the same time; may be changed while running. Default from the profile, else 1."""
    min_parallelism: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Fewest workers that are worth starting, where a queue (Kueue) admits jobs; default from the profile."""
    resources: Resources = Field(default_factory=Resources)
    """Compute resources of one worker; what it does not name comes from the profile."""
    placement: Placement = Field(default_factory=Placement)
    """Where workers and the finalizer may run; default from the profile, and what the profile enforces comes on top."""
    service_account_name: ObjectName | None = None
    """Service account of the pods, for cloud storage identities; default from the profile."""


class Output(ApiModel):
    """Where artifacts go, and which forms of the model are made."""

    uri: Uri
    """Prefix; artifacts go to <uri>/<namespace>/<name>/<uid>/."""
    secret_ref: LocalRef | None = None
    """Secret with write credentials; keys as in dataset.train.secretRef."""
    variants: list[ModelVariant] = Field(default_factory=lambda: [ModelVariant.QUALITY], min_length=1, max_length=4)
    """Forms of the model in the bundle; the first one answers unless serving.variant says otherwise. Quality (the whole ensemble),
    Balanced (its members fitted on all rows: several times smaller and faster), Fast (the best single model within the
    constraints), Distilled (one small model taught by the ensemble)."""
    refit_on: RefitRows = RefitRows.ALL_ROWS
    """What the models learn from in the end: AllRows (also those that split.testFraction has set aside, once the same models without
    them have been scored on them, as time allows; Quality of up to 20,000 rows or with a time split; never dataset.test) or
    TrainingRows."""


class Gate(ApiModel):
    """What a model must reach on the hold-out before it is served; exactly one of min and max is set."""

    metric: CamelName
    """Hold-out metric, such as RocAuc."""
    min: DecimalString | None = None
    """Smallest value that passes."""
    max: DecimalString | None = None
    """Largest value that passes."""

    @model_validator(mode="after")
    def _exactly_one_bound(self) -> Self:
        if (self.min is None) == (self.max is None):
            raise ValueError("exactly one of min and max must be set")
        return self


class Autoscaling(ApiModel):
    """A HorizontalPodAutoscaler for the server."""

    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Fewest replicas."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)]
    """Most replicas."""
    target_cpu_utilization_percentage: Annotated[int, Field(ge=1, le=100)] = 70
    """CPU use, in percent of the request, that is aimed at."""


class Serving(ApiModel):
    """The endpoint. May be edited at any time; absent means that the model is stored but not served."""

    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Server pods, when autoscaling is absent."""
    protocol: Literal["OpenInferenceV2"] = "OpenInferenceV2"
    """Open Inference Protocol v2; /v1/predict with plain JSON records is always there beside it."""
    resources: Resources = Field(default_factory=Resources)
    """Compute resources of one server; what it does not name comes from the profile."""
    placement: Placement = Field(default_factory=Placement)
    """Where servers may run; default from the profile, and what the profile enforces comes on top."""
    variant: ModelVariant | None = None
    """Which of output.variants answers; default: the first."""
    gate: Gate | None = None
    """What the model must reach on the hold-out to be served."""
    autoscaling: Autoscaling | None = None
    """Scale by CPU use."""


class DeletionPolicy(StrEnum):
    """What happens to the AutoMLModel when the job is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class Retention(ApiModel):
    """What is kept, and how long. The job object itself is never deleted."""

    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] | None = None
    """Seconds after the end when pods and scratch are removed; absent keeps them until the job is deleted."""
    keep_trial_artifacts: Annotated[int, Field(ge=0, le=1000)] = 5
    """Best trials whose artifacts stay when the model is made; the model has its own copy of what it needs."""
    model: DeletionPolicy = DeletionPolicy.RETAIN
    """Whether the AutoMLModel outlives the job (Retain) or goes with it (Delete)."""


class AutoMLJobSpec(ApiModel):
    """What the user wants."""

    suspend: bool = False
    """True stops all pods and keeps every finished trial; false goes on from there."""
    profile_ref: LocalRef = Field(default_factory=lambda: LocalRef(name="default"))
    """AutoMLProfile with the platform team's settings."""
    task: Task
    """What is to be learned. Immutable."""
    dataset: Dataset
    """The data. Immutable."""
    objective: Objective = Field(default_factory=Objective)
    """What is optimised. Immutable."""
    constraints: list[ModelConstraint] = Field(default_factory=list, max_length=8)
    """Limits the final model must keep. Immutable."""
    search: Search = Field(default_factory=Search)
    """How the best model is looked for. Immutable."""
    budget: Budget = Field(default_factory=Budget)
    """When the search ends. May be edited."""
    workers: Workers = Field(default_factory=Workers)
    """The pods that run trials. parallelism may be edited."""
    output: Output
    """Where artifacts go. Immutable."""
    serving: Serving | None = None
    """The endpoint. May be edited."""
    retention: Retention = Field(default_factory=Retention)
    """What is kept, and how long. May be edited."""


class AutoMLJob(ApiObject):
    """Train the best model for a data set and serve it."""

    kind: Literal["AutoMLJob"] = "AutoMLJob"
    spec: AutoMLJobSpec
    """What the user wants."""
    status: AutoMLJobStatus = Field(default_factory=AutoMLJobStatus)
    """What was observed."""

    def to_manifest(self) -> dict[str, Any]:
        return {**super().to_manifest(), "status": self.status.to_manifest()}
