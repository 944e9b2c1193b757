"""AutoMLJob: data in, the best model out. The docstring of a field is what `kubectl explain` shows."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from kubeautoml.api.conditions import Condition
from kubeautoml.api.kinds import ApiVersion, ObjectMeta
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.placement import Placement
from kubeautoml.api.secrets import NO_CREDENTIALS
from kubeautoml.api.values import (
    ApiModel,
    CamelName,
    ColumnName,
    DecimalString,
    LocalRef,
    ObjectName,
    Resources,
)

Count = Annotated[int, Field(ge=0, le=10**12)]
"""A number in the status; what somebody else writes there beyond this counts as unreadable."""

URI_PATTERN = r"^(s3|file)://.+$"
MAX_ACCEPTED_SPEC = 4 * 1024
"""Characters of status.acceptedSpec: a part of the 32 KiB that an object may have. A longer one is not kept."""

Uri = Annotated[str, StringConstraints(pattern=URI_PATTERN, max_length=1024), NO_CREDENTIALS]
"""s3://bucket/key, or file:///path for local runs and for volumes that the profile mounts."""


class ColumnType(StrEnum):
    """What a column holds."""

    NUMBER = "Number"
    CATEGORY = "Category"
    BOOLEAN = "Boolean"
    DATETIME = "Datetime"
    TEXT = "Text"
    IDENTIFIER = "Identifier"
    CONSTANT = "Constant"


class Task(ApiModel):
    """What is to be learned."""

    type: TaskType
    """Kind of task."""
    target: ColumnName
    """Column that holds what is to be predicted."""
    positive_class: Annotated[str, StringConstraints(max_length=256)] | None = None
    """Class that counts as positive in a two-class task (precision, recall, F1); default: the rarer one."""


class DataFormat(StrEnum):
    """How a file is written; Auto decides by its name."""

    AUTO = "Auto"
    CSV = "Csv"
    TSV = "Tsv"
    PARQUET = "Parquet"
    JSON_LINES = "JsonLines"


class DataSource(ApiModel):
    """Where rows come from."""

    uri: Uri
    """One object, a prefix ending in "/", or a glob such as s3://lake/churn/*.parquet; .gz and .zst are decompressed."""
    format: DataFormat = DataFormat.AUTO
    """Auto (by file name), Csv, Tsv, Parquet or JsonLines."""
    secret_ref: LocalRef | None = None
    """Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if needed, AWS_ENDPOINT_URL, AWS_REGION, AWS_SESSION_TOKEN."""


class SplitType(StrEnum):
    """How the hold-out and the folds are drawn."""

    AUTO = "Auto"
    STRATIFIED = "Stratified"
    RANDOM = "Random"
    GROUP = "Group"
    TIME = "Time"


class Split(ApiModel):
    """How rows are kept for the final evaluation, and how folds are drawn."""

    type: SplitType = SplitType.AUTO
    """Auto (Stratified for classes, Group or Time when such a column is named, else Random), or one of these."""
    test_fraction: DecimalString = "0.2"
    """Share of rows kept for the final evaluation, which the search never sees, when dataset.test is absent; "0.05" to "0.5"."""
    folds: Annotated[int, Field(ge=2, le=20)] | None = None
    """Cross-validation folds; default: chosen from the number of rows."""
    group_column: ColumnName | None = None
    """Rows with the same value never stand on both sides of a split."""
    time_column: ColumnName | None = None
    """Later rows are predicted from earlier ones."""


class Columns(ApiModel):
    """Corrections to what is inferred about columns."""

    types: dict[ColumnName, ColumnType] = Field(default_factory=dict, max_length=1024)
    """Type by column name, for columns that were inferred wrongly."""
    ignore: list[ColumnName] = Field(default_factory=list, max_length=1024)
    """Columns that are not used."""
    weight: ColumnName | None = None
    """Column with the weight of each row; not used as a feature."""


class Dataset(ApiModel):
    """The data."""

    train: DataSource
    """Rows to learn from."""
    test: DataSource | None = None
    """Rows for the final evaluation; when absent, split.testFraction of train is kept for it."""
    split: Split = Field(default_factory=Split)
    """How rows are split."""
    columns: Columns = Field(default_factory=Columns)
    """Corrections to the inferred columns."""


class Objective(ApiModel):
    """What is optimised."""

    metric: CamelName | None = None
    """Metric to optimise; its direction follows from it. Default: RocAuc for classes, Rmse for numbers."""


class ConstraintMetric(StrEnum):
    """What a model may be limited in."""

    PREDICT_LATENCY_P99_MS = "PredictLatencyP99Ms"
    MODEL_SIZE_MEGABYTES = "ModelSizeMegabytes"


class ModelConstraint(ApiModel):
    """A limit the final model must keep."""

    metric: ConstraintMetric
    """PredictLatencyP99Ms (one row, on the finalizing pod) or ModelSizeMegabytes."""
    max: DecimalString
    """Largest allowed value."""


class Preset(StrEnum):
    """How much to try."""

    FAST = "Fast"
    BALANCED = "Balanced"
    BEST = "Best"
    INTERPRETABLE = "Interpretable"


class SamplerType(StrEnum):
    """Who proposes hyperparameters."""

    AUTO = "Auto"
    TPE = "Tpe"
    GP = "Gp"
    CMA_ES = "CmaEs"
    EVOLUTIONARY = "Evolutionary"
    RANDOM = "Random"
    GRID = "Grid"


class PrunerType(StrEnum):
    """Who stops hopeless trials early."""

    AUTO = "Auto"
    NONE = "None"
    MEDIAN = "Median"
    WILCOXON = "Wilcoxon"
    HYPERBAND = "Hyperband"


class Sampler(ApiModel):
    """The optimiser."""

    type: SamplerType = SamplerType.AUTO
    """Auto, Tpe (Bayesian), Gp (Bayesian, few trials), CmaEs, Evolutionary, Random or Grid."""


class Pruner(ApiModel):
    """Early stopping of trials."""

    type: PrunerType = PrunerType.AUTO
    """Auto, None, Median, Wilcoxon (over folds) or Hyperband."""


class Families(ApiModel):
    """Which model families take part."""

    include: list[CamelName] = Field(default_factory=list, max_length=64)
    """Only these, such as [LightGBM, Linear]; empty means all."""
    exclude: list[CamelName] = Field(default_factory=list, max_length=64)
    """Never these."""


class FloatRange(ApiModel):
    """A real number between two bounds."""

    min: DecimalString
    """Smallest value."""
    max: DecimalString
    """Largest value."""
    log: bool = False
    """Search the logarithm; min must then be above 0. False when left out."""


class IntRange(ApiModel):
    """A whole number between two bounds."""

    min: int
    """Smallest value."""
    max: int
    """Largest value."""
    step: Annotated[int, Field(ge=1)] = 1
    """Distance between values; 1 when left out."""
    log: bool = False
    """Search the logarithm; min must then be at least 1. False when left out."""


class Choices(ApiModel):
    """One of a list."""

    choices: list[Annotated[str, StringConstraints(max_length=128)]] = Field(min_length=1, max_length=64)
    """Values as text; converted to the parameter's own type."""


class Parameter(ApiModel):
    """The user's own range for one hyperparameter of a family; exactly one of float, int and categorical is set."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    """Name of the hyperparameter, such as learning_rate."""
    when: dict[str, str] = Field(min_length=1, max_length=8)
    """Where it applies: {family: LightGBM}, and optionally other parameters of that family with the value they must have."""
    float: FloatRange | None = None
    """A real number."""
    int: IntRange | None = None
    """A whole number."""
    categorical: Choices | None = None
    """One of a list."""

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> Self:
        given = [k for k in ("float", "int", "categorical") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of float, int and categorical must be set, got {given or 'none'}")
        if "family" not in self.when:
            raise ValueError("when must name the family, such as {family: LightGBM}")
        return self


class Search(ApiModel):
    """How the best model is looked for."""

    preset: Preset = Preset.BALANCED
    """Fast, Balanced, Best, or Interpretable (only models a person can read)."""
    sampler: Sampler = Field(default_factory=Sampler)
    """The optimiser."""
    pruner: Pruner = Field(default_factory=Pruner)
    """Early stopping of trials."""
    families: Families = Field(default_factory=Families)
    """Which model families take part."""
    parameters: list[Parameter] = Field(default_factory=list, max_length=64)
    """The user's own ranges."""
    warm_start_from: list[LocalRef] = Field(default_factory=list, max_length=8)
    """Earlier AutoMLJobs of this namespace whose best trials are tried first."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 42
    """Seed of splits, models and samplers."""


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
    """Where artifacts go."""

    uri: Uri
    """Prefix; artifacts go to <uri>/<namespace>/<name>/<uid>/."""
    secret_ref: LocalRef | None = None
    """Secret with write credentials; keys as in dataset.train.secretRef."""


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
    """Hold-out metrics."""


class ServingStatus(ApiModel):
    """The endpoint."""

    url: str | None = None
    """Address inside the cluster."""
    model_version: str | None = None
    """Version that answers."""
    ready_replicas: int = 0
    """Server pods that are ready."""


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
    accepted_spec: Annotated[str, StringConstraints(max_length=MAX_ACCEPTED_SPEC)] | None = None
    """The part of the spec that may be edited as it was when it was last accepted, as JSON: what goes on running while a
    later edit is refused."""


class AutoMLJob(ApiModel):
    """Train the best model for a data set and serve it."""

    api_version: ApiVersion = "kubeautoml.dev/v1alpha1"
    kind: Literal["AutoMLJob"] = "AutoMLJob"
    metadata: ObjectMeta
    spec: AutoMLJobSpec
    """What the user wants."""
    status: AutoMLJobStatus = Field(default_factory=AutoMLJobStatus)
    """What was observed."""

    def to_manifest(self) -> dict[str, Any]:
        return {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "metadata": self.metadata.to_manifest(),
            "spec": self.spec.to_manifest(),
            "status": self.status.to_manifest(),
        }
