"""CachedCluster: the contract over a real server, and the rules of what its memory believes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from cluster.contract import ServerContract, make_automl_job, make_batch_job, make_service
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.names import LABEL_COMPONENT, LABEL_JOB_UID
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cluster.base import Change, Heard
from kubeautoml.cluster.cached import CachedCluster
from kubeautoml.cluster.kube import KubeCluster
from kubeautoml.cluster.memory import MemoryCluster
from kubeautoml.controller.observe import pod_seen
from real.controlplane import ControlPlane
from real.filtered import filtered

OF_JOB = {LABEL_JOB_UID: "job-1"}


@asynccontextmanager
async def running(cached: CachedCluster) -> AsyncIterator[CachedCluster]:
    """With its watches, once they have listed."""
    task = asyncio.create_task(cached.run())
    try:
        async with asyncio.timeout(30):
            while not cached.is_synced:
                if task.done():
                    task.result()
                await asyncio.sleep(0.01)
        yield cached
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.controlplane
class TestCachedCluster(ServerContract):
    """What every cluster does, with the memory between."""

    @pytest.fixture
    async def cluster(self, control_plane: ControlPlane) -> AsyncIterator[CachedCluster]:
        opened = filtered(control_plane.version).from_kubeconfig(path=control_plane.kubeconfig)
        async with running(CachedCluster(opened)) as cached:
            yield cached
        opened.close()

    @pytest.fixture
    def namespace(self, control_plane: ControlPlane) -> str:
        control_plane.create_namespace("contract-cached")
        return "contract-cached"


class Told:
    """A server whose watches say what the test lets them say."""

    def __init__(self) -> None:
        self.below = MemoryCluster()
        self.queues: dict[str, asyncio.Queue[Change | Heard | ClusterError]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)

    async def follow(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change | Heard]:
        queue = self.queues.setdefault(kind, asyncio.Queue())
        yield Heard(is_listed=True)
        while True:
            item = await queue.get()
            if isinstance(item, ClusterError):
                raise item
            yield item

    async def tell(self, item: Change | Heard | ClusterError, kind: str = "Service") -> None:
        self.queues[kind].put_nowait(item)
        for _ in range(5):
            await asyncio.sleep(0)


def make_seen(name: str, *, uid: str = "u1", version: int = 1, deleting: bool = False, **spec: Any) -> Manifest:
    """A Service of the job as a watch tells it."""
    manifest = make_service("team-a", name, labels=OF_JOB)
    stamps = {"uid": uid, "resourceVersion": str(version), **({"deletionTimestamp": "now"} if deleting else {})}
    return {**manifest, "metadata": {**manifest["metadata"], **stamps}, "spec": {**manifest["spec"], **spec}}


@pytest.mark.anyio
class TestBelief:
    """Which of two stories about an object is believed."""

    async def test_a_list_by_job_asks_nobody(self) -> None:
        """Objects of a job come from memory, as copies; other lists come from the server."""
        told = Told()
        async with running(CachedCluster(told)) as cached:
            await told.tell(Change("ADDED", make_seen("a")))

            first = await cached.list("Service", "team-a", OF_JOB)
            first[0]["spec"]["changed"] = True
            again = await cached.list("Service", "team-a", OF_JOB)

            assert [m["metadata"]["name"] for m in again] == ["a"]
            assert "changed" not in again[0]["spec"]
            assert await cached.list("Service", "team-b", OF_JOB) == []
            assert await cached.list("Service", "team-a") == []
            assert await cached.list("Service", "team-a", OF_JOB, fresh=True) == []

    async def test_an_own_write_is_seen_before_the_watch_tells_it(self) -> None:
        """And an older story of the watch does not undo it."""
        told = Told()
        async with running(CachedCluster(told)) as cached:
            stored = await cached.apply(make_service("team-a", "a", labels=OF_JOB, ports=(90,)))
            uid = stored["metadata"]["uid"]
            await told.tell(Change("MODIFIED", make_seen("a", uid=uid, version=0, ports=[{"port": 1}])))

            found = await cached.list("Service", "team-a", OF_JOB)

            assert found[0]["spec"]["ports"][0]["port"] == 90

    async def test_what_was_deleted_does_not_come_back(self) -> None:
        """A story that was on its way when we deleted the object is not believed; its successor is."""
        told = Told()
        async with running(CachedCluster(told)) as cached:
            stored = await cached.apply(make_service("team-a", "a", labels=OF_JOB))
            uid = stored["metadata"]["uid"]
            await cached.delete(Ref("Service", "team-a", "a"), uid=uid)
            await told.tell(Change("MODIFIED", make_seen("a", uid=uid, version=99)))
            assert await cached.list("Service", "team-a", OF_JOB) == []

            await told.tell(Change("ADDED", make_seen("a", uid="successor", version=100)))

            assert [m["metadata"]["uid"] for m in await cached.list("Service", "team-a", OF_JOB)] == ["successor"]

    async def test_an_object_that_is_being_deleted_stays_until_it_is_gone(self) -> None:
        """Finalizers may take their time: the object is there, and says that it is going."""
        told = Told()
        async with running(CachedCluster(told)) as cached:
            await told.tell(Change("ADDED", make_seen("a", uid="u1", version=1)))
            await cached.delete(Ref("Service", "team-a", "a"), uid="u1")
            await told.tell(Change("MODIFIED", make_seen("a", uid="u1", version=2, deleting=True)))

            assert "deletionTimestamp" in (await cached.list("Service", "team-a", OF_JOB))[0]["metadata"]

            await told.tell(Change("DELETED", make_seen("a", uid="u1", version=3)))
            assert await cached.list("Service", "team-a", OF_JOB) == []

    async def test_a_label_that_is_taken_away_takes_the_object_away(self) -> None:
        """A watch by label tells it as deleted."""
        told = Told()
        async with running(CachedCluster(told)) as cached:
            await told.tell(Change("ADDED", make_seen("a")))
            await told.tell(Change("DELETED", make_seen("a", version=2)))

            assert await cached.list("Service", "team-a", OF_JOB) == []

    async def test_an_object_that_gets_its_label_back_is_there_again(self) -> None:
        """Somebody took the label away, and our next apply gave it back: the same incarnation returns, by our own write."""
        told = Told()
        async with running(CachedCluster(told)) as cached:
            stored = await cached.apply(make_service("team-a", "a", labels=OF_JOB))
            uid, version = stored["metadata"]["uid"], int(stored["metadata"]["resourceVersion"])
            await told.tell(Change("DELETED", make_seen("a", uid=uid, version=version)))
            assert await cached.list("Service", "team-a", OF_JOB) == []

            await cached.apply(make_service("team-a", "a", labels=OF_JOB, ports=(90,)))

            assert [m["metadata"]["uid"] for m in await cached.list("Service", "team-a", OF_JOB)] == [uid]

    async def test_an_old_story_of_a_predecessor_is_not_believed(self) -> None:
        """A late change of the object that had the name before does not hide the one that has it now."""
        told = Told()
        async with running(CachedCluster(told)) as cached:
            await told.tell(Change("ADDED", make_seen("a", uid="new", version=20)))
            await told.tell(Change("MODIFIED", make_seen("a", uid="old", version=10)))
            await told.tell(Change("DELETED", make_seen("a", uid="old", version=11)))

            assert [m["metadata"]["uid"] for m in await cached.list("Service", "team-a", OF_JOB)] == ["new"]

    async def test_an_answer_that_comes_after_the_end_is_not_believed(self) -> None:
        """What was applied just before somebody deleted the object does not bring it back."""
        told = Told()
        async with running(CachedCluster(told)) as cached:
            stored = await told.below.apply(make_service("team-a", "a", labels=OF_JOB))
            uid = stored["metadata"]["uid"]
            await told.tell(Change("DELETED", make_seen("a", uid=uid, version=99)))

            await cached.apply(make_service("team-a", "a", labels=OF_JOB))

            assert await cached.list("Service", "team-a", OF_JOB) == []

    async def test_a_deleted_pod_that_still_ends_is_still_there(self) -> None:
        """Its worker has half a minute to leave, and must not be taken for lost meanwhile."""
        told = Told()
        pod = make_pod("worker")
        pod["metadata"]["finalizers"] = ["batch.kubernetes.io/job-tracking"]
        async with running(CachedCluster(told)) as cached:
            stored = await told.below.put(pod)
            await told.tell(Change("ADDED", stored), "Pod")

            await cached.delete(Ref("Pod", "team-a", "worker"), uid=stored["metadata"]["uid"])

            assert "deletionTimestamp" in (await cached.list("Pod", "team-a", OF_JOB))[0]["metadata"]

    async def test_a_written_status_is_seen_at_once(self) -> None:
        """Else the next pass would write it again."""
        told = Told()
        async with running(CachedCluster(told)) as cached:
            model = {
                "apiVersion": "kubeautoml.dev/v1alpha1",
                "kind": "AutoMLModel",
                "metadata": {"name": "m", "namespace": "team-a", "labels": OF_JOB},
                "spec": {},
            }
            await cached.apply(model)
            await cached.patch_status(Ref("AutoMLModel", "team-a", "m"), {"observedGeneration": 1})

            assert (await cached.list("AutoMLModel", "team-a", OF_JOB))[0]["status"] == {"observedGeneration": 1}

    async def test_profiles_come_from_memory(self) -> None:
        """They are few, and every pass reads one; AutoMLJobs are always asked for."""
        told = Told()
        profile = {**make_seen("gpu"), "kind": "AutoMLProfile", "apiVersion": "kubeautoml.dev/v1alpha1"}
        del profile["metadata"]["namespace"], profile["metadata"]["labels"]
        async with running(CachedCluster(told)) as cached:
            await told.tell(Change("ADDED", profile), "AutoMLProfile")
            told.below.calls.clear()

            assert await cached.get(Ref("AutoMLProfile", "", "gpu")) == profile
            assert await cached.get(Ref("AutoMLProfile", "", "other")) is None
            assert told.below.calls == []
            await cached.get(Ref("AutoMLJob", "team-a", "churn"))
            assert told.below.calls == [("get", "AutoMLJob")]

    async def test_a_namespace_that_is_not_watched_is_asked_for(self) -> None:
        """An operator of one namespace knows nothing of another by heart."""
        told = Told()
        async with running(CachedCluster(told, ("team-a",))) as cached:
            await told.below.apply(make_service("team-b", "b", labels=OF_JOB))

            assert [m["metadata"]["name"] for m in await cached.list("Service", "team-b", OF_JOB)] == ["b"]
            assert await cached.list("Service", "team-a", OF_JOB) == []

    async def test_another_namespace_is_watched_from_now_on(self) -> None:
        """One that is new is asked for until it is listed; one that is let go is not known by heart any more."""
        told = Told()
        async with running(CachedCluster(told, ("team-a",))) as cached:
            await told.below.apply(make_service("team-b", "b", labels=OF_JOB))
            told.below.calls.clear()

            cached.serve(("team-b",))
            was_synced = cached.is_synced
            found = await cached.list("Service", "team-b", OF_JOB)
            await eventually(lambda: cached.is_synced)
            await cached.list("Service", "team-b", OF_JOB)
            await cached.list("Service", "team-a", OF_JOB)

            assert not was_synced
            assert [m["metadata"]["name"] for m in found] == ["b"]
            assert told.below.calls == [("list", "Service")] * 2

    async def test_a_namespace_that_may_not_be_seen_does_not_end_the_others(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whether to let it go is not decided here; until then it is tried again."""
        monkeypatch.setattr("kubeautoml.cluster.cached.PAUSE_SECONDS", 0.0)
        told, changes = Told(), list[Change]()
        async with running(CachedCluster(told, ("team-a",), changes.append)):
            await told.tell(ClusterError("pods is forbidden", reason="Forbidden"), "Pod")
            await told.tell(Change("ADDED", make_pod("worker")), "Pod")

            await eventually(lambda: len(changes) == 1)

    async def test_a_watch_that_begins_anew_forgets_what_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A new watch lists what there is: the rest of what we knew is gone, and its job must hear of it."""
        monkeypatch.setattr("kubeautoml.cluster.cached.PAUSE_SECONDS", 0.0)
        told, changes = Told(), list[Change]()
        async with running(CachedCluster(told, on_change=changes.append)) as cached:
            await told.tell(Change("ADDED", make_seen("a")))
            await told.tell(ClusterError("the connection was closed"))
            await eventually(lambda: len(changes) == 2)

            assert await cached.list("Service", "team-a", OF_JOB) == []
            assert [(c.type, c.manifest["metadata"]["name"]) for c in changes] == [("ADDED", "a"), ("DELETED", "a")]

    async def test_a_kind_that_was_unknown_is_looked_for_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server may have been upgraded, or a right been given."""
        monkeypatch.setattr("kubeautoml.cluster.cached.UNKNOWN_KIND_SECONDS", 0.01)
        monkeypatch.setattr("kubeautoml.cluster.cached.PAUSE_SECONDS", 0.01)
        told = Told()
        hpa = {**make_seen("a"), "kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v2"}
        async with running(CachedCluster(told)) as cached:
            await told.tell(ClusterError("no such kind", reason="NotFound"), "HorizontalPodAutoscaler")
            told.queues["HorizontalPodAutoscaler"].put_nowait(Change("ADDED", hpa))

            await eventually(lambda: bool(len(cached._shelves["HorizontalPodAutoscaler"])))

            assert await cached.list("HorizontalPodAutoscaler", "team-a", OF_JOB) == [hpa]

    async def test_every_change_is_told_once(self) -> None:
        """News wake, what is known already does not."""
        told, changes = Told(), list[Change]()
        async with running(CachedCluster(told, on_change=changes.append)):
            await told.tell(Change("ADDED", make_seen("a", version=1)))
            await told.tell(Change("ADDED", make_seen("a", version=1)))
            await told.tell(Change("MODIFIED", make_seen("a", version=2)))
            await told.tell(Change("DELETED", make_seen("a", version=3)))

        assert [c.type for c in changes] == ["ADDED", "MODIFIED", "DELETED"]

    async def test_silence_is_measured(self) -> None:
        """A bookmark ends the silence of its watch; the longest one counts."""
        told, now = Told(), [100.0]
        async with running(CachedCluster(told, clock=lambda: now[0])) as cached:
            now[0] = 160.0
            assert cached.silence_seconds() == 60.0
            for kind in list(told.queues)[1:]:
                await told.tell(Heard(), kind)
            assert cached.silence_seconds() == 60.0

            await told.tell(Heard(), next(iter(told.queues)))

            assert cached.silence_seconds() == 0.0

    async def test_a_kind_that_the_server_does_not_know_counts_as_empty(self) -> None:
        """A server without autoscaling/v2 has no autoscalers; the rest goes on."""
        told = Told()
        async with running(CachedCluster(told)) as cached:
            await told.tell(ClusterError("no such kind", reason="NotFound"), "HorizontalPodAutoscaler")

            assert await cached.list("HorizontalPodAutoscaler", "team-a", OF_JOB) == []
            assert cached.is_synced

    async def test_a_kind_that_is_needed_must_be_seen(self) -> None:
        """Without the right to see pods there is nothing to do but to say so."""
        told = Told()
        task = asyncio.create_task(CachedCluster(told).run())
        while "Pod" not in told.queues:
            await asyncio.sleep(0)

        await told.tell(ClusterError("pods is forbidden", reason="Forbidden"), "Pod")

        with pytest.raises(ClusterError, match="pods is forbidden"):
            await asyncio.wait_for(task, 10)

    async def test_pods_are_kept_without_what_they_run(self) -> None:
        """A thousand jobs' pod templates would fill the memory; what the planner reads of a pod is all there."""
        told = Told()
        pod = make_pod("worker")
        async with running(CachedCluster(told)) as cached:
            await told.tell(Change("ADDED", pod), "Pod")

            kept = (await cached.list("Pod", "team-a", OF_JOB))[0]

        assert pod_seen(kept) == pod_seen(pod)
        assert pod_seen(kept).accelerators == 2
        assert len(json.dumps(kept)) < 1500 < len(json.dumps(pod))


def make_pod(name: str) -> Manifest:
    """A worker that ran out of memory, as a server shows it."""
    started, ended = "2026-01-01T12:00:00Z", "2026-01-01T12:10:00Z"
    terminated = {"exitCode": 137, "reason": "OOMKilled", "startedAt": started, "finishedAt": ended}
    environment = [{"name": f"VARIABLE_{number}", "value": "x" * 100} for number in range(40)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "team-a",
            "uid": f"uid-of-{name}",
            "resourceVersion": "5",
            "labels": {**OF_JOB, LABEL_COMPONENT: "worker"},
            "annotations": {"note": "y" * 1000},
        },
        "spec": {
            "containers": [
                {
                    "name": "worker",
                    "image": "registry.example/kubeautoml-trainer:1",
                    "env": environment,
                    "resources": {"limits": {"nvidia.com/gpu": "2", "memory": "8Gi"}},
                }
            ],
            "volumes": [{"name": f"v{number}", "emptyDir": {}} for number in range(10)],
            "nodeName": "node-1",
        },
        "status": {
            "phase": "Failed",
            "containerStatuses": [{"name": "worker", "state": {"terminated": terminated}, "restartCount": 0}],
            "conditions": [{"type": "PodScheduled", "status": "True"}],
            "podIPs": [{"ip": "10.0.0.1"}],
        },
    }


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.anyio
@pytest.mark.controlplane
async def test_a_thousand_jobs_fit_into_little_memory(control_plane: ControlPlane) -> None:
    """What is kept of a real batch Job is a few kilobytes: without the record of field managers."""
    control_plane.create_namespace("cached-size")
    opened: KubeCluster = filtered(control_plane.version).from_kubeconfig(path=control_plane.kubeconfig)
    async with running(CachedCluster(opened)) as cached:
        job = await cached.apply(make_automl_job("cached-size", "sized"))
        manifest = make_batch_job("cached-size", "sized", owner=job)
        manifest["metadata"]["labels"] = {LABEL_JOB_UID: job["metadata"]["uid"]}
        await cached.apply(manifest)

        shelf = cached._shelves["Job"]

        assert 0 < shelf.size_bytes < 2048 * len(shelf)
    opened.close()
