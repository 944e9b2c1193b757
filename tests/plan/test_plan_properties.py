"""What holds whatever was seen: the planner comes to rest, says all conditions, and keeps the object small."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import (
    NOON,
    SETTINGS,
    make_data,
    make_finished_trial,
    make_job,
    make_limits,
    make_observed,
    make_pod,
    make_profile,
    make_result,
    make_running_trial,
    make_summary,
)
from kubeautoml.api.conditions import ConditionType, Reason
from kubeautoml.api.names import ANNOTATION_RETRY
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
        labels = {"kueue.x-k8s.io/queue-name": "team-a"}
        meta = stage.job.metadata.model_copy(update={"labels": labels})
        stage.job = stage.job.model_copy(update={"metadata": meta})
    if draw(st.booleans()):
        stage.settle()
    profile = AutoMLProfileSpec()
    for make in (worker_job, finalizer_job):
        if draw(st.booleans()):
            made = batch_job(make(stage.job, profile, SETTINGS), draw(BATCH_ENDS))
            made["spec"]["suspend"] = draw(st.booleans())
            stage.children[Ref.of(made)] = made
    if draw(st.booleans()):
        stage.edit(**{**spec, "budget": {"maxTrials": draw(st.sampled_from([2, 50, 5000]))}})
        stage.profile = make_profile(limits={"maxTrials": 100})
    stage.profile_missing = draw(st.sampled_from([False, False, True]))
    if stage.profile_missing:
        stage.profile = None
    stage.pods = tuple(draw(st.lists(pods(), max_size=3, unique_by=lambda p: p.uid)))
    stage.study = draw(st.none() | studies())
    stage.study_error = draw(st.sampled_from([None, None, None, "no answer"]))
    stage.now = NOON + timedelta(seconds=draw(st.sampled_from([0, 1, 84, 86, 99, 500])))
    if draw(st.booleans()):
        stage.settle()
        annotations = {ANNOTATION_RETRY: draw(st.sampled_from(["", "again"]))}
        meta = stage.job.metadata.model_copy(update={"annotations": annotations})
        stage.job = stage.job.model_copy(update={"metadata": meta})
        stage.pods = draw(st.sampled_from([(), stage.pods]))
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
    """Reasons are the documented ones, messages have one line; only a job that failed first may never have been admitted, and
    one that never was accepted says only that."""
    stage.settle()

    conditions = stage.job.status.conditions

    if stage.study_error is None and stage.job.status.accepted_spec is not None:
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


WIDE = "\N{MATHEMATICAL BOLD CAPITAL A}"
"""Four bytes of UTF-8."""


def largest_placement(letter: str) -> dict[str, Any]:
    """As much as the schema lets somebody say about nodes."""
    expressions = [{"key": letter * 60, "operator": "In", "values": [letter * 63] * 32}] * 8
    terms = {"nodeSelectorTerms": [{"matchExpressions": expressions}] * 8}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


@pytest.mark.parametrize(
    "placement", [{}, {"nodeSelector": {f"k{i}": "v" * 60 for i in range(16)}}, largest_placement("a")]
)
@pytest.mark.parametrize("letter", ["x", WIDE])
def test_the_status_stays_small_whatever_it_has_to_say(letter: str, placement: dict[str, Any]) -> None:
    """20,000 trials, the largest search space, the longest messages, the longest spec: with the smallest spec and what a server
    keeps about field managers (4 KiB at most) the object is below 32 KiB."""
    parameters = {f"{letter * 100}{i}": letter * 500 for i in range(64)}
    best = [make_finished_trial(i, -0.123456789e-300, parameters=parameters, family=letter * 300) for i in range(10)]
    study = make_summary(
        best=best,
        completed=15_000,
        pruned=4_000,
        failed=900,
        preempted=100,
        data=make_data(warnings=tuple(f"column {i} " + f"is {letter} " * 20 for i in range(500))),
        failure=Failure("data", "InvalidSearch", f"{letter} " * 4000),
    )
    spec = {"budget": {"maxTrials": 100_000, "maxFailedTrials": 1000}, "workers": {"placement": placement}}

    todo = plan(make_job(**spec), make_observed(study=study), now=NOON, settings=SETTINGS)

    status = json.dumps(todo.status.to_manifest(), ensure_ascii=False, separators=(",", ":"))
    assert len(status.encode()) < 26 * 1024
    assert todo.status.trials.total == 20_000
    assert todo.status.leaderboard and all(len(c.message.encode()) <= 768 for c in todo.status.conditions)


def test_a_spec_that_is_too_long_to_keep_is_not_kept() -> None:
    """An illegal edit then leaves all as it is, as far as it can."""
    job = make_job(workers={"placement": largest_placement("a")})

    todo = plan(job, make_observed(), now=NOON, settings=SETTINGS)

    assert todo.status.accepted_spec is None
