"""Where pods run, what they hold, who may talk to them: the job's wishes, the profile's defaults, what it enforces."""

from __future__ import annotations

from typing import Any

import pytest

from factories import SETTINGS, UID, make_job, make_profile, make_result
from kubeautoml.api import effective
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.names import Env
from kubeautoml.api.objects import Manifest
from kubeautoml.api.profile import AutoMLProfileSpec
from kubeautoml.plan.model import model_status
from kubeautoml.plan.network import server_policy, training_policy
from kubeautoml.plan.serving import serving_objects
from kubeautoml.plan.workers import finalizer_job, worker_job

SPOT = {"nodeSelector": {"pool": "spot"}}
GPU_NODES = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["a100", "h100"]}]}]
    },
    "preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": {"matchExpressions": [{"key": "fast", "operator": "Exists"}]}}
    ],
}
APART = {"preferredDuringSchedulingIgnoredDuringExecution": [
    {"weight": 100, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname"}}
]}  # fmt: skip


def worker_pod(job: AutoMLJob, profile: AutoMLProfileSpec | None = None) -> dict[str, Any]:
    pod: dict[str, Any] = worker_job(job, profile or AutoMLProfileSpec(), SETTINGS)["spec"]["template"]["spec"]
    return pod


def server_pod(job: AutoMLJob, profile: AutoMLProfileSpec | None = None) -> dict[str, Any]:
    assert job.spec.serving is not None
    made = serving_objects(
        job, job.spec.serving, model_status(job, make_result()), profile or AutoMLProfileSpec(), SETTINGS
    )
    pod: dict[str, Any] = next(m for m in made if m["kind"] == "Deployment")["spec"]["template"]["spec"]
    return pod


def test_every_field_of_a_placement_reaches_the_pods() -> None:
    """Spelled as Kubernetes spells it; terms that name no pods mean the job's own; what says nothing is not sent."""
    job = make_job(
        workers={
            "placement": {
                "nodeSelector": {"pool": "ml"},
                "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}],
                "affinity": {"nodeAffinity": GPU_NODES, "podAntiAffinity": APART},
                "topologySpreadConstraints": [{"topologyKey": "topology.kubernetes.io/zone"}],
                "priorityClassName": "batch",
                "runtimeClassName": "nvidia",
            }
        }
    )
    own = {"matchLabels": {"kubeautoml.dev/job-uid": UID, "kubeautoml.dev/component": "worker"}}

    pod = worker_pod(job)

    assert pod["nodeSelector"] == {"pool": "ml"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]
    assert pod["affinity"]["nodeAffinity"] == GPU_NODES
    (apart,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert apart["podAffinityTerm"] == {"topologyKey": "kubernetes.io/hostname", "labelSelector": own}
    assert pod["topologySpreadConstraints"] == [
        {
            "topologyKey": "topology.kubernetes.io/zone",
            "maxSkew": 1,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": own,
        }
    ]
    assert (pod["priorityClassName"], pod["runtimeClassName"]) == ("batch", "nvidia")


def test_the_finalizer_runs_where_workers_do_and_servers_where_serving_says() -> None:
    """A server needs none of the nodes that train."""
    job = make_job(workers={"placement": SPOT}, serving={"placement": {"nodeSelector": {"pool": "web"}}})

    finalizer = finalizer_job(job, AutoMLProfileSpec(), SETTINGS)["spec"]["template"]["spec"]

    assert finalizer["nodeSelector"] == worker_pod(job)["nodeSelector"] == {"pool": "spot"}
    assert server_pod(job)["nodeSelector"] == {"pool": "web"}
    assert "nodeSelector" not in server_pod(make_job(workers={"placement": SPOT}, serving={}))


def test_a_placement_of_the_profile_is_for_jobs_that_say_nothing() -> None:
    profile = make_profile(placement={"nodeSelector": {"pool": "ml"}, "priorityClassName": "low"}).spec

    assert worker_pod(make_job(), profile)["nodeSelector"] == {"pool": "ml"}
    mine = worker_pod(make_job(workers={"placement": SPOT}), profile)
    assert (mine["nodeSelector"], "priorityClassName" in mine) == ({"pool": "spot"}, False)


def test_what_the_profile_enforces_no_job_can_escape() -> None:
    """It comes on top, and wins where both speak."""
    tainted = {"key": "team", "operator": "Equal", "value": "ml"}
    profile = make_profile(
        enforcedPlacement={
            "nodeSelector": {"pool": "ml"},
            "tolerations": [tainted],
            "priorityClassName": "low",
            "runtimeClassName": "gvisor",
            "affinity": {"nodeAffinity": GPU_NODES},
        }
    ).spec
    wish = {
        "nodeSelector": {"pool": "mine", "disk": "ssd"},
        "tolerations": [{"operator": "Exists"}],
        "priorityClassName": "high",
        "runtimeClassName": "runc",
        "affinity": {"nodeAffinity": {}, "podAntiAffinity": APART},
    }
    job = make_job(workers={"placement": wish}, serving={"placement": wish})

    for pod in (worker_pod(job, profile), server_pod(job, profile)):
        assert pod["nodeSelector"] == {"pool": "ml", "disk": "ssd"}
        assert pod["tolerations"] == [{"operator": "Exists"}, tainted]
        assert (pod["priorityClassName"], pod["runtimeClassName"]) == ("low", "gvisor")
        assert pod["affinity"]["nodeAffinity"] == GPU_NODES
        assert "podAntiAffinity" in pod["affinity"]


RESOURCES = [
    # the job's, the profile's, its memory limit, what a worker gets
    ({}, {"requests": {"cpu": "1"}}, None, {"requests": {"cpu": "1"}, "limits": {}}),
    (
        {"limits": {"nvidia.com/gpu": "1"}},
        {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "16Gi"}},
        None,
        {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "16Gi", "nvidia.com/gpu": "1"}},
    ),
    (
        {"requests": {"memory": "32Gi"}},
        {"requests": {"memory": "8Gi"}, "limits": {"memory": "16Gi"}},
        None,
        {"requests": {"memory": "32Gi"}, "limits": {}},
    ),
    (
        {"requests": {"memory": "1Gi"}},
        {"limits": {"memory": "4Gi"}},
        "16Gi",
        {"requests": {"memory": "1Gi"}, "limits": {"memory": "16Gi"}},
    ),
]


@pytest.mark.parametrize(("own", "default", "most", "expected"), RESOURCES)
def test_resources_are_the_job_s_one_by_one(
    own: dict[str, Any], default: dict[str, Any], most: str | None, expected: dict[str, Any]
) -> None:
    """A resource that it names is all its own; a limit of memory that the profile sets cannot be left out."""
    limits = {"maxResources": {"memory": most}} if most else {}
    profile = make_profile(workerResources=default, serverResources=default, limits=limits).spec
    job = make_job(workers={"resources": own}, serving={"resources": own})

    assert effective.worker_resources(job, profile).to_manifest() == expected
    assert effective.server_resources(job, profile).to_manifest() == expected


def test_accelerators_are_what_device_plug_ins_register() -> None:
    amounts = {
        "nvidia.com/gpu": "2",
        "amd.com/gpu": "1",
        "nvidia.com/mig-1g.5gb": "3",
        "rdma/hca": "9",
        "memory": "4Gi",
    }

    assert effective.accelerators(amounts) == 6


def test_the_study_s_authority_is_mounted_and_named() -> None:
    """The profile's; the operator's own for the operator's own study."""

    def named(profile: AutoMLProfileSpec) -> str | None:
        pod = worker_job(make_job(), profile, own)["spec"]["template"]["spec"]
        volumes = [v["configMap"]["name"] for v in pod["volumes"] if v["name"] == "study-ca"]
        env = {e["name"]: e.get("value") for e in pod["containers"][0]["env"]}
        assert env.get(Env.STUDY_CA_FILE) == ("/var/run/kubeautoml/study-ca/ca.crt" if volumes else None)
        return volumes[0] if volumes else None

    own = type(SETTINGS)(study_url="grpcs://study:13000", study_ca_config_map="operators-ca")

    assert named(AutoMLProfileSpec()) == "operators-ca"
    assert named(make_profile(study={"url": "grpcs://other:1", "caConfigMap": "others-ca"}).spec) == "others-ca"
    assert named(make_profile(study={"url": "grpc://other:1"}).spec) is None


def test_pods_carry_the_study_s_authority_where_nobody_copies_it() -> None:
    """In an annotation, which the kubelet writes into the file: no right on ConfigMaps, nothing to prepare in a namespace."""
    own = type(SETTINGS)(study_url="grpcs://study:13000", study_ca="PEM")

    def template(profile: AutoMLProfileSpec) -> Manifest:
        return dict(worker_job(make_job(), profile, own)["spec"]["template"])

    carrying = template(AutoMLProfileSpec())
    [volume] = [v for v in carrying["spec"]["volumes"] if v["name"] == "study-ca"]
    [item] = volume["downwardAPI"]["items"]
    assert carrying["metadata"]["annotations"] == {"kubeautoml.dev/study-ca": "PEM"}
    assert (item["path"], item["fieldRef"]["fieldPath"]) == (
        "ca.crt",
        "metadata.annotations['kubeautoml.dev/study-ca']",
    )
    env = {e["name"]: e.get("value") for e in carrying["spec"]["containers"][0]["env"]}
    assert env[Env.STUDY_CA_FILE] == "/var/run/kubeautoml/study-ca/ca.crt"
    other = template(make_profile(study={"url": "grpcs://other:1"}).spec)
    assert "annotations" not in other["metadata"] and "study-ca" not in {v["name"] for v in other["spec"]["volumes"]}


# Network


def policy(profile: AutoMLProfileSpec | None = None) -> Manifest:
    (made,) = training_policy(make_job(), profile or AutoMLProfileSpec(), SETTINGS)
    return made


DNS = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}


def tcp(port: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}


def test_nothing_may_connect_to_pods_that_train() -> None:
    """Out they may go, since where storage is is not known."""
    assert policy()["spec"] == {
        "podSelector": {
            "matchLabels": {"kubeautoml.dev/job-uid": UID},
            "matchExpressions": [
                {"key": "kubeautoml.dev/component", "operator": "In", "values": ["worker", "finalizer"]}
            ],
        },
        "policyTypes": ["Ingress"],
        "ingress": [],
    }


@pytest.mark.parametrize(
    ("profile", "rules"),
    [
        ({}, [DNS, {"ports": [tcp(9090)]}, {"ports": [tcp(443)]}]),
        (
            {"objectStorage": {"endpointUrl": "http://minio:9000"}},
            [DNS, {"ports": [tcp(9090)]}, {"ports": [tcp(9000)]}],
        ),
        ({"study": {"url": "postgresql://db/x"}}, [DNS, {"ports": [tcp(5432)]}, {"ports": [tcp(443)]}]),
        ({"study": {"url": "grpc://["}}, [DNS, {"ports": [tcp(13000)]}, {"ports": [tcp(443)]}]),
        ({"study": {"url": "grpcs://study:port"}}, [DNS, {"ports": [tcp(13000)]}, {"ports": [tcp(443)]}]),
        ({"study": {"secretName": "study"}}, [DNS, {"ports": [tcp(443)]}]),
    ],
)
def test_egress_is_restricted_where_the_profile_says_so(profile: dict[str, Any], rules: list[dict[str, Any]]) -> None:
    """Names, the study's port, the storage's port; anywhere, unless the profile knows better."""
    made = policy(make_profile(**profile, network={"restrictEgress": True}).spec)

    assert made["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert made["spec"]["egress"] == rules


def test_egress_goes_where_the_profile_says() -> None:
    egress = [
        {
            "to": [{"cidr": "10.0.0.0/8"}, {"namespaceLabels": {"name": "minio"}, "podLabels": {"app": "minio"}}],
            "ports": [9000],
        },
        {"to": [{"podLabels": {"app": "proxy"}}]},
    ]

    made = policy(make_profile(network={"restrictEgress": True, "egress": egress}).spec)

    assert made["spec"]["egress"] == [
        DNS,
        {"ports": [tcp(9090)]},
        {
            "to": [
                {"ipBlock": {"cidr": "10.0.0.0/8"}},
                {
                    "namespaceSelector": {"matchLabels": {"name": "minio"}},
                    "podSelector": {"matchLabels": {"app": "minio"}},
                },
            ],
            "ports": [tcp(9000)],
        },
        {"to": [{"podSelector": {"matchLabels": {"app": "proxy"}}}]},
    ]


def test_servers_are_reached_on_their_port_by_whom_the_profile_names() -> None:
    gateway = {"namespaceLabels": {"kubernetes.io/metadata.name": "gateway"}}
    job = make_job(serving={})

    (anybody,) = server_policy(job, AutoMLProfileSpec())
    (named,) = server_policy(job, make_profile(network={"serverIngress": [gateway], "restrictEgress": True}).spec)

    assert anybody["spec"]["ingress"] == [{"ports": [tcp(8080)]}]
    assert named["spec"]["ingress"] == [
        {
            "ports": [tcp(8080)],
            "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateway"}}}],
        }
    ]
    assert named["spec"]["egress"] == [DNS, {"ports": [tcp(443)]}]


def test_a_platform_team_with_policies_of_its_own_gets_none() -> None:
    profile = make_profile(network={"policies": False}).spec

    assert training_policy(make_job(), profile, SETTINGS) == ()
    assert server_policy(make_job(serving={}), profile) == ()
