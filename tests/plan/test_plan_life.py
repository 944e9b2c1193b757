"""A job's whole life as the planner decides it, step by step, before the search and through edits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from factories import (
    NOON,
    SETTINGS,
    UID,
    make_finished_trial,
    make_job,
    make_limits,
    make_observed,
    make_pod,
    make_profile,
    make_running_trial,
)
from kubeautoml.api.objects import Ref
from kubeautoml.plan import plan
from kubeautoml.plan.base import Plan
from plan.carry import Stage
from plan.life import (
    FINALIZER,
    MODEL,
    POLICY,
    SERVER,
    SERVER_POLICY,
    SERVICE,
    WORKERS,
    data_is_read,
    finalizer_works,
    model_is_stored,
    searching,
    servers_answer,
    study_of,
    trials_end,
    trials_run,
    workers_leave,
    workers_start,
)

LIFE: list[tuple[Callable[[Stage], object], dict[str, str], list[str], list[str], int]] = [
    # what happened, conditions that changed, objects applied, reasons of events, progress
    (
        lambda stage: None,
        {
            "Accepted": "True SpecValid",
            "DataReady": "Unknown ReadingData",
            "Admitted": "Unknown WaitingForPods",
            "Succeeded": "Unknown Searching",
            "Ready": "Unknown WaitingForModel",
            "Reconciling": "True Progressing",
            "Stalled": "False Working",
        },
        [str(POLICY), str(WORKERS)],
        ["WorkersCreated"],
        0,
    ),
    (workers_start, {"Admitted": "True WorkersAdmitted"}, [], [], 0),
    (data_is_read, {"DataReady": "True DataLoaded"}, [], ["DataLoaded"], 0),
    (trials_run, {}, [], [], 99),
    (trials_end, {"Succeeded": "Unknown Finalizing"}, [], ["BudgetReached"], 99),
    (workers_leave, {}, [str(FINALIZER)], ["FinalizeCreated"], 99),
    (finalizer_works, {}, [], [], 99),
    (
        model_is_stored,
        {"Succeeded": "True ModelTrained", "Ready": "Unknown Deploying"},
        [str(MODEL), str(SERVER_POLICY), str(SERVER), str(SERVICE), "PodDisruptionBudget team-a/churn-server"],
        ["ModelTrained"],
        100,
    ),
    (servers_answer, {"Ready": "True Serving", "Reconciling": "False Idle"}, [], ["Serving"], 100),
]


def test_the_whole_life_step_by_step() -> None:
    """Each step changes what it must and nothing else; then the planner is at rest."""
    stage = Stage(make_job(budget={"maxTrials": 3}, serving={"replicas": 2}))
    known: dict[str, str] = {}

    for happens, changed, applied, told, progress in LIFE:
        happens(stage)
        stage.wait(1)
        passes = stage.settle()

        known |= changed
        assert stage.conditions() == known, happens
        assert [str(Ref.of(m)) for p in passes for m in p.apply] == applied, happens
        assert [e.reason for p in passes for e in p.events] == told, happens
        assert [ref for p in passes for ref in p.delete] == [], happens
        assert stage.job.status.progress_percentage == progress, happens

    status = stage.job.status
    assert status.model is not None and status.model.name == MODEL.name
    assert status.artifacts is not None and status.artifacts.root_uri == f"s3://models/team-a/churn/{UID}"
    assert status.serving is not None and status.serving.url == "http://churn-server.team-a.svc.cluster.local"
    assert status.best is not None and (status.best.trial, status.best.value) == (1, "0.9")
    assert status.completion_time is not None
    assert status.budget_used.ended_by == "MaxTrials"


def plans_of_a_life() -> list[Plan]:
    stage, plans = Stage(make_job(budget={"maxTrials": 3}, serving={"replicas": 2})), []
    for happens, *_ in LIFE:
        happens(stage)
        stage.wait(1)
        plans += stage.settle()
    return plans


def test_every_event_has_one_line() -> None:
    for todo in plans_of_a_life():
        for event in todo.events:
            assert event.message and "\n" not in event.message


# Before the search


def test_on_a_laptop_no_trial_is_cleaned_away() -> None:
    """A larger budget there goes on with the search, and needs what its trials left."""
    settings = replace(SETTINGS, keeps_all_trials=True)

    todo = plan(make_job(retention={"keepTrialArtifacts": 1}), make_observed(), now=NOON, settings=settings)

    assert todo.study.limits == make_limits(keep_trial_artifacts=None)


def test_workers_learn_the_limits_before_they_are_made() -> None:
    """The same plan makes the Job and writes the limits; a budget of time starts now."""
    todo = plan(make_job(budget={"maxDurationSeconds": 60}), make_observed(), now=NOON, settings=SETTINGS)

    noon = NOON.timestamp()
    assert [Ref.of(m) for m in todo.apply] == [POLICY, WORKERS]
    assert todo.study.limits == make_limits(
        search_deadline=noon + 45, job_deadline=noon + 60, budget_seconds=60, keep_trial_artifacts=5
    )
    assert todo.status.start_time == NOON


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"objective": {"metric": "Rmse"}}, "UnfittingMetric"),
        ({"budget": {"maxDurationSeconds": 3}}, "NoTrialPossible"),
        ({"budget": {"maxTrials": 1000}}, "LimitExceeded"),
        ({"output": {"uri": "s3://elsewhere"}}, "LocationNotAllowed"),
    ],
)
def test_a_job_that_breaks_a_rule_is_refused_and_mended_by_an_edit(spec: dict[str, Any], reason: str) -> None:
    """Nothing is made; the message is the condition; an edit starts it."""
    profile = make_profile(limits={"maxTrials": 500}, locations={"outputPrefixes": ["s3://models"]})
    stage = Stage(make_job(**spec), profile=profile)

    told = [e.reason for p in stage.settle() for e in p.events]

    assert stage.conditions() == {
        "Accepted": f"False {reason}",
        "Reconciling": "False Idle",
        "Stalled": f"True {reason}",
    }
    assert (told, stage.kinds(), stage.study) == ([reason], [], None)
    stage.edit()
    stage.settle()
    assert stage.conditions()["Accepted"] == "True SpecValid"
    assert WORKERS in stage.children


def test_a_missing_profile_is_named() -> None:
    stage = Stage(make_job(profileRef={"name": "gpu"}), profile_missing=True)

    stage.settle()

    assert stage.conditions()["Accepted"] == "False ProfileNotFound"
    assert stage.message("Accepted") == (
        "spec.profileRef.name: AutoMLProfile 'gpu' does not exist; ask the platform team for its name"
    )


def test_a_job_that_was_accepted_stays_so_when_limits_change() -> None:
    """A platform team that lowers a limit stops no running job; an edit is checked again."""
    stage = searching()
    stage.profile = make_profile(limits={"maxTrials": 2})

    assert stage.settle() == []
    stage.edit(budget={"maxTrials": 4})
    stage.settle()

    assert stage.conditions()["Accepted"] == "False LimitExceeded"
    assert WORKERS in stage.children


def test_a_study_that_cannot_be_read_stalls_without_harm() -> None:
    """No trial is retired, no Job is made or deleted, and it is looked at again soon."""
    stage = searching()
    trials_run(stage)
    stage.pods = ()
    stage.study_error = "no answer from grpc://study:9090"

    todo = stage.look()

    assert (todo.apply, todo.delete, bool(todo.study)) == ((), (), False)
    assert todo.wake_after == timedelta(seconds=5)
    stage.settle()
    assert stage.conditions()["Stalled"] == "True StudyUnavailable"
    assert stage.message("Stalled") == "no answer from grpc://study:9090"


@pytest.mark.parametrize(
    ("pod_reason", "message", "reason"),
    [
        ("Unschedulable", "0/3 nodes are available: insufficient memory", "PodsUnschedulable"),
        ("ImagePullBackOff", "Back-off pulling image trainer:nope", "ImageUnavailable"),
        ("CreateContainerConfigError", 'secret "lake-ro" not found', "SecretNotFound"),
    ],
)
def test_pods_that_cannot_start_stall_the_job(pod_reason: str, message: str, reason: str) -> None:
    """What the cluster says stands in the condition."""
    stage = Stage()
    stage.settle()
    stage.pods = (make_pod("pod-1", phase="Pending", reason=pod_reason, message=message),)

    stage.settle()

    assert stage.conditions()["Stalled"] == f"True {reason}"
    assert stage.message("Stalled") == f"pod pod-1-name: {message}"


# Edits while it runs


def test_parallelism_is_edited_in_place() -> None:
    stage = searching()
    before = stage.children[WORKERS]["spec"]

    stage.edit(budget={"maxTrials": 3}, workers={"parallelism": 5})
    passes = stage.settle()

    assert [Ref.of(m) for p in passes for m in p.apply] == [WORKERS]
    assert stage.children[WORKERS]["spec"] == {**before, "parallelism": 5}


def test_an_upgraded_operator_leaves_running_pods_alone() -> None:
    """A pod template cannot change; the next job gets the new image."""
    stage = searching()
    stage.settings = replace(SETTINGS, trainer_image="kubeautoml-trainer:9.9.9")

    assert stage.settle() == []


def test_a_larger_budget_is_written_for_the_workers() -> None:
    stage = searching()

    stage.edit(budget={"maxTrials": 50})
    stage.settle()

    assert stage.study is not None and stage.study.limits == make_limits(max_trials=50, keep_trial_artifacts=5)


def test_a_budget_raised_after_the_workers_had_left_brings_new_ones() -> None:
    """A complete batch Job starts no pods, so it is made again; the finalizer waits."""
    stage = searching()
    study_of(stage, completed=2, best=(make_finished_trial(),))
    workers_leave(stage)

    stage.edit(budget={"maxTrials": 50})
    passes = stage.settle()

    assert [ref for p in passes for ref in p.delete] == [WORKERS]
    assert [Ref.of(m) for p in passes for m in p.apply] == [WORKERS]
    assert "status" not in stage.children[WORKERS]
    assert FINALIZER not in stage.children


def test_a_budget_raised_while_workers_are_leaving_resumes_the_search() -> None:
    stage = searching()
    trials_run(stage)
    trials_end(stage)
    stage.settle()
    assert stage.study is not None and stage.study.limits is not None and stage.study.limits.stop

    stage.edit(budget={"maxTrials": 50})
    stage.settle()

    assert stage.study.limits == make_limits(max_trials=50, keep_trial_artifacts=5)
    assert stage.conditions()["Succeeded"] == "Unknown Searching"
    assert stage.job.status.budget_used.ended_by is None


def test_the_status_says_how_far_a_long_trial_is() -> None:
    """The first one that says so."""
    stage = searching()
    quiet = make_running_trial(2)
    busy = replace(make_running_trial(3), doing="epoch 4 of 12, 1,900 rows a second")
    study_of(stage, running=2, running_trials=(quiet, busy), completed=2)

    stage.wait(60)
    stage.settle()

    told = "2 trials completed, 2 running, of at most 3; trial 3: epoch 4 of 12, 1,900 rows a second"
    assert stage.message("Succeeded") == told


def test_a_retry_queued_after_the_last_worker_left_brings_new_workers() -> None:
    stage = searching()
    workers_leave(stage)
    study_of(stage, waiting=1)

    passes = stage.settle()

    assert [ref for p in passes for ref in p.delete] == [WORKERS]
    assert "status" not in stage.children[WORKERS]


def test_a_trial_that_the_last_worker_left_behind_is_run_by_new_ones() -> None:
    """It was asked for and never claimed; the search does not end without it, though its batch Job has done nothing more."""
    stage = searching()
    study_of(stage, completed=2, best=(make_finished_trial(),))
    workers_leave(stage)
    stage.settle()
    workers_leave(stage)
    unclaimed = make_running_trial(2, pod_uid="", started_at=stage.now.timestamp())
    study_of(stage, running=1, running_trials=(unclaimed,))

    stage.settle()

    assert stage.study is not None
    assert (stage.study.preempted, stage.study.waiting, stage.study.running) == (1, 1, 0)
    assert stage.job.status.budget_used.ended_by is None
    assert "status" not in stage.children[WORKERS]


def test_workers_that_come_and_go_without_a_trial_have_exhausted_the_space() -> None:
    """Else they would be made again for ever."""
    stage = searching()
    study_of(stage, completed=2, best=(make_finished_trial(),))
    workers_leave(stage)
    stage.settle()
    workers_leave(stage)

    stage.settle()

    assert stage.job.status.budget_used.ended_by == "Exhausted"
    assert FINALIZER in stage.children


def test_suspending_keeps_the_study_and_resuming_goes_on() -> None:
    """Pods go, their trials are queued again, and the time does not count."""
    stage = searching(budget={"maxTrials": 3, "maxDurationSeconds": 600})
    trials_run(stage)
    stage.wait(100)

    stage.edit(budget={"maxTrials": 3, "maxDurationSeconds": 600}, suspend=True)
    passes = stage.settle()
    stage.pods = ()
    passes += stage.settle()

    assert [ref for p in passes for ref in p.delete] == [WORKERS]
    assert stage.conditions()["Admitted"] == "False Suspended"
    assert stage.study is not None
    assert (stage.study.preempted, stage.study.waiting, stage.study.completed) == (1, 1, 2)
    assert [e.reason for p in passes for e in p.events] == ["Suspended", "TrialRequeued"]

    stage.wait(3600)
    stage.edit(budget={"maxTrials": 3, "maxDurationSeconds": 600}, suspend=False)
    passes = stage.settle()

    assert [e.reason for p in passes for e in p.events] == ["Resumed", "WorkersCreated"]
    assert stage.job.status.suspended_seconds == 3600
    assert stage.job.status.budget_used.duration_seconds == 100
    assert stage.study.limits is not None
    assert stage.study.limits.job_deadline == NOON.timestamp() + 600 + 3600


def test_a_job_born_suspended_makes_nothing() -> None:
    stage = Stage(make_job(suspend=True))

    stage.settle()

    assert (stage.kinds(), stage.study, stage.job.status.start_time) == ([], None, None)
    assert stage.look().wake_after is None
