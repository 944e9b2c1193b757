"""A job's whole life as the planner decides it, step by step, and every way in which it can end."""

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
from kubeautoml.api.names import Component, finalizer_job_name, model_name, network_policy_name, worker_job_name
from kubeautoml.api.objects import Ref
from kubeautoml.api.trials import Failure
from kubeautoml.plan import plan
from kubeautoml.plan.base import Plan
from plan.carry import Stage

WORKERS = Ref("Job", "team-a", worker_job_name("churn", UID))
FINALIZER = Ref("Job", "team-a", finalizer_job_name("churn", UID))
MODEL = Ref("AutoMLModel", "team-a", model_name("churn", UID, "v1"))
POLICY = Ref("NetworkPolicy", "team-a", network_policy_name("churn", UID))
SERVER_POLICY = Ref("NetworkPolicy", "team-a", "churn-server")
SERVER = Ref("Deployment", "team-a", "churn-server")
SERVICE = Ref("Service", "team-a", "churn-server")


def study_of(stage: Stage, /, **changes: Any) -> None:
    """The study as workers, or the finalizer, left it."""
    stage.study = replace(stage.study or make_summary(), **changes)


# What happens around a job


def workers_start(stage: Stage) -> None:
    stage.pods = (make_pod("pod-1", started_at=stage.now.timestamp()),)


def data_is_read(stage: Stage) -> None:
    study_of(stage, data=make_data(warnings=("column id looks like an identifier",)))


def trials_run(stage: Stage) -> None:
    best = (make_finished_trial(1, 0.9), make_finished_trial(0, 0.8))
    study_of(stage, completed=2, running=1, running_trials=(make_running_trial(2),), best=best)


def trials_end(stage: Stage) -> None:
    study_of(stage, completed=3, running=0, running_trials=())


def workers_leave(stage: Stage) -> None:
    stage.pods = (make_pod("pod-1", phase="Succeeded", exit_code=0),)
    stage.end_batch_job("worker")


def finalizer_works(stage: Stage) -> None:
    stage.pods += (make_pod("pod-f", component=Component.FINALIZER),)
    study_of(stage, stage="choosing the ensemble")


def model_is_stored(stage: Stage) -> None:
    study_of(stage, result=make_result())
    stage.end_batch_job("finalize")


def servers_answer(stage: Stage) -> None:
    deployment = stage.children[SERVER]
    status = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
    stage.children[SERVER] = {**deployment, "status": status}


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


def searching(**spec: Any) -> Stage:
    """A job whose only worker has read the data."""
    stage = Stage(make_job(**{"budget": {"maxTrials": 3}, **spec}))
    stage.settle()
    workers_start(stage)
    data_is_read(stage)
    stage.settle()
    return stage


def finalizing(**spec: Any) -> Stage:
    stage = searching(**spec)
    trials_run(stage)
    trials_end(stage)
    stage.settle()
    workers_leave(stage)
    stage.settle()
    assert FINALIZER in stage.children
    return stage


def finished(**spec: Any) -> Stage:
    stage = finalizing(**spec)
    model_is_stored(stage)
    stage.settle()
    return stage


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


def test_a_retry_queued_after_the_last_worker_left_brings_new_workers() -> None:
    stage = searching()
    workers_leave(stage)
    study_of(stage, waiting=1)

    passes = stage.settle()

    assert [ref for p in passes for ref in p.delete] == [WORKERS]
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


# The end of the search


def test_the_deadline_stops_the_search_and_late_workers_are_deleted() -> None:
    """They are told first, then given 3 s; what is left of the time is the finalizer's."""
    stage = searching(budget={"maxDurationSeconds": 60})
    trials_run(stage)
    wake = stage.look().wake_after
    assert wake == timedelta(seconds=5)
    stage.wait(45)

    stage.settle()
    assert stage.study is not None and stage.study.limits is not None and stage.study.limits.stop
    assert WORKERS in stage.children

    stage.wait(3)
    stage.settle()
    assert WORKERS not in stage.children

    stage.pods = ()
    stage.settle()
    assert FINALIZER in stage.children
    assert stage.job.status.budget_used.ended_by == "MaxDuration"


def test_the_planner_wakes_at_the_deadline() -> None:
    stage = searching(budget={"maxDurationSeconds": 60})
    stage.wait(43)

    assert stage.look().wake_after == timedelta(seconds=2)


def test_a_search_without_a_completed_trial_fails_with_the_most_frequent_error() -> None:
    stage = searching(budget={"maxTrials": 3})
    study_of(stage, failed=3, error="ValueError: no finite value in column x")
    stage.settle()
    workers_leave(stage)

    stage.settle()

    assert stage.conditions()["Succeeded"] == "False NoTrialCompleted"
    assert stage.message("Succeeded") == (
        "no trial completed before the search ended (MaxTrials): 3 failed, 0 were cut; most frequent error: "
        "ValueError: no finite value in column x; give a larger spec.budget, or fewer and faster spec.search.families"
    )
    assert stage.job.status.budget_used.ended_by == "MaxTrials"


def test_too_many_failures_end_a_job_that_has_nothing() -> None:
    stage = searching(budget={"maxFailedTrials": 2})
    study_of(stage, failed=2, error="MemoryError")
    stage.settle()
    workers_leave(stage)

    stage.settle()

    assert stage.conditions()["Succeeded"] == "False TooManyFailedTrials"
    assert stage.message("Succeeded") == (
        "2 trials failed and none completed (spec.budget.maxFailedTrials is 2); most frequent error: MemoryError"
    )


def test_too_many_failures_still_make_a_model_of_what_completed() -> None:
    stage = searching(budget={"maxFailedTrials": 2})
    study_of(stage, failed=2, completed=1, best=(make_finished_trial(),))
    stage.settle()
    workers_leave(stage)

    stage.settle()

    assert FINALIZER in stage.children
    assert stage.job.status.budget_used.ended_by == "MaxFailedTrials"


def test_a_search_that_no_pod_could_join_says_why() -> None:
    """The cause is the cluster's, not the budget's."""
    stage = Stage(make_job(budget={"maxDurationSeconds": 60}))
    stage.settle()
    stage.pods = (make_pod("pod-1", phase="Pending", reason="Unschedulable", message="0/3 nodes are available"),)
    stage.wait(50)
    stage.settle()
    stage.wait(20)
    stage.settle()
    assert WORKERS not in stage.children
    stage.pods = ()

    stage.settle()

    assert stage.conditions()["Succeeded"] == "False NoTrialCompleted"
    assert stage.message("Succeeded") == (
        "no worker could start before the search ended (MaxDuration): pod pod-1-name: 0/3 nodes are available"
    )


@pytest.mark.parametrize("has_data", [False, True])
def test_workers_that_crash_again_and_again_are_given_up(has_data: bool) -> None:
    """Exit code and last words of the last one; its pod stays for its logs, and no other is started."""
    stage = searching() if has_data else Stage()
    stage.settle()
    crash = {"phase": "Failed", "exit_code": 1, "reason": "Error", "message": "ModuleNotFoundError: torch"}
    stage.pods = tuple(make_pod(f"pod-{i}", finished_at=float(i), **crash) for i in range(4))
    stage.settle()
    assert stage.conditions()["Succeeded"] == "Unknown Searching"

    stage.pods += (make_pod("pod-9", finished_at=9.0, **crash),)
    stage.settle()

    assert stage.conditions()["Succeeded"] == "False WorkersFailed"
    assert stage.message("Succeeded") == (
        "5 worker pods failed before a trial completed; the last, pod-9-name, ended with exit code 1: "
        "ModuleNotFoundError: torch; see kubectl automl logs churn"
    )
    assert stage.children[WORKERS]["spec"]["parallelism"] == 0


def test_pods_that_the_cluster_took_away_are_no_crashes() -> None:
    stage = Stage()
    stage.settle()
    stage.pods = tuple(make_pod(f"pod-{i}", phase="Failed", reason="Evicted") for i in range(20))

    stage.settle()

    assert stage.conditions()["Succeeded"] == "Unknown Searching"


@pytest.mark.parametrize(
    ("failure", "data_ready"),
    [
        (Failure("data", "TargetNotFound", "column 'churn' is not in the data; did you mean 'churned'?"), "False TargetNotFound"),
        (Failure("output", "OutputNotWritable", "s3://models cannot be written"), "False OutputNotWritable"),
        (Failure("search", "InvalidSearch", "no family is left"), "Unknown ReadingData"),
        (Failure("search", "SomethingNew", "a reason this operator does not know"), "Unknown ReadingData"),
    ],
)  # fmt: skip
def test_what_a_pod_found_wrong_ends_the_job_in_its_words(failure: Failure, data_ready: str) -> None:
    """At once, and no other pod is started."""
    stage = Stage()
    stage.settle()
    workers_start(stage)
    study_of(stage, failure=failure)

    told = [e.reason for p in stage.settle() for e in p.events]

    assert stage.conditions()["DataReady"] == data_ready
    assert stage.conditions()["Succeeded"] == f"False {failure.reason}"
    assert stage.message("Succeeded") == failure.message
    assert stage.conditions()["Ready"] == "False NoModel"
    assert stage.children[WORKERS]["spec"]["parallelism"] == 0
    assert set(told) == {failure.reason, "NoModel"}


def test_a_finalizer_that_fails_for_good_fails_the_job() -> None:
    stage = finalizing()
    stage.pods = (make_pod("pod-f", Component.FINALIZER, "Failed", exit_code=1, message="no space left on device"),)
    stage.end_batch_job("finalize", "Failed")

    stage.settle()

    assert stage.conditions()["Succeeded"] == "False FinalizeFailed"
    assert stage.message("Succeeded") == (
        "the finalizer failed: no space left on device; its logs: kubectl automl logs churn -c finalizer"
    )


@pytest.mark.parametrize("codes", [(137, 143, 137), ()])
def test_a_finalizer_that_was_killed_again_and_again_is_made_anew(codes: tuple[int, ...]) -> None:
    """Its batch Job gives up after three; what was killed, or is gone altogether, has failed at nothing."""
    stage = finalizing()
    stage.pods = tuple(
        make_pod(f"f-{n}", Component.FINALIZER, "Failed", exit_code=c, reason="Error") for n, c in enumerate(codes)
    )
    stage.end_batch_job("finalize", "Failed")

    stage.settle()

    assert stage.conditions()["Succeeded"] == "Unknown Finalizing"
    assert "conditions" not in stage.children[FINALIZER].get("status", {})


def test_workers_that_were_killed_are_no_crashes_but_a_lack_of_memory_is() -> None:
    """Before the first trial has completed, too."""
    for reason, told in (("Error", "Unknown Searching"), ("OOMKilled", "False WorkersFailed")):
        stage = Stage()
        stage.settle()
        stage.pods = tuple(make_pod(f"pod-{i}", phase="Failed", exit_code=137, reason=reason) for i in range(20))

        stage.settle()

        assert stage.conditions()["Succeeded"] == told


def test_a_finalizer_s_result_may_come_a_little_later_but_not_never() -> None:
    stage = finalizing()
    stage.pods = (make_pod("pod-f", Component.FINALIZER, "Succeeded", finished_at=stage.now.timestamp()),)
    stage.end_batch_job("finalize")

    stage.settle()
    assert stage.conditions()["Succeeded"] == "Unknown Finalizing"
    stage.wait(61)
    stage.settle()

    assert stage.conditions()["Succeeded"] == "False FinalizeFailed"


# After the end


def test_without_serving_the_stored_model_is_ready() -> None:
    stage = finished()

    assert stage.conditions()["Ready"] == "True ModelStored"
    assert stage.kinds() == sorted(f"{r.kind} {r.name}" for r in (WORKERS, FINALIZER, MODEL, POLICY))


def test_on_a_laptop_the_model_is_stored_and_the_command_named() -> None:
    stage = finished(serving={})
    stage.settings = replace(SETTINGS, serving_enabled=False)

    stage.settle()

    assert stage.conditions()["Ready"] == "True ModelStored"
    uri = make_result().model_uri
    assert stage.message("Ready") == f"the model is stored at {uri}; serve it with: kubeautoml serve --model {uri}"
    assert SERVER not in stage.children


def test_a_model_that_misses_its_gate_is_not_served() -> None:
    stage = finished(serving={"gate": {"metric": "RocAuc", "min": "0.99"}})

    assert stage.conditions()["Succeeded"] == "True ModelTrained"
    assert stage.conditions()["Ready"] == "False GateNotPassed"
    assert SERVER not in stage.children


def test_serving_can_be_added_changed_and_taken_away() -> None:
    stage = finished()

    stage.edit(budget={"maxTrials": 3}, serving={"replicas": 2})
    stage.settle()
    assert stage.conditions()["Ready"] == "Unknown Deploying"
    servers_answer(stage)
    stage.settle()
    assert stage.conditions()["Ready"] == "True Serving"

    stage.edit(budget={"maxTrials": 3}, serving={"autoscaling": {"maxReplicas": 3}})
    stage.settle()
    assert "HorizontalPodAutoscaler churn-server" in stage.kinds()
    assert "PodDisruptionBudget churn-server" not in stage.kinds()
    assert "replicas" not in stage.children[SERVER]["spec"]

    stage.edit(budget={"maxTrials": 3})
    stage.settle()
    assert stage.conditions()["Ready"] == "True ModelStored"
    assert stage.kinds() == sorted(f"{r.kind} {r.name}" for r in (WORKERS, FINALIZER, MODEL, POLICY))
    assert stage.job.status.serving is None


def test_an_endpoint_that_was_edited_or_deleted_comes_back() -> None:
    stage = finished(serving={"replicas": 2})
    del stage.children[SERVICE]
    stage.children[SERVER]["spec"]["replicas"] = 7

    passes = stage.settle()

    assert [Ref.of(m) for p in passes for m in p.apply] == [SERVER, SERVICE]
    assert stage.children[SERVER]["spec"]["replicas"] == 2


@pytest.mark.parametrize(
    ("status", "ready"),
    [
        ({}, "Unknown Deploying"),
        ({"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 2}, "Unknown Deploying"),
        ({"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 1}, "Unknown Deploying"),
        ({"observedGeneration": 0, "updatedReplicas": 2, "availableReplicas": 2}, "Unknown Deploying"),
        ({"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 2}, "True Serving"),
        (
            {"conditions": [{"type": "Progressing", "status": "False", "message": "deadline exceeded"}]},
            "False ServingFailed",
        ),
    ],
)
def test_ready_means_that_the_rollout_is_complete(status: dict[str, Any], ready: str) -> None:
    stage = finished(serving={"replicas": 2})
    stage.children[SERVER] = {**stage.children[SERVER], "status": status}

    stage.settle()

    assert stage.conditions()["Ready"] == ready


def test_a_finished_job_does_not_train_again() -> None:
    """Neither a larger budget nor a lost study changes what was made."""
    stage = finished()
    stage.study = None

    stage.edit(budget={"maxTrials": 9000})
    passes = stage.settle()

    assert [m for p in passes for m in p.apply] == []
    assert stage.conditions()["Succeeded"] == "True ModelTrained"


@pytest.mark.parametrize("has_failed", [False, True])
def test_after_its_time_to_live_pods_go_and_the_job_stays(has_failed: bool) -> None:
    """The planner wakes by itself for it; the model and the endpoint are no leftovers."""
    stage = finalizing(retention={"ttlSecondsAfterFinished": 100}, serving={"replicas": 2})
    if has_failed:
        stage.pods = (make_pod("pod-f", Component.FINALIZER, "Failed", exit_code=1),)
        stage.end_batch_job("finalize", "Failed")
    else:
        model_is_stored(stage)
    stage.settle()
    kept = [k for k in stage.kinds() if not k.startswith("Job ") and k != f"NetworkPolicy {POLICY.name}"]
    assert stage.look().wake_after == timedelta(seconds=100)

    stage.wait(100)
    stage.settle()

    assert stage.kinds() == kept
    assert stage.look().wake_after is None


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


def test_a_time_to_live_of_ages_is_looked_at_once_a_day() -> None:
    stage = finished(retention={"ttlSecondsAfterFinished": 10**18})

    assert stage.look().wake_after == timedelta(days=1)
