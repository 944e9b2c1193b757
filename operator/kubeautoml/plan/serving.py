"""The endpoint of a model: Deployment, Service, and on request an autoscaler and a disruption budget."""

from __future__ import annotations

from typing import Any

from kubeautoml.api import effective
from kubeautoml.api.job import AutoMLJob, Gate, Serving
from kubeautoml.api.job_status import ModelStatus
from kubeautoml.api.metrics import DEFAULT_METRIC
from kubeautoml.api.names import (
    LABEL_MODEL_VERSION,
    SERVER_PORT,
    Component,
    Env,
    labels,
    server_name,
)
from kubeautoml.api.objects import Manifest
from kubeautoml.api.profile import AutoMLProfileSpec
from kubeautoml.plan.base import Settings
from kubeautoml.plan.network import server_policy
from kubeautoml.plan.pods import (
    CREDENTIALS,
    authorities,
    owner,
    pod_basics,
    restricted_container,
    storage_environment,
)

PROGRESS_SECONDS = 600


def gate_problem(gate: Gate | None, metrics: dict[str, str]) -> str | None:
    """Why a model does not pass its gate, in one line; None when it does."""
    if gate is None:
        return None
    value = metrics.get(gate.metric)
    if value is None:
        known = ", ".join(sorted(metrics))
        return f"spec.serving.gate.metric {gate.metric} is not among the hold-out metrics: {known}"
    if gate.min is not None and not float(value) >= float(gate.min):
        return f"hold-out {gate.metric} must be at least {gate.min} (spec.serving.gate.min), got {value}"
    if gate.max is not None and not float(value) <= float(gate.max):
        return f"hold-out {gate.metric} must be at most {gate.max} (spec.serving.gate.max), got {value}"
    return None


def served_metrics(job: AutoMLJob, serving: Serving, model: ModelStatus) -> dict[str, str]:
    """Hold-out metrics of the variant that answers; of another than the first only the objective is known."""
    if serving.variant is None or serving.variant is job.spec.output.variants[0]:
        return model.metrics
    metric = job.spec.objective.metric or DEFAULT_METRIC[job.spec.task.type]
    value = next((v.value for v in model.variants if v.name == serving.variant), None)
    return {} if value is None else {metric: value}


def serving_objects(
    job: AutoMLJob, serving: Serving, model: ModelStatus, profile: AutoMLProfileSpec, settings: Settings
) -> tuple[Manifest, ...]:
    """Everything behind the endpoint."""
    deployment = _deployment(job, serving, model, profile, settings)
    objects = [*server_policy(job, profile), deployment, _service(job)]
    if serving.autoscaling is not None:
        objects.append(_autoscaler(job, serving))
    if max(serving.replicas, serving.autoscaling.min_replicas if serving.autoscaling else 0) > 1:
        objects.append(_disruption_budget(job))
    return tuple(objects)


def _metadata(job: AutoMLJob) -> dict[str, Any]:
    return {
        "name": server_name(job.metadata.name),
        "namespace": job.metadata.namespace,
        "labels": labels(job.metadata.name, job.metadata.uid, Component.SERVER),
        "ownerReferences": owner(job),
    }


def _selector(job: AutoMLJob) -> dict[str, str]:
    chosen = labels(job.metadata.name, job.metadata.uid, Component.SERVER)
    return {k: v for k, v in chosen.items() if k.startswith("kubeautoml.dev/")}


def _deployment(
    job: AutoMLJob, serving: Serving, model: ModelStatus, profile: AutoMLProfileSpec, settings: Settings
) -> Manifest:
    pod_labels = {**labels(job.metadata.name, job.metadata.uid, Component.SERVER), LABEL_MODEL_VERSION: model.version}
    # with an autoscaler the replicas are its own; sending them would set them back at every pass
    replicas = {} if serving.autoscaling else {"replicas": serving.replicas}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(job),
        "spec": {
            **replicas,
            "progressDeadlineSeconds": PROGRESS_SECONDS,
            "selector": {"matchLabels": _selector(job)},
            # the old version stays until the new one answers
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": pod_labels},
                "spec": _server_pod(job, serving, model, profile, settings),
            },
        },
    }


def _server_pod(
    job: AutoMLJob, serving: Serving, model: ModelStatus, profile: AutoMLProfileSpec, settings: Settings
) -> dict[str, Any]:
    resources = effective.server_resources(job, profile)
    secret = job.spec.output.secret_ref
    ca_volumes, ca_mounts = authorities({"storage-ca": profile.object_storage.ca_config_map})
    values = {
        Env.MODEL_URI: model.uri,
        Env.MODEL_SHA256: model.sha256,
        Env.MODEL_NAME: job.metadata.name,
        Env.MODEL_VERSION: model.version,
        Env.PORT: str(SERVER_PORT),
        Env.SCRATCH_DIR: "/tmp",
        **({Env.OUTPUT_CREDENTIALS_DIR: f"{CREDENTIALS}/output"} if secret else {}),
    }
    container = {
        "name": "server",
        "image": profile.images.server or settings.server_image,
        "imagePullPolicy": profile.images.pull_policy,
        "command": ["kubeautoml"],
        "args": ["serve", *(["--variant", serving.variant.value] if serving.variant else [])],
        "env": [*({"name": k.value, "value": v} for k, v in values.items()), *storage_environment(profile)],
        "ports": [{"name": "http", "containerPort": SERVER_PORT, "protocol": "TCP"}],
        "resources": resources.to_manifest(),
        "securityContext": restricted_container(),
        "startupProbe": _probe("/v2/health/ready", period=1, failures=300),
        "readinessProbe": _probe("/v2/health/ready", period=5, failures=3),
        "livenessProbe": _probe("/v2/health/live", period=10, failures=6),
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"},
            *([{"name": "credentials", "mountPath": f"{CREDENTIALS}/output", "readOnly": True}] if secret else []),
            *ca_mounts,
        ],
    }
    return {
        **pod_basics(job, profile, effective.server_placement(job, profile), Component.SERVER),
        "terminationGracePeriodSeconds": 30,
        "containers": [container],
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            *([{"name": "credentials", "secret": {"secretName": secret.name}}] if secret else []),
            *ca_volumes,
        ],
    }


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "http"}, "periodSeconds": period, "failureThreshold": failures}


def _service(job: AutoMLJob) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(job),
        "spec": {
            "selector": _selector(job),
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def _autoscaler(job: AutoMLJob, serving: Serving) -> Manifest:
    scaling = serving.autoscaling
    assert scaling is not None
    target = {"type": "Utilization", "averageUtilization": scaling.target_cpu_utilization_percentage}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(job),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": server_name(job.metadata.name)},
            "minReplicas": scaling.min_replicas,
            "maxReplicas": scaling.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def _disruption_budget(job: AutoMLJob) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(job),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _selector(job)}},
    }
