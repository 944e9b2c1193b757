"""What others do to the objects of a job: deleted, edited, robbed of labels and owners, or there before under our names."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest

from factories import UID
from fuzz.fuzz_operator import JOB, Operator
from fuzz.fuzz_specs import RICH
from kubeautoml.api.conditions import find_condition
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.job_status import AutoMLJobStatus
from kubeautoml.api.names import server_name, worker_job_name
from kubeautoml.api.objects import Manifest, Ref

SPEC = {**RICH, "serving": {"replicas": 2, "autoscaling": {"minReplicas": 2, "maxReplicas": 4}}}
WORKERS = Ref("Job", "team-a", worker_job_name("churn", UID))
ENDPOINT = ("Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy")


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


async def begun() -> Operator:
    """A job whose workers run."""
    operator = Operator()
    metadata = {"name": "churn", "namespace": "team-a", "uid": UID}
    job = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLJob", "metadata": metadata, "spec": SPEC}
    await operator.cluster.put(job)
    await operator.settle()
    return operator


async def served() -> Operator:
    """A job with its endpoint."""
    operator = await begun()
    await operator.live()
    return operator


def decided(manifest: Manifest) -> Manifest:
    """Without what a server stamps."""
    meta = {k: v for k, v in manifest["metadata"].items() if k in ("name", "namespace", "labels", "ownerReferences")}
    return {**{k: v for k, v in manifest.items() if k != "status"}, "metadata": meta}


async def theirs(operator: Operator, kind: str) -> tuple[Ref, Manifest]:
    """The child of a kind: of several, the endpoint's."""
    found = {ref: m for ref, m in (await operator.children()).items() if ref.kind == kind}
    named = [ref for ref in found if ref.name == server_name("churn")]
    ref = named[0] if named else next(iter(found))
    return ref, found[ref]


@pytest.mark.parametrize("kind", ENDPOINT)
def test_a_part_of_the_endpoint_that_somebody_deletes_is_made_again(kind: str) -> None:
    """As it was."""

    async def test() -> None:
        operator = await served()
        ref, before = await theirs(operator, kind)
        await operator.cluster.delete(ref)

        await operator.settle()

        again = await operator.cluster.get(ref)
        assert again is not None and decided(again) == decided(before)

    run(test())


EDITS: dict[str, dict[str, Any]] = {
    "Deployment": {"spec": {"progressDeadlineSeconds": 1}},
    "Service": {"spec": {"selector": {"app": "mine"}}},
    "HorizontalPodAutoscaler": {"spec": {"maxReplicas": 99}},
    "PodDisruptionBudget": {"spec": {"maxUnavailable": 2}},
    "NetworkPolicy": {"spec": {"ingress": [{}]}},
}


@pytest.mark.parametrize("kind", ENDPOINT)
@pytest.mark.parametrize("what", ["spec", "labels", "owners"])
def test_a_part_of_the_endpoint_that_somebody_edits_is_put_right(kind: str, what: str) -> None:
    """Also when the label by which it is found, or its owner, is gone."""
    edit = {
        "spec": EDITS[kind],
        "labels": {"metadata": {"labels": {"kubeautoml.dev/job-uid": None, "kubeautoml.dev/job": None}}},
        "owners": {"metadata": {"ownerReferences": None}},
    }[what]

    async def test() -> None:
        operator = await served()
        ref, before = await theirs(operator, kind)
        await operator.cluster.edit(ref, edit)

        await operator.settle()

        again = await operator.cluster.get(ref)
        assert again is not None
        for path in (("metadata", "labels"), ("metadata", "ownerReferences")):
            assert again[path[0]][path[1]] == before[path[0]][path[1]]
        for name, value in before["spec"].items():
            if name != "selector" or kind != "Service":
                assert again["spec"][name] == value, name
        assert again["spec"].get("selector", {}).items() >= before["spec"].get("selector", {}).items()

    run(test())


def test_workers_that_somebody_deletes_are_made_again() -> None:
    async def test() -> None:
        operator = await begun()
        await operator.cluster.delete(WORKERS)

        await operator.settle()

        assert WORKERS in await operator.children()

    run(test())


def test_a_model_that_somebody_deletes_leaves_the_endpoint_as_it_is() -> None:
    """The model is recorded again or not, but what serves goes on serving."""

    async def test() -> None:
        operator = await served()
        before = await operator.cluster.get(Ref("Deployment", "team-a", server_name("churn")))
        [model] = [ref for ref in await operator.children() if ref.kind == "AutoMLModel"]
        await operator.cluster.delete(model)

        await operator.settle()

        assert await operator.cluster.get(Ref("Deployment", "team-a", server_name("churn"))) == before

    run(test())


@pytest.mark.parametrize("kind", ENDPOINT)
def test_what_was_there_before_under_our_name_is_neither_taken_over_nor_destroyed(kind: str) -> None:
    """The job says whose name is taken and what to do, and goes on by itself once the name is free."""

    async def test() -> None:
        pattern = (await theirs(await served(), kind))[1]
        foreign = deepcopy(pattern)
        foreign["metadata"] = {"name": server_name("churn"), "namespace": "team-a", "labels": {"team": "other"}}
        operator = await begun()
        await operator.cluster.put(foreign)
        before = await operator.cluster.get(Ref.of(foreign))

        with pytest.raises(ClusterError, match=f"{kind} team-a/churn-server exists and is not of this job"):
            await operator.live()

        assert await operator.cluster.get(Ref.of(foreign)) == before
        manifest = await operator.cluster.get(JOB)
        assert manifest is not None
        said = find_condition(AutoMLJobStatus.model_validate(manifest["status"]).conditions, "Stalled")
        assert said is not None and (said.status, said.reason) == ("True", "NameTaken")
        assert "delete or rename it" in said.message
        await operator.cluster.delete(Ref.of(foreign))
        await operator.live()
        made = await operator.cluster.get(Ref.of(foreign))
        assert made is not None and made["metadata"]["labels"]["kubeautoml.dev/job-uid"] == UID

    run(test())


@pytest.mark.parametrize("jump", [timedelta(days=-30), timedelta(days=400), timedelta(seconds=-1)])
def test_a_clock_that_jumps_leaves_what_serves(jump: timedelta) -> None:
    """Nothing is deleted or made anew by a wrong clock: no TTL runs out for an endpoint that is wanted."""

    async def test() -> None:
        operator = await served()
        before = {ref for ref in await operator.children() if ref.kind in ENDPOINT and ref.name == server_name("churn")}
        operator.now += jump

        await operator.settle()
        operator.now -= jump
        await operator.settle()

        assert before <= set(await operator.children())

    run(test())
