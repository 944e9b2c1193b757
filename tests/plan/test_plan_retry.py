"""A failed job that is put back to work: when, with which budgets, and that nothing it reached is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from factories import NOON, make_data, make_finished_trial, make_job, make_pod
from kubeautoml.api.job_status import RetryStatus
from kubeautoml.api.names import ANNOTATION_RETRY
from kubeautoml.api.objects import EventOrder
from kubeautoml.api.trials import Failure, Reopen
from plan.carry import Stage
from plan.life import FINALIZER, WORKERS, finalizing, finished, searching, study_of, workers_leave, workers_start


def ask(stage: Stage, request: str = "2026-01-05T13:00:00Z") -> None:
    """Somebody annotates the job."""
    meta = stage.job.metadata
    annotations = {**meta.annotations, ANNOTATION_RETRY: request}
    stage.job = stage.job.model_copy(update={"metadata": meta.model_copy(update={"annotations": annotations})})


def failed_search(**budget: Any) -> Stage:
    """Two trials failed, and the search with them: nothing completed."""
    stage = searching(budget={"maxTrials": 3, "maxFailedTrials": 2, "maxDurationSeconds": 3600, **budget})
    study_of(stage, failed=2, error="OSError: the disk is full")
    stage.settle()
    workers_leave(stage)
    stage.settle()
    assert stage.conditions()["Succeeded"] == "False TooManyFailedTrials"
    return stage


def failed_model(**budget: Any) -> Stage:
    """Three trials completed, and the finalizer failed."""
    stage = finalizing(budget={"maxTrials": 3, **budget})
    stage.wait(600)
    study_of(stage, failure=Failure("finalize", "FinalizeFailed", "no memory"), stage="explaining")
    stage.pods += (make_pod("pod-f", component="finalizer", phase="Failed", exit_code=1),)
    stage.end_batch_job("finalize", "Failed")
    stage.settle()
    assert stage.conditions()["Succeeded"] == "False FinalizeFailed"
    return stage


def pods_go(stage: Stage) -> None:
    """The garbage collector takes the pods of Jobs that are gone."""
    stage.pods = tuple(p for p in stage.pods if p.component == "server")


def try_again(stage: Stage, request: str = "2026-01-05T13:00:00Z") -> None:
    """Somebody asks for a retry, and it has begun."""
    ask(stage, request)
    stage.settle()
    pods_go(stage)
    stage.settle()


def test_a_failed_job_waits_for_nobody() -> None:
    """Without a request, or with one that was answered, it stays as it is."""
    stage = failed_search()

    assert stage.settle() == []


def test_the_pods_of_the_last_try_go_first_then_the_study_is_opened_again() -> None:
    """That they failed must not be held against the next one; their Jobs bear the names of the new ones."""
    stage = failed_search()
    ask(stage)

    first = stage.one_pass()
    assert (first.delete, first.study.reopen) == ((WORKERS,), None)
    assert stage.conditions()["Succeeded"] == "False TooManyFailedTrials"
    assert stage.message("Reconciling") == "the job is started again; pod pod-1-name has still to go"

    pods_go(stage)
    assert stage.one_pass().study.reopen == Reopen(search=True)
    told = stage.one_pass().events
    assert told == (
        EventOrder(
            "Normal",
            "Retried",
            "the job is started again (retry 1); no trial had completed, so the search begins anew with all of its budgets",
        ),
    )
    assert stage.conditions()["Succeeded"] == "Unknown Searching"

    stage.settle()
    assert WORKERS in stage.children
    assert stage.settle() == []


def test_a_search_that_had_nothing_has_all_of_its_budgets_again() -> None:
    """Workers count on over the trials that there are, so their limits grow by those."""
    stage = failed_search()
    stage.wait(7200)

    try_again(stage)

    status = stage.job.status
    assert status.retry == RetryStatus(request="2026-01-05T13:00:00Z", count=1, trials_before=2, failed_trials_before=2)
    assert status.start_time == stage.now
    assert status.completion_time is None
    assert (status.budget_used.trials, status.budget_used.duration_seconds, status.trials.failed) == (0, 0, 2)
    assert stage.study is not None and stage.study.limits is not None
    assert (stage.study.limits.max_trials, stage.study.limits.max_failed_trials) == (5, 4)
    assert not stage.study.limits.stop

    study_of(stage, failed=4)
    workers_start(stage)
    stage.settle()
    workers_leave(stage)
    stage.settle()
    assert stage.message("Succeeded").startswith(
        "2 trials failed and none completed (spec.budget.maxFailedTrials is 2)"
    )


def test_a_search_that_was_over_only_makes_its_model_again() -> None:
    """No worker starts; the finalizer does, and the job ends as any other."""
    stage = failed_model()

    try_again(stage)

    assert FINALIZER in stage.children
    assert WORKERS not in stage.children
    assert stage.conditions()["Succeeded"] == "Unknown Finalizing"
    assert stage.job.status.budget_used.ended_by == "MaxTrials"
    assert stage.study is not None and (stage.study.failure, stage.study.stage) == (None, None)
    assert stage.job.status.retry == RetryStatus(request="2026-01-05T13:00:00Z", count=1)


@pytest.mark.parametrize("used", [300, 590, 10_000])
def test_a_model_that_is_made_again_has_its_share_of_the_time(used: float) -> None:
    """However late it failed, and however long ago that was: no second is searched, and the model is due in the future."""
    stage = searching(budget={"maxTrials": 50, "maxDurationSeconds": 600})
    study_of(stage, completed=3, best=(make_finished_trial(),))
    stage.wait(511)
    stage.settle()
    workers_leave(stage)
    stage.settle()
    assert stage.job.status.budget_used.ended_by == "MaxDuration"
    stage.wait(used)
    study_of(stage, failure=Failure("finalize", "FinalizeFailed", "no memory"))
    stage.settle()
    stage.end_batch_job("finalize", "Failed")
    stage.settle()
    stage.wait(86_400)

    try_again(stage)

    assert FINALIZER in stage.children
    assert WORKERS not in stage.children
    assert stage.study is not None and stage.study.limits is not None
    due = stage.study.limits.job_deadline
    assert due is not None
    assert 60 < due - stage.now.timestamp() <= 90


def test_a_search_that_was_cut_short_goes_on_with_what_was_left() -> None:
    """The time between failure and retry does not count; failed trials are counted anew."""
    stage = searching(budget={"maxTrials": 50, "maxFailedTrials": 3, "maxDurationSeconds": 3600})
    study_of(stage, completed=3, failed=2, best=(make_finished_trial(),))
    stage.wait(600)
    study_of(stage, failure=Failure("output", "OutputNotWritable", "access denied"))
    stage.settle()
    assert stage.conditions()["Succeeded"] == "False OutputNotWritable"
    stage.wait(86_400)

    try_again(stage)

    status = stage.job.status
    assert WORKERS in stage.children
    assert (status.budget_used.trials, status.budget_used.duration_seconds) == (5, 600)
    assert status.retry is not None and (status.retry.trials_before, status.retry.failed_trials_before) == (0, 2)
    assert stage.study is not None and stage.study.limits is not None
    assert (stage.study.limits.max_trials, stage.study.limits.max_failed_trials) == (50, 5)
    assert stage.study.limits.job_deadline == pytest.approx(stage.now.timestamp() + 3000, abs=2)


def test_a_budget_that_was_raised_is_searched_with() -> None:
    """The search was over by its trials; with more of them it goes on before the model is made."""
    stage = failed_model()
    ask(stage)
    stage.edit(budget={"maxTrials": 10})
    try_again(stage)

    assert WORKERS in stage.children
    assert FINALIZER not in stage.children


def test_a_request_is_carried_out_once() -> None:
    """The same value again does nothing; another one does."""
    stage = failed_search()
    try_again(stage, "one")
    study_of(stage, failure=Failure("data", "TargetNotFound", "no column x"))
    stage.settle()
    assert stage.conditions()["Succeeded"] == "False TargetNotFound"
    assert stage.settle() == []

    try_again(stage, "two")

    assert stage.job.status.retry is not None and stage.job.status.retry.count == 2
    assert stage.conditions()["Succeeded"] == "Unknown Searching"


@pytest.mark.parametrize("stage", [searching, finalizing, finished], ids=lambda s: s.__name__)
def test_a_request_with_nothing_to_retry_is_done_with(stage: Any) -> None:
    """It changes nothing now, and must not act when the job fails some day."""
    stage = stage()
    before, children = stage.conditions(), dict(stage.children)

    ask(stage)
    stage.settle()

    assert (stage.conditions(), stage.children) == (before, children)
    assert stage.job.status.retry == RetryStatus(request="2026-01-05T13:00:00Z")
    study_of(stage, failure=Failure("search", "InvalidSearch", "no family"))
    stage.settle()
    assert stage.settle() == []


def test_a_job_that_is_created_with_the_annotation_runs_once() -> None:
    """As a manifest from a copied object would have it."""
    job = make_job()
    stage = Stage(job)
    ask(stage)

    stage.settle()

    assert WORKERS in stage.children
    assert stage.job.status.retry == RetryStatus(request="2026-01-05T13:00:00Z")


def test_a_study_that_does_not_answer_is_waited_for() -> None:
    """The job stays failed, and says what it waits for."""
    stage = failed_search()
    ask(stage)
    stage.study_error = "the study did not answer"

    stage.settle()

    assert stage.conditions()["Stalled"] == "True StudyUnavailable"
    assert stage.conditions()["Succeeded"] == "False TooManyFailedTrials"
    stage.study_error = None
    stage.settle()
    pods_go(stage)
    stage.settle()
    assert stage.conditions()["Stalled"] == "False Working"


def test_a_suspended_job_is_started_again_when_it_is_resumed() -> None:
    """The retry is taken up, and nothing runs."""
    stage = failed_search()
    stage.edit(suspend=True, budget={"maxTrials": 3, "maxFailedTrials": 2})
    try_again(stage)
    assert stage.conditions()["Succeeded"] == "Unknown Suspended"
    assert WORKERS not in stage.children

    stage.edit(budget={"maxTrials": 3, "maxFailedTrials": 2})
    stage.settle()
    assert WORKERS in stage.children


def test_a_failure_before_the_data_was_read_is_tried_again() -> None:
    """The most frequent one: a wrong secret, which has been corrected since."""
    stage = Stage(make_job())
    stage.settle()
    workers_start(stage)
    study_of(stage, data=None, failure=Failure("data", "AccessDenied", "the key may not read"))
    stage.settle()
    assert stage.conditions()["DataReady"] == "False AccessDenied"

    try_again(stage)
    assert stage.conditions()["DataReady"] == "Unknown ReadingData"

    workers_start(stage)
    study_of(stage, data=make_data())
    stage.settle()
    assert stage.conditions()["DataReady"] == "True DataLoaded"


def test_a_long_request_is_known_by_its_beginning() -> None:
    """Somebody's essay must not fill the status."""
    stage = failed_search()

    try_again(stage, "x" * 300)

    assert stage.job.status.retry is not None and stage.job.status.retry.request == "x" * 64
    stage.job = replace_status(stage)
    assert stage.settle() == []


def replace_status(stage: Stage) -> Any:
    """The job as an API server stores it: through JSON."""
    job = stage.job
    return job.model_copy(update={"status": type(job.status).model_validate(job.status.to_manifest())})


def test_a_retry_that_does_nothing_but_look_is_grave() -> None:
    """What is taken back is decided on a fresh look."""
    stage = failed_search()
    ask(stage)
    stage.one_pass()
    pods_go(stage)

    todo = stage.look()

    assert todo.study.reopen is not None
    assert replace(todo, delete=()).is_grave(stage.job.status)
    assert stage.now >= NOON
