"""What every Cluster must do: one suite that memory, local and kube inherit.

A subclass gives the fixtures `cluster` (open, closed after the test) and, where a server needs one, `namespace`; and
`edit`, which changes an object the way another client would. Everything is waited for with a deadline, since a real
server does some of it in the background.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.job_status import RankedTrial
from kubeautoml.api.names import LABEL_JOB
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.cluster.base import Change, Cluster
from kubeautoml.cluster.resources import resource_of
from real.controlplane import ControlPlane

DEADLINE_SECONDS = 30.0


def make_service(
    namespace: str,
    name: str,
    *,
    labels: dict[str, str] | None = None,
    owner: Manifest | None = None,
    ports: tuple[int, ...] = (80,),
) -> Manifest:
    """A Service: an object that nothing acts on."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(namespace, name, labels, owner),
        "spec": {
            "selector": {"app": name},
            "ports": [{"name": f"p{p}", "port": p, "targetPort": p, "protocol": "TCP"} for p in ports],
        },
    }


def make_batch_job(namespace: str, name: str, *, owner: Manifest | None = None) -> Manifest:
    """A batch Job that asks for no pods."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(namespace, name, None, owner),
        "spec": {
            "parallelism": 0,
            "backoffLimit": 3,
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "main", "image": "kubeautoml-test:none", "command": ["sleep", "60"]}],
                },
            },
        },
    }


def make_automl_job(namespace: str, name: str, *, max_trials: int = 10) -> Manifest:
    """An AutoMLJob with nothing but what it must have."""
    return {
        "apiVersion": "kubeautoml.dev/v1alpha1",
        "kind": "AutoMLJob",
        "metadata": _metadata(namespace, name, None, None),
        "spec": {
            "task": {"type": "TabularClassification", "target": "y"},
            "dataset": {"train": {"uri": "s3://lake/train.csv"}},
            "budget": {"maxTrials": max_trials},
            "output": {"uri": "s3://models/team-a"},
        },
    }


def make_lease(ref: Ref, holder: str) -> Manifest:
    """A Lease that says no more than who holds it."""
    metadata = {"name": ref.name, "namespace": ref.namespace}
    spec = {"holderIdentity": holder}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def make_status(*, trials: int = 1, **extra: Any) -> Manifest:
    """A status of an AutoMLJob."""
    condition = {
        "type": "Accepted",
        "status": "True",
        "reason": "SpecValid",
        "message": "checked",
        "lastTransitionTime": "2026-01-01T12:00:00Z",
        "observedGeneration": 1,
    }
    return {"observedGeneration": 1, "conditions": [condition], "trials": {"total": trials}, **extra}


def _metadata(namespace: str, name: str, labels: dict[str, str] | None, owner: Manifest | None) -> Manifest:
    metadata: Manifest = {"name": name, "namespace": namespace}
    if labels:
        metadata["labels"] = labels
    if owner:
        metadata["ownerReferences"] = [
            {
                "apiVersion": owner["apiVersion"],
                "kind": owner["kind"],
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return metadata


async def eventually(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until it holds."""
    end = asyncio.get_running_loop().time() + DEADLINE_SECONDS
    while not await holds():
        assert asyncio.get_running_loop().time() < end, f"not within {DEADLINE_SECONDS:g} s: {what}"
        await asyncio.sleep(0.02)


async def next_change(changes: AsyncIterator[Change], name: str) -> Change:
    """The next change of the object with that name; those of others are skipped."""

    async def search() -> Change:
        while True:
            change = await anext(changes)
            if change.manifest["metadata"]["name"] == name:
                return change

    return await asyncio.wait_for(search(), DEADLINE_SECONDS)


@pytest.mark.anyio
class ClusterContract:
    """Inherit, and give `cluster` and `edit`."""

    @pytest.fixture
    def namespace(self) -> str:
        return "team-a"

    @pytest.fixture
    def name(self) -> str:
        """A name no other test uses, since a server outlives a test."""
        return f"t-{uuid.uuid4().hex[:8]}"

    async def messages(self, cluster: Any, namespace: str, uid: str) -> list[str]:
        """Of all events about an object, read as another client would."""
        raise NotImplementedError

    async def edit(self, cluster: Any, ref: Ref, patch: Manifest) -> None:
        """Merge-patch (RFC 7386) an object, or its status, as another client."""
        raise NotImplementedError

    # Reading

    async def test_a_missing_object_is_none(self, cluster: Cluster, namespace: str, name: str) -> None:
        """get answers None for what is not there."""
        assert await cluster.get(Ref("Service", namespace, name)) is None

    async def test_an_applied_object_is_read_back_with_the_server_s_stamps(
        self, cluster: Cluster, namespace: str, name: str
    ) -> None:
        """A stored object has kind, uid, resourceVersion and creation time, from apply, get and list alike."""
        ref = Ref("Service", namespace, name)

        applied = await cluster.apply(make_service(namespace, name))

        assert (applied["apiVersion"], applied["kind"]) == ("v1", "Service")
        assert {"uid", "resourceVersion", "creationTimestamp"} <= applied["metadata"].keys()
        assert await cluster.get(ref) == applied
        assert [m for m in await cluster.list("Service", namespace) if m["metadata"]["name"] == name] == [applied]

    async def test_what_comes_out_is_a_copy(self, cluster: Cluster, namespace: str, name: str) -> None:
        """Changing a manifest that came out changes nothing inside."""
        applied = await cluster.apply(make_service(namespace, name))

        applied["spec"]["selector"]["app"] = "changed"

        stored = await cluster.get(Ref("Service", namespace, name))
        assert stored is not None and stored["spec"]["selector"] == {"app": name}

    async def test_list_selects_by_labels_and_namespace(self, cluster: Cluster, namespace: str, name: str) -> None:
        """All given labels must match; no namespace means all of them."""
        labels = {LABEL_JOB: name, "tier": "a"}
        await cluster.apply(make_service(namespace, f"{name}-1", labels=labels))
        await cluster.apply(make_service(namespace, f"{name}-2", labels={LABEL_JOB: name, "tier": "b"}))

        async def names(where: str | None, **wanted: str) -> list[str]:
            found = await cluster.list("Service", where, {LABEL_JOB: name, **wanted})
            return sorted(m["metadata"]["name"] for m in found)

        assert await names(namespace) == [f"{name}-1", f"{name}-2"]
        assert await names(None, tier="b") == [f"{name}-2"]
        assert await names(f"{namespace}-other") == []
        assert await names(namespace, tier="c") == []

    # Applying

    async def test_applying_again_changes_nothing(self, cluster: Cluster, namespace: str, name: str) -> None:
        """The second apply of the same manifest leaves the resourceVersion."""
        first = await cluster.apply(make_service(namespace, name))

        second = await cluster.apply(make_service(namespace, name))

        assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]

    async def test_an_applied_change_keeps_the_uid_and_raises_the_generation(
        self, cluster: Cluster, namespace: str, name: str
    ) -> None:
        """generation counts changes of the spec, not of labels."""
        first = await cluster.apply(make_automl_job(namespace, name))
        labelled = make_automl_job(namespace, name)
        labelled["metadata"]["labels"] = {"tier": "a"}

        second = await cluster.apply(labelled)
        third = await cluster.apply(make_automl_job(namespace, name, max_trials=20))

        assert {first["metadata"]["uid"], second["metadata"]["uid"]} == {third["metadata"]["uid"]}
        assert second["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]
        assert second["metadata"]["generation"] == first["metadata"]["generation"]
        assert third["metadata"]["generation"] == first["metadata"]["generation"] + 1
        assert third["spec"]["budget"]["maxTrials"] == 20

    async def test_fields_no_longer_sent_disappear(self, cluster: Cluster, namespace: str, name: str) -> None:
        """What our manager sent before and does not send now is removed."""
        before = make_service(namespace, name, labels={"tier": "a", "team": "x"}, ports=(80, 81))
        before["metadata"]["annotations"] = {"note": "1"}
        await cluster.apply(before)

        after = await cluster.apply(make_service(namespace, name, labels={"team": "x"}))

        assert after["metadata"]["labels"] == {"team": "x"}
        assert not after["metadata"].get("annotations")
        assert [p["port"] for p in after["spec"]["ports"]] == [80]

    async def test_fields_of_others_stay(self, cluster: Cluster, namespace: str, name: str) -> None:
        """Another client's label survives our applies, also when we stop sending ours."""
        ref = Ref("Service", namespace, name)
        await cluster.apply(make_service(namespace, name, labels={"tier": "a"}))
        await self.edit(cluster, ref, {"metadata": {"labels": {"cost-centre": "42"}}})

        again = await cluster.apply(make_service(namespace, name, labels={"tier": "a"}))
        without = await cluster.apply(make_service(namespace, name))

        assert again["metadata"]["labels"] == {"tier": "a", "cost-centre": "42"}
        assert without["metadata"]["labels"] == {"cost-centre": "42"}

    async def test_our_fields_win_over_another_client_s_edit(self, cluster: Cluster, namespace: str, name: str) -> None:
        """A field we send is ours: somebody else's change of it is undone by the next apply."""
        await cluster.apply(make_batch_job(namespace, name))
        await self.edit(cluster, Ref("Job", namespace, name), {"spec": {"backoffLimit": 9}})

        applied = await cluster.apply(make_batch_job(namespace, name))

        assert applied["spec"]["backoffLimit"] == 3

    async def test_a_manifest_without_a_namespace_is_refused(self, cluster: Cluster, name: str) -> None:
        """A namespaced object without a namespace is an error of ours, said in one line."""
        with pytest.raises(ClusterError) as error:
            await cluster.apply(make_service("", name))

        assert "\n" not in str(error.value)

    # Status

    async def test_the_status_is_written_apart_from_the_spec(self, cluster: Cluster, namespace: str, name: str) -> None:
        """patch_status leaves spec and generation; apply ignores a status and leaves the stored one."""
        ref = Ref("AutoMLJob", namespace, name)
        first = await cluster.apply(make_automl_job(namespace, name))

        await cluster.patch_status(ref, make_status(trials=3))
        await cluster.apply({**make_automl_job(namespace, name), "status": make_status(trials=99)})

        stored = await cluster.get(ref)
        assert stored is not None and stored["status"]["trials"]["total"] == 3
        assert stored["spec"] == first["spec"]
        assert stored["metadata"]["generation"] == first["metadata"]["generation"]

    async def test_the_whole_status_is_ours(self, cluster: Cluster, namespace: str, name: str) -> None:
        """A status field that is not sent again disappears; the same status again changes nothing."""
        ref = Ref("AutoMLJob", namespace, name)
        await cluster.apply(make_automl_job(namespace, name))
        await cluster.patch_status(ref, make_status(startTime="2026-01-01T12:00:00Z"))

        await cluster.patch_status(ref, make_status(trials=2))
        stored = await cluster.get(ref)
        await cluster.patch_status(ref, make_status(trials=2))
        again = await cluster.get(ref)

        assert stored is not None and "startTime" not in stored["status"]
        assert stored["status"]["trials"]["total"] == 2
        assert len(stored["status"]["conditions"]) == 1
        assert again == stored

    async def test_a_best_trial_without_parameters_follows_one_with_some(
        self, cluster: Cluster, namespace: str, name: str
    ) -> None:
        """A server-side apply of an empty map where there was a full one leaves null, which real servers refuse."""
        ref = Ref("AutoMLJob", namespace, name)
        await cluster.apply(make_automl_job(namespace, name))
        first = RankedTrial(trial=1, value="0.8", family="Linear", parameters={"C": "1"})
        second = RankedTrial(trial=2, value="0.9", family="LightGBM")

        for best in (first, second):
            await cluster.patch_status(ref, make_status(best=best.to_manifest()))

        stored = await cluster.get(ref)
        assert stored is not None and RankedTrial.model_validate(stored["status"]["best"]) == second

    async def test_what_others_left_in_the_status_goes(self, cluster: Cluster, namespace: str, name: str) -> None:
        """Written by hand, say: the status is as it was sent, and the next pass finds nothing to write."""
        ref = Ref("AutoMLJob", namespace, name)
        await cluster.apply(make_automl_job(namespace, name))
        odd = {"startTime": "2026-01-01T12:00:00Z", "budgetUsed": {"endedBy": "Nobody", "trials": 7}}
        await self.edit(cluster, ref, {"status": odd})

        await cluster.patch_status(ref, make_status(trials=2, budgetUsed={"trials": 1}))

        stored = await cluster.get(ref)
        assert stored is not None
        assert (stored["status"].get("startTime"), stored["status"]["budgetUsed"]) == (None, {"trials": 1})

    async def test_the_status_of_a_missing_object_is_an_error(
        self, cluster: Cluster, namespace: str, name: str
    ) -> None:
        """patch_status never creates."""
        with pytest.raises(ClusterError):
            await cluster.patch_status(Ref("AutoMLJob", namespace, name), make_status())

    # Deleting

    async def test_delete_says_whether_there_was_something(self, cluster: Cluster, namespace: str, name: str) -> None:
        """True once, then False."""
        ref = Ref("Service", namespace, name)
        await cluster.apply(make_service(namespace, name))

        assert await cluster.delete(ref) is True
        await self._gone(cluster, ref)
        assert await cluster.delete(ref) is False

    async def test_delete_with_a_uid_spares_another_incarnation(
        self, cluster: Cluster, namespace: str, name: str
    ) -> None:
        """An object that was recreated meanwhile is not the one that was meant."""
        ref = Ref("Service", namespace, name)
        applied = await cluster.apply(make_service(namespace, name))

        assert await cluster.delete(ref, uid=str(uuid.uuid4())) is False
        assert await cluster.get(ref) is not None
        assert await cluster.delete(ref, uid=applied["metadata"]["uid"]) is True

    async def test_dependents_go_with_their_owner(self, cluster: Cluster, namespace: str, name: str) -> None:
        """The garbage collector follows ownerReferences over more than one step; what has no owner stays."""
        job = await cluster.apply(make_automl_job(namespace, name))
        child = await cluster.apply(make_batch_job(namespace, name, owner=job))
        await cluster.apply(make_service(namespace, f"{name}-grandchild", owner=child))
        await cluster.apply(make_service(namespace, f"{name}-stranger"))

        await cluster.delete(Ref("AutoMLJob", namespace, name))

        await self._gone(cluster, Ref("Job", namespace, name))
        await self._gone(cluster, Ref("Service", namespace, f"{name}-grandchild"))
        assert await cluster.get(Ref("Service", namespace, f"{name}-stranger")) is not None

    async def test_a_child_of_an_owner_that_is_gone_is_collected(
        self, cluster: Cluster, namespace: str, name: str
    ) -> None:
        """A child that is applied after its owner was deleted does not stay behind."""
        job = await cluster.apply(make_automl_job(namespace, name))
        await cluster.delete(Ref("AutoMLJob", namespace, name))
        await self._gone(cluster, Ref("AutoMLJob", namespace, name))

        await cluster.apply(make_service(namespace, name, owner=job))

        await self._gone(cluster, Ref("Service", namespace, name))
        assert name not in [m["metadata"]["name"] for m in await cluster.list("Service", namespace)]

    async def _gone(self, cluster: Cluster, ref: Ref) -> None:
        async def is_gone() -> bool:
            return await cluster.get(ref) is None

        await eventually(is_gone, f"{ref} is gone")

    # Watching

    async def test_a_watch_tells_what_is_there_and_then_every_change_in_order(
        self, cluster: Cluster, namespace: str, name: str
    ) -> None:
        """ADDED for what exists, then ADDED, MODIFIED and DELETED as they happen, each with the object."""
        await cluster.apply(make_service(namespace, f"{name}-old"))
        changes = cluster.watch("Service", namespace)
        try:
            there = await next_change(changes, f"{name}-old")

            await cluster.apply(make_service(namespace, name))
            added = await next_change(changes, name)
            await cluster.apply(make_service(namespace, name, ports=(90,)))
            modified = await next_change(changes, name)
            await cluster.delete(Ref("Service", namespace, name))
            deleted = await next_change(changes, name)

            assert [there.type, added.type, modified.type, deleted.type] == ["ADDED", "ADDED", "MODIFIED", "DELETED"]
            assert modified.manifest["kind"] == "Service"
            assert modified.manifest["spec"]["ports"][0]["port"] == 90
            assert deleted.manifest["metadata"]["uid"] == added.manifest["metadata"]["uid"]
        finally:
            await changes.aclose()  # type: ignore[attr-defined]

    async def test_watchers_do_not_disturb_each_other(self, cluster: Cluster, namespace: str, name: str) -> None:
        """Two watches of the same kind each see everything; one that was left costs the other nothing."""
        left, stays = cluster.watch("Service", namespace), cluster.watch("Service", None)
        await cluster.apply(make_service(namespace, name))
        assert (await next_change(left, name)).type == "ADDED"
        assert (await next_change(stays, name)).type == "ADDED"

        await left.aclose()  # type: ignore[attr-defined]
        await cluster.delete(Ref("Service", namespace, name))

        assert (await next_change(stays, name)).type == "DELETED"
        await stays.aclose()  # type: ignore[attr-defined]

    async def test_a_watch_can_be_of_what_has_a_label(self, cluster: Cluster, namespace: str, name: str) -> None:
        """Only objects with the label are told of; an empty value asks only that the label be there."""
        await cluster.apply(make_service(namespace, f"{name}-without"))
        await cluster.apply(make_service(namespace, f"{name}-there", labels={LABEL_JOB: name}))
        changes = cluster.watch("Service", namespace, {LABEL_JOB: ""})
        try:
            await next_change(changes, f"{name}-there")
            await cluster.apply(make_service(namespace, f"{name}-none-either"))
            await cluster.apply(make_service(namespace, name, labels={LABEL_JOB: name}))
            async with asyncio.timeout(DEADLINE_SECONDS):
                told = []
                while name not in told:
                    told.append((await anext(changes)).manifest["metadata"]["name"])

            assert not {f"{name}-without", f"{name}-none-either"} & set(told)
        finally:
            await changes.aclose()  # type: ignore[attr-defined]

    async def test_a_watch_of_a_label_tells_what_gets_and_what_loses_it(
        self, cluster: Cluster, namespace: str, name: str
    ) -> None:
        """For who watches a label, an object is there while it has it."""
        manifest = make_service(namespace, name)
        changes = cluster.watch("Service", namespace, {LABEL_JOB: ""})
        try:
            await cluster.apply(manifest)
            await cluster.apply(make_service(namespace, name, labels={LABEL_JOB: name}))
            added = await next_change(changes, name)
            await cluster.apply(manifest)
            deleted = await next_change(changes, name)
            await cluster.apply(make_service(namespace, name, labels={LABEL_JOB: name}))
            again = await next_change(changes, name)

            assert [added.type, deleted.type, again.type] == ["ADDED", "DELETED", "ADDED"]
            assert deleted.manifest["metadata"]["uid"] == added.manifest["metadata"]["uid"]
        finally:
            await changes.aclose()  # type: ignore[attr-defined]

    # Events

    async def test_an_event_can_be_emitted_about_an_object(self, cluster: Cluster, namespace: str, name: str) -> None:
        """Others read what was emitted; of a message that is too long for a server, its beginning."""
        job = await cluster.apply(make_automl_job(namespace, name))

        said = "2 workers were asked for. " * 60

        await cluster.emit(
            Ref("AutoMLJob", namespace, name),
            job["metadata"]["uid"],
            EventOrder("Normal", "WorkersCreated", said),
        )

        [read] = await self.messages(cluster, namespace, job["metadata"]["uid"])
        assert len(read) >= 1000
        assert said.startswith(read.rstrip("."))


class ServerContract(ClusterContract):
    """On a real API server, whose admin is the other client."""

    @pytest.fixture(autouse=True)
    def _remember_admin(self, control_plane: ControlPlane) -> None:
        self._admin = control_plane.admin

    async def edit(self, cluster: Any, ref: Ref, patch: Manifest) -> None:
        path = resource_of(ref.kind).path(ref.namespace, ref.name, "status" if "status" in patch else "")
        await asyncio.to_thread(self._admin.patch, path, patch)

    async def messages(self, cluster: Any, namespace: str, uid: str) -> list[str]:
        found = await asyncio.to_thread(self._admin.items, f"/api/v1/namespaces/{namespace}/events")
        return [e["message"] for e in found if e["involvedObject"]["uid"] == uid]
