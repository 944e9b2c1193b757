"""Every object the planner makes, whole, against its YAML snapshot.

After a wanted change: KUBEAUTOML_ACCEPT_SNAPSHOTS=1 pytest tests/plan, then read the difference.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from factories import SETTINGS, make_job, make_profile, make_result
from kubeautoml.api import effective
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.names import Component
from kubeautoml.api.objects import Manifest
from kubeautoml.api.profile import AutoMLProfileSpec
from kubeautoml.plan.base import Settings
from kubeautoml.plan.model import model_object, model_status
from kubeautoml.plan.pods import pod_template, threads_of
from kubeautoml.plan.serving import gate_problem, serving_objects
from kubeautoml.plan.workers import finalizer_job, resized, worker_job

SNAPSHOTS = Path(__file__).parent / "snapshots"


def assert_snapshot(name: str, *manifests: Manifest) -> None:
    """These objects are exactly those in the file."""
    path = SNAPSHOTS / f"{name}.yaml"
    if os.environ.get("KUBEAUTOML_ACCEPT_SNAPSHOTS") == "1":
        path.write_text(yaml.safe_dump_all(manifests, sort_keys=False, width=120))
    assert list(yaml.safe_load_all(path.read_text())) == list(manifests)


def make_rich_profile() -> AutoMLProfileSpec:
    """A platform team with a registry, a bucket, a node pool and a database of its own."""
    return make_profile(
        images={
            "trainer": "registry.example/trainer@sha256:1",
            "server": "registry.example/server@sha256:2",
            "pullPolicy": "Always",
            "pullSecrets": ["registry"],
        },
        objectStorage={"endpointUrl": "https://s3.example", "region": "eu-central-1", "caConfigMap": "storage-ca"},
        study={"secretName": "study", "caConfigMap": "study-ca"},
        podSecurity={"runAsUser": 1000, "fsGroup": 2000},
        workerResources={
            "requests": {"cpu": "4", "memory": "8Gi"},
            "limits": {"memory": "16Gi", "nvidia.com/gpu": "1"},
        },
        placement={"nodeSelector": {"pool": "ml"}, "tolerations": [{"key": "ml", "operator": "Exists"}]},
        serviceAccountName="trainer",
    ).spec


def make_served_job(**serving: Any) -> AutoMLJob:
    return make_job(serving=serving, output={"uri": "s3://models", "secretRef": {"name": "models-rw"}})


def served(job: AutoMLJob, profile: AutoMLProfileSpec | None = None) -> tuple[Manifest, ...]:
    assert job.spec.serving is not None
    model = model_status(job, make_result())
    return serving_objects(job, job.spec.serving, model, profile or AutoMLProfileSpec(), SETTINGS)


def test_the_worker_job() -> None:
    """The smallest job with the built-in profile."""
    assert_snapshot("worker-job", worker_job(make_job(), AutoMLProfileSpec(), SETTINGS))


def test_the_worker_job_of_a_rich_job_and_profile() -> None:
    """Secrets are mounted, never read; the profile's wishes stand where the job has none."""
    job = make_job(
        parallelism=8,
        dataset={
            "train": {"uri": "s3://lake/churn/*.parquet", "secretRef": {"name": "lake-ro"}},
            "test": {"uri": "s3://lake/test.parquet", "secretRef": {"name": "lake-ro"}},
        },
        output={"uri": "s3://models", "secretRef": {"name": "models-rw"}},
    )

    assert_snapshot("worker-job-rich", worker_job(job, make_rich_profile(), SETTINGS))


def test_the_finalizer_job() -> None:
    assert_snapshot("finalizer-job", finalizer_job(make_job(), AutoMLProfileSpec(), SETTINGS))


def test_the_model() -> None:
    """Not owned by the job: it outlives it."""
    assert_snapshot("model", model_object(make_job(), make_result()))


def test_a_model_that_goes_with_its_job_is_owned_by_it() -> None:
    kept = model_object(make_job(), make_result())

    owned = model_object(make_job(retention={"model": "Delete"}), make_result())

    assert "ownerReferences" not in kept["metadata"]
    assert [o["name"] for o in owned["metadata"].pop("ownerReferences")] == ["churn"]
    assert owned == kept


def test_the_endpoint() -> None:
    """One replica: a Deployment and a Service."""
    assert_snapshot("endpoint", *served(make_served_job()))


def test_the_endpoint_with_an_autoscaler() -> None:
    """Replicas are left to the autoscaler, and two or more are protected from being drained at once."""
    objects = served(make_served_job(autoscaling={"minReplicas": 2, "maxReplicas": 5}), make_rich_profile())

    assert_snapshot("endpoint-autoscaled", *objects)


def test_edits_of_the_mutable_fields_change_no_pod_template() -> None:
    """Else a running Job could not be updated, since a template is immutable."""
    before = worker_job(make_job(), AutoMLProfileSpec(), SETTINGS)
    edited = make_job(parallelism=3, budget={"maxTrials": 7}, serving={}, retention={"keepTrialArtifacts": 1})

    after = worker_job(edited, AutoMLProfileSpec(), SETTINGS)

    assert (before["spec"].pop("parallelism"), after["spec"].pop("parallelism")) == (1, 3)
    assert after["spec"] == before["spec"]


def test_a_resized_job_keeps_its_pods_as_they_were_made() -> None:
    """Also when the operator or the profile has become another in between."""
    own = Settings(study_url="grpcs://old:1", trainer_image="old", study_ca="PEM")
    found = worker_job(make_job(), AutoMLProfileSpec(), own)
    found["metadata"] |= {"uid": "x", "resourceVersion": "7"}
    found["status"] = {"active": 1}

    (changed,) = resized(found, 4)

    assert changed["spec"] == {**found["spec"], "parallelism": 4}
    assert changed["spec"]["template"]["metadata"]["annotations"] == {"kubeautoml.dev/study-ca": "PEM"}
    assert set(changed["metadata"]) == {"name", "namespace", "labels", "annotations", "ownerReferences"}
    assert resized(found, 1) == ()


@pytest.mark.parametrize(
    ("resources", "threads"),
    [
        ({"limits": {"cpu": "4"}, "requests": {"cpu": "2"}}, 4),
        ({"requests": {"cpu": "2500m"}}, 2),
        ({"requests": {"cpu": "500m"}}, 1),
        ({"requests": {"memory": "1Gi"}}, 1),
    ],
)
def test_threads_follow_the_cpu_of_the_pod(resources: dict[str, Any], threads: int) -> None:
    """Its limit, else its request, at least one."""
    job = make_job(workers={"resources": resources})

    assert threads_of(effective.worker_resources(job, AutoMLProfileSpec())) == threads


@pytest.mark.parametrize(
    ("component", "cores", "threads"),
    [
        (Component.FINALIZER, None, 2),
        (Component.FINALIZER, 4, 4),
        (Component.FINALIZER, 64, 6),
        (Component.FINALIZER, 1, 2),
        (Component.WORKER, 64, 2),
    ],
)
def test_on_one_machine_the_finalizer_has_the_cores_that_the_workers_had(
    component: Component, cores: int | None, threads: int
) -> None:
    """Three workers of two threads; in a cluster a pod has what it asks for, and no machine has more cores than it has."""
    job = make_job(workers={"parallelism": 3, "resources": {"requests": {"cpu": "2"}}})
    settings = replace(SETTINGS, machine_cores=cores)

    pod = pod_template(job, AutoMLProfileSpec(), settings, component)

    assert environment_of(pod)["KUBEAUTOML_THREADS"] == str(threads)


@pytest.mark.parametrize(
    ("resources", "profile", "workers", "cores", "threads"),
    [
        ({}, {}, 1, 16, 16),
        ({}, {}, 3, 16, 5),
        ({}, {}, 8, 2, 1),
        ({"requests": {"memory": "8Gi"}}, {}, 2, 4, 2),
        ({"requests": {"cpu": "1"}}, {}, 1, 16, 1),
        ({}, {"workerResources": {"requests": {"cpu": "1"}}}, 1, 16, 1),
        ({}, {}, 2, None, 1),
    ],
    ids=["all", "shared", "more workers than cores", "memory alone", "the job says", "the profile says", "a cluster"],
)
def test_on_one_machine_workers_share_the_cores_unless_somebody_says_how_many_one_gets(
    resources: dict[str, Any], profile: dict[str, Any], workers: int, cores: int | None, threads: int
) -> None:
    job = make_job(workers={"parallelism": workers, "resources": resources})
    settings = replace(SETTINGS, machine_cores=cores)

    pod = pod_template(job, AutoMLProfileSpec.model_validate(profile), settings, Component.WORKER)

    assert environment_of(pod)["KUBEAUTOML_THREADS"] == str(threads)


def environment_of(pod: dict[str, Any]) -> dict[str, Any]:
    return {e["name"]: e.get("value") for e in pod["spec"]["containers"][0]["env"]}


@pytest.mark.parametrize(
    ("gate", "problem"),
    [
        (None, None),
        ({"metric": "RocAuc", "min": "0.91"}, None),
        (
            {"metric": "RocAuc", "min": "0.95"},
            "hold-out RocAuc must be at least 0.95 (spec.serving.gate.min), got 0.91",
        ),
        (
            {"metric": "Accuracy", "max": "0.8"},
            "hold-out Accuracy must be at most 0.8 (spec.serving.gate.max), got 0.85",
        ),
        (
            {"metric": "F1", "min": "0.5"},
            "spec.serving.gate.metric F1 is not among the hold-out metrics: Accuracy, RocAuc",
        ),
    ],
)
def test_the_gate_compares_hold_out_metrics(gate: dict[str, str] | None, problem: str | None) -> None:
    job = make_job(serving={"gate": gate} if gate else {})
    assert job.spec.serving is not None

    assert gate_problem(job.spec.serving.gate, model_status(job, make_result()).metrics) == problem
