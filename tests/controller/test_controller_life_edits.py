"""A job whose spec or status somebody else has written: odd, unreadable or wiped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controller.life import (
    FINALIZER,
    JOB,
    WORKERS,
    World,
)
from controller.stages import run_trials, until_ready, until_searching

pytestmark = pytest.mark.anyio


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
