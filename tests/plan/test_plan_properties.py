"""What holds whatever was seen: the planner comes to rest, says all conditions, and keeps the object small."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from factories import (
    NOON,
    SETTINGS,
    make_data,
    make_finished_trial,
    make_job,
    make_limits,
    make_manifest,
    make_observed,
    make_pod,
    make_result,
    make_running_trial,
    make_summary,
)
from kubeautoml.api.conditions import ConditionType, Reason
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.profile import AutoMLProfileSpec
from kubeautoml.api.trials import Failure, StudySummary
from kubeautoml.plan import plan
from kubeautoml.plan.base import PodSeen
from kubeautoml.plan.workers import finalizer_job, worker_job
from plan.carry import Stage

SPEC: dict[str, Any] = {
    "budget": {"maxTrials": 5, "maxDurationSeconds": 100, "maxFailedTrials": 2, "patienceTrials": 3}
}
BATCH_ENDS = st.sampled_from([None, "Complete", "Failed"])


@st.composite
def pods(draw: st.DrawFn) -> PodSeen:
    return make_pod(
        draw(st.sampled_from(["pod-1", "pod-2", "pod-3"])),
        draw(st.sampled_from(["worker", "finalizer", "server"])),
        draw(st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"])),
        reason=draw(st.sampled_from(["", "Unschedulable", "OOMKilled", "ImagePullBackOff", "Evicted"])),
        started_at=draw(st.sampled_from([None, NOON.timestamp() - 50])),
        is_deleting=draw(st.booleans()),
    )


@st.composite
def studies(draw: st.DrawFn) -> StudySummary:
    running = draw(st.lists(st.sampled_from(["", "pod-1", "pod-2", "gone"]), max_size=3))
    best = draw(st.lists(st.floats(0, 1), max_size=3))
    return make_summary(
        best=[make_finished_trial(i, value) for i, value in enumerate(sorted(best, reverse=True))],
        waiting=draw(st.integers(0, 1)),
        running=len(running),
        running_trials=tuple(
            make_running_trial(10 + i, uid, draw(st.integers(1, 3)), NOON.timestamp() - 90)
            for i, uid in enumerate(running)
        ),
        failed=draw(st.integers(0, 3)),
        pruned=draw(st.integers(0, 3)),
        preempted=draw(st.integers(0, 3)),
        trials_since_best=draw(st.integers(0, 4)),
        exhausted=draw(st.booleans()),
        data=draw(st.sampled_from([None, make_data()])),
        failure=draw(st.sampled_from([None, None, Failure("data", "DatasetNotFound", "no such object")])),
        result=draw(st.sampled_from([None, None, make_result()])),
        limits=draw(st.sampled_from([None, make_limits(), make_limits(stop=True)])),
    )


def batch_job(manifest: Manifest, end: str | None) -> Manifest:
    status = {"conditions": [{"type": end, "status": "True"}]} if end else {}
    return {**manifest, "status": status}


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    """A job found in the middle of anything: an operator may come back after any write, and users edit at any time."""
    serving = draw(st.sampled_from([None, {"replicas": 2}, {"gate": {"metric": "RocAuc", "min": "0.95"}}]))
    spec = {**SPEC, "suspend": draw(st.booleans()), **({"serving": serving} if serving else {})}
    stage = Stage(make_job(**spec))
    if draw(st.booleans()):
        stage.settle()
    profile = AutoMLProfileSpec()
    for make in (worker_job, finalizer_job):
        if draw(st.booleans()):
            made = batch_job(make(stage.job, profile, SETTINGS), draw(BATCH_ENDS))
            stage.children[Ref.of(made)] = made
    stage.pods = tuple(draw(st.lists(pods(), max_size=3, unique_by=lambda p: p.uid)))
    stage.study = draw(st.none() | studies())
    stage.study_error = draw(st.sampled_from([None, None, None, "no answer"]))
    stage.now = NOON + timedelta(seconds=draw(st.sampled_from([0, 1, 84, 86, 99, 500])))
    return stage


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(stages())
def test_the_planner_comes_to_rest_wherever_it_is_started(stage: Stage) -> None:
    """Its own output gives it nothing more to do while nothing else happens."""
    stage.settle()

    again = stage.look()

    assert (again.apply, again.delete, bool(again.study), again.events) == ((), (), False, ())
    assert again.status == stage.job.status


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(stages())
def test_every_condition_is_told_with_a_known_reason(stage: Stage) -> None:
    """Reasons are the documented ones, messages have one line; only a job that failed first may never have been admitted."""
    stage.settle()

    conditions = stage.job.status.conditions

    if stage.study_error is None:
        missing = {t.value for t in ConditionType} - {c.type for c in conditions}
        assert missing <= ({"Admitted"} if stage.job.status.completion_time else set())
    for condition in conditions:
        assert condition.reason in list(Reason)
        assert "\n" not in condition.message


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(stages())
def test_whatever_time_alone_can_change_has_a_time_to_wake(stage: Stage) -> None:
    """If an hour changes what the planner does, it asked to be woken within that hour."""
    stage.settle()
    todo = stage.look()
    stage.wait(3600)

    later = stage.look()

    if (later.apply, later.delete, later.study) != (todo.apply, todo.delete, todo.study):
        assert todo.wake_after is not None and todo.wake_after <= timedelta(hours=1)


def test_planning_changes_none_of_its_arguments() -> None:
    stage = Stage(make_job(**SPEC))
    stage.settle()
    before = (stage.job.model_dump_json(), json.dumps(list(stage.children.values())))

    stage.look()

    assert (stage.job.model_dump_json(), json.dumps(list(stage.children.values()))) == before


def test_the_object_stays_below_32_kib_at_twenty_thousand_trials() -> None:
    """Long parameters, long messages, the ten best trials."""
    parameters = {f"a_rather_long_parameter_name_{i}": "x" * 500 for i in range(40)}
    best = [make_finished_trial(i, 0.9, parameters=parameters, family="GradientBoosting") for i in range(10)]
    study = make_summary(
        best=best,
        completed=15_000,
        pruned=4_000,
        failed=900,
        preempted=100,
        data=make_data(warnings=tuple(f"column {i} " + "is odd " * 20 for i in range(500))),
        failure=Failure("search", "InvalidSearch", "words " * 2000),
    )
    budget = {"maxTrials": 100_000, "maxFailedTrials": 1000}

    todo = plan(make_job(budget=budget), make_observed(study=study), now=NOON, settings=SETTINGS)

    size = len(json.dumps({**make_manifest(), "status": todo.status.to_manifest()}).encode())
    assert size < 32 * 1024
    assert todo.status.trials.total == 20_000
