"""Requests to a real API server whose network or answers fail, through a proxy that does it on cue; watches are in
`test_cluster_watch_faults`."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster.behind_proxy import Told, eventually, service, synced
from cluster.contract import make_automl_job, make_lease
from kubeautoml.api.errors import ClusterError, Conflict, Throttled
from kubeautoml.api.objects import EventOrder, Ref
from kubeautoml.cluster import connection
from kubeautoml.cluster.connection import Connection
from kubeautoml.cluster.kube import KubeCluster
from real.controlplane import ADMIN_TOKEN, ControlPlane
from real.filtered import filtered
from real.proxy import Answer, Cut, FaultyProxy, Late, Lost

pytestmark = [pytest.mark.controlplane, pytest.mark.anyio]


@pytest.fixture
def cluster(proxied: KubeCluster) -> KubeCluster:
    return proxied


class TestWrites:
    """A write is repeated only where that is safe."""

    async def test_an_apply_whose_answer_is_lost_is_repeated(
        self, cluster: KubeCluster, proxy: FaultyProxy, namespace: str
    ) -> None:
        """Server-side apply of the same thing changes nothing the second time."""
        proxy.once(Lost(), method="PATCH")

        stored = await cluster.apply(service(namespace, "once"))

        assert len([seen for seen in proxy.seen if seen.startswith("PATCH")]) == 2
        assert stored["metadata"]["resourceVersion"] == (await _get(cluster, namespace, "once"))["resourceVersion"]
        assert len(await cluster.list("Service", namespace)) == 1

    async def test_a_delete_whose_answer_is_lost_is_repeated(
        self, cluster: KubeCluster, proxy: FaultyProxy, namespace: str
    ) -> None:
        """With a uid it can meet no other incarnation."""
        stored = await cluster.apply(service(namespace, "gone"))
        proxy.once(Lost(), method="DELETE")

        await cluster.delete(Ref("Service", namespace, "gone"), uid=stored["metadata"]["uid"])

        assert await cluster.get(Ref("Service", namespace, "gone")) is None

    async def test_a_creation_whose_answer_is_lost_is_not_repeated(
        self, cluster: KubeCluster, proxy: FaultyProxy, namespace: str
    ) -> None:
        """Nobody knows whether the event is there; the caller is told, and the server was asked once."""
        job = await cluster.apply(make_automl_job(namespace, "job"))
        proxy.once(Lost(), method="POST")

        with pytest.raises(ClusterError, match="does not answer"):
            await cluster.emit(Ref.of(job), job["metadata"]["uid"], EventOrder("Normal", "Test", "once"))

        assert len([seen for seen in proxy.seen if seen.startswith("POST")]) == 1

    async def test_a_write_that_never_arrived_is_repeated(
        self, cluster: KubeCluster, proxy: FaultyProxy, namespace: str
    ) -> None:
        """Cut before the server heard of it."""
        proxy.once(Cut(), method="PATCH")

        await cluster.apply(service(namespace, "again"))

        assert await cluster.get(Ref("Service", namespace, "again")) is not None

    async def test_a_conflict_is_the_caller_s(self, cluster: KubeCluster, proxy: FaultyProxy, namespace: str) -> None:
        """409 is not repeated here: only a new look tells what to do."""
        proxy.once(Answer(409), method="PATCH")

        with pytest.raises(Conflict):
            await cluster.apply(service(namespace, "taken"))

        assert len([seen for seen in proxy.seen if seen.startswith("PATCH")]) == 1

    async def test_after_stop_writing_nothing_is_written(
        self, cluster: KubeCluster, proxy: FaultyProxy, namespace: str
    ) -> None:
        """Neither what comes later nor what waits for its turn; reads go on."""
        proxy.once(Answer(429, {"Retry-After": "1"}), method="GET")
        with suppress(Throttled):
            await cluster.get(Ref("Service", namespace, "any"))
        waiting = asyncio.create_task(cluster.apply(service(namespace, "late")))
        await asyncio.sleep(0.1)

        cluster.stop_writing()

        with pytest.raises(ClusterError, match="write nothing"):
            await waiting
        with pytest.raises(ClusterError, match="write nothing"):
            await cluster.delete(Ref("Service", namespace, "any"))
        assert await cluster.list("Service", namespace) == []
        assert not [seen for seen in proxy.seen if seen.startswith(("PATCH", "DELETE"))]


class TestThrottling:
    """A server that answers 429 is left alone."""

    async def test_retry_after_holds_up_all_requests_but_the_lease_s(
        self, cluster: KubeCluster, proxy: FaultyProxy, namespace: str
    ) -> None:
        """The caller is told how long; everything else waits so long; leader election does not."""
        await cluster.list("Service", namespace)
        proxy.once(Answer(429, {"Retry-After": "2"}), method="PATCH")
        began = time.monotonic()

        with pytest.raises(Throttled) as throttled:
            await cluster.apply(service(namespace, "busy"))
        answered = time.monotonic()
        await asyncio.to_thread(cluster.read_lease, Ref("Lease", namespace, "leader"))
        lease_seconds = time.monotonic() - answered
        read, written = (
            asyncio.create_task(cluster.list("Service", namespace)),
            cluster.apply(service(namespace, "busy")),
        )
        await written
        await read

        assert throttled.value.retry_after_seconds == 2.0
        assert lease_seconds < 1.5
        assert time.monotonic() - began >= 2.0
        assert cluster.requests.throttled == 1
        assert cluster.requests.waited_seconds >= 3.0

    async def test_a_watch_that_is_throttled_waits_as_long(
        self, cluster: KubeCluster, beside: KubeCluster, proxy: FaultyProxy, namespace: str
    ) -> None:
        """And goes on where it was."""
        told = Told(namespace)
        async with synced(cluster, told):
            proxy.once(Answer(429, {"Retry-After": "1"}), path="/services?watch=true")
            proxy.cut()
            await beside.apply(service(namespace, "after"))
            await eventually(lambda: told.changes == [("ADDED", "after")])

            assert proxy.is_done

    async def test_a_wish_without_measure_is_cut_short(
        self, cluster: KubeCluster, proxy: FaultyProxy, namespace: str
    ) -> None:
        """An hour, or nonsense, from a proxy in between must not stop the operator."""
        proxy.once(Answer(503, {"Retry-After": "3600"}), method="GET")

        with pytest.raises(Throttled) as throttled:
            await cluster.get(Ref("Service", namespace, "any"))

        assert throttled.value.retry_after_seconds == 60.0


class TestSlowServer:
    """The event loop does not wait for the server."""

    async def test_slow_answers_do_not_hold_the_loop_up(
        self, cluster: KubeCluster, proxy: FaultyProxy, namespace: str
    ) -> None:
        """Forty requests that take half a second each; the loop turns all the time."""
        proxy.once(Late(0.5), times=40)
        gets = [asyncio.create_task(cluster.get(Ref("Service", namespace, f"s{n}"))) for n in range(40)]
        longest = 0.0
        while not all(task.done() for task in gets):
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)

        assert [task.result() for task in gets] == [None] * 40
        assert proxy.is_done
        assert longest < 0.4


class TestDeadSockets:
    """A load balancer that failed leaves connections that look open, and over which nothing comes."""

    async def test_a_lease_is_renewed_at_the_second_try(
        self, cluster: KubeCluster, proxy: FaultyProxy, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many dead connections other requests have left: a leader has time for no more than two."""
        monkeypatch.setattr("kubeautoml.cluster.kube.LEASE_SECONDS", 1.0)
        ref = Ref("Lease", namespace, "leader")
        proxy.once(Late(0.3), times=8)
        await asyncio.gather(*(cluster.get(Ref("Service", namespace, f"s{n}")) for n in range(8)))
        lease = await asyncio.to_thread(cluster.write_lease, make_lease(ref, "a"))
        proxy.freeze()

        with pytest.raises(ClusterError, match="does not answer"):
            await asyncio.to_thread(cluster.write_lease, lease)

        renewed = await asyncio.to_thread(cluster.write_lease, {**lease, "spec": {"holderIdentity": "b"}})
        assert renewed["spec"]["holderIdentity"] == "b"

    async def test_one_request_finds_out_for_all(
        self, cluster: KubeCluster, proxy: FaultyProxy, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After one silence the other idle connections are not tried any more."""
        monkeypatch.setattr("kubeautoml.cluster.kube_calls.READ_SECONDS", 1.0)
        proxy.once(Late(0.3), times=8)
        await asyncio.gather(*(cluster.get(Ref("Service", namespace, f"s{n}")) for n in range(8)))
        proxy.freeze()

        began = time.monotonic()
        with pytest.raises(ClusterError, match="does not answer"):
            await cluster.get(Ref("Service", namespace, "any"))
        waited = time.monotonic() - began

        assert 0.9 < waited < 1.9
        assert await asyncio.gather(*(cluster.get(Ref("Service", namespace, f"s{n}")) for n in range(8))) == [None] * 8


class TestCredentials:
    """Tokens are replaced in their files while we run."""

    async def test_a_token_that_was_replaced_in_its_file_is_read_again(
        self,
        cluster: KubeCluster,
        proxy: FaultyProxy,
        kubeconfig: Path,
        namespace: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The refused request is sent again with the new one; with none there, the refusal is the caller's."""
        monkeypatch.setattr(connection, "RENEWAL_SECONDS", 0.0)
        file = kubeconfig.with_name("token")
        file.write_text("expired")
        proxy.once(Answer(401))
        with pytest.raises(ClusterError, match="does not accept these credentials"):
            await cluster.list("Service", namespace)

        file.write_text(ADMIN_TOKEN)

        assert await cluster.list("Service", namespace) == []

    async def test_a_pod_s_token_is_read_again(
        self,
        control_plane: ControlPlane,
        proxy: FaultyProxy,
        namespace: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Also within the minute for which the client library remembers it."""
        (tmp_path / "token").write_text("expired")
        (tmp_path / "namespace").write_text("kubeautoml-system")
        (tmp_path / "ca.crt").write_bytes(control_plane.ca_file.read_bytes())
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(proxy.port))
        monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
        monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
        monkeypatch.setattr(connection, "_IN_CLUSTER", tmp_path)
        monkeypatch.setattr(connection, "RENEWAL_SECONDS", 0.0)
        opened = filtered(control_plane.version)(Connection.in_cluster())
        (tmp_path / "token").write_text(ADMIN_TOKEN)

        assert await opened.list("Service", namespace) == []
        assert opened.default_namespace == "kubeautoml-system"
        opened.close()


async def _get(cluster: KubeCluster, namespace: str, name: str) -> dict[str, Any]:
    found = await cluster.get(Ref("Service", namespace, name))
    assert found is not None
    return dict(found["metadata"])
