"""Namespaces that an operator may not work in are left out, said, and taken up; the others do not wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from controller.life import make_churn
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.rights import OPERATOR_ACCOUNT, role_objects
from kubeautoml.controller import areas
from kubeautoml.controller.areas import Areas
from kubeautoml.controller.main import Operator
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.plan.base import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from real.controlplane import ControlPlane

pytestmark = pytest.mark.anyio


class Rights:
    """What the operator may do, and what an `Areas` makes of it."""

    def __init__(self, *namespaces: str) -> None:
        self.denied: set[str] = set()
        self.error: ClusterError | None = None
        self.looks: list[tuple[str | None, bool]] = []
        self.changes: list[tuple[tuple[str, ...], set[str]]] = []
        self.areas = Areas(namespaces, self.look, lambda served, new: self.changes.append((served, set(new))))

    async def look(self, namespace: str | None, is_new: bool) -> None:
        self.looks.append((namespace, is_new))
        if self.error is not None:
            raise self.error
        if namespace in self.denied:
            said = f'cannot list resource "automljobs" in API group "kubeautoml.dev" in the namespace "{namespace}"'
            raise ClusterError(said, reason="Forbidden")


async def test_a_namespace_without_rights_is_left_out_and_taken_up_later(caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, with the server's words; the others are served from the start."""
    rights = Rights("team-a", "team-b", "team-c")
    rights.denied = {"team-b"}

    with caplog.at_level("INFO"):
        for _ in range(2):
            await rights.areas.look()
        rights.denied = set()
        await rights.areas.look(at_denied_only=True)

    assert rights.changes == [
        (("team-a", "team-c"), {"team-a", "team-c"}),
        (("team-a", "team-b", "team-c"), {"team-b"}),
    ]
    assert [(r.message, r.namespace) for r in caplog.records] == [  # type: ignore[attr-defined]
        ("namespace left out", "team-b"),
        ("namespace taken up", "team-b"),
    ]
    assert 'in the namespace "team-b"' in caplog.records[0].error  # type: ignore[attr-defined]
    assert rights.looks[-1] == ("team-b", True), "only what is left out, and all of it"


async def test_a_namespace_whose_rights_are_taken_away_is_let_go() -> None:
    """Whoever works there looks at little, since it happens every minute."""
    rights = Rights("team-a", "team-b")
    await rights.areas.look()
    rights.denied = {"team-a"}

    await rights.areas.look_again()

    assert rights.looks[2:] == [("team-a", False), ("team-b", False)]
    assert rights.changes[-1] == (("team-b",), set())
    assert not rights.areas.serves("team-a") and rights.areas.serves("team-b")
    assert list(rights.areas.denied()) == ["team-a"]


async def test_who_may_work_nowhere_cannot_work() -> None:
    """At the start it waits for that; later it ends, and waits after its restart. It never takes none for all."""
    rights = Rights("team-a", "team-a")
    rights.denied = {"team-a"}
    with pytest.raises(ClusterError, match='in the namespace "team-a"'):
        await rights.areas.look()
    assert rights.changes == [] and list(rights.areas.denied()) == ["team-a"]

    rights.denied = set()
    await rights.areas.look()
    rights.denied = {"team-a"}
    with pytest.raises(ClusterError, match='in the namespace "team-a"'):
        await rights.areas.look_again()
    assert rights.areas.served == ("team-a",)


async def test_a_server_that_is_away_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """At the start it is waited for; later the operator goes on, as its watches do."""
    rights = Rights("team-a", "team-b")
    rights.error = ClusterError("no answer")
    with pytest.raises(ClusterError, match="no answer"):
        await rights.areas.look()

    rights.error = None
    await rights.areas.look()
    for error in (ClusterError("no answer"), ClusterError("log in again", reason="Unauthorized")):
        rights.error = error
        await rights.areas.look_again()

    assert rights.areas.served == ("team-a", "team-b")
    assert [r.error for r in caplog.records] == ["no answer", "log in again"]  # type: ignore[attr-defined]


async def test_an_operator_of_the_whole_cluster_has_one_area() -> None:
    """Without the right to it there is nothing to do, and while it works nobody looks."""
    rights = Rights()
    await rights.areas.look()
    await rights.areas.look_again()

    assert rights.looks == [(None, True)]
    assert rights.changes == [] and rights.areas.serves("any")


async def test_between_looks_at_all_are_looks_at_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a new Role takes effect within seconds, at little cost."""
    monkeypatch.setattr(areas, "LOOK_SECONDS", 0.0)
    rights = Rights("team-a", "team-b")
    rights.denied = {"team-b"}
    await rights.areas.look()

    task = asyncio.create_task(rights.areas.run())
    await eventually(lambda: ("team-a", False) in rights.looks, "a look at all")
    task.cancel()

    first = rights.looks.index(("team-a", False))
    assert rights.looks[2:first] == [("team-b", True)] * (areas.LOOKS_A_ROUND - 1)


# On a real API server


@asynccontextmanager
async def running(operator: Operator) -> AsyncIterator[asyncio.Task[None]]:
    stop = asyncio.Event()
    task = asyncio.create_task(operator.run(stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


async def eventually(holds: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.05)
    assert holds(), what


@pytest.mark.controlplane
async def test_one_namespace_without_a_role_keeps_no_other_waiting(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job is taken up once the Role is there, let go with it, and taken up again; the operator is never restarted."""
    from real.controlplane import collection_of
    from real.filtered import filtered

    monkeypatch.setattr(areas, "LOOK_SECONDS", 0.2)
    home, ours, theirs, admin = namespace, f"{namespace}-a", f"{namespace}-b", control_plane.admin
    for each in (ours, theirs):
        control_plane.create_namespace(each)
    objects = role_objects(home, (ours, theirs))
    roles = [m for m in objects if m["metadata"].get("namespace") == theirs]
    for manifest in objects:
        if manifest not in roles:
            admin.ensure(collection_of(manifest), manifest)
    kubeconfig = control_plane.kubeconfig_for("areas", control_plane.token(home, OPERATOR_ACCOUNT), home)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    cluster = filtered(control_plane.version).from_kubeconfig(path=kubeconfig)
    settings = OperatorSettings(
        plan=Settings(study_url=f"journal://{tmp_path}/study.log"),
        namespaces=(ours, theirs),
        metrics_port=0,
        health_port=0,
        elects_leader=False,
    )

    def make(where: str) -> None:
        admin.post(
            f"/apis/kubeautoml.dev/v1alpha1/namespaces/{where}/automljobs",
            {**make_churn(), "metadata": {"name": "churn", "namespace": where}},
        )

    def job(where: str) -> Any:
        return admin.get(f"/apis/kubeautoml.dev/v1alpha1/namespaces/{where}/automljobs/churn")

    def is_seen(where: str) -> bool:
        found = job(where)
        return found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]

    def suspend(where: str, value: bool) -> None:
        path = f"/apis/kubeautoml.dev/v1alpha1/namespaces/{where}/automljobs/churn"
        admin.patch(path, {"spec": {"suspend": value}})

    def denied(operator: Operator, where: str) -> float | None:
        return operator._metrics.registry.get_sample_value("kubeautoml_namespace_denied", {"namespace": where})

    def ready(operator: Operator) -> bool:
        return operator._probes.why_unready() is None

    try:
        operator = Operator(cluster, settings)
        async with running(operator) as task:
            for each in (ours, theirs):
                await asyncio.to_thread(make, each)
            await eventually(lambda: is_seen(ours), "the job with rights is seen")
            assert ready(operator) and denied(operator, theirs) == 1 and denied(operator, ours) == 0
            assert not is_seen(theirs)

            for manifest in roles:
                admin.ensure(collection_of(manifest), manifest)
            await eventually(lambda: is_seen(theirs), "the job is taken up")
            await eventually(lambda: ready(operator) and denied(operator, theirs) == 0, "all is well")

            for manifest in roles:
                admin.delete(f"{collection_of(manifest)}/{manifest['metadata']['name']}")
            await eventually(lambda: denied(operator, theirs) == 1, "the namespace is let go")
            for each in (ours, theirs):
                await asyncio.to_thread(suspend, each, True)
            await eventually(lambda: is_seen(ours), "the other job is seen as before")
            await eventually(lambda: ready(operator), "and the operator is well")
            assert not is_seen(theirs)

            for manifest in roles:
                admin.ensure(collection_of(manifest), manifest)
            await eventually(lambda: is_seen(theirs), "what was edited meanwhile is seen")
            assert not task.done()
    finally:
        cluster.close()
        for each in (ours, theirs):
            admin.delete(f"/api/v1/namespaces/{each}")
