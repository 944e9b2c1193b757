"""Batch Jobs of a queue on a real Job controller. Kueue is played by hand: it is another client that writes the same fields.

Marked `cel`, since a Job can be suspended from Kubernetes 1.21 on, and its nodes changed from 1.27 on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from controller.life import make_churn
from kubeautoml.api.conditions import find_condition
from kubeautoml.api.errors import Conflict
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.controller.observe import parse_job
from kubeautoml.controller.reconcile import reconcile
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.controller.studies import Studies
from kubeautoml.plan.base import Settings
from kubeautoml.plan.workers import resized

if TYPE_CHECKING:
    from kubeautoml.cluster.kube import KubeCluster
    from real.controlplane import ControlPlane

pytestmark = [pytest.mark.controlplane, pytest.mark.cel, pytest.mark.anyio]

SECONDS = 30.0


class Queued:
    """One job of a queue, its operator called by hand, and a hand that plays Kueue."""

    def __init__(self, plane: ControlPlane, cluster: KubeCluster, namespace: str, folder: Path) -> None:
        self.plane, self.cluster, self.namespace = plane, cluster, namespace
        self.ref = Ref("AutoMLJob", namespace, "churn")
        self.settings = OperatorSettings(plan=Settings(study_url=f"journal://{folder}/study.log"))
        self.studies = Studies()
        self.jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self.path = f"/apis/kubeautoml.dev/v1alpha1/namespaces/{namespace}/automljobs/churn"

    def create(self, **workers: Any) -> None:
        manifest = make_churn(workers=workers, retention={}, serving=None)
        manifest["metadata"] = {"name": "churn", "labels": {"kueue.x-k8s.io/queue-name": "team-a"}}
        self.plane.admin.post(self.path.rpartition("/")[0], manifest)

    async def passes(self, count: int = 3) -> None:
        for _ in range(count):
            await reconcile(self.ref, self.cluster, self.studies, lambda: datetime.now(UTC), self.settings)

    def batch(self) -> Manifest:
        (found,) = self.plane.admin.items(self.jobs)
        return found

    def kueue_writes(self, spec: Manifest) -> None:
        self.plane.admin.patch(f"{self.jobs}/{self.batch()['metadata']['name']}", {"spec": spec})

    def pods(self) -> list[Manifest]:
        found = self.plane.admin.items(f"/api/v1/namespaces/{self.namespace}/pods")
        return [p for p in found if "deletionTimestamp" not in p["metadata"]]

    async def until_pods(self, count: int) -> None:
        for _ in range(int(SECONDS / 0.2)):
            if len(self.pods()) == count:
                return
            await asyncio.sleep(0.2)
        raise AssertionError(f"there are {len(self.pods())} pods, not {count}, after {SECONDS:.0f} s")

    async def admitted(self) -> str:
        manifest = await self.cluster.get(self.ref)
        assert manifest is not None
        said = find_condition(parse_job(manifest).status.conditions, "Admitted")
        return "" if said is None else f"{said.status.value} {said.reason}"


@pytest.fixture
async def queued(
    control_plane: ControlPlane, kube_cluster: KubeCluster, namespace: str, tmp_path: Path
) -> AsyncIterator[Queued]:
    job = Queued(control_plane, kube_cluster, namespace, tmp_path)
    yield job
    job.studies.close()


async def test_a_queue_admits_in_part_evicts_and_admits_again(queued: Queued) -> None:
    """No pod before; then as many as the queue says, on the nodes it says; no pass of the operator undoes any of it."""
    queued.create(parallelism=4, minParallelism=2)
    await queued.passes()
    assert queued.batch()["spec"]["suspend"] is True
    assert (queued.pods(), await queued.admitted()) == ([], "False Queued")

    placed = {"template": {"spec": {"nodeSelector": {"flavor": "spot"}}}}
    queued.kueue_writes({"suspend": False, "parallelism": 3, **placed})
    await queued.until_pods(3)
    generation = queued.batch()["metadata"]["generation"]
    await queued.passes()
    found = queued.batch()
    assert found["metadata"]["generation"] == generation
    assert (found["spec"]["suspend"], found["spec"]["parallelism"]) == (False, 3)
    assert {p["spec"]["nodeSelector"]["flavor"] for p in queued.pods()} == {"spot"}

    queued.kueue_writes({"suspend": True})
    await queued.until_pods(0)
    await queued.passes()
    assert (queued.batch()["spec"]["suspend"], await queued.admitted()) == (True, "False Queued")
    queued.kueue_writes({"suspend": False})
    await queued.until_pods(3)


async def test_a_suspended_job_leaves_the_queue_and_comes_back_to_it(queued: Queued) -> None:
    """The Job is deleted, and its pods with it; the next one waits to be admitted."""
    queued.create(parallelism=2)
    await queued.passes()
    queued.kueue_writes({"suspend": False})
    await queued.until_pods(2)

    queued.plane.admin.patch(queued.path, {"spec": {"suspend": True}})
    await queued.passes()
    await queued.until_pods(0)
    queued.plane.admin.patch(queued.path, {"spec": {"suspend": False}})
    await queued.passes(5)

    assert queued.batch()["spec"]["suspend"] is True


async def test_more_workers_are_asked_for_under_the_version_that_was_seen(queued: Queued) -> None:
    """What the queue changes in that moment wins, and the next pass takes it into account."""
    queued.create(parallelism=2)
    await queued.passes()
    (found,) = await queued.cluster.list("Job", queued.namespace)
    queued.kueue_writes({"suspend": False})

    (late,) = resized(found, 5)
    with pytest.raises(Conflict):
        await queued.cluster.apply(late)

    queued.plane.admin.patch(queued.path, {"spec": {"workers": {"parallelism": 5}}})
    await queued.passes()
    assert (queued.batch()["spec"]["suspend"], queued.batch()["spec"]["parallelism"]) == (False, 5)
    await queued.until_pods(5)
