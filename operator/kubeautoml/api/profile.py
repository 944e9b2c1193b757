"""AutoMLProfile: what the platform team sets for every job. Cluster-scoped."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from kubeautoml.api.kinds import ApiVersion, ObjectMeta
from kubeautoml.api.values import ApiModel, ObjectName, Placement, Quantity, Resources

Image = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class Images(ApiModel):
    """Container images, best given by digest."""

    trainer: Image | None = None
    """Image of workers and finalizer; absent means the one that belongs to the operator."""
    server: Image | None = None
    """Image of model servers; absent means the one that belongs to the operator."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When images are pulled."""
    pull_secrets: list[ObjectName] = Field(default_factory=list, max_length=8)
    """Secrets, in the job's namespace, for private registries."""


class Limits(ApiModel):
    """The most that one job may ask for; absent means no limit."""

    max_parallelism: Annotated[int, Field(ge=1)] | None = None
    """Workers of one job."""
    max_trials: Annotated[int, Field(ge=1)] | None = None
    """budget.maxTrials of one job."""
    max_duration_seconds: Annotated[int, Field(ge=1)] | None = None
    """budget.maxDurationSeconds of one job, which must then be set."""
    max_resources: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    """Limits and requests of one worker, by resource name."""
    max_replicas: Annotated[int, Field(ge=1)] | None = None
    """Server pods of one job."""


class Locations(ApiModel):
    """URI prefixes that jobs may read and write; empty allows all."""

    data_prefixes: list[str] = Field(default_factory=list, max_length=64)
    """Where data may lie, such as s3://lake/."""
    output_prefixes: list[str] = Field(default_factory=list, max_length=64)
    """Where artifacts may go."""


class ObjectStorage(ApiModel):
    """The object storage that jobs use unless their secret says otherwise."""

    endpoint_url: str | None = None
    """Address of an S3-compatible server; absent means AWS."""
    region: str | None = None
    """Region."""
    ca_config_map: ObjectName | None = None
    """ConfigMap in the job's namespace whose key ca.crt holds the certificate authority of the endpoint."""


class StudyStorage(ApiModel):
    """Where trials are kept."""

    url: str | None = None
    """Study URL for pods: grpc://, grpcs:// or postgresql://; absent means the operator's own setting."""
    secret_name: ObjectName | None = None
    """Secret in the job's namespace whose key STUDY_URL holds the URL, when it contains a password."""


class AutoMLProfileSpec(ApiModel):
    """What the platform team sets for every job."""

    images: Images = Field(default_factory=Images)
    """Container images."""
    limits: Limits = Field(default_factory=Limits)
    """The most that one job may ask for."""
    locations: Locations = Field(default_factory=Locations)
    """Where data may lie and artifacts may go."""
    object_storage: ObjectStorage = Field(default_factory=ObjectStorage)
    """The object storage that jobs use."""
    study: StudyStorage = Field(default_factory=StudyStorage)
    """Where trials are kept."""
    worker_resources: Resources = Field(
        default_factory=lambda: Resources(requests={"cpu": "1", "memory": "2Gi"}, limits={"memory": "4Gi"})
    )
    """Resources of a worker when the job sets none."""
    server_resources: Resources = Field(
        default_factory=lambda: Resources(requests={"cpu": "250m", "memory": "512Mi"}, limits={"memory": "2Gi"})
    )
    """Resources of a server when the job sets none."""
    placement: Placement = Field(default_factory=Placement)
    """Where pods may run when the job sets nothing."""
    service_account_name: ObjectName | None = None
    """Service account of the pods when the job names none."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] | None = None
    """retention.ttlSecondsAfterFinished when the job sets none."""


class AutoMLProfile(ApiModel):
    """Settings of the platform team: images, defaults, limits."""

    api_version: ApiVersion = "kubeautoml.dev/v1alpha1"
    kind: Literal["AutoMLProfile"] = "AutoMLProfile"
    metadata: ObjectMeta
    spec: AutoMLProfileSpec = Field(default_factory=AutoMLProfileSpec)
    """What the platform team sets."""

    def to_manifest(self) -> dict[str, Any]:
        return {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "metadata": self.metadata.to_manifest(),
            "spec": self.spec.to_manifest(),
        }
