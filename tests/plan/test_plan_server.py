"""What the planner makes, said to a real API server: it takes every object, and its own admission takes every pod as *restricted*.

Marked `cel`: pod security admission, policy/v1 and autoscaling/v2 are newer than the oldest server at hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from factories import SETTINGS, make_manifest, make_profile, make_result
from kubeautoml.api.check import check_job
from kubeautoml.api.form import parse_job
from kubeautoml.api.objects import Manifest
from kubeautoml.cluster.resources import resource_of
from kubeautoml.plan.model import model_object, model_status
from kubeautoml.plan.network import training_policy
from kubeautoml.plan.serving import serving_objects
from kubeautoml.plan.workers import finalizer_job, worker_job
from real.rest import ApiError

if TYPE_CHECKING:
    from real.controlplane import ControlPlane

pytestmark = [pytest.mark.controlplane, pytest.mark.cel]

SERVING: dict[str, Any] = {"replicas": 2, "autoscaling": {"minReplicas": 2, "maxReplicas": 5}}
OTHERS = {
    "matchLabels": {"team": "other"},
    "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["low"]}],
}
PLACEMENT: dict[str, Any] = {
    "nodeSelector": {"example.com/pool": "ml"},
    "tolerations": [
        {"operator": "Exists"},
        {"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
        {"key": "team", "value": "ml", "effect": "NoSchedule"},
    ],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["a100"]}]},
                    {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["8"]}]},
                ]
            },
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 10, "preference": {"matchExpressions": [{"key": "spot", "operator": "DoesNotExist"}]}}
            ],
        },
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": OTHERS}
            ],
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 100, "podAffinityTerm": {"topologyKey": "topology.kubernetes.io/zone"}}
            ],
        },
    },
    "topologySpreadConstraints": [
        {"topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 2}
    ],
    "priorityClassName": "system-node-critical",
}
GPU = {"requests": {"cpu": "2", "nvidia.com/gpu": "1"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"}}
PROFILE: dict[str, Any] = {
    "objectStorage": {"endpointUrl": "https://s3.example", "region": "r", "caConfigMap": "storage-ca"},
    "study": {"url": "grpcs://study.example:13000", "caConfigMap": "study-ca"},
    "network": {
        "restrictEgress": True,
        "egress": [
            {"to": [{"cidr": "10.0.0.0/8"}, {"namespaceLabels": {"a": "b"}, "podLabels": {"c": "d"}}], "ports": [9000]},
            {},
        ],
        "serverIngress": [{"namespaceLabels": {"kubernetes.io/metadata.name": "gateway"}}],
    },
    "podSecurity": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000},
    "enforcedPlacement": {"tolerations": [{"key": "forced", "operator": "Exists"}]},
}
JOBS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "smallest": ({"serving": {}}, {}),
    "rich": (
        {
            "dataset": {
                "train": {"uri": "s3://lake/a.csv", "secretRef": {"name": "ro"}},
                "test": {"uri": "s3://lake/b.csv", "secretRef": {"name": "ro"}},
            },
            "output": {"uri": "s3://models", "secretRef": {"name": "rw"}},
            "workers": {"parallelism": 4, "minParallelism": 2, "resources": GPU, "placement": PLACEMENT},
            "serving": {**SERVING, "placement": PLACEMENT},
        },
        PROFILE,
    ),
}


def objects_of(namespace: str, spec: dict[str, Any], profile_spec: dict[str, Any]) -> list[Manifest]:
    """Everything that the job would bring about."""
    manifest = make_manifest(namespace=namespace, **spec)
    manifest["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team-a", "kueue.x-k8s.io/priority-class": "high"}
    job, profile = parse_job(manifest), make_profile(**profile_spec)
    assert list(check_job(job, profile)) == []
    assert job.spec.serving is not None
    result = make_result()
    return [
        *training_policy(job, profile.spec, SETTINGS),
        worker_job(job, profile.spec, SETTINGS),
        finalizer_job(job, profile.spec, SETTINGS),
        model_object(job, result),
        *serving_objects(job, job.spec.serving, model_status(job, result), profile.spec, SETTINGS),
    ]


@pytest.fixture
def restricted(control_plane: ControlPlane, namespace: str) -> str:
    """A namespace in which the server itself refuses pods that are not *restricted*."""
    enforce = {"pod-security.kubernetes.io/enforce": "restricted"}
    control_plane.admin.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": enforce}})
    return namespace


def asked(control_plane: ControlPlane, manifest: Manifest) -> Manifest:
    """What the server would store; unknown fields are an error."""
    resource = resource_of(manifest["kind"])
    path = resource.path(manifest["metadata"]["namespace"])
    return control_plane.admin.post(f"{path}?dryRun=All&fieldValidation=Strict", manifest)


@pytest.mark.parametrize("what", JOBS)
def test_the_server_takes_every_object_as_it_is(control_plane: ControlPlane, restricted: str, what: str) -> None:
    """No field that it does not know, none that it would refuse."""
    made = [asked(control_plane, m) for m in objects_of(restricted, *JOBS[what])]

    kinds = ["AutoMLModel", "Deployment", "Job", "Job", "NetworkPolicy", "NetworkPolicy", "Service"]
    more = ["HorizontalPodAutoscaler", "PodDisruptionBudget"] if what == "rich" else []
    assert sorted(m["kind"] for m in made) == sorted(kinds + more)


@pytest.mark.parametrize("what", JOBS)
def test_every_pod_passes_the_restricted_level(control_plane: ControlPlane, restricted: str, what: str) -> None:
    """By the server's own admission, which looks at pods only when they come."""
    templates = [
        m["spec"]["template"] for m in objects_of(restricted, *JOBS[what]) if m["kind"] in ("Job", "Deployment")
    ]

    for number, template in enumerate(templates):
        metadata = {**template["metadata"], "name": f"pod-{number}", "namespace": restricted}
        spec = {**template["spec"], "priorityClassName": "system-node-critical"}
        asked(control_plane, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    assert len(templates) == 3


def test_the_server_would_refuse_another_pod(control_plane: ControlPlane, restricted: str) -> None:
    """Else the test before says nothing."""
    container = {"name": "c", "image": "i", "securityContext": {"allowPrivilegeEscalation": True}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": restricted}}

    with pytest.raises(ApiError, match="violates PodSecurity"):
        asked(control_plane, {**pod, "spec": {"containers": [container]}})
