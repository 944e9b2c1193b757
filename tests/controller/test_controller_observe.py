"""What the planner gets to see of pods, profiles, children and the study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubeautoml.api.errors import ClusterError, ManifestError
from kubeautoml.api.metrics import Direction
from kubeautoml.api.names import LABEL_COMPONENT, Component, labels, study_name
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.trials import Failure, StudyAttr, StudyLimits, StudyOrders
from kubeautoml.cluster.memory import MemoryCluster
from kubeautoml.controller.observe import observe, parse_job, pod_seen
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.controller.studies import Studies
from kubeautoml.plan.base import PodSeen, Settings
from kubeautoml.study import create_study, open_study_storage, set_study_attr

STUDY = study_name("team-a", "churn", "u1")


def make_manifest(**spec: Any) -> Manifest:
    return {
        "apiVersion": "kubeautoml.dev/v1alpha1",
        "kind": "AutoMLJob",
        "metadata": {"name": "churn", "namespace": "team-a", "uid": "u1", "generation": 1},
        "spec": {
            "task": {"type": "TabularClassification", "target": "y"},
            "dataset": {"train": {"uri": "s3://lake/train.csv"}},
            "output": {"uri": "s3://models"},
            **spec,
        },
    }


def make_pod_manifest(*, status: Manifest | None = None, limits: dict[str, str] | None = None, **meta: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "team-a",
            "uid": "p1",
            "labels": labels("churn", "u1", Component.WORKER),
            **meta,
        },
        "spec": {"containers": [{"name": "main", "resources": {"limits": limits or {}}}]},
        "status": status or {},
    }


def make_container_status(**state: Manifest) -> list[Manifest]:
    return [{"name": "main", "state": state}]


def make_child(kind: str, name: str, namespace: str = "team-a", uid: str = "u1") -> Manifest:
    metadata = {"name": name, "namespace": namespace, "labels": labels("churn", uid, Component.SERVER)}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": {}}


class OldCluster(MemoryCluster):
    """A server that does not know autoscaling/v2."""

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        labels: dict[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> list[Manifest]:
        if kind == "HorizontalPodAutoscaler":
            raise ClusterError("the server does not know HorizontalPodAutoscaler", reason="NotFound")
        return await super().list(kind, namespace, labels, fresh=fresh)


# Pods


def test_a_new_pod_is_pending() -> None:
    """Without a status it waits and says nothing."""
    assert pod_seen(make_pod_manifest()) == PodSeen(name="p", uid="p1", component="worker", phase="Pending")


def test_a_pod_that_cannot_be_scheduled_says_why() -> None:
    """The scheduler's condition becomes reason and message."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}

    seen = pod_seen(make_pod_manifest(status={"phase": "Pending", "conditions": [condition]}))

    assert (seen.reason, seen.message) == ("Unschedulable", "0/3 nodes")


def test_a_pod_that_waits_for_its_image_says_so() -> None:
    """The container's own reason comes before what the scheduler said."""
    waiting = {"reason": "ImagePullBackOff", "message": "not found"}
    status = {"phase": "Pending", "containerStatuses": make_container_status(waiting=waiting)}

    assert pod_seen(make_pod_manifest(status=status)).reason == "ImagePullBackOff"


def test_a_killed_pod_carries_exit_code_reason_and_times() -> None:
    """OOMKilled, 137, and the seconds between start and end."""
    terminated = {
        "exitCode": 137,
        "reason": "OOMKilled",
        "startedAt": "2026-01-01T12:00:00Z",
        "finishedAt": "2026-01-01T12:00:30Z",
    }
    seen = pod_seen(
        make_pod_manifest(
            status={"phase": "Failed", "containerStatuses": make_container_status(terminated=terminated)},
            limits={"nvidia.com/gpu": "2", "memory": "4Gi", "rdma/hca": "1"},
        )
    )

    assert (seen.phase, seen.exit_code, seen.reason, seen.accelerators) == ("Failed", 137, "OOMKilled", 2)
    assert seen.started_at is not None and seen.finished_at == seen.started_at + 30


def test_an_evicted_pod_says_what_the_kubelet_said() -> None:
    """The pod's own reason comes first."""
    status = {
        "phase": "Failed",
        "reason": "Evicted",
        "message": "low on disk",
        "containerStatuses": make_container_status(terminated={"exitCode": 137, "reason": "Error"}),
    }

    seen = pod_seen(make_pod_manifest(status=status, deletionTimestamp="2026-01-01T12:00:00Z"))

    assert (seen.reason, seen.message, seen.exit_code, seen.is_deleting) == ("Evicted", "low on disk", 137, True)


# Jobs


def test_a_manifest_that_breaks_a_rule_names_the_field() -> None:
    """Path, rule and value, in one line."""
    with pytest.raises(ManifestError) as error:
        parse_job(make_manifest(budget={"maxTrials": 0}))

    assert str(error.value) == "spec.budget.maxTrials must be at least 1, got 0"


def test_a_status_that_cannot_be_read_counts_as_none() -> None:
    """A field of a newer version, or nonsense, must not stop the job."""
    job = parse_job({**make_manifest(), "status": {"fromTheFuture": 1}})

    assert job.status.conditions == ()


# Surroundings


async def seen_by(cluster: MemoryCluster, tmp_path: Path, manifest: Manifest, **settings: Any) -> Any:
    url = f"journal://{tmp_path}/study.log"
    studies = Studies()
    try:
        return await observe(
            parse_job(manifest), cluster, studies, OperatorSettings(plan=Settings(study_url=url), **settings)
        )
    finally:
        studies.close()


@pytest.mark.anyio
async def test_nothing_around_a_new_job(tmp_path: Path) -> None:
    """No profile called default, no children, no pods, no study: all of that is fine."""
    observed, url = await seen_by(MemoryCluster(), tmp_path, make_manifest())

    assert (observed.profile, observed.profile_missing, observed.children, observed.pods) == (None, False, {}, ())
    assert (observed.study, observed.study_error, url) == (None, None, f"journal://{tmp_path}/study.log")


@pytest.mark.anyio
async def test_a_named_profile_that_is_missing_is_told(tmp_path: Path) -> None:
    """Only `default` may be absent."""
    observed, _ = await seen_by(MemoryCluster(), tmp_path, make_manifest(profileRef={"name": "gpu"}))

    assert observed.profile_missing


@pytest.mark.anyio
async def test_the_profile_decides_where_the_study_is(tmp_path: Path) -> None:
    """Its URL comes before the operator's own settings."""
    cluster, own = MemoryCluster(), f"journal://{tmp_path}/own.log"
    profile = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLProfile", "metadata": {"name": "default"}}
    await cluster.put({**profile, "spec": {"study": {"url": own}}})

    observed, url = await seen_by(cluster, tmp_path, make_manifest(), study_url="journal:///elsewhere.log")

    assert observed.profile is not None and observed.profile.spec.study.url == own
    assert url == own


@pytest.mark.anyio
async def test_a_profile_that_breaks_a_rule_is_named(tmp_path: Path) -> None:
    """The job's owner reads whose mistake it is."""
    cluster = MemoryCluster()
    profile = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLProfile", "metadata": {"name": "default"}}
    await cluster.put({**profile, "spec": {"limits": {"maxTrials": 0}}})

    observed, _ = await seen_by(cluster, tmp_path, make_manifest())

    assert observed.profile is None and not observed.profile_missing
    assert observed.profile_error == (
        "AutoMLProfile default: spec.limits.maxTrials must be at least 1, got 0; ask the platform team"
    )


@pytest.mark.anyio
async def test_children_and_pods_are_those_of_this_incarnation(tmp_path: Path) -> None:
    """Objects of a job of the same name with another uid, or in another namespace, are strangers."""
    cluster = MemoryCluster()
    for name, namespace, uid in (("mine", "team-a", "u1"), ("old", "team-a", "u0"), ("other", "team-b", "u1")):
        await cluster.put(make_child("Job", name, namespace, uid))
    pod = make_pod_manifest()
    pod["metadata"]["labels"] |= {LABEL_COMPONENT: "finalizer"}
    await cluster.put(pod)

    observed, _ = await seen_by(cluster, tmp_path, make_manifest())

    assert set(observed.children) == {Ref("Job", "team-a", "mine")}
    assert [(p.uid, p.component) for p in observed.pods] == [("p1", "finalizer")]


@pytest.mark.anyio
async def test_the_endpoint_is_looked_for_once_there_is_a_model(tmp_path: Path) -> None:
    """Until then nothing asks for it; kinds that an old server does not know are none."""
    cluster = OldCluster()
    await cluster.put(make_child("Service", "s"))
    model = {"name": "churn-v1", "version": "v1", "uri": "s3://models/m", "sha256": "a" * 64}

    before, _ = await seen_by(cluster, tmp_path, make_manifest())
    asked = {kind for verb, kind in cluster.calls if verb == "list"}
    after, _ = await seen_by(cluster, tmp_path, {**make_manifest(), "status": {"model": model}})

    assert (before.children, asked) == ({}, {"Job", "AutoMLModel", "NetworkPolicy", "Pod"})
    assert set(after.children) == {Ref("Service", "team-a", "s")}


@pytest.mark.anyio
async def test_a_study_that_does_not_answer_is_a_sentence(tmp_path: Path) -> None:
    """The planner decides what it can without it."""
    (tmp_path / "study.log").write_text("this is no journal\n" * 3)

    observed, _ = await seen_by(MemoryCluster(), tmp_path, make_manifest())

    assert observed.study is None
    assert observed.study_error is not None and "study.log is damaged" in observed.study_error


# Studies


@pytest.mark.anyio
async def test_stopping_sets_the_limit_and_waits_for_there_to_be_one(tmp_path: Path) -> None:
    """Before the study has limits there is nothing to stop; afterwards stopping is idempotent."""
    url, studies = f"journal://{tmp_path}/study.log", Studies()
    limits = StudyLimits(max_trials=5, max_failed_trials=2)

    before = await studies.stop(url, STUDY)
    await studies.create(url, STUDY, Direction.MAXIMIZE)
    await studies.carry_out(url, STUDY, StudyOrders(limits=limits))
    results = [await studies.stop(url, STUDY), await studies.stop(url, STUDY)]
    summary = await studies.summary(url, STUDY)
    studies.close()

    assert (before, results) == (False, [True, True])
    assert summary is not None and summary.limits == StudyLimits(max_trials=5, max_failed_trials=2, stop=True)


@pytest.mark.anyio
async def test_a_reopened_study_has_its_trials_and_no_ending(tmp_path: Path) -> None:
    """Limits, failure, result and the like are taken back, so that workers and planner begin anew."""
    url, studies = f"journal://{tmp_path}/study.log", Studies()
    await studies.create(url, STUDY, Direction.MAXIMIZE)
    await studies.carry_out(url, STUDY, StudyOrders(limits=StudyLimits(max_trials=5, max_failed_trials=2, stop=True)))
    study = create_study(open_study_storage(url), STUDY, Direction.MAXIMIZE)
    study.tell(study.ask(), 0.5)
    set_study_attr(study, StudyAttr.FAILURE, Failure("data", "DatasetNotFound", "gone"))
    set_study_attr(study, StudyAttr.SEARCH, {"exhausted": True})

    await studies.reopen(url, STUDY, Direction.MAXIMIZE)
    summary = await studies.summary(url, STUDY)
    studies.close()

    assert summary is not None
    assert (summary.completed, summary.limits, summary.failure, summary.exhausted) == (1, None, None, False)
