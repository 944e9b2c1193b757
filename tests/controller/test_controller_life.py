"""A job's whole life over the memory cluster, step by step, and the same life with an operator killed at every write."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from controller.life import (
    FINALIZER,
    JOB,
    SERVER,
    UID,
    WORKERS,
    LaggingCluster,
    World,
    component_of,
    make_churn,
)
from kubeautoml.api.errors import ClusterError, Conflict
from kubeautoml.api.metrics import Direction
from kubeautoml.api.names import study_name
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.trials import Failure, StudyAttr
from kubeautoml.cluster.memory import MemoryCluster
from kubeautoml.study import create_study, open_study_storage, set_study_attr

pytestmark = pytest.mark.anyio


async def objects(world: World) -> list[str]:
    """Every object but pods, as "Kind namespace/name"."""
    return [o for o in (await world.snapshot())["objects"] if not o.startswith("Pod ")]


async def until_searching(world: World, **spec: object) -> list[str]:
    """Two workers run and have read the data; returns their uids."""
    await world.create(**spec)
    await world.settle()
    pods = await world.start_pods(WORKERS)
    world.report_data()
    await world.settle()
    return pods


def run_trials(world: World, *trials: tuple[str, float | None]) -> None:
    for pod, value in trials:
        world.finish_trial(world.begin_trial(pod), value)


async def until_finalizing(world: World) -> None:
    """All trials are done, one of them in a second attempt, and the finalizer runs."""
    first, second = await until_searching(world)
    run_trials(world, (first, 0.8), (second, 0.9))
    world.begin_trial(second)
    await world.lose_pod(f"{WORKERS.name}-1")
    await world.settle()
    run_trials(world, (first, 0.85), (first, 0.7))
    await world.settle()
    await world.end_pods(WORKERS)
    await world.settle()
    await world.start_pods(FINALIZER)
    await world.settle()


async def until_ready(world: World) -> None:
    """The whole life, to an endpoint that answers."""
    await until_finalizing(world)
    world.report_result()
    await world.end_pods(FINALIZER)
    await world.settle()
    await world.serve()
    await world.settle()


# Step by step


async def test_a_new_job_gets_a_study_and_workers(tmp_path: Path) -> None:
    """The study is there before its workers, with its limits; the status says that the job is accepted."""
    world = World(tmp_path)
    await world.create()

    wake = await world.settle()

    job = await world.job()
    batch = await world.cluster.get(WORKERS)
    assert batch is not None and batch["spec"]["parallelism"] == 2
    assert world.study().user_attrs[StudyAttr.LIMITS.value]["max_trials"] == 4
    assert (await world.conditions())["Accepted"] == "True SpecValid"
    assert job.status.observed_generation == job.metadata.generation
    assert job.status.start_time is not None and wake is not None


async def test_the_whole_life_ends_in_an_endpoint(tmp_path: Path) -> None:
    """Accepted, DataReady, Succeeded and Ready come true; model, Deployment and Service are there; counts are right."""
    world = World(tmp_path)

    await until_ready(world)

    job, conditions = await world.job(), await world.conditions()
    assert {k: conditions[k].split()[0] for k in ("Accepted", "DataReady", "Succeeded", "Ready")} == dict.fromkeys(
        ("Accepted", "DataReady", "Succeeded", "Ready"), "True"
    )
    trials = job.status.trials
    assert (trials.completed, trials.preempted, trials.running) == (4, 1, 0)
    assert job.status.best is not None and job.status.best.value == "0.9"
    assert job.status.model is not None and job.status.model.sha256 == "b" * 64
    kinds = [o.split()[0] for o in await objects(world)]
    assert {"AutoMLJob", "AutoMLModel", "Deployment", "Service"} <= set(kinds)


async def test_a_lost_worker_s_trial_is_queued_again(tmp_path: Path) -> None:
    """The running trial of a pod that is gone ends as preempted and waits again with the same parameters."""
    world = World(tmp_path)
    first, second = await until_searching(world)
    run_trials(world, (first, 0.8))
    lost = world.begin_trial(second)
    parameters = dict(world.trials()[lost][2])

    await world.lose_pod(f"{WORKERS.name}-1")
    await world.settle()

    assert [(number, state) for number, state, _ in world.trials()] == [(0, "COMPLETE"), (1, "FAIL"), (2, "WAITING")]
    again = world.begin_trial(first)
    assert (again, world.trials()[again][2]) == (2, parameters)


async def test_a_rested_job_is_left_alone(tmp_path: Path) -> None:
    """A pass over a finished job writes nothing at all."""
    world = World(tmp_path)
    await until_ready(world)
    world.cluster.calls.clear()
    before = world.fuse.writes

    await world.settle()

    assert world.fuse.writes == before
    assert {verb for verb, _ in world.cluster.calls} <= {"get", "list"}


async def test_a_deleted_job_leaves_nothing_but_its_model(tmp_path: Path) -> None:
    """Children go by the garbage collector; the model outlives the job; a pass over nothing does nothing."""
    world = World(tmp_path)
    await until_ready(world)

    await world.cluster.delete(JOB)
    await world.idle()
    wake = await world.settle()

    assert wake is None
    assert [o.split()[0] for o in (await world.snapshot())["objects"]] == ["AutoMLModel"]
    (model,) = await world.cluster.list("AutoMLModel")
    (ready,) = model["status"]["conditions"]
    assert (ready["status"], ready["reason"]) == ("True", "Stored")
    assert "its job is gone" in ready["message"]


async def test_a_model_of_an_earlier_job_of_that_name_is_put_right(tmp_path: Path) -> None:
    """The job was made again before anybody saw that it was gone."""
    world = World(tmp_path)
    await until_ready(world)
    await world.cluster.delete(JOB)
    await world.idle()

    again = make_churn(suspend=True)
    await world.cluster.put({**again, "metadata": {**again["metadata"], "uid": "another"}})
    await world.settle()

    (model,) = await world.cluster.list("AutoMLModel")
    assert model["status"]["conditions"][0]["reason"] == "Stored"


async def test_a_model_that_goes_with_its_job_goes(tmp_path: Path) -> None:
    """retention.model, edited after the end."""
    world = World(tmp_path)
    await until_ready(world)
    await world.cluster.edit(JOB, {"spec": {"retention": {"model": "Delete"}}})
    await world.settle()

    await world.cluster.delete(JOB)
    await world.idle()

    assert (await world.snapshot())["objects"] == {}


async def test_a_broken_manifest_is_refused_in_a_condition(tmp_path: Path) -> None:
    """What slipped past the schema is said with field, rule and value, and no child is made."""
    world = World(tmp_path)
    await world.create(budget={"maxTrials": 0})

    wake = await world.settle()

    manifest = await world.cluster.get(JOB)
    assert manifest is not None and wake is None
    accepted = next(c for c in manifest["status"]["conditions"] if c["type"] == "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidSpec")
    assert "spec.budget.maxTrials" in accepted["message"] and "0" in accepted["message"]
    assert await objects(world) == [str(JOB)]


async def test_a_mended_manifest_is_taken_up(tmp_path: Path) -> None:
    """The next generation is judged anew."""
    world = World(tmp_path)
    await world.create(budget={"maxTrials": 0})
    await world.settle()

    await world.cluster.edit(JOB, {"spec": {"budget": {"maxTrials": 4}}})
    await world.settle()

    conditions = await world.conditions()
    assert conditions["Accepted"] == "True SpecValid"
    assert not conditions.get("Stalled", "False").startswith("True")
    assert await world.cluster.get(WORKERS) is not None


async def test_a_failure_that_a_worker_found_ends_the_job(tmp_path: Path) -> None:
    """The worker's own sentence stands in the condition."""
    world = World(tmp_path)
    await world.create()
    await world.settle()
    await world.start_pods(WORKERS)
    message = "s3://lake/churn.csv does not exist; check dataset.train.uri"
    set_study_attr(world.study(), StudyAttr.FAILURE, Failure("data", "DatasetNotFound", message))
    await world.end_pods(WORKERS, exit_code=1, condition="Failed")

    await world.settle()

    job = await world.job()
    data = next(c for c in job.status.conditions if c.type == "DataReady")
    assert (data.status.value, data.reason, data.message) == ("False", "DatasetNotFound", message)
    assert (await world.conditions())["Succeeded"].startswith("False")


async def test_children_carry_labels_and_owner(tmp_path: Path) -> None:
    """Pods are found by the labels in the template; the garbage collector by the owner."""
    world = World(tmp_path)
    await until_ready(world)

    pods = await world.cluster.list("Pod")
    server = await world.cluster.get(SERVER)
    assert {component_of(p) for p in pods} == {(UID, "worker"), (UID, "finalizer")}
    assert server is not None
    assert server["metadata"]["ownerReferences"][0]["uid"] == UID


# What goes wrong


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


# What others write


async def test_a_spec_that_cannot_be_read_any_more_goes_on_as_it_was(tmp_path: Path) -> None:
    """Written past the schema, as an older definition allows: told with field and value, and mended by an edit."""
    world = World(tmp_path)
    first, second = await until_searching(world)
    await world.cluster.edit(JOB, {"spec": {"workers": {"paralelism": 3}, "budget": {"maxTrials": "many"}}})

    run_trials(world, (first, 0.8))
    world.begin_trial(second)
    await world.lose_pod(f"{WORKERS.name}-1")
    await world.settle()

    manifest = await world.cluster.get(JOB)
    assert manifest is not None
    conditions = {c["type"]: c for c in manifest["status"]["conditions"]}
    assert (conditions["Accepted"]["status"], conditions["Accepted"]["reason"]) == ("False", "InvalidSpec")
    assert "spec.workers.paralelism is not a field of AutoMLJob" in conditions["Accepted"]["message"]
    assert manifest["status"]["observedGeneration"] == manifest["metadata"]["generation"] == 2
    assert [state for _, state, _ in world.trials()] == ["COMPLETE", "FAIL", "WAITING"]
    run_trials(world, (first, 0.8), (first, 0.9), (first, 0.9))
    await world.settle()
    await world.end_pods(WORKERS)
    await world.settle()
    assert await world.cluster.get(FINALIZER) is not None
    await world.cluster.edit(JOB, {"spec": {"workers": {"paralelism": None}, "budget": {"maxTrials": 4}}})
    await world.settle()
    assert (await world.conditions())["Accepted"] == "True SpecValid"


async def test_a_job_that_cannot_be_read_can_be_suspended(tmp_path: Path) -> None:
    world = World(tmp_path)
    await until_searching(world)

    await world.cluster.edit(JOB, {"spec": {"nonsense": 1, "suspend": True}})
    await world.settle()

    assert await world.cluster.get(WORKERS) is None


ODD: list[Any] = [
    3,
    [],
    {},
    {"conditions": 3},
    {"conditions": [{"type": "Succeeded"}, {"status": "True"}]},
    {"conditions": [{"type": "Accepted", "status": "True", "reason": "SpecValid", "observedGeneration": 1,
                     "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    {"conditions": [{"type": "Succeeded", "status": "Maybe", "reason": "x", "lastTransitionTime": "soon"}]},
    {"startTime": "yesterday"},
    {"startTime": "0001-01-01T00:00:00Z"},
    {"startTime": "9999-12-31T23:59:59Z"},
    {"startTime": "2026-01-01T00:00:00"},
    {"suspendedSince": "9999-12-31T23:59:59Z"},
    {"suspendedSince": "0001-01-01T00:00:00Z", "startTime": "0001-01-01T00:00:00Z"},
    {"completionTime": "9999-12-31T23:59:59Z"},
    {"suspendedSeconds": -5},
    {"suspendedSeconds": 10**30},
    {"budgetUsed": {"durationSeconds": 10**30}},
    {"budgetUsed": {"durationSeconds": -1, "acceleratorSeconds": -1}},
    {"budgetUsed": {"endedBy": "Nobody"}},
    {"suspendedSeconds": 10**10},
    {"trials": {"total": "many"}},
    {"leaderboard": [{"trial": "x"}] * 50},
    {"progressPercentage": 1000},
    {"observedGeneration": -7},
    {"acceptedSpec": "{"},
    {"acceptedSpec": "[1]"},
    {"model": {"name": 3}},
    {"serving": "yes"},
    {"fromTheFuture": {"a": 1}},
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=[str(o)[:60] for o in ODD])
async def test_an_odd_status_is_put_right(tmp_path: Path, odd: Any) -> None:
    """Written by hand over a running job: what is observed comes back, and no pass fails."""
    world = World(tmp_path)
    first, _ = await until_searching(world, budget={"maxTrials": 50, "maxDurationSeconds": 3600})
    run_trials(world, (first, 0.8))
    manifest = await world.cluster.get(JOB)
    assert manifest is not None
    await world.cluster.put({**manifest, "status": {**manifest["status"], **odd} if isinstance(odd, dict) else odd})

    await world.settle()

    job, conditions = await world.job(), await world.conditions()
    assert conditions["Accepted"] == "True SpecValid"
    assert conditions["DataReady"] == "True DataLoaded"
    assert conditions["Succeeded"].split()[0] == "Unknown"
    assert job.status.trials.completed == 1
    assert job.status.observed_generation == job.metadata.generation
    assert 0 <= job.status.progress_percentage <= 100


@pytest.mark.parametrize("status", [{}, {"conditions": []}, {"model": None}])
async def test_a_finished_job_whose_status_was_wiped_finds_its_model_again(tmp_path: Path, status: Any) -> None:
    """The study still knows the result: nothing is trained again."""
    world = World(tmp_path)
    await until_ready(world)
    manifest = await world.cluster.get(JOB)
    assert manifest is not None
    merged = {k: v for k, v in {**manifest["status"], **status}.items() if v is not None} if status else {}
    await world.cluster.put({**manifest, "status": merged})

    await world.settle()

    conditions = await world.conditions()
    assert (conditions["Succeeded"], conditions["Ready"]) == ("True ModelTrained", "True Serving")
    assert (await world.job()).status.model is not None


# Killed between any two writes


async def result_of(world: World) -> tuple[dict[str, Manifest], list[tuple[int, str]]]:
    """What must be the same however often the operator died: objects, and how trials ended."""
    snapshot = await world.snapshot()
    return snapshot["objects"], [(number, state) for number, state, _ in snapshot["trials"]]


async def test_an_operator_killed_after_any_write_comes_to_the_same_end(tmp_path: Path) -> None:
    """One whole life a write: the operator dies right after it, starts anew without memory, and nothing differs."""
    folder = tmp_path / "life"
    steady = World(folder)
    await until_ready(steady)
    expected, writes = await result_of(steady), steady.fuse.writes

    assert writes > 10
    for n in range(1, writes + 1):
        shutil.rmtree(folder)
        world = World(folder, dies_after=n, start=steady.start)
        await until_ready(world)

        assert world.restarts == 1
        assert await result_of(world) == expected, f"killed after write {n} of {writes}"
