"""Watches through a proxy that breaks them on cue: nothing is lost and nothing is told twice."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from cluster.behind_proxy import OF_JOB, Told, eventually, heard_since, service, synced
from kubeautoml.api.objects import Ref
from kubeautoml.cluster.kube import KubeCluster
from real.controlplane import running_control_plane
from real.controlplane_fixtures import CRDS
from real.filtered import filtered
from real.proxy import Answer, CutAfter, FaultyProxy, Mode, Silent

pytestmark = [pytest.mark.controlplane, pytest.mark.anyio]

GONE = Answer(410)
GONE_IN_STREAM = Answer(
    200, body=json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}).encode()
)


@pytest.fixture
def cluster(proxied: KubeCluster) -> KubeCluster:
    return proxied


class TestWatch:
    """Nothing is lost and nothing is told twice, whatever happens to a watch."""

    @pytest.mark.parametrize("gone", [GONE, GONE_IN_STREAM], ids=["as-status", "in-the-stream"])
    async def test_an_expired_watch_lists_again(
        self, cluster: KubeCluster, beside: KubeCluster, proxy: FaultyProxy, namespace: str, gone: Answer
    ) -> None:
        """After 410 Gone the difference is told: what was added, changed and deleted meanwhile, once each."""
        for name in ("changed", "deleted", "untouched"):
            await beside.apply(service(namespace, name))
        told = Told(namespace)
        async with synced(cluster, told) as cached:
            proxy.set_mode(Mode.REFUSE)
            await beside.apply(service(namespace, "changed", 81))
            await beside.apply(service(namespace, "added"))
            await beside.delete(Ref("Service", namespace, "deleted"))
            told.changes.clear()
            lists = cluster.requests.by_verb_and_kind()["list", "Service"]
            proxy.once(gone, path="/services?watch=true")
            proxy.set_mode(Mode.OPEN)

            await eventually(lambda: len(told.changes) >= 3)
            await beside.apply(service(namespace, "last"))
            await eventually(lambda: ("ADDED", "last") in told.changes)

            assert sorted(told.changes) == [
                ("ADDED", "added"),
                ("ADDED", "last"),
                ("DELETED", "deleted"),
                ("MODIFIED", "changed"),
            ]
            assert cluster.requests.by_verb_and_kind()["list", "Service"] == lists + 1
            assert proxy.is_done
            found = await cached.list("Service", namespace, OF_JOB)
            assert [m["metadata"]["name"] for m in found] == ["added", "changed", "last", "untouched"]
            assert found[1]["spec"]["ports"][0]["port"] == 81

    async def test_a_connection_that_is_cut_in_an_event_goes_on_there(
        self, cluster: KubeCluster, beside: KubeCluster, proxy: FaultyProxy, namespace: str
    ) -> None:
        """Half an event is no event: it comes again, whole, after the watch was opened where it was."""
        told = Told(namespace)
        proxy.once(CutAfter(900), path="/services?watch=true")
        async with synced(cluster, told):
            lists = cluster.requests.by_verb_and_kind()["list", "Service"]
            for number in range(5):
                await beside.apply(service(namespace, f"s{number}"))
            await eventually(lambda: len(told.changes) >= 5)

            assert told.changes == [("ADDED", f"s{number}") for number in range(5)]
            assert cluster.requests.by_verb_and_kind()["list", "Service"] == lists
            assert proxy.is_done

    async def test_a_server_that_was_away_is_watched_from_where_it_was(
        self, cluster: KubeCluster, beside: KubeCluster, proxy: FaultyProxy, namespace: str
    ) -> None:
        """Refused connections cost no list, and silence shows that something is wrong."""
        told = Told(namespace)
        async with synced(cluster, told) as cached:
            lists = cluster.requests.by_verb_and_kind()["list", "Service"]
            proxy.set_mode(Mode.REFUSE)
            await beside.apply(service(namespace, "meanwhile"))
            await eventually(lambda: cached.silence_seconds() > 1.0)
            assert told.changes == []

            opened = time.monotonic()
            proxy.set_mode(Mode.OPEN)
            await eventually(lambda: told.changes == [("ADDED", "meanwhile")])
            await heard_since(cached, opened)

            assert cluster.requests.by_verb_and_kind()["list", "Service"] == lists

    async def test_a_refusal_after_the_first_list_does_not_end_the_operator(
        self, cluster: KubeCluster, beside: KubeCluster, proxy: FaultyProxy, namespace: str
    ) -> None:
        """A server that has just been restarted may answer 403 or 404 for a moment."""
        told = Told(namespace)
        async with synced(cluster, told):
            for status in (403, 404, 500):
                proxy.once(Answer(status), path="/services?watch=true")
            proxy.cut()
            await beside.apply(service(namespace, "after"))
            await eventually(lambda: told.changes == [("ADDED", "after")])

            assert proxy.is_done

    async def test_a_watch_that_hangs_is_noticed(
        self,
        cluster: KubeCluster,
        beside: KubeCluster,
        proxy: FaultyProxy,
        namespace: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A connection that is open and says nothing is cut after its time, and opened anew."""
        monkeypatch.setattr("kubeautoml.cluster.kube_lists.WATCH_SILENCE_SECONDS", 1.0)
        monkeypatch.setattr("kubeautoml.cluster.kube_lists.WATCH_SECONDS", 600)
        told = Told(namespace)
        proxy.once(Silent(), path="/services?watch=true", times=2)
        async with synced(cluster, told) as cached:
            await beside.apply(service(namespace, "late"))
            await eventually(lambda: told.changes == [("ADDED", "late")])
            assert proxy.is_done

            proxy.set_mode(Mode.HANG)
            await eventually(lambda: cached.silence_seconds() > 2.0)
            opened = time.monotonic()
            proxy.set_mode(Mode.OPEN)
            await heard_since(cached, opened)

    async def test_a_healthy_watch_is_never_silent_for_long(
        self, cluster: KubeCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where nothing happens and a server sends no bookmarks: watches end, and are opened again."""
        monkeypatch.setattr("kubeautoml.cluster.kube_lists.WATCH_SECONDS", 1)
        async with synced(cluster) as cached:
            longest, end = 0.0, time.monotonic() + 4.0
            while time.monotonic() < end:
                longest = max(longest, cached.silence_seconds())
                await asyncio.sleep(0.05)

        assert longest < 3.5
        assert cluster.requests.by_verb_and_kind()["watch", "Pod"] >= 2


@pytest.mark.slow
async def test_a_restarted_api_server_costs_nothing() -> None:
    """Killed and started again, with an empty watch cache: caches go on, and tell what happened, once."""
    with running_control_plane(CRDS) as plane:
        await asyncio.to_thread(plane.create_namespace, "restart")
        client = filtered(plane.version).from_kubeconfig(path=plane.kubeconfig)
        told = Told("restart")
        async with synced(client, told) as cached:
            await client.apply(service("restart", "before"))
            killed = time.monotonic()
            await asyncio.to_thread(plane.restart_api_server)
            await client.apply(service("restart", "before", 81))
            await asyncio.to_thread(
                plane.admin.post, "/api/v1/namespaces/restart/services", service("restart", "after")
            )
            await eventually(lambda: ("ADDED", "after") in told.changes)
            await heard_since(cached, killed)

            found = await cached.list("Service", "restart", OF_JOB)
            assert found == await cached.list("Service", "restart", OF_JOB, fresh=True)
            assert [m["metadata"]["name"] for m in found] == ["after", "before"]
            assert told.changes.count(("ADDED", "after")) == 1
        client.close()
