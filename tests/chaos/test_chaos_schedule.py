"""The schedule of a chaos run, and the verdict that must notice what went wrong."""

from __future__ import annotations

from itertools import islice
from typing import Any

from chaos.observer import TrialRow
from chaos.schedule import WEIGHTS, Kind, schedule
from chaos.verdict import Ended, counted_twice, problems


def make_trial(number: int, state: str = "COMPLETE", value: float | None = 0.5, **attrs: Any) -> TrialRow:
    return TrialRow(number, state, value if state == "COMPLETE" else None, attrs)


def make_ended(*trials: TrialRow, max_trials: int = 2, **counts: int) -> Ended:
    """A job that succeeded, with a status that counts as it should unless told otherwise."""
    preempted = sum(t.is_preempted for t in trials)
    real = {"completed": sum(t.state == "COMPLETE" for t in trials), "preempted": preempted}
    job = {
        "metadata": {"namespace": "team-a", "name": "churn", "uid": "u"},
        "spec": {"budget": {"maxTrials": max_trials}},
        "status": {"trials": {**real, **counts}, "conditions": [{"type": "Succeeded", "status": "True"}]},
    }
    return Ended(job, {t.number: t for t in trials})


def test_a_schedule_is_a_function_of_its_seed():
    """The same seed gives the same strikes, another seed others."""
    first, again, other = (list(islice(schedule(seed, 3.0), 50)) for seed in (7, 7, 8))

    assert first == again
    assert first != other


def test_every_kind_of_fault_comes_within_a_long_run():
    """The default seed leaves nothing out."""
    kinds = {strike.kind for strike in islice(schedule(1, 3.0), 600)}

    assert kinds == set(WEIGHTS) == set(Kind)


def test_a_clean_end_has_no_problems():
    """A preempted trial with its one successor is as it should be."""
    lost = make_trial(0, "FAIL", preempted=True, attempt=1)
    ended = make_ended(lost, make_trial(1), make_trial(2, retry_of=0, attempt=2))

    assert [*problems(ended), *counted_twice(ended)] == []


def test_a_trial_queued_again_twice_is_noticed():
    """Two successors of one trial are one too many."""
    lost = make_trial(0, "FAIL", preempted=True, attempt=1)
    ended = make_ended(lost, make_trial(1, retry_of=0, attempt=2), make_trial(2, retry_of=0, attempt=2))

    assert counted_twice(ended) == ["team-a/churn: trial 0 was queued again 2 times"]


def test_a_repeated_trial_that_had_completed_is_noticed():
    """Only a preempted trial may be followed by a next attempt."""
    ended = make_ended(make_trial(0), make_trial(1, retry_of=0, attempt=2))

    assert counted_twice(ended) == ["team-a/churn: trial 1 repeats trial 0, which is COMPLETE"]


def test_a_preempted_trial_without_successor_is_noticed():
    """Its parameters were never tried to the end."""
    ended = make_ended(make_trial(0, "FAIL", preempted=True, attempt=1), make_trial(1), make_trial(2))

    assert list(problems(ended)) == ["team-a/churn: preempted trial 0, attempt 1, has no next attempt"]


def test_wrong_counts_and_an_overdrawn_budget_are_noticed():
    """The status must say what the database says, and the budget is exact."""
    ended = make_ended(make_trial(0), make_trial(1), make_trial(2), completed=2)

    found = list(problems(ended))

    assert len(found) == 2
    assert "the status counts {'completed': 2" in found[0]
    assert found[1] == "team-a/churn: 3 trials count, and budget.maxTrials is 2"


def test_a_trial_that_failed_or_still_runs_is_noticed():
    """Preemptions are no failures, and nothing runs once a job has ended."""
    ended = make_ended(make_trial(0), make_trial(1, "FAIL"), make_trial(2, "RUNNING"), failed=1, running=1)

    assert "team-a/churn: 1 trials failed and 1 run at the end" in list(problems(ended))
