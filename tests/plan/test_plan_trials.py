"""Lost workers: which running trials are retired, and which are tried again."""

from __future__ import annotations

import pytest

from factories import (
    NOON,
    SETTINGS,
    make_data,
    make_job,
    make_observed,
    make_pod,
    make_result,
    make_running_trial,
    make_summary,
)
from kubeautoml.api.conditions import Reason
from kubeautoml.api.trials import RetireTrial
from kubeautoml.plan import plan
from kubeautoml.plan.base import PodSeen
from kubeautoml.plan.trials import retired_trials


def test_a_trial_whose_pod_is_gone_is_requeued_as_its_next_attempt() -> None:
    """A running trial without a living pod is preempted and enqueued again, and the user is told."""
    seen = make_observed(running=[make_running_trial(number=3, pod_uid="gone", attempt=1)])

    todo = plan(make_job(parallelism=1), seen, now=NOON, settings=SETTINGS)

    assert todo.study.retire == (RetireTrial(number=3, attempt=1, reason=Reason.PREEMPTED, requeue=True),)
    assert ("TrialRequeued", "trial 3: Preempted; attempt 2 is queued") in [(e.reason, e.message) for e in todo.events]


@pytest.mark.parametrize(
    ("pods", "is_retired"),
    [
        ([make_pod("pod-1")], False),
        ([make_pod("pod-1", phase="Pending")], False),
        ([make_pod("pod-1", phase="Unknown")], False),
        ([make_pod("pod-1", is_deleting=True)], False),
        ([make_pod("pod-1", phase="Failed", exit_code=137)], True),
        ([make_pod("pod-1", phase="Succeeded", exit_code=0)], True),
        ([make_pod("pod-1", component="server")], True),
        ([make_pod("pod-2")], True),
        ([], True),
    ],
)
def test_only_a_pod_that_cannot_run_any_more_loses_its_trial(pods: list[PodSeen], is_retired: bool) -> None:
    """A pod that is being deleted may still tell its score."""
    seen = make_observed(pods=pods, running=[make_running_trial()])
    assert seen.study is not None

    assert bool(retired_trials(seen.study, seen, NOON)) == is_retired


@pytest.mark.parametrize(("age", "is_retired"), [(0, False), (60, False), (61, True)])
def test_a_trial_that_no_pod_has_claimed_is_given_time(age: float, is_retired: bool) -> None:
    """A worker writes its name right after asking; as long as one lives, it may be about to."""
    trial = make_running_trial(pod_uid="", started_at=NOON.timestamp() - age)
    seen = make_observed(pods=[make_pod("pod-1")], running=[trial])
    assert seen.study is not None

    assert bool(retired_trials(seen.study, seen, NOON)) == is_retired


@pytest.mark.parametrize("pods", [[], [make_pod("pod-1", phase="Failed", exit_code=137)]])
def test_a_trial_that_no_pod_can_claim_any_more_is_queued_again_at_once(pods: list[PodSeen]) -> None:
    """Its worker was killed between asking and writing its name; waiting would let the search end without it."""
    trial = make_running_trial(pod_uid="", started_at=NOON.timestamp())
    seen = make_observed(pods=pods, running=[trial])
    assert seen.study is not None

    (order,) = retired_trials(seen.study, seen, NOON)

    assert (order.number, order.requeue) == (trial.number, True)


@pytest.mark.parametrize(
    ("reason", "attempt", "requeue"),
    [
        ("Evicted", 1, True),
        ("Evicted", 2, True),
        ("Evicted", 3, True),
        ("OOMKilled", 1, True),
        ("OOMKilled", 2, False),
    ],
)
def test_a_trial_whose_pod_went_away_never_fails_and_one_that_lacks_memory_twice_does(
    reason: str, attempt: int, requeue: bool
) -> None:
    """Running out of memory twice with the same parameters is a finding; the study repeats the others up to three times."""
    pod = make_pod("pod-1", phase="Failed", reason=reason)
    seen = make_observed(pods=[pod], running=[make_running_trial(attempt=attempt)])
    assert seen.study is not None

    (order,) = retired_trials(seen.study, seen, NOON)

    expected = Reason.OUT_OF_MEMORY if reason == "OOMKilled" else Reason.PREEMPTED
    assert order == RetireTrial(number=0, attempt=attempt, reason=expected, requeue=requeue)


def test_a_trial_that_was_lost_is_counted_before_the_job_ends() -> None:
    """The study of a job that has ended is not looked at again, so its counts must be final."""
    lost = make_running_trial(number=3, pod_uid="gone")
    study = make_summary(completed=3, running=1, running_trials=(lost,), data=make_data(), result=make_result())
    job = make_job()

    todo = plan(job, make_observed(study=study), now=NOON, settings=SETTINGS)

    assert [t.number for t in todo.study.retire] == [3]
    assert (todo.status.completion_time, todo.status.model, todo.apply) == (None, None, ())
