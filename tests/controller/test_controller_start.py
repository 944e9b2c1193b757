"""What must be there before an operator works: found out, said with what to do, waited for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kubeautoml.api.crd import make_crds
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cluster.memory import MemoryCluster
from kubeautoml.controller import start
from kubeautoml.controller.probes import Probes
from kubeautoml.controller.start import Start, check_access, check_definitions, check_lease

DENIED = 'jobs.batch is forbidden: User "operator" cannot list resource "jobs" in API group "batch" in the namespace "team-b"'
REMEDY = "apply what `kubeautoml rbac` prints, with -n NAMESPACE for an operator of some namespaces only, or the chart's roles"


async def with_definitions(**marks: str) -> MemoryCluster:
    """A cluster with our definitions; `marks` change the annotations of the first."""
    cluster = MemoryCluster()
    for position, crd in enumerate(make_crds()):
        if position == 0:
            annotations = {**crd["metadata"]["annotations"], **{f"kubeautoml.dev/{k}": v for k, v in marks.items()}}
            crd = {**crd, "metadata": {**crd["metadata"], "annotations": annotations}}
        await cluster.put({**crd, "status": {"conditions": [{"type": "Established", "status": "True"}]}})
    return cluster


@pytest.mark.anyio
async def test_a_cluster_with_everything_is_good() -> None:
    cluster = await with_definitions()

    await check_definitions(cluster)
    await check_access(cluster, None)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"schema": "another", "version": "0.0.1"}, "automljobs.kubeautoml.dev is older than this operator"),
        ({"schema": "another", "version": "99.0.0"}, None),
        ({"version": "0.0.1"}, None),
    ],
)
async def test_an_older_definition_is_refused_and_a_newer_one_is_fine(marks: dict[str, str], said: str | None) -> None:
    """Unless the older one says the same, field by field."""
    cluster = await with_definitions(**marks)

    if said is None:
        await check_definitions(cluster)
        return
    with pytest.raises(ClusterError, match=said) as error:
        await check_definitions(cluster)
    assert error.value.reason == "DefinitionOutdated"


@pytest.mark.anyio
async def test_a_missing_definition_is_named() -> None:
    with pytest.raises(ClusterError, match=r"automljobs\.kubeautoml\.dev is missing; run `kubeautoml crds --apply`"):
        await check_definitions(MemoryCluster())


@pytest.mark.anyio
async def test_who_may_not_look_at_definitions_goes_on() -> None:
    """An operator by Roles only; another failure is an obstacle."""
    cluster = MemoryCluster()
    said = 'cannot get resource "customresourcedefinitions" in API group "apiextensions.k8s.io" at the cluster scope'
    cluster.fail_next(ClusterError(said, reason="Forbidden"), verb="get")
    await check_definitions(cluster)

    cluster.fail_next(ClusterError("no answer"), verb="get")
    with pytest.raises(ClusterError, match="no answer"):
        await check_definitions(cluster)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("reason", "words", "said"),
    [
        ("NotFound", "refused", "AutoMLJob objects cannot be listed: refused"),
        ("Forbidden", DENIED, f"AutoMLJob objects cannot be listed: {DENIED}; {REMEDY}"),
    ],
)
async def test_a_missing_right_is_said_with_verb_resource_and_namespace(reason: str, words: str, said: str) -> None:
    """In the server's own words, and what to do about it."""
    cluster = MemoryCluster()
    cluster.fail_next(ClusterError(words, reason=reason), verb="list")

    with pytest.raises(ClusterError) as error:
        await check_access(cluster, None)

    assert str(error.value).startswith(said)


@pytest.mark.anyio
async def test_an_operator_of_some_namespaces_needs_no_right_to_profiles() -> None:
    """Profiles belong to no namespace; a Role cannot grant them."""
    cluster = MemoryCluster()

    await check_access(cluster, "team-a")

    assert ("list", "AutoMLProfile") not in cluster.calls


@pytest.mark.anyio
async def test_where_an_operator_works_already_only_jobs_are_looked_for() -> None:
    """It happens every minute in each namespace, and a list of pods may cost a server much."""
    cluster = MemoryCluster()

    await check_access(cluster, "team-a", is_new=False)

    assert cluster.calls == [("list", "AutoMLJob")]


@pytest.mark.parametrize(
    ("reason", "words", "said"),
    [
        ("ClusterUnavailable", "refused", "Lease system/kubeautoml-operator cannot be read: refused"),
        ("Forbidden", DENIED, "or add --no-leader-election where no other operator can be running"),
    ],
)
def test_a_lease_that_cannot_be_read_is_said_in_one_line(reason: str, words: str, said: str) -> None:
    """With what to do where leader election is not wanted."""

    class Leases:
        def read_lease(self, ref: Ref) -> Manifest | None:
            raise ClusterError(words, reason=reason)

        def write_lease(self, lease: Manifest) -> Manifest:
            raise AssertionError(lease)

    with pytest.raises(ClusterError) as error:
        check_lease(Leases(), Ref("Lease", "system", "kubeautoml-operator"))

    assert said in str(error.value)


@pytest.mark.anyio
async def test_it_waits_says_why_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two obstacles, one after the other, each seen twice; whoever asks meanwhile hears the present one."""
    monkeypatch.setattr(start, "RETRY_SECONDS", 0.001)
    obstacles = ["first", "first", "second", "second"]
    heard: list[str | None] = []

    async def look() -> None:
        heard.append(waiting.why_not())
        if obstacles:
            raise ClusterError(obstacles.pop(0))

    waiting = Start(look)
    with caplog.at_level("INFO"):
        assert await asyncio.wait_for(waiting.wait(asyncio.Event()), 10)

    assert heard == ["the cluster has not been looked at yet", "first", "first", "second", "second"]
    assert waiting.why_not() is None
    assert [getattr(r, "error", r.message) for r in caplog.records] == [
        "first",
        "second",
        "operator goes on: it can work now",
    ]


@pytest.mark.anyio
async def test_told_to_stop_it_waits_no_longer() -> None:
    stop = asyncio.Event()

    async def look() -> None:
        stop.set()
        raise ClusterError("missing")

    assert not await asyncio.wait_for(Start(look).wait(stop), 10)


def test_while_it_waits_it_is_unready_and_healthy() -> None:
    """No part has begun, and a restart would help nobody; readiness says what is missing."""

    class Anything:
        is_ready = is_synced = False

        def __getattr__(self, name: str) -> Any:
            return lambda: 0.0 if name.endswith("seconds") else False

    parts: Any = Anything()
    probes = Probes(parts, parts, parts, parts, parts, lambda: "CustomResourceDefinition a is missing")

    assert probes.why_unhealthy() is None
    assert probes.why_unready() == "CustomResourceDefinition a is missing"
