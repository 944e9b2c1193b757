"""A failed job is put back to work over the memory cluster and a real study, also by an operator that is killed at every write."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.life import FINALIZER, JOB, WORKERS, World
from kubeautoml.api.names import ANNOTATION_RETRY
from kubeautoml.api.trials import Failure, StudyAttr
from kubeautoml.study import set_study_attr

pytestmark = pytest.mark.anyio


async def failed(world: World) -> None:
    """Workers could not write, after two trials had failed for it."""
    await world.create()
    await world.settle()
    first, second = await world.start_pods(WORKERS)
    world.report_data()
    for pod in (first, second):
        world.finish_trial(world.begin_trial(pod), None)
    set_study_attr(world.study(), StudyAttr.FAILURE, Failure("output", "OutputNotWritable", "access denied"))
    await world.end_pods(WORKERS, exit_code=1, condition="Failed")
    await world.settle()
    assert (await world.conditions())["Succeeded"] == "False OutputNotWritable"


async def finish(world: World) -> None:
    """All that is left of the job's life goes well."""
    pods = await world.start_pods(WORKERS)
    for value in (0.8, 0.9, 0.85, 0.7):
        world.finish_trial(world.begin_trial(pods[0]), value)
    await world.settle()
    await world.end_pods(WORKERS)
    await world.settle()
    await world.start_pods(FINALIZER)
    world.report_result()
    await world.end_pods(FINALIZER)
    await world.settle()


@pytest.mark.parametrize("dies_after", [None, *range(8)])
async def test_a_failed_job_that_is_asked_to_goes_on_to_its_model(tmp_path: Path, dies_after: int | None) -> None:
    """With another bucket policy, say: the same job, the same study, and the failed trials beside those that completed."""
    world = World(tmp_path)
    await failed(world)
    world.fuse.left = None if dies_after is None else world.fuse.writes + 1 + dies_after

    await world.cluster.edit(JOB, {"metadata": {"annotations": {ANNOTATION_RETRY: "again"}}})
    await world.settle()
    assert (await world.conditions())["Succeeded"] == "Unknown Searching"
    await finish(world)

    job = await world.job()
    assert (await world.conditions())["Succeeded"] == "True ModelTrained"
    assert (job.status.trials.failed, job.status.trials.completed, job.status.budget_used.trials) == (2, 4, 4)
    assert job.status.retry is not None and job.status.retry.count == 1
