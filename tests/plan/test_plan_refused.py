"""An edit that breaks a rule, or a profile that breaks away: what runs goes on by what was accepted last."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from factories import (
    make_data,
    make_finished_trial,
    make_job,
    make_pod,
    make_profile,
    make_result,
    make_running_trial,
    make_summary,
)
from kubeautoml.api.conditions import ConditionStatus, Reason, find_condition
from kubeautoml.api.job_status import AutoMLJobStatus
from kubeautoml.api.problems import Problem
from plan.carry import Stage

LIMITED = make_profile(limits={"maxTrials": 50, "maxParallelism": 4, "maxReplicas": 3})
GOOD: dict[str, Any] = {"budget": {"maxTrials": 3}, "workers": {"parallelism": 2}, "serving": {"replicas": 2}}
TOO_MUCH = {**GOOD, "budget": {"maxTrials": 5000}}


def running(**spec: Any) -> Stage:
    """Two workers at work on an accepted job."""
    stage = Stage(make_job(**{**GOOD, **spec}), profile=LIMITED)
    stage.settle()
    stage.pods = (make_pod("pod-1", started_at=stage.now.timestamp()), make_pod("pod-2"))
    stage.study = replace(stage.study or make_summary(), data=make_data())
    stage.settle()
    return stage


def worker_job(stage: Stage) -> dict[str, Any]:
    return next(m for ref, m in stage.children.items() if ref.name.endswith("worker"))


def test_an_illegal_edit_is_told_and_changes_nothing() -> None:
    """Field, rule, value, limit; the workers stay as they are."""
    stage = running()
    before = dict(stage.children)

    stage.edit(**TOO_MUCH)
    told = [e.reason for p in stage.settle() for e in p.events]

    assert stage.children == before
    assert stage.conditions()["Accepted"] == "False LimitExceeded"
    assert stage.conditions()["Stalled"] == "True LimitExceeded"
    assert stage.conditions()["Succeeded"] == "Unknown Searching"
    assert stage.message("Accepted") == (
        "spec.budget.maxTrials must be at most 50, got 5000 (AutoMLProfile default, limits.maxTrials); "
        "ask for less, or ask the platform team"
    )
    assert stage.job.status.observed_generation == 2
    assert told == ["LimitExceeded"]


def test_the_search_goes_on_to_its_end_by_what_was_accepted() -> None:
    """Lost trials are queued again, the old budget ends it, the model is made and served as it was asked for."""
    stage = running()
    stage.edit(**TOO_MUCH)
    stage.settle()

    stage.study = replace(
        stage.study or make_summary(), running=1, running_trials=(make_running_trial(7, pod_uid="gone"),)
    )
    stage.settle()
    assert stage.study is not None and (stage.study.preempted, stage.study.waiting) == (1, 1)
    best = (make_finished_trial(),)
    stage.study = replace(stage.study, completed=3, waiting=0, best=best)
    stage.settle()
    assert stage.job.status.budget_used.ended_by == "MaxTrials"
    stage.pods = ()
    stage.end_batch_job("worker")
    stage.settle()
    stage.study = replace(stage.study, result=make_result())
    stage.settle()

    assert stage.conditions()["Succeeded"] == "True ModelTrained"
    assert stage.conditions()["Accepted"] == "False LimitExceeded"
    assert stage.children[next(r for r in stage.children if r.kind == "Deployment")]["spec"]["replicas"] == 2


def test_an_edit_back_heals() -> None:
    stage = running()
    stage.edit(**TOO_MUCH)
    stage.settle()

    stage.edit(**{**GOOD, "workers": {"parallelism": 3}})
    stage.settle()

    assert stage.conditions()["Accepted"] == "True SpecValid"
    assert stage.conditions()["Stalled"] == "False Working"
    assert worker_job(stage)["spec"]["parallelism"] == 3


def test_a_job_can_be_stopped_whatever_else_is_wrong_with_it() -> None:
    """Also after the platform team has lowered a limit below what the job has."""
    stage = running()
    stage.profile = make_profile(limits={"maxTrials": 1})
    assert stage.settle() == []

    stage.edit(**GOOD, suspend=True)
    stage.settle()

    assert stage.conditions()["Accepted"] == "False LimitExceeded"
    assert stage.conditions()["Admitted"] == "False Suspended"
    assert [k for k in stage.kinds() if k.startswith("Job ")] == []


def test_an_endpoint_cannot_be_edited_over_a_limit() -> None:
    """The limits hold after the end, too; the old endpoint goes on."""
    stage = running()
    stage.study = replace(stage.study or make_summary(), result=make_result())
    stage.settle()
    before = dict(stage.children)

    stage.edit(**{**GOOD, "serving": {"replicas": 30}})
    stage.settle()

    assert stage.conditions()["Accepted"] == "False LimitExceeded"
    assert stage.children == before


def test_a_job_that_was_never_accepted_has_nothing_to_go_on_with() -> None:
    """Also when somebody has written into its status what was never decided."""
    for text in (None, "", "no JSON", "[]", '{"budget": {"maxTrials": 0}}', '{"serving": 3}'):
        status = AutoMLJobStatus(accepted_spec=text)
        stage = Stage(make_job(**TOO_MUCH, status=status), profile=LIMITED)

        stage.settle()

        assert (stage.conditions()["Accepted"], stage.kinds()) == ("False LimitExceeded", []), text


def test_a_spec_that_cannot_be_read_is_told_and_the_job_goes_on() -> None:
    """The stored object is of another version, or was written past the schema."""
    stage = running()
    message = "spec.workers.paralelism is not a field of AutoMLJob; did you mean spec.workers.parallelism?"
    stage.spec_problem = Problem("spec", "must be readable", None, message)
    stage.job = stage.job.model_copy(update={"metadata": stage.job.metadata.model_copy(update={"generation": 2})})

    stage.study = replace(stage.study or make_summary(), completed=1, best=(make_finished_trial(),))
    stage.settle()

    assert stage.conditions()["Accepted"] == "False InvalidSpec"
    assert stage.message("Accepted") == message
    assert stage.job.status.trials.completed == 1


BROKEN = {
    "missing": {"profile_missing": True},
    "broken": {
        "profile_error": "AutoMLProfile default: spec.limits.maxTrials: must be at least 1; ask the platform team"
    },
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_profile_that_goes_away_stops_nothing_that_runs(what: str) -> None:
    """It is said; workers go on, lost trials are queued again, and it may be resized and suspended."""
    stage = running()
    before = dict(stage.children)
    stage.profile = None
    vars(stage).update(BROKEN[what])

    stage.study = replace(stage.study or make_summary(), running=1, running_trials=(make_running_trial(7, "gone"),))
    stage.settle()

    reason = Reason.PROFILE_NOT_FOUND if what == "missing" else Reason.PROFILE_INVALID
    assert stage.children == before
    assert stage.study is not None and stage.study.preempted == 1
    assert stage.conditions()["Accepted"] == "True SpecValid"
    assert stage.conditions()["Stalled"] == f"True {reason}"
    stage.edit(**GOOD, suspend=True)
    stage.settle()
    assert [k for k in stage.kinds() if k.startswith("Job ")] == []


@pytest.mark.parametrize("what", BROKEN)
def test_nothing_is_made_by_guessed_settings(what: str) -> None:
    """The finalizer and the endpoint wait for the profile, without telling again and again that they were made."""
    stage = running()
    stage.study = replace(stage.study or make_summary(), completed=3, best=(make_finished_trial(),))
    stage.settle()
    stage.pods = ()
    stage.end_batch_job("worker")
    before = dict(stage.children)
    vars(stage).update(BROKEN[what])
    stage.profile = None

    passes = stage.settle()

    assert stage.children == before
    assert [e.reason for p in passes for e in p.events] == []
    stage.profile, stage.profile_missing, stage.profile_error = LIMITED, False, None
    stage.settle()
    assert any(r.name.endswith("finalize") for r in stage.children)
    assert stage.conditions()["Stalled"] == "False Working"


def test_a_job_that_comes_with_a_broken_profile_waits_for_it() -> None:
    stage = Stage(make_job(), profile_error="AutoMLProfile default: spec.limits: must be an object")

    stage.settle()

    assert stage.conditions()["Accepted"] == "False ProfileInvalid"
    assert stage.kinds() == []


def test_a_failed_job_that_is_edited_stays_failed_at_the_new_generation() -> None:
    """`kubectl wait` and GitOps look at observedGeneration."""
    stage = running()
    stage.study = replace(stage.study or make_summary(), failed=11)
    stage.settle()
    stage.pods = ()
    stage.end_batch_job("worker")
    stage.settle()
    assert stage.conditions()["Succeeded"].startswith("False")

    stage.edit(**{**GOOD, "budget": {"maxTrials": 4}})
    stage.settle()

    conditions = stage.job.status.conditions
    assert {c.observed_generation for c in conditions} == {stage.job.status.observed_generation} == {2}
    succeeded = find_condition(conditions, "Succeeded")
    assert succeeded is not None and succeeded.status is ConditionStatus.FALSE


def test_another_default_of_the_profile_is_for_workers_to_come() -> None:
    """A platform team that edits it restarts nobody's pods; after a suspension it holds."""
    stage = Stage(make_job(), profile=make_profile(defaults={"parallelism": 3}))
    stage.settle()
    stage.profile = make_profile(defaults={"parallelism": 5})

    assert stage.settle() == []
    assert worker_job(stage)["spec"]["parallelism"] == 3

    stage.edit(suspend=True)
    stage.settle()
    stage.edit()
    stage.settle()
    assert worker_job(stage)["spec"]["parallelism"] == 5
