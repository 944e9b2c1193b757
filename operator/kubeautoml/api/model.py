"""AutoMLModel: one immutable version of a model, with where it came from. It outlives the job."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from kubeautoml.api.conditions import Condition
from kubeautoml.api.job_status import VariantStatus
from kubeautoml.api.kinds import ApiObject
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.values import ApiModel, DecimalString, LocalRef


class Lineage(ApiModel):
    """Where a model came from."""

    job_name: str
    """AutoMLJob that trained it."""
    job_uid: str
    """metadata.uid of that job."""
    data_sha256: str
    """Fingerprint of the training rows."""
    trials: int
    """Trials that the study held when the model was made."""
    members: tuple[str, ...] = Field(default=(), max_length=64)
    """Model families in it, with their weights."""
    code_version: str
    """Version of KubeAutoML that trained it."""


class AutoMLModelSpec(ApiModel):
    """One version of a model. Immutable."""

    version: Annotated[str, StringConstraints(pattern=r"^v[0-9]+$")]
    """Version, such as v1."""
    task_type: TaskType
    """Kind of task."""
    target: str
    """Column that is predicted."""
    uri: str
    """The bundle."""
    secret_ref: LocalRef | None = None
    """Secret with credentials to read the bundle."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Digest of bundle.json, which holds the digests of all other files."""
    size_bytes: Annotated[int, Field(ge=0)]
    """Size of the bundle."""
    metrics: dict[str, DecimalString]
    """Hold-out metrics of the first variant."""
    variants: tuple[VariantStatus, ...] = Field(default=(), max_length=4)
    """Forms of the model in the bundle, the default first."""
    created_at: datetime
    """When the model was finished."""
    lineage: Lineage
    """Where it came from."""


class AutoMLModelStatus(ApiModel):
    """What was observed."""

    observed_generation: int = 0
    """metadata.generation this status describes."""
    conditions: tuple[Condition, ...] = ()
    """Ready: a server answers with this version (Served), or it is stored and nobody asked for a server (Stored)."""


class AutoMLModel(ApiObject):
    """A trained model: version, digest, metrics, lineage."""

    kind: Literal["AutoMLModel"] = "AutoMLModel"
    spec: AutoMLModelSpec
    """One version of a model."""
    status: AutoMLModelStatus = Field(default_factory=AutoMLModelStatus)
    """What was observed."""
