"""Conditions, and every reason that can stand in one, with its sentence. Nothing else makes up a reason."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field, StringConstraints

from kubeautoml.api.values import ApiModel


class ConditionType(StrEnum):
    """The conditions of an AutoMLJob, in the order in which they come true."""

    ACCEPTED = "Accepted"
    DATA_READY = "DataReady"
    ADMITTED = "Admitted"
    SUCCEEDED = "Succeeded"
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class ConditionStatus(StrEnum):
    """metav1.ConditionStatus; Unknown, not False, while something is still going on."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    """Why a condition is as it is. Stable: dashboards, alerts and scripts match on these."""

    # Accepted
    SPEC_VALID = "SpecValid"
    INVALID_SPEC = "InvalidSpec"
    PROFILE_NOT_FOUND = "ProfileNotFound"
    PROFILE_INVALID = "ProfileInvalid"
    UNFITTING_METRIC = "UnfittingMetric"
    LIMIT_EXCEEDED = "LimitExceeded"
    LOCATION_NOT_ALLOWED = "LocationNotAllowed"
    NO_TRIAL_POSSIBLE = "NoTrialPossible"
    # DataReady
    DATA_LOADED = "DataLoaded"
    READING_DATA = "ReadingData"
    DATASET_NOT_FOUND = "DatasetNotFound"
    DATASET_EMPTY = "DatasetEmpty"
    DATASET_UNREADABLE = "DatasetUnreadable"
    ACCESS_DENIED = "AccessDenied"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    TARGET_NOT_FOUND = "TargetNotFound"
    TARGET_UNUSABLE = "TargetUnusable"
    COLUMN_NOT_FOUND = "ColumnNotFound"
    DUPLICATE_COLUMNS = "DuplicateColumns"
    INVALID_DATA = "InvalidData"
    TOO_FEW_ROWS = "TooFewRows"
    OUTPUT_NOT_WRITABLE = "OutputNotWritable"
    # Admitted
    WORKERS_ADMITTED = "WorkersAdmitted"
    WAITING_FOR_PODS = "WaitingForPods"
    QUEUED = "Queued"
    SUSPENDED = "Suspended"
    # Succeeded
    SEARCHING = "Searching"
    FINALIZING = "Finalizing"
    MODEL_TRAINED = "ModelTrained"
    INVALID_SEARCH = "InvalidSearch"
    NO_TRIAL_COMPLETED = "NoTrialCompleted"
    TOO_MANY_FAILED_TRIALS = "TooManyFailedTrials"
    WORKERS_FAILED = "WorkersFailed"
    FINALIZE_FAILED = "FinalizeFailed"
    CONSTRAINTS_NOT_MET = "ConstraintsNotMet"
    # Ready
    WAITING_FOR_MODEL = "WaitingForModel"
    DEPLOYING = "Deploying"
    SERVING = "Serving"
    SERVING_FAILED = "ServingFailed"
    GATE_NOT_PASSED = "GateNotPassed"
    MODEL_STORED = "ModelStored"
    NO_MODEL = "NoModel"
    # Ready, of a model
    SERVED = "Served"
    STORED = "Stored"
    # Reconciling, Stalled
    PROGRESSING = "Progressing"
    IDLE = "Idle"
    WORKING = "Working"
    STUDY_UNAVAILABLE = "StudyUnavailable"
    CLUSTER_UNAVAILABLE = "ClusterUnavailable"
    NAME_TAKEN = "NameTaken"
    PODS_UNSCHEDULABLE = "PodsUnschedulable"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    SECRET_NOT_FOUND = "SecretNotFound"
    # Events and trials
    PREEMPTED = "Preempted"
    OUT_OF_MEMORY = "OutOfMemory"
    TRIAL_REQUEUED = "TrialRequeued"
    WORKERS_CREATED = "WorkersCreated"
    FINALIZE_CREATED = "FinalizeCreated"
    BUDGET_REACHED = "BudgetReached"
    RESUMED = "Resumed"
    RETRIED = "Retried"
    INTERNAL_ERROR = "InternalError"


class BudgetEnd(StrEnum):
    """Which limit ended the search; stands in status.budgetUsed.endedBy."""

    MAX_TRIALS = "MaxTrials"
    MAX_DURATION = "MaxDuration"
    MAX_ACCELERATOR = "MaxAccelerator"
    TARGET_VALUE = "TargetValue"
    MAX_FAILED_TRIALS = "MaxFailedTrials"
    PATIENCE = "Patience"
    EXHAUSTED = "Exhausted"
    INTERRUPTED = "Interrupted"


class Condition(ApiModel):
    """metav1.Condition: one observed fact about an object."""

    type: Annotated[str, StringConstraints(max_length=64)]
    """Kind of the fact, such as Succeeded."""
    status: ConditionStatus
    """True, False, or Unknown while it is still being worked on."""
    reason: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    """One CamelCase word for why; stable, for machines."""
    message: Annotated[str, StringConstraints(max_length=2048)] = ""
    """One line for people: what, where, the rule, the value, what to do."""
    last_transition_time: AwareDatetime
    """When `status` last changed (RFC 3339)."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """metadata.generation this fact was observed for."""


def set_condition(conditions: tuple[Condition, ...], new: Condition) -> tuple[Condition, ...]:
    """Replace the condition of the same type, keeping its transition time while the status stays the same."""
    old = next((c for c in conditions if c.type == new.type), None)
    if old is not None and old.status == new.status:
        new = new.model_copy(update={"last_transition_time": old.last_transition_time})
    kept = tuple(c for c in conditions if c.type != new.type)
    order = {t.value: i for i, t in enumerate(ConditionType)}
    return tuple(sorted((*kept, new), key=lambda c: order.get(c.type, len(order))))


def find_condition(conditions: tuple[Condition, ...], kind: str) -> Condition | None:
    """The condition of that type, or None."""
    return next((c for c in conditions if c.type == kind), None)
