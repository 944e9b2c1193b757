"""A job driven over processes on this machine: real planner, study and cluster; workers are a few lines of Python."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from controller.life import JOB, UID, make_churn
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.names import LABEL_COMPONENT, study_name
from kubeautoml.api.objects import Manifest
from kubeautoml.cluster.local import LocalCluster
from kubeautoml.controller.drive import Driver, has_ended
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.controller.studies import Studies
from kubeautoml.plan.base import Settings

pytestmark = pytest.mark.anyio

WORKER = """
    import os, sys, time
    from kubeautoml.api.pod import PodContext
    from kubeautoml.api.trials import DataFacts, StudyAttr
    from kubeautoml.study import create_study, open_study_storage, read_limits, set_study_attr

    context = PodContext.from_env(os.environ)
    study = create_study(open_study_storage(context.study_url), context.job.study_name, context.job.direction)
    set_study_attr(study, StudyAttr.DATA, DataFacts(80, 9, 20, 5, 2, "a" * 64))
    while True:
        limits = read_limits(study)
        if limits is None:
            time.sleep(0.05)
            continue
        done = sum(t.state.is_finished() and not t.user_attrs.get("preempted") for t in study.get_trials(deepcopy=False))
        if limits.stop or done >= limits.max_trials:
            sys.exit(0)
        trial = study.ask()
        trial.set_user_attr("pod_uid", context.pod_uid)
        trial.set_user_attr("family", "Linear")
        x = trial.suggest_float("x", 0, 1)
        if trial.number == int(os.environ.get("HANGS_AT", -1)):
            print("hanging", flush=True)
            time.sleep(60)
        time.sleep(0.02)
        study.tell(trial, x)
"""

FINALIZER = """
    import os, time
    from kubeautoml.api.pod import PodContext
    from kubeautoml.api.trials import JobResult, StudyAttr
    from kubeautoml.study import create_study, open_study_storage, set_study_attr

    context = PodContext.from_env(os.environ)
    study = create_study(open_study_storage(context.study_url), context.job.study_name, context.job.direction)
    result = JobResult(context.job.paths.model, "b" * 64, 1, {"RocAuc": 0.9}, ("Linear",), len(study.trials), "a" * 64,
                       time.time(), "0.1.0")
    set_study_attr(study, StudyAttr.RESULT, result)
"""


class StandInCluster(LocalCluster):
    """A LocalCluster whose workers and finalizers are the lines above."""

    async def apply(self, manifest: Manifest) -> Manifest:
        code = {"worker": WORKER, "finalizer": FINALIZER}.get(
            manifest["metadata"].get("labels", {}).get(LABEL_COMPONENT)
        )
        if manifest["kind"] == "Job" and code:
            [container] = manifest["spec"]["template"]["spec"]["containers"]
            container |= {"command": [sys.executable, "-c", textwrap.dedent(code)], "args": []}
        return await super().apply(manifest)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[StandInCluster]:
    async with StandInCluster(tmp_path, backoff_seconds=0.05, max_grace_seconds=1) as cluster:
        yield cluster


async def make_driver(
    cluster: LocalCluster,
    folder: Path,
    *,
    seen: list[AutoMLJob] | None = None,
    **spec: Any,
) -> Driver:
    manifest = make_churn(**{"serving": None, "output": {"uri": f"file://{folder}/out"}, **spec})
    manifest["spec"] = {k: v for k, v in manifest["spec"].items() if v is not None}
    await cluster.put(manifest)
    plan = Settings(study_url=f"journal://{folder}/study.log", serving_enabled=False, status_interval_seconds=0.1)
    show = seen.append if seen is not None else None
    return Driver(JOB, cluster, Studies(), OperatorSettings(plan=plan), poll_seconds=0.1, on_status=show)


async def run(driver: Driver) -> AutoMLJob:
    return await asyncio.wait_for(driver.run(has_ended), 60)


def condition(job: AutoMLJob, kind: str) -> str:
    found = next((c for c in job.status.conditions if c.type == kind), None)
    return f"{found.status.value} {found.reason}" if found else "absent"


async def until(driver: Driver, seen: list[AutoMLJob], completed: int) -> asyncio.Task[AutoMLJob]:
    """Start driving, and wait until so many trials are completed."""
    running = asyncio.create_task(run(driver))
    while not seen or seen[-1].status.trials.completed < completed:
        assert not running.done(), running.result()
        await asyncio.sleep(0.05)
    return running


async def test_a_job_runs_to_its_model_on_this_machine(cluster: StandInCluster, tmp_path: Path) -> None:
    """Real processes share the study; the view sees every status, the last of which is the result."""
    seen: list[AutoMLJob] = []
    driver = await make_driver(cluster, tmp_path, seen=seen, budget={"maxTrials": 6})

    job = await run(driver)

    assert condition(job, "Succeeded") == "True ModelTrained"
    assert job.status.trials.completed >= 6 and job.status.model is not None
    assert seen[-1].status == job.status
    completed = [j.status.trials.completed for j in seen]
    assert completed == sorted(completed)


async def test_a_stop_request_ends_the_search_and_still_makes_the_model(
    cluster: StandInCluster, tmp_path: Path
) -> None:
    """Ctrl-C: of a budget of thousands only what was done is used."""
    seen: list[AutoMLJob] = []
    driver = await make_driver(cluster, tmp_path, seen=seen, budget={"maxTrials": 5000})
    running = await until(driver, seen, completed=3)

    driver.request_stop()
    job = await running

    assert condition(job, "Succeeded") == "True ModelTrained"
    assert job.status.budget_used.ended_by == "Interrupted"
    assert 3 <= job.status.trials.completed < 1000


async def test_a_killed_worker_costs_no_trial(cluster: StandInCluster, tmp_path: Path) -> None:
    """Its running trial is tried again, its finished ones count once."""
    cluster._environment["HANGS_AT"] = "2"
    seen: list[AutoMLJob] = []
    driver = await make_driver(cluster, tmp_path, seen=seen, budget={"maxTrials": 5}, workers={"parallelism": 1})
    running = await until(driver, seen, completed=2)
    [pod] = [p for p in await cluster.list("Pod") if p["metadata"]["labels"][LABEL_COMPONENT] == "worker"]
    log = cluster.log_file(pod["metadata"]["name"])
    while "hanging" not in log.read_text():
        await asyncio.sleep(0.05)

    os.kill(cluster.pid_of(pod["metadata"]["name"]), signal.SIGKILL)
    job = await running

    trials = job.status.trials
    assert condition(job, "Succeeded") == "True ModelTrained"
    assert (trials.completed, trials.preempted) == (5, 1)


async def test_a_cancelled_run_leaves_a_study_to_go_on_with(tmp_path: Path) -> None:
    """Leaving at once loses no finished trial; the next run reopens the study and goes on."""
    seen: list[AutoMLJob] = []
    async with StandInCluster(tmp_path, max_grace_seconds=1) as cluster:
        driver = await make_driver(cluster, tmp_path, seen=seen, budget={"maxTrials": 5000})
        running = await until(driver, seen, completed=2)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    studies, url, name = Studies(), f"journal://{tmp_path}/study.log", study_name("team-a", "churn", UID)
    before = await studies.summary(url, name)
    assert before is not None

    async with StandInCluster(tmp_path, max_grace_seconds=1) as cluster:
        driver = await make_driver(cluster, tmp_path, budget={"maxTrials": before.completed + 3})
        job = await run(driver)

    assert condition(job, "Succeeded") == "True ModelTrained"
    assert job.status.trials.completed >= before.completed + 3
