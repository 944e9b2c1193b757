"""Every way in which a search can end."""

from __future__ import annotations

from datetime import timedelta

import pytest

from factories import (
    make_finished_trial,
    make_job,
    make_pod,
)
from kubeautoml.api.names import Component
from kubeautoml.api.trials import Failure
from plan.carry import Stage
from plan.life import (
    FINALIZER,
    WORKERS,
    finalizing,
    searching,
    study_of,
    trials_run,
    workers_leave,
    workers_start,
)


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
