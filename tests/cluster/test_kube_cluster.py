"""KubeCluster on a real API server: the contract, and what only a server can do."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import pytest

from cluster.contract import (
    ServerContract,
    eventually,
    make_automl_job,
    make_batch_job,
    make_lease,
    make_service,
    next_change,
)
from kubeautoml.api.errors import ClusterError, Conflict
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.cluster.kube import KubeCluster
from kubeautoml.cluster.resources import resource_of
from real.controlplane import ControlPlane
from real.filtered import filtered
from real.kubelet import Kubelet

pytestmark = pytest.mark.controlplane


@pytest.fixture
def cluster(control_plane: ControlPlane) -> Iterator[KubeCluster]:
    """As the admin: the contract creates jobs, which the operator may not."""
    opened = filtered(control_plane.version).from_kubeconfig(path=control_plane.kubeconfig)
    yield opened
    opened.close()


def path_of(ref: Ref) -> str:
    """URL path, for the admin."""
    return resource_of(ref.kind).path(ref.namespace, ref.name)


class TestKubeCluster(ServerContract):
    """The contract that memory and local pass, too."""

    @pytest.fixture
    def namespace(self, control_plane: ControlPlane) -> str:
        """One for the class: what a test leaves has a name of its own."""
        control_plane.create_namespace("contract")
        return "contract"


class TestLeases:
    """Create and replace, with the server's own idea of who was first; what leader election builds on. Calls block."""

    def test_a_lease_is_created_once(self, cluster: KubeCluster, namespace: str) -> None:
        """Of two that create it, one wins; the other hears of a conflict."""
        ref = Ref("Lease", namespace, f"lease-{uuid.uuid4().hex[:8]}")
        assert cluster.read_lease(ref) is None

        created = cluster.write_lease(make_lease(ref, "a"))
        with pytest.raises(Conflict):
            cluster.write_lease(make_lease(ref, "b"))

        read = cluster.read_lease(ref)
        assert read is not None and read["spec"] == created["spec"] == {"holderIdentity": "a"}

    def test_a_lease_is_replaced_by_who_saw_it_last(self, cluster: KubeCluster, namespace: str) -> None:
        """Of two that replace the same version, one wins."""
        ref = Ref("Lease", namespace, f"lease-{uuid.uuid4().hex[:8]}")
        seen = cluster.write_lease(make_lease(ref, "a"))

        replaced = cluster.write_lease({**seen, "spec": {"holderIdentity": "b"}})
        with pytest.raises(Conflict):
            cluster.write_lease({**seen, "spec": {"holderIdentity": "c"}})

        read = cluster.read_lease(ref)
        assert read is not None and read["spec"] == {"holderIdentity": "b"}
        assert replaced["metadata"]["resourceVersion"] != seen["metadata"]["resourceVersion"]


@pytest.mark.anyio
class TestOnlyAServer:
    """What memory and local need not know."""

    async def test_every_field_has_its_manager(
        self, cluster: KubeCluster, control_plane: ControlPlane, namespace: str
    ) -> None:
        """Spec and status are both ours, by server-side apply, as two sets of fields."""
        ref = Ref("AutoMLJob", namespace, "fields")
        await cluster.apply(make_automl_job(namespace, "fields"))
        await cluster.patch_status(ref, {"observedGeneration": 1})

        managers = control_plane.admin.get(path_of(ref))["metadata"]["managedFields"]

        ours = [m for m in managers if m["manager"] == "kubeautoml-operator"]
        assert {m["operation"] for m in ours} == {"Apply"}
        written = {field for m in ours for field in m["fieldsV1"]}
        # Before 1.22 a server kept one set for both, which the later request replaced.
        assert written >= ({"f:spec", "f:status"} if control_plane.version >= (1, 22) else {"f:status"})

    async def test_a_field_that_we_do_not_send_is_another_manager_s_to_set(
        self, cluster: KubeCluster, control_plane: ControlPlane, namespace: str
    ) -> None:
        """An autoscaler's replicas stay when the manifest says nothing about them."""
        manifest = make_batch_job(namespace, "shared")
        del manifest["spec"]["parallelism"]
        await cluster.apply(manifest)
        control_plane.admin.patch(path_of(Ref.of(manifest)), {"spec": {"parallelism": 0}})

        applied = await cluster.apply(manifest)

        assert applied["spec"]["parallelism"] == 0

    async def test_a_manifest_of_another_incarnation_is_a_conflict(self, cluster: KubeCluster, namespace: str) -> None:
        """An object that was recreated meanwhile is not overwritten."""
        applied = await cluster.apply(make_service(namespace, "again"))
        stale = make_service(namespace, "again")
        stale["metadata"]["uid"] = "0" + applied["metadata"]["uid"][1:-1] + "0"

        with pytest.raises(Conflict):
            await cluster.apply(stale)

    async def test_lists_are_read_page_by_page(
        self, cluster: KubeCluster, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """More objects than fit on a page all arrive, in as many requests as there are pages."""
        monkeypatch.setattr("kubeautoml.cluster.kube_lists.PAGE_SIZE", 2)
        for number in range(5):
            await cluster.apply(make_service(namespace, f"page-{number}"))

        found = await cluster.list("Service", namespace)

        assert [m["metadata"]["name"] for m in found] == [f"page-{number}" for number in range(5)]
        assert cluster.requests.by_verb_and_kind()["list", "Service"] == 3

    async def test_a_watch_goes_on_after_the_server_ended_it(
        self, cluster: KubeCluster, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Watches end after their time: nothing is told twice, nothing is missed."""
        monkeypatch.setattr("kubeautoml.cluster.kube_lists.WATCH_SECONDS", 1)
        await cluster.apply(make_service(namespace, "first"))
        changes = cluster.watch("Service", namespace)
        assert (await next_change(changes, "first")).type == "ADDED"
        await eventually(lambda: _requests(cluster, "watch", 3), "the third watch")

        await cluster.apply(make_service(namespace, "second"))

        change = await asyncio.wait_for(anext(changes), 10)
        assert (change.type, change.manifest["metadata"]["name"]) == ("ADDED", "second")
        assert cluster.requests.by_verb_and_kind()["list", "Service"] == 1
        await changes.aclose()  # type: ignore[attr-defined]

    async def test_a_watch_survives_a_broken_connection(self, cluster: KubeCluster, namespace: str) -> None:
        """A connection that is cut in the middle is opened again where it was."""
        changes = cluster.watch("Service", namespace)
        await cluster.apply(make_service(namespace, "before"))
        await next_change(changes, "before")
        await eventually(lambda: _is_open(cluster), "the watch to be open")

        for stream in cluster._calls.streams:
            stream._response.shutdown()  # type: ignore[union-attr]
        await cluster.apply(make_service(namespace, "after"))

        change = await asyncio.wait_for(anext(changes), 20)
        assert (change.type, change.manifest["metadata"]["name"]) == ("ADDED", "after")
        await changes.aclose()  # type: ignore[attr-defined]

    async def test_a_watch_whose_version_was_forgotten_tells_the_difference(
        self, cluster: KubeCluster, control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After 410 Gone it lists again, and tells what was added, changed, deleted and recreated meanwhile."""
        admin, path = control_plane.admin, f"/api/v1/namespaces/{namespace}/events"
        for name in ("changed", "deleted", "recreated", "untouched"):
            admin.post(path, make_event(namespace, name))
        earlier = iter([list(cluster._lists.pages("Event", namespace, None))])
        admin.patch(f"{path}/changed", {"message": "changed"})
        for name in ("deleted", "recreated"):
            admin.delete(f"{path}/{name}")
        for name in ("recreated", "added"):
            admin.post(path, make_event(namespace, name))
        control_plane.forget_history()
        really = cluster._lists.pages
        monkeypatch.setattr(cluster._lists, "pages", lambda *a: next(earlier, None) or really(*a))

        changes = cluster.watch("Event", namespace)
        told = [await asyncio.wait_for(anext(changes), 10) for _ in range(9)]
        await changes.aclose()  # type: ignore[attr-defined]

        names = [(change.type, change.manifest["metadata"]["name"]) for change in told]
        assert names[:4] == [("ADDED", name) for name in ("changed", "deleted", "recreated", "untouched")]
        assert sorted(names[4:]) == [
            ("ADDED", "added"),
            ("ADDED", "recreated"),
            ("DELETED", "deleted"),
            ("DELETED", "recreated"),
            ("MODIFIED", "changed"),
        ]

    async def test_the_same_event_is_counted_up(
        self, cluster: KubeCluster, control_plane: ControlPlane, namespace: str
    ) -> None:
        """Two of the same are one Event with count 2; another message is another Event."""
        job = await cluster.apply(make_automl_job(namespace, "noisy"))
        for message in ("two workers", "two workers", "three workers"):
            event = EventOrder("Normal", "WorkersCreated", message)
            await cluster.emit(Ref.of(job), job["metadata"]["uid"], event)

        found = control_plane.admin.items(f"/api/v1/namespaces/{namespace}/events")

        seen = {e["message"]: e["count"] for e in found if e["involvedObject"]["uid"] == job["metadata"]["uid"]}
        assert seen == {"two workers": 2, "three workers": 1}

    async def test_a_refusal_says_the_server_s_reason(self, cluster: KubeCluster, namespace: str) -> None:
        """A manifest that breaks a rule of the server is Invalid, with the field in the message."""
        manifest = make_service(namespace, "bad")
        manifest["spec"]["ports"][0]["port"] = 70000

        with pytest.raises(ClusterError, match=r"spec\.ports\[0\]\.port") as error:
            await cluster.apply(manifest)

        assert error.value.reason == "Invalid"

    async def test_a_kind_that_is_not_ours_is_refused_here(self, cluster: KubeCluster, namespace: str) -> None:
        """The client has no way to a secret at all."""
        with pytest.raises(ClusterError, match="kind must be one of"):
            await cluster.list("Secret", namespace)

    async def test_a_wrong_token_says_what_to_do(self, control_plane: ControlPlane) -> None:
        """401 is one line with the way out."""
        stranger = KubeCluster.from_kubeconfig(path=control_plane.kubeconfig_for("stranger", "no-such-token"))

        with pytest.raises(ClusterError, match="does not accept these credentials"):
            await stranger.list("AutoMLJob")

        stranger.close()

    async def test_the_context_s_namespace_is_the_default_one(self, control_plane: ControlPlane) -> None:
        """As kubectl does it."""
        opened = KubeCluster.from_kubeconfig(path=control_plane.kubeconfig_for("admin", "admin-token", "team-b"))

        assert opened.default_namespace == "team-b"
        opened.close()

    async def test_some_fields_are_patched_as_a_person_would(self, cluster: KubeCluster, namespace: str) -> None:
        """merge_patch changes what is named and nothing else."""
        job = await cluster.apply(make_automl_job(namespace, "paused"))

        changed = await cluster.merge_patch(Ref.of(job), {"spec": {"suspend": True}})

        assert changed["spec"] == {**job["spec"], "suspend": True}

    async def test_a_pod_s_log_is_followed_to_its_end(
        self, cluster: KubeCluster, control_plane: ControlPlane, kubelet: Kubelet, namespace: str
    ) -> None:
        """Lines come as they are printed, and the stream ends with the pod; without follow, what is there."""
        program = "import time; print('one'); time.sleep(1); print('two')"
        container = {"name": "main", "image": "test:none", "command": ["python", "-c", program]}
        pod = {"metadata": {"name": "talker"}, "spec": {"restartPolicy": "Never", "containers": [container]}}
        await asyncio.to_thread(control_plane.admin.post, f"/api/v1/namespaces/{namespace}/pods", pod)
        await eventually(lambda: _prints(kubelet, namespace, "talker"), "the pod to print")
        ref = Ref("Pod", namespace, "talker")

        followed = [line async for line in cluster.pod_log(ref, follow=True)]

        assert followed == ["one", "two"]
        assert [line async for line in cluster.pod_log(ref, tail_lines=1)] == ["two"]


async def _prints(kubelet: Kubelet, namespace: str, pod: str) -> bool:
    return kubelet.logs(namespace, pod) != ""


async def _requests(cluster: KubeCluster, verb: str, number: int) -> bool:
    return cluster.requests.by_verb_and_kind().get((verb, "Service"), 0) >= number


async def _is_open(cluster: KubeCluster) -> bool:
    return any(stream._response is not None for stream in cluster._calls.streams)


def make_event(namespace: str, name: str) -> Manifest:
    """An Event, the one kind that the API server does not cache."""
    involved = {"kind": "Service", "namespace": namespace, "name": name}
    return {"metadata": {"name": name, "namespace": namespace}, "involvedObject": involved, "reason": "Test"}
