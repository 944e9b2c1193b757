"""What every pod of a job is made of: the template of workers and finalizer, and the parts that servers share.

Everything passes the *restricted* Pod Security level. There is no user id by default: the images name their own, which is not
root; what is mounted (tokens, secrets, empty folders) can be read by it; and OpenShift gives numbers of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from kubeautoml.api import effective
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.kinds import API_VERSION
from kubeautoml.api.names import (
    ANNOTATION_STUDY_CA,
    LABEL_COMPONENT,
    LABEL_JOB_UID,
    STUDY_TOKEN_AUDIENCE,
    Component,
    Env,
    labels,
)
from kubeautoml.api.placement import Placement
from kubeautoml.api.pod import PodJob
from kubeautoml.api.profile import AutoMLProfileSpec
from kubeautoml.api.values import Resources, cpu_count, quantity_bytes
from kubeautoml.plan.base import Settings

SCRATCH = "/var/run/kubeautoml/scratch"
CREDENTIALS = "/var/run/kubeautoml/credentials"
TOKENS = "/var/run/kubeautoml/tokens"
STORAGE_CA = "/var/run/kubeautoml/storage-ca"
STUDY_CA = "/var/run/kubeautoml/study-ca"
CA_KEY = "ca.crt"

GRACE_SECONDS = 10
"""SIGTERM to SIGKILL. A worker leaves a checkpoint and says goodbye within 8 s; a suspended job must have no pod after 15 s."""


def owner(job: AutoMLJob) -> list[dict[str, Any]]:
    """ownerReferences of children that go with the job."""
    meta = job.metadata
    return [
        {
            "apiVersion": API_VERSION,
            "kind": "AutoMLJob",
            "name": meta.name,
            "uid": meta.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def pod_template(
    job: AutoMLJob, profile: AutoMLProfileSpec, settings: Settings, component: Component
) -> dict[str, Any]:
    """Of a worker or the finalizer."""
    resources = effective.worker_resources(job, profile)
    secrets = _credentials(job)
    verb = "worker" if component is Component.WORKER else "finalize"
    study_ca = _study_ca(profile, settings)
    volumes, mounts = authorities({"storage-ca": profile.object_storage.ca_config_map, "study-ca": study_ca})
    container = {
        "name": verb,
        "image": profile.images.trainer or settings.trainer_image,
        "imagePullPolicy": profile.images.pull_policy,
        "command": ["kubeautoml"],
        "args": [verb],
        "env": _environment(job, profile, settings, resources, component),
        "resources": resources.to_manifest(),
        "securityContext": restricted_container(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "scratch", "mountPath": SCRATCH},
            # the root is read-only, and libraries expect a place for temporary files
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "study-token", "mountPath": TOKENS, "readOnly": True},
            *({"name": f"{k}-credentials", "mountPath": f"{CREDENTIALS}/{k}", "readOnly": True} for k in secrets),
            *mounts,
        ],
    }
    carried = {"annotations": {ANNOTATION_STUDY_CA: study_ca.pem}} if isinstance(study_ca, Carried) else {}
    return {
        "metadata": {"labels": labels(job.metadata.name, job.metadata.uid, component), **carried},
        "spec": {
            **pod_basics(job, profile, effective.placement(job, profile), component),
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "containers": [container],
            "volumes": [
                {"name": "scratch", "emptyDir": {}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "study-token", "projected": {"sources": [{"serviceAccountToken": _study_token()}]}},
                *({"name": f"{k}-credentials", "secret": {"secretName": name}} for k, name in secrets.items()),
                *volumes,
            ],
        },
    }


def pod_basics(
    job: AutoMLJob, profile: AutoMLProfileSpec, placement: Placement, component: Component
) -> dict[str, Any]:
    """What every pod of a job has: no API token, the restricted security level, where it may run."""
    account = job.spec.workers.service_account_name or profile.service_account_name
    pull = [{"name": name} for name in profile.images.pull_secrets]
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            **profile.pod_security.to_manifest(),
        },
        **_placed(job, placement, component),
        **({"serviceAccountName": account} if account else {}),
        **({"imagePullSecrets": pull} if pull else {}),
    }


def _placed(job: AutoMLJob, placement: Placement, component: Component) -> dict[str, Any]:
    """The placement as a pod spec has it; a term without a selector of pods means this job's."""
    own = {"matchLabels": {LABEL_JOB_UID: job.metadata.uid, LABEL_COMPONENT: component.value}}
    placed: dict[str, Any] = _without_empty(placement.to_manifest())
    anti = placed.get("affinity", {}).get("podAntiAffinity", {})
    preferred = [p["podAffinityTerm"] for p in anti.get("preferredDuringSchedulingIgnoredDuringExecution", [])]
    terms = anti.get("requiredDuringSchedulingIgnoredDuringExecution", [])
    for term in (*terms, *preferred, *placed.get("topologySpreadConstraints", [])):
        term.setdefault("labelSelector", own)
    return placed


def _without_empty(value: Any) -> Any:
    """Without members that say nothing, which an API server would drop."""
    if isinstance(value, dict):
        inner = {k: _without_empty(v) for k, v in value.items()}
        return {k: v for k, v in inner.items() if v not in ({}, [])}
    return [_without_empty(v) for v in value] if isinstance(value, list) else value


def restricted_container() -> dict[str, Any]:
    """The *restricted* Pod Security level, and a read-only root."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def threads_of(resources: Resources) -> int:
    """Threads that a pod's CPU allows: its limit, else its request, at least one."""
    cpu = resources.limits.get("cpu") or resources.requests.get("cpu") or "1"
    return max(1, math.floor(cpu_count(cpu)))


def threads_in(
    job: AutoMLJob, profile: AutoMLProfileSpec, settings: Settings, resources: Resources, component: Component
) -> int:
    """Threads of a worker, or of the finalizer.

    On one machine the workers share its cores where nobody says how many one of them gets; the finalizer has what all of them had.
    """
    own = threads_of(resources)
    if settings.machine_cores is None:
        return own
    workers = effective.parallelism(job, profile)
    if not effective.names_worker_cpu(job, profile):
        own = max(1, settings.machine_cores // workers)
    return own if component is not Component.FINALIZER else max(own, min(settings.machine_cores, own * workers))


def storage_environment(profile: AutoMLProfileSpec) -> list[dict[str, Any]]:
    """The profile's object storage, for boto3; a secret's own keys win over it."""
    storage = profile.object_storage
    bundle = f"{STORAGE_CA}/{CA_KEY}" if storage.ca_config_map else None
    values = {"AWS_ENDPOINT_URL": storage.endpoint_url, "AWS_REGION": storage.region, "AWS_CA_BUNDLE": bundle}
    return [{"name": k, "value": v} for k, v in values.items() if v]


@dataclass(frozen=True)
class Carried:
    """An authority that the pod itself carries in its annotation: nobody has to copy a ConfigMap into the job's namespace."""

    pem: str


Authority = str | Carried | None
"""A ConfigMap of the job's namespace, by name; or what the pod carries; or none."""


def authorities(given: dict[str, Authority]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(volumes, mounts) of certificate authorities, by what they are for; none for those that are not given."""
    named = {what: authority for what, authority in given.items() if authority}
    volumes = [{"name": what, **_authority_volume(authority)} for what, authority in named.items()]
    mounts = [{"name": what, "mountPath": f"/var/run/kubeautoml/{what}", "readOnly": True} for what in named]
    return volumes, mounts


def _authority_volume(authority: str | Carried) -> dict[str, Any]:
    if isinstance(authority, str):
        return {"configMap": {"name": authority}}
    field = {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{ANNOTATION_STUDY_CA}']"}
    return {"downwardAPI": {"items": [{"path": CA_KEY, "fieldRef": field}]}}


def _study_ca(profile: AutoMLProfileSpec, settings: Settings) -> Authority:
    """A profile with a study of its own has an authority of its own, too."""
    if profile.study.url or profile.study.secret_name or profile.study.ca_config_map:
        return profile.study.ca_config_map
    return settings.study_ca_config_map or (Carried(settings.study_ca) if settings.study_ca else None)


def _environment(
    job: AutoMLJob, profile: AutoMLProfileSpec, settings: Settings, resources: Resources, component: Component
) -> list[dict[str, Any]]:
    memory = resources.limits.get("memory") or resources.requests.get("memory")
    secrets = _credentials(job)
    folders = {
        "train": Env.TRAIN_CREDENTIALS_DIR,
        "test": Env.TEST_CREDENTIALS_DIR,
        "output": Env.OUTPUT_CREDENTIALS_DIR,
    }
    values = {
        Env.JOB: PodJob.of(job).model_dump_json(by_alias=True, exclude_none=True),
        Env.SCRATCH_DIR: SCRATCH,
        Env.THREADS: str(threads_in(job, profile, settings, resources, component)),
        Env.STUDY_TOKEN_FILE: f"{TOKENS}/token",
        **({Env.STUDY_CA_FILE: f"{STUDY_CA}/{CA_KEY}"} if _study_ca(profile, settings) else {}),
        **({Env.MEMORY_BYTES: str(quantity_bytes(memory))} if memory else {}),
        **{folders[k]: f"{CREDENTIALS}/{k}" for k in secrets},
    }
    return [
        *({"name": name.value, "value": value} for name, value in values.items()),
        _study_url(profile, settings),
        {"name": Env.POD_NAME.value, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": Env.POD_UID.value, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        *storage_environment(profile),
    ]


def _study_url(profile: AutoMLProfileSpec, settings: Settings) -> dict[str, Any]:
    if profile.study.secret_name:
        key = {"name": profile.study.secret_name, "key": "STUDY_URL"}
        return {"name": Env.STUDY_URL.value, "valueFrom": {"secretKeyRef": key}}
    return {"name": Env.STUDY_URL.value, "value": profile.study.url or settings.study_url}


def _study_token() -> dict[str, Any]:
    return {"audience": STUDY_TOKEN_AUDIENCE, "expirationSeconds": 3600, "path": "token"}


def _credentials(job: AutoMLJob) -> dict[str, str]:
    """Secret by what it is for."""
    dataset, output = job.spec.dataset, job.spec.output
    refs = {
        "train": dataset.train.secret_ref,
        "test": dataset.test.secret_ref if dataset.test else None,
        "output": output.secret_ref,
    }
    return {k: ref.name for k, ref in refs.items() if ref is not None}
