"""AutoMLProfile: what the platform team sets for every job. Cluster-scoped.

A job that breaks a limit is refused when it comes and when it is edited; a profile that is edited stops nothing that runs.
What a job asks of a profile at the moment when a pod is made (images, defaults, placement) is what its next pod gets.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from kubeautoml.api.kinds import ApiObject
from kubeautoml.api.placement import ClassName, LabelKey, LabelValue, Placement
from kubeautoml.api.secrets import NO_CREDENTIALS, NO_PASSWORD
from kubeautoml.api.values import ApiModel, ObjectName, Quantity, Resources

Image = Annotated[str, StringConstraints(min_length=1, max_length=512)]

PREFIX_PATTERN = r"^(s3|file)://[^*?\[\]]+$"
Prefix = Annotated[str, StringConstraints(pattern=PREFIX_PATTERN, max_length=1024), NO_CREDENTIALS]
"""A folder that jobs may use: s3://bucket, s3://bucket/folder/ or file:///folder."""

CIDR_PATTERN = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"
Cidr = Annotated[str, StringConstraints(pattern=CIDR_PATTERN, max_length=64)]

HTTP_PATTERN = r"^https?://[^\s/]+.*$"
STUDY_URL_PATTERN = r"^(grpc|grpcs|postgresql|journal)(\+[a-z0-9]+)?://.+$"
Port = Annotated[int, Field(ge=1, le=65535)]
UserId = Annotated[int, Field(ge=1, le=2**31 - 1)]

DIGEST = "@sha256:"


class Images(ApiModel):
    """Container images, best given by digest."""

    trainer: Image | None = None
    """Image of workers and finalizer; absent means the one that belongs to the operator."""
    server: Image | None = None
    """Image of model servers; absent means the one that belongs to the operator."""
    require_digest: bool = False
    """True when both images must be named here and by digest, such as registry.example/trainer@sha256:..."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When images are pulled."""
    pull_secrets: list[ObjectName] = Field(default_factory=list, max_length=8)
    """Secrets, in the job's namespace, for private registries."""

    @model_validator(mode="after")
    def _by_digest(self) -> Self:
        for name, image in (("trainer", self.trainer), ("server", self.server)):
            if self.require_digest and DIGEST not in (image or ""):
                raise ValueError(f"{name} must be named by digest (image@sha256:...) when requireDigest is true")
        return self


class Limits(ApiModel):
    """The most that one job may ask for; absent means no limit."""

    max_parallelism: Annotated[int, Field(ge=1)] | None = None
    """Workers of one job."""
    max_trials: Annotated[int, Field(ge=1)] | None = None
    """budget.maxTrials of one job."""
    max_duration_seconds: Annotated[int, Field(ge=1)] | None = None
    """budget.maxDurationSeconds of one job, which must then be set."""
    max_accelerators: Annotated[int, Field(ge=0)] | None = None
    """Accelerators of one job at the same time: those of one worker times workers.parallelism."""
    max_accelerator_seconds: Annotated[int, Field(ge=1)] | None = None
    """budget.maxAcceleratorSeconds of one job; a job whose workers hold accelerators must then set it."""
    max_resources: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    """Requests and limits of one worker, and of one server, by resource name. A pod of a job that sets no memory limit gets
    this one."""
    max_replicas: Annotated[int, Field(ge=1)] | None = None
    """Server pods of one job."""
    max_ttl_seconds_after_finished: Annotated[int, Field(ge=0)] | None = None
    """retention.ttlSecondsAfterFinished of one job; it is also the time of jobs that set none."""


class Defaults(ApiModel):
    """What a job gets when it does not say."""

    parallelism: Annotated[int, Field(ge=1, le=1024)] | None = None
    """workers.parallelism; absent means 1."""
    min_parallelism: Annotated[int, Field(ge=1, le=1024)] | None = None
    """workers.minParallelism, as far as it is below the job's parallelism."""
    queue_name: ObjectName | None = None
    """Kueue LocalQueue of jobs without the label kueue.x-k8s.io/queue-name."""


class Locations(ApiModel):
    """Folders that jobs may read and write. Empty allows every s3:// location, and no file:// one."""

    data_prefixes: list[Prefix] = Field(default_factory=list, max_length=64)
    """Where data may lie, such as s3://lake/ or s3://lake/team-a/. A folder, whole: s3://lake does not allow s3://lake-b;
    s3:/// is every bucket."""
    output_prefixes: list[Prefix] = Field(default_factory=list, max_length=64)
    """Where artifacts may go."""


class ObjectStorage(ApiModel):
    """The object storage that jobs use unless their secret says otherwise."""

    endpoint_url: Annotated[str, StringConstraints(pattern=HTTP_PATTERN, max_length=512), NO_CREDENTIALS] | None = None
    """Address of an S3-compatible server; absent means AWS."""
    region: Annotated[str, StringConstraints(max_length=64)] | None = None
    """Region."""
    ca_config_map: ObjectName | None = None
    """ConfigMap in the job's namespace whose key ca.crt holds the certificate authority of the endpoint."""


class StudyStorage(ApiModel):
    """Where trials are kept."""

    url: Annotated[str, StringConstraints(pattern=STUDY_URL_PATTERN, max_length=512), NO_PASSWORD] | None = None
    """Study URL for pods: grpc://, grpcs:// or postgresql://; absent means the operator's own setting."""
    secret_name: ObjectName | None = None
    """Secret in the job's namespace whose key STUDY_URL holds the URL, when it contains a password."""
    ca_config_map: ObjectName | None = None
    """ConfigMap in the job's namespace whose key ca.crt holds the certificate authority of the study server."""


class NetworkPeer(ApiModel):
    """Who may be talked to: addresses, or pods."""

    cidr: Cidr | None = None
    """Addresses, such as 10.0.0.0/8."""
    namespace_labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=8)
    """Labels of namespaces, such as {kubernetes.io/metadata.name: storage}; with podLabels these pods of them."""
    pod_labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=8)
    """Labels of pods: of the job's namespace, or of namespaceLabels."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.cidr is not None) == bool(self.namespace_labels or self.pod_labels):
            raise ValueError("exactly one of cidr and labels (namespaceLabels, podLabels) must be set")
        return self


class EgressRule(ApiModel):
    """One thing that pods may connect to."""

    to: list[NetworkPeer] = Field(default_factory=list, max_length=16)
    """Where; empty means anywhere."""
    ports: list[Port] = Field(default_factory=list, max_length=16)
    """TCP ports; empty means all."""


class Network(ApiModel):
    """NetworkPolicies around the pods of jobs. They need a network plug-in that enforces them."""

    policies: bool = True
    """True makes policies: nothing may connect to workers and finalizers, and to servers only on their port."""
    restrict_egress: bool = False
    """True lets pods connect to name servers, to the study server's port and to `egress` only. Off unless asked for, since
    addresses of object storage are not known."""
    egress: list[EgressRule] = Field(default_factory=list, max_length=16)
    """What pods may connect to when restrictEgress is true, such as object storage; empty means the port of
    objectStorage.endpointUrl (443 without one), anywhere."""
    server_ingress: list[NetworkPeer] = Field(default_factory=list, max_length=16)
    """Who may call servers; empty means everybody in the cluster."""


class PodSecurity(ApiModel):
    """Numbers for pods' security context. Unset is right for most clusters: the images name their own user, which is not root,
    and everything that is mounted can be read by it; OpenShift chooses numbers by itself."""

    run_as_user: UserId | None = None
    """User of the processes."""
    run_as_group: UserId | None = None
    """Group of the processes."""
    fs_group: UserId | None = None
    """Group that owns mounted volumes, secrets and tokens."""


class AutoMLProfileSpec(ApiModel):
    """What the platform team sets for every job."""

    images: Images = Field(default_factory=Images)
    """Container images."""
    defaults: Defaults = Field(default_factory=Defaults)
    """What a job gets when it does not say."""
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
    """Resources of a worker that the job does not name."""
    server_resources: Resources = Field(
        default_factory=lambda: Resources(requests={"cpu": "250m", "memory": "512Mi"}, limits={"memory": "2Gi"})
    )
    """Resources of a server that the job does not name."""
    placement: Placement = Field(default_factory=Placement)
    """Where pods may run when the job sets nothing."""
    enforced_placement: Placement = Field(default_factory=Placement)
    """Comes on top of every job's placement, and wins where both say something."""
    allowed_priority_class_names: list[ClassName] = Field(default_factory=list, max_length=32)
    """Priority classes that jobs may name; empty allows all."""
    service_account_name: ObjectName | None = None
    """Service account of the pods when the job names none."""
    allowed_service_account_names: list[ObjectName] = Field(default_factory=list, max_length=32)
    """Service accounts that jobs may name; empty allows all."""
    network: Network = Field(default_factory=Network)
    """NetworkPolicies around the pods."""
    pod_security: PodSecurity = Field(default_factory=PodSecurity)
    """Numbers for pods' security context."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] | None = None
    """retention.ttlSecondsAfterFinished when the job sets none."""


class AutoMLProfile(ApiObject):
    """Settings of the platform team: images, defaults, limits."""

    kind: Literal["AutoMLProfile"] = "AutoMLProfile"
    spec: AutoMLProfileSpec = Field(default_factory=AutoMLProfileSpec)
    """What the platform team sets."""
