"""What wakes whom, and that kopf is set up to write nothing."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import kopf
import pytest

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.names import Component, labels
from kubeautoml.api.objects import Ref
from kubeautoml.cluster.base import Change
from kubeautoml.controller import handlers
from kubeautoml.controller.handlers import (
    SILENCE_SECONDS,
    WATCH_SECONDS,
    Wakes,
    Watching,
    make_registry,
    make_settings,
)
from kubeautoml.controller.queue import Lane

CHURN = Ref("AutoMLJob", "team-a", "churn")


def make_object(name: str, uid: str = "u1", generation: int = 1, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "team-a", "uid": uid, "generation": generation, **metadata},
        "status": {"observedGeneration": generation},
    }


def make_wakes() -> tuple[Wakes, list[Ref]]:
    woken: list[Ref] = []
    return Wakes(lambda ref, _: woken.append(ref)), woken


def test_a_change_of_the_spec_wakes_and_a_change_of_the_status_does_not() -> None:
    """The operator's own status writes never wake it, or it would never rest."""
    wakes, woken = make_wakes()

    wakes.job(None, make_object("churn"))
    wakes.job("MODIFIED", make_object("churn"))
    assert woken == [CHURN]
    wakes.job("MODIFIED", make_object("churn", generation=2))
    wakes.job("MODIFIED", make_object("churn", generation=2, deletionTimestamp="2026-01-01T12:00:00Z"))
    wakes.job("DELETED", make_object("churn", generation=2))

    assert woken == [CHURN] * 4


def test_only_edits_of_a_known_job_jump_the_queue() -> None:
    """New jobs come by the thousand; who edits or deletes one waits to see it happen."""
    woken: list[Lane] = []
    wakes = Wakes(lambda _, lane: woken.append(lane))

    wakes.job("ADDED", make_object("churn"))
    wakes.job("MODIFIED", make_object("churn", generation=2))
    wakes.child(make_object("pod", uid="p1", labels=labels("churn", "u1", Component.WORKER)))
    wakes.profile()
    wakes.job("DELETED", make_object("churn", generation=2))

    assert woken == [Lane.EVENT, Lane.EDIT, Lane.EVENT, Lane.EVENT, Lane.EDIT]


def test_a_label_or_an_annotation_wakes() -> None:
    """A queue's label, or a note of the platform team: neither counts as a new generation."""
    wakes, woken = make_wakes()
    wakes.job(None, make_object("churn"))

    wakes.job("MODIFIED", make_object("churn", labels={"kueue.x-k8s.io/queue-name": "gpu"}))
    wakes.job("MODIFIED", make_object("churn", labels={"kueue.x-k8s.io/queue-name": "gpu"}))
    wakes.job("MODIFIED", make_object("churn", labels={"kueue.x-k8s.io/queue-name": "gpu"}, annotations={"a": "b"}))

    assert woken == [CHURN] * 3


def test_a_job_made_again_under_the_same_name_wakes() -> None:
    """The uid tells incarnations apart, although both have generation 1."""
    wakes, woken = make_wakes()
    wakes.job("ADDED", make_object("churn", uid="u1"))

    wakes.job("ADDED", make_object("churn", uid="u2"))

    assert woken == [CHURN, CHURN]


def test_a_child_wakes_its_job() -> None:
    """By the uid in its labels, also when the job's name is too long for a label."""
    wakes, woken = make_wakes()
    name = "a" * 200
    wakes.job("ADDED", make_object(name, uid="long"))

    wakes.child(make_object("pod", uid="p1", labels=labels(name, "long", Component.WORKER)))

    assert woken == [Ref("AutoMLJob", "team-a", name)] * 2


def test_a_child_seen_before_its_job_wakes_it_by_name() -> None:
    """After a start the lists of kinds come in any order."""
    wakes, woken = make_wakes()

    wakes.child(make_object("pod", uid="p1", labels=labels("churn", "u1", Component.WORKER)))
    wakes.child(make_object("stranger", uid="p2"))

    assert woken == [CHURN]


def test_a_model_that_outlives_its_job_wakes_once() -> None:
    """To be told that nothing serves it; of those that know, an operator that starts may find thousands."""
    wakes, woken = make_wakes()
    model = {
        **make_object("churn-v1", uid="m1", labels=labels("churn", "gone", Component.MODEL)),
        "kind": "AutoMLModel",
    }

    wakes.child({**model, "status": {"conditions": [{"type": "Ready", "reason": "Served"}]}})
    assert woken == [CHURN]
    wakes.child({**model, "status": {"conditions": [{"type": "Ready", "reason": "Stored"}]}})
    assert woken == [CHURN]


def test_a_profile_wakes_every_job() -> None:
    """Any job may use it."""
    wakes, woken = make_wakes()
    wakes.job("ADDED", make_object("churn", uid="u1"))
    wakes.job("ADDED", make_object("price", uid="u2"))
    woken.clear()

    wakes.profile()

    assert woken == [CHURN, Ref("AutoMLJob", "team-a", "price")]


def test_children_and_profiles_come_from_the_cache() -> None:
    """It says the kind of what changed, and that decides whom it wakes."""
    wakes, woken = make_wakes()
    wakes.job("ADDED", make_object("churn", uid="u1"))
    wakes.job("ADDED", make_object("price", uid="u2"))
    woken.clear()

    pod = make_object("pod", uid="p1", labels=labels("price", "u2", Component.WORKER))
    wakes.change(Change("DELETED", {"kind": "Pod", **pod}))
    wakes.change(Change("MODIFIED", {"kind": "AutoMLProfile", "metadata": {"name": "default", "uid": "x"}}))

    price = Ref("AutoMLJob", "team-a", "price")
    assert woken == [price, CHURN, price]


def test_nothing_of_a_job_that_is_gone_stays_behind() -> None:
    """Whether its deletion was told, or only a list shows that it is gone; one made after the list is not forgotten."""
    woken: list[Ref] = []
    now = 0.0
    wakes = Wakes(lambda ref, _: woken.append(ref), clock=lambda: now)
    for number in range(100):
        wakes.job("ADDED", make_object(f"job-{number}", uid=f"u{number}"))
    wakes.job("DELETED", make_object("job-0", uid="u0"))
    now = 20.0
    wakes.job("ADDED", make_object("new", uid="new"))
    woken.clear()

    there = wakes.keep_only({"u1"}, since=10.0)
    wakes.profile()

    assert there == {Ref("AutoMLJob", "team-a", "job-1"), Ref("AutoMLJob", "team-a", "new")}
    assert set(woken) == there


@pytest.mark.anyio
async def test_the_handler_hands_on_what_tells_versions_apart() -> None:
    """Not the spec and the status of every job: kopf hands them over, and nobody keeps them."""
    told: list[tuple[str | None, dict[str, Any]]] = []
    [handler] = make_registry(lambda *event: told.append(event))._watching.get_all_handlers()
    job = {**make_object("churn", uid="u1", managedFields=[{"manager": "x"}]), "spec": {"task": {}}}

    await handler.fn(event={"type": "ADDED", "object": job})

    meta = {"name": "churn", "namespace": "team-a", "uid": "u1", "generation": 1}
    assert told == [("ADDED", {"metadata": meta})]


def test_there_are_only_event_handlers() -> None:
    """Change handlers and daemons would make kopf write annotations and finalizers into users' objects."""
    registry = make_registry(make_wakes()[0].job)

    assert len(registry._watching.get_all_handlers()) == 1
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()
    assert not registry._indexing.get_all_handlers()
    assert not registry._webhooks.get_all_handlers()


def test_kopf_is_a_watcher_that_finds_dead_connections() -> None:
    """It needs no rights beyond AutoMLJobs, and a connection that died without a word is found within two minutes."""
    settings = make_settings()

    assert isinstance(settings, kopf.OperatorSettings)
    assert settings.peering.standalone and settings.scanning.disabled and not settings.posting.enabled
    assert settings.watching.inactivity_timeout == SILENCE_SECONDS <= 120
    assert settings.watching.server_timeout == WATCH_SECONDS and isinstance(WATCH_SECONDS, int)
    assert (settings.networking.request_timeout or 999) <= 60


@pytest.mark.anyio
async def test_a_watch_that_ends_by_itself_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kopf gives up at an error within a watch; the operator does not. One that ends at once will not do better."""
    monkeypatch.setattr(handlers, "SHORT_SECONDS", 0.0)
    begun = 0

    async def operator(**_: Any) -> None:
        nonlocal begun
        begun += 1
        if begun == 3:
            handlers.SHORT_SECONDS = 30.0
        raise RuntimeError(f"error {begun} in the watch-stream")

    async def look() -> None:
        return

    monkeypatch.setattr(kopf, "operator", operator)

    with pytest.raises(ClusterError, match="watching the cluster ended: RuntimeError: error 3"):
        await Watching(lambda *_: None, (), look).run()

    assert begun == 3
    assert [r.why for r in caplog.records] == [f"RuntimeError: error {n} in the watch-stream" for n in (1, 2)]  # type: ignore[attr-defined]


@pytest.mark.anyio
async def test_other_namespaces_are_watched_by_a_kopf_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told so, or after it ended because rights had gone; how long it had lasted does not matter then."""
    begun: list[tuple[str, ...]] = []
    refused = ("team-a", "team-b")

    async def operator(*, namespaces: tuple[str, ...], stop_flag: threading.Event, **_: Any) -> None:
        begun.append(namespaces)
        if namespaces == refused:
            raise RuntimeError("forbidden")
        await asyncio.to_thread(stop_flag.wait)

    async def look() -> None:
        watching.serve(("team-a",))

    async def begun_times(number: int) -> None:
        async with asyncio.timeout(20):
            while len(begun) < number:
                await asyncio.sleep(0.01)

    monkeypatch.setattr(kopf, "operator", operator)
    watching = Watching(lambda *_: None, refused, look)
    task = asyncio.create_task(watching.run())
    await begun_times(2)
    watching.serve(("team-a", "team-c"))
    await begun_times(3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert begun == [refused, ("team-a",), ("team-a", "team-c")]


def test_jobs_of_a_namespace_that_is_taken_up_again_are_new() -> None:
    """Whatever was edited while it could not be watched; those of the others are known."""
    woken: list[Ref] = []
    wakes = Wakes(lambda ref, lane: woken.append(ref))
    jobs = [{"metadata": {"namespace": n, "name": "churn", "uid": n, "generation": 1}} for n in ("team-a", "team-b")]
    for job in jobs:
        wakes.job(None, job)
    woken.clear()

    wakes.forget(frozenset({"team-b"}))
    for job in jobs:
        wakes.job(None, job)

    assert woken == [Ref("AutoMLJob", "team-b", "churn")]
