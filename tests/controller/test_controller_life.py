"""A job's whole life over the memory cluster, step by step, and the same life with an operator killed at every write."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from controller.life import (
    JOB,
    SERVER,
    UID,
    WORKERS,
    World,
    component_of,
    make_churn,
)
from controller.stages import objects, run_trials, until_ready, until_searching
from kubeautoml.api.objects import Manifest
from kubeautoml.api.trials import Failure, StudyAttr
from kubeautoml.study import set_study_attr

pytestmark = pytest.mark.anyio


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
