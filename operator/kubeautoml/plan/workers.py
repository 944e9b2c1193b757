"""The pods that train: the batch Job of the workers and the one of the finalizer, each as one literal."""

from __future__ import annotations

import math
from typing import Any

from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.kinds import API_VERSION
from kubeautoml.api.names import (
    ANNOTATION_TRIALS,
    STUDY_TOKEN_AUDIENCE,
    Component,
    Env,
    finalizer_job_name,
    labels,
    worker_job_name,
)
from kubeautoml.api.objects import Manifest
from kubeautoml.api.pod import PodJob
from kubeautoml.api.profile import AutoMLProfileSpec
from kubeautoml.api.values import Resources, cpu_count, quantity_bytes
from kubeautoml.plan.base import Settings

SCRATCH = "/var/run/kubeautoml/scratch"
CREDENTIALS = "/var/run/kubeautoml/credentials"
TOKENS = "/var/run/kubeautoml/tokens"
STORAGE_CA = "/var/run/kubeautoml/storage-ca"

GRACE_SECONDS = 30
"""SIGTERM to SIGKILL: time to write a checkpoint and say goodbye."""

MANY_FAILURES = 100_000
"""The planner decides when to give up (maxFailedTrials, WorkersFailed); the Job controller only replaces pods."""

FINALIZE_RETRIES = 2


def worker_job(job: AutoMLJob, profile: AutoMLProfileSpec, settings: Settings, ended_trials: int = 0) -> Manifest:
    """`parallelism` identical pods that take trials from the study until there is nothing more to do.

    `ended_trials`, those there were before, stays on the Job: whether it was of any use shows in the difference.
    """
    spec = {
        "parallelism": job.spec.workers.parallelism,
        "backoffLimit": MANY_FAILURES,
        # pods that a node drain or a preemption took are replaced and count as nothing
        "podFailurePolicy": {
            "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
        },
        "template": _pod_template(job, profile, settings, Component.WORKER),
    }
    manifest = _batch_job(job, worker_job_name(job.metadata.name, job.metadata.uid), Component.WORKER, spec)
    manifest["metadata"]["annotations"] = {ANNOTATION_TRIALS: str(ended_trials)}
    return manifest


def ended_trials_before(found: Manifest) -> int:
    """Trials that had ended when this worker Job was made."""
    return int(found["metadata"].get("annotations", {}).get(ANNOTATION_TRIALS, 0))


def resized(found: Manifest, parallelism: int) -> tuple[Manifest, ...]:
    """The worker Job with another number of pods; nothing if it has that number.

    All else stays as it was found: a pod template cannot change, and must not when the operator or the profile did.
    """
    if found["spec"].get("parallelism") == parallelism:
        return ()
    meta, spec = found["metadata"], found["spec"]
    template = {**spec["template"], "metadata": {"labels": spec["template"]["metadata"].get("labels", {})}}
    kept = ("name", "namespace", "labels", "annotations", "ownerReferences")
    return (
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {k: meta[k] for k in kept if k in meta},
            "spec": {**spec, "parallelism": parallelism, "template": template},
        },
    )


def finalizer_job(job: AutoMLJob, profile: AutoMLProfileSpec, settings: Settings) -> Manifest:
    """One pod that makes the model of what the trials left."""
    spec = {
        "parallelism": 1,
        "completions": 1,
        "backoffLimit": FINALIZE_RETRIES,
        "template": _pod_template(job, profile, settings, Component.FINALIZER),
    }
    return _batch_job(job, finalizer_job_name(job.metadata.name, job.metadata.uid), Component.FINALIZER, spec)


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


def _batch_job(job: AutoMLJob, name: str, component: Component, spec: dict[str, Any]) -> Manifest:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": job.metadata.namespace,
            "labels": labels(job.metadata.name, job.metadata.uid, component),
            "ownerReferences": owner(job),
        },
        "spec": spec,
    }


def _pod_template(
    job: AutoMLJob, profile: AutoMLProfileSpec, settings: Settings, component: Component
) -> dict[str, Any]:
    resources = worker_resources(job, profile)
    secrets = _credentials(job)
    verb = "worker" if component is Component.WORKER else "finalize"
    ca_volumes, ca_mounts = storage_ca(profile)
    container = {
        "name": verb,
        "image": trainer_image(profile, settings),
        "imagePullPolicy": profile.images.pull_policy,
        "command": ["kubeautoml"],
        "args": [verb],
        "env": _environment(job, profile, settings, resources),
        "resources": resources.to_manifest(),
        "securityContext": restricted_container(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "scratch", "mountPath": SCRATCH},
            # the root is read-only, and libraries expect a place for temporary files
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "study-token", "mountPath": TOKENS, "readOnly": True},
            *({"name": f"{k}-credentials", "mountPath": f"{CREDENTIALS}/{k}", "readOnly": True} for k in secrets),
            *ca_mounts,
        ],
    }
    return {
        "metadata": {"labels": labels(job.metadata.name, job.metadata.uid, component)},
        "spec": {
            **pod_basics(job, profile),
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "containers": [container],
            "volumes": [
                {"name": "scratch", "emptyDir": {}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "study-token", "projected": {"sources": [{"serviceAccountToken": _study_token()}]}},
                *({"name": f"{k}-credentials", "secret": {"secretName": name}} for k, name in secrets.items()),
                *ca_volumes,
            ],
        },
    }


def pod_basics(job: AutoMLJob, profile: AutoMLProfileSpec) -> dict[str, Any]:
    """What every pod of a job has: no API token, the restricted security level, where it may run."""
    account = job.spec.workers.service_account_name or profile.service_account_name
    placement = job.spec.workers.placement
    if placement.to_manifest() in ({}, {"nodeSelector": {}, "tolerations": []}):
        placement = profile.placement
    chosen = {k: v for k, v in placement.to_manifest().items() if v}
    pull = [{"name": name} for name in profile.images.pull_secrets]
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        **chosen,
        **({"serviceAccountName": account} if account else {}),
        **({"imagePullSecrets": pull} if pull else {}),
    }


def restricted_container() -> dict[str, Any]:
    """The *restricted* Pod Security level, and a read-only root."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def worker_resources(job: AutoMLJob, profile: AutoMLProfileSpec) -> Resources:
    """The job's own, or the profile's when it sets none."""
    own = job.spec.workers.resources
    return own if own.requests or own.limits else profile.worker_resources


def trainer_image(profile: AutoMLProfileSpec, settings: Settings) -> str:
    """The profile's image if it names one, else the operator's own."""
    return profile.images.trainer or settings.trainer_image


def threads_of(resources: Resources) -> int:
    """Threads that a pod's CPU allows: its limit, else its request, at least one."""
    cpu = resources.limits.get("cpu") or resources.requests.get("cpu") or "1"
    return max(1, math.floor(cpu_count(cpu)))


def storage_environment(profile: AutoMLProfileSpec) -> list[dict[str, Any]]:
    """The profile's object storage, for boto3; a secret's own keys win over it."""
    storage = profile.object_storage
    bundle = f"{STORAGE_CA}/ca.crt" if storage.ca_config_map else None
    values = {"AWS_ENDPOINT_URL": storage.endpoint_url, "AWS_REGION": storage.region, "AWS_CA_BUNDLE": bundle}
    return [{"name": k, "value": v} for k, v in values.items() if v]


def storage_ca(profile: AutoMLProfileSpec) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(volumes, mounts) of the certificate authority of the object storage; none when the profile names none."""
    name = profile.object_storage.ca_config_map
    if name is None:
        return [], []
    return [{"name": "storage-ca", "configMap": {"name": name}}], [
        {"name": "storage-ca", "mountPath": STORAGE_CA, "readOnly": True}
    ]


def _environment(
    job: AutoMLJob, profile: AutoMLProfileSpec, settings: Settings, resources: Resources
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
        Env.THREADS: str(threads_of(resources)),
        Env.STUDY_TOKEN_FILE: f"{TOKENS}/token",
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
