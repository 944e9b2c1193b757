"""A job's life while the server refuses, the study is away, or a cache lags behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.life import (
    UID,
    WORKERS,
    LaggingCluster,
    World,
)
from controller.stages import objects, run_trials, until_ready, until_searching
from kubeautoml.api.errors import ClusterError, Conflict
from kubeautoml.api.metrics import Direction
from kubeautoml.api.names import study_name
from kubeautoml.api.objects import Ref
from kubeautoml.api.trials import Failure, StudyAttr
from kubeautoml.cluster.memory import MemoryCluster
from kubeautoml.study import create_study, open_study_storage, set_study_attr

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("verb", ["get", "list", "apply", "patch_status", "emit"])
async def test_a_refused_request_changes_nothing_in_the_end(tmp_path: Path, verb: str) -> None:
    """The pass fails (an event alone may be lost), and the next one does what was left."""
    world = World(tmp_path)
    await world.create()
    world.cluster.fail_next(Conflict("changed meanwhile"), verb=verb)
    if verb != "emit":
        with pytest.raises(ClusterError):
            await world.one_pass()

    await world.settle()

    assert await world.cluster.get(WORKERS) is not None
    assert (await world.conditions())["Accepted"] == "True SpecValid"


async def test_a_refusal_by_the_server_is_told_to_the_user(tmp_path: Path) -> None:
    """A quota or a webhook that refuses a child stands in a condition until it does not any more."""
    world = World(tmp_path)
    await world.create()
    world.cluster.fail_next(ClusterError("exceeded quota: pods=0", reason="Forbidden"), verb="apply")
    with pytest.raises(ClusterError):
        await world.one_pass()
    stalled = next(c for c in (await world.job()).status.conditions if c.type == "Stalled")

    await world.settle()

    assert (stalled.status.value, stalled.reason, stalled.message) == (
        "True",
        "ClusterUnavailable",
        "exceeded quota: pods=0",
    )
    assert (await world.conditions())["Stalled"].startswith("False")


async def test_a_study_that_does_not_answer_stalls_the_job(tmp_path: Path) -> None:
    """The condition says so; when the study is back, the job goes on."""
    world = World(tmp_path)
    await world.create()
    (tmp_path / "study.log").write_text("damaged\n" * 3)
    await world.settle()
    stalled = (await world.conditions()).get("Stalled")

    (tmp_path / "study.log").unlink()
    await world.settle()

    assert stalled == "True StudyUnavailable"
    assert not (await world.conditions()).get("Stalled", "False").startswith("True")
    assert await world.cluster.get(WORKERS) is not None


async def test_a_study_that_is_not_where_it_was_is_missed(tmp_path: Path) -> None:
    """A profile that names another server, or a database that was lost: nothing begins anew in silence."""
    world = World(tmp_path)
    first, _ = await until_searching(world)
    run_trials(world, (first, 0.8))
    await world.settle()
    before = await objects(world)
    profile = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLProfile", "metadata": {"name": "default"}}
    await world.cluster.put({**profile, "spec": {"study": {"url": f"journal://{tmp_path}/other.log"}}})

    await world.settle()

    stalled = next(c for c in (await world.job()).status.conditions if c.type == "Stalled")
    assert (stalled.status.value, stalled.reason) == ("True", "StudyUnavailable")
    assert stalled.message.startswith(f"study team-a/churn/{UID} is not where it was")
    assert not (tmp_path / "other.log").exists() or "churn" not in (tmp_path / "other.log").read_text()
    assert [o for o in await objects(world) if "AutoMLProfile" not in o] == before
    await world.cluster.put({**profile, "spec": {}})
    await world.settle()
    assert (await world.conditions())["Stalled"].startswith("False")
    assert (await world.job()).status.trials.completed == 1


async def test_workers_are_told_which_studies_to_begin_with(tmp_path: Path) -> None:
    """The latest study of each job named that has a completed trial; before the limits, for which workers wait; only once."""
    world = World(tmp_path)
    names = {}
    for job, uid, is_done in (("old", "u1", True), ("old", "u2", True), ("old", "u3", False), ("empty", "u4", False)):
        names[uid] = study_name("team-a", job, uid)
        study = create_study(open_study_storage(world.url), names[uid], Direction.MAXIMIZE)
        if is_done:
            study.tell(study.ask(), 0.5)
    await world.create(search={"warmStartFrom": [{"name": "empty"}, {"name": "old"}, {"name": "churn"}]})

    await world.settle()

    assert world.study().user_attrs[StudyAttr.WARM_START.value] == [names["u2"]]
    later = create_study(open_study_storage(world.url), names["u3"], Direction.MAXIMIZE)
    later.tell(later.ask(), 0.9)
    await world.settle()
    assert world.study().user_attrs[StudyAttr.WARM_START.value] == [names["u2"]]


# What a cache does not know yet


async def test_a_pod_that_the_cache_has_not_seen_keeps_its_trial(tmp_path: Path) -> None:
    """A trial is ended only when the server itself says that its pod is gone."""
    world = World(tmp_path, cluster=LaggingCluster)
    assert isinstance(world.cluster, LaggingCluster)
    await world.create()
    await world.settle()
    await world.cluster.fall_behind("Pod")
    first, _ = await world.start_pods(WORKERS)
    world.report_data()

    world.begin_trial(first)
    await world.settle()

    assert [state for _, state, _ in world.trials()] == ["RUNNING"]
    await MemoryCluster.delete(world.cluster, Ref("Pod", "team-a", f"{WORKERS.name}-0"))
    await world.settle()
    assert [state for _, state, _ in world.trials()] == ["FAIL", "WAITING"]


async def test_workers_that_only_the_cache_thinks_gone_are_left_alone(tmp_path: Path) -> None:
    """Nor is their Job deleted, or the job failed, on what is not true any more."""
    world = World(tmp_path, cluster=LaggingCluster)
    assert isinstance(world.cluster, LaggingCluster)
    await until_searching(world)
    await world.end_pods(WORKERS)
    await world.cluster.fall_behind("Job")
    await world.cluster.fall_behind("Pod")
    await world.cluster.edit(WORKERS, {"status": {"conditions": None}})
    for number in range(2):
        running = {"phase": "Running", "containerStatuses": None}
        await world.cluster.edit(Ref("Pod", "team-a", f"{WORKERS.name}-{number}"), {"status": running})
    uid = (await world.cluster.get(WORKERS) or {})["metadata"]["uid"]

    await world.one_pass()

    batch = await world.cluster.get(WORKERS)
    assert batch is not None and batch["metadata"]["uid"] == uid


async def test_what_workers_told_before_they_left_is_known_when_they_are_missed(tmp_path: Path) -> None:
    """Jobs are read before the study, pods after it; and a job that has ended does not ask its study any more."""
    world = World(tmp_path)
    await until_searching(world)
    world.cluster.calls.clear()

    await world.one_pass()

    order = [c for c in world.cluster.calls if c in (("list", "Job"), ("summary", "study"), ("list", "Pod"))]
    assert order == [("list", "Job"), ("summary", "study"), ("list", "Pod")]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_job_that_has_ended_costs_almost_nothing(tmp_path: Path, fails: bool) -> None:
    """No look into its study, no writing."""
    world = World(tmp_path)
    if fails:
        await until_searching(world)
        set_study_attr(world.study(), StudyAttr.FAILURE, Failure("data", "DatasetNotFound", "no"))
        await world.settle()
        await world.end_pods(WORKERS, exit_code=1)
        await world.settle()
    else:
        await until_ready(world)
    world.cluster.calls.clear()

    await world.one_pass()

    assert {verb for verb, _ in world.cluster.calls} == {"get", "list"}
