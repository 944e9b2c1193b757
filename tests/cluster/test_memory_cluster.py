"""MemoryCluster: the contract, and what only it can do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from cluster.contract import ClusterContract, make_automl_job, make_batch_job, make_service, make_status
from kubeautoml.api.errors import ClusterError, Conflict, Throttled
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.cluster.memory import EmittedEvent, MemoryCluster

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
REF = Ref("Service", "team-a", "s")

pytestmark = pytest.mark.anyio


class TestMemoryCluster(ClusterContract):
    @pytest.fixture
    async def cluster(self) -> AsyncIterator[MemoryCluster]:
        yield MemoryCluster()

    async def edit(self, cluster: Any, ref: Ref, patch: Manifest) -> None:
        await cluster.edit(ref, patch)

    async def messages(self, cluster: Any, namespace: str, uid: str) -> list[str]:
        return [e.event.message for e in cluster.events if e.uid == uid]


def make_cluster() -> MemoryCluster:
    """A cluster whose stamps repeat."""
    numbers = count(1)
    return MemoryCluster(new_uid=lambda: f"uid-{next(numbers)}", clock=lambda: NOON)


async def test_stamps_come_from_what_was_injected() -> None:
    """uid and creation time are repeatable."""
    applied = await make_cluster().apply(make_service("team-a", "s"))

    assert applied["metadata"] == {
        "name": "s",
        "namespace": "team-a",
        "uid": "uid-1",
        "generation": 1,
        "creationTimestamp": "2026-01-01T12:00:00Z",
        "resourceVersion": "1",
    }


async def test_a_put_object_keeps_its_uid_and_status() -> None:
    """Another client may bring a whole object, so that a local run can resume under the uid it had."""
    manifest = make_automl_job("team-a", "churn")
    manifest["metadata"]["uid"] = "the-old-uid"
    manifest["status"] = make_status(trials=7)

    stored = await make_cluster().put(manifest)

    assert stored["metadata"]["uid"] == "the-old-uid"
    assert stored["status"]["trials"] == {"total": 7}


async def test_a_put_with_another_uid_is_a_conflict() -> None:
    """The uid names the incarnation."""
    cluster = make_cluster()
    await cluster.put(make_automl_job("team-a", "churn"))
    other = make_automl_job("team-a", "churn")
    other["metadata"]["uid"] = "other"

    with pytest.raises(Conflict):
        await cluster.put(other)


async def test_an_edited_field_belongs_to_its_editor_once_we_stop_sending_it() -> None:
    """A value that somebody else changed is not taken away when we drop the field."""
    cluster = make_cluster()
    await cluster.apply(make_service("team-a", "s", labels={"tier": "a"}))
    await cluster.edit(REF, {"metadata": {"labels": {"tier": "b"}}})

    applied = await cluster.apply(make_service("team-a", "s"))

    assert applied["metadata"]["labels"] == {"tier": "b"}


async def test_an_injected_container_survives_an_apply() -> None:
    """Containers merge by name, as on a server with an injecting webhook."""
    cluster = make_cluster()
    job = make_batch_job("team-a", "w")
    await cluster.apply(job)
    sidecar = {"name": "mesh", "image": "mesh:1"}
    containers = [*job["spec"]["template"]["spec"]["containers"], sidecar]
    await cluster.edit(Ref("Job", "team-a", "w"), {"spec": {"template": {"spec": {"containers": containers}}}})

    applied = await cluster.apply(job)

    assert [c["name"] for c in applied["spec"]["template"]["spec"]["containers"]] == ["main", "mesh"]


async def test_a_finalizer_holds_a_deleted_object() -> None:
    """With a finalizer deletion only stamps; the object goes when the finalizer does."""
    cluster = make_cluster()
    await cluster.put(make_service("team-a", "s"))
    await cluster.edit(REF, {"metadata": {"finalizers": ["example.com/hold"]}})

    await cluster.delete(REF)
    held = await cluster.get(REF)
    await cluster.edit(REF, {"metadata": {"finalizers": None}})

    assert held is not None and held["metadata"]["deletionTimestamp"] == "2026-01-01T12:00:00Z"
    assert await cluster.get(REF) is None


async def test_faults_hit_the_next_calls_once_each() -> None:
    """fail_next raises in order, and only for the verb it names."""
    cluster = make_cluster()
    cluster.fail_next(Conflict("changed meanwhile"), Throttled("slow down"), verb="apply")
    cluster.fail_next(ClusterError("down"), verb="get")

    with pytest.raises(Conflict):
        await cluster.apply(make_service("team-a", "s"))
    with pytest.raises(Throttled):
        await cluster.apply(make_service("team-a", "s"))
    await cluster.apply(make_service("team-a", "s"))
    with pytest.raises(ClusterError, match="down"):
        await cluster.get(REF)
    assert await cluster.get(REF) is not None


async def test_events_are_recorded() -> None:
    """What was emitted can be read."""
    cluster = make_cluster()
    event = EventOrder("Normal", "WorkersCreated", "2 workers")

    await cluster.emit(REF, "uid-1", event)

    assert cluster.events == [EmittedEvent(REF, "uid-1", event)]
