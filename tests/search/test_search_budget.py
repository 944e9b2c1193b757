"""When a worker starts another trial, and how long its fits may take."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from kubeautoml_trainer.search.budget import (
    Stop,
    Tally,
    families_in_time,
    fit_seconds,
    is_surplus,
    reason_to_stop,
    tally,
)
from search.fakes import make_limits

START = datetime(2026, 1, 1)


def make_trial(number: int, state: TrialState, value: float | None = None, seconds: float = 1.0, **attrs: Any):
    ended = START + timedelta(seconds=number + seconds) if state.is_finished() else None
    trial = optuna.trial.create_trial(
        state=state,
        value=value,
        params={"family": "A"},
        distributions={"family": CategoricalDistribution(("A", "B"))},
        user_attrs=attrs,
    )
    return FrozenTrial(
        number, state, value, START + timedelta(seconds=number), ended, trial.params, trial.distributions,
        attrs, {}, {}, number,
    )  # fmt: skip


def make_tally(**changes: Any) -> Tally:
    return Tally(
        **{"waiting": 0, "spent": 1, "failed": 0, "best": 0.5, "since_best": 0, "seconds": {}, "bests": {}, **changes}
    )


def test_preempted_trials_keep_their_place_and_are_not_failed():
    """A trial whose pod went away runs again: it has its place in the budget, and is no failure."""
    trials = [
        make_trial(0, TrialState.COMPLETE, 0.9, seconds=4),
        make_trial(1, TrialState.FAIL, preempted=True),
        make_trial(2, TrialState.FAIL),
        make_trial(3, TrialState.PRUNED),
        make_trial(4, TrialState.RUNNING),
        make_trial(5, TrialState.WAITING),
    ]

    seen = tally(trials, "RocAuc")

    assert seen == Tally(waiting=1, spent=6, failed=1, best=0.9, since_best=1, seconds={"A": 4.0}, bests={"A": 0.9})


def test_of_workers_that_look_at_the_same_moment_the_last_hands_its_trial_back():
    """Two took a trial each, and the budget had one left; what runs again goes before what is new."""
    done = [make_trial(0, TrialState.COMPLETE, 0.9), make_trial(1, TrialState.FAIL, preempted=True)]
    first, second = make_trial(2, TrialState.RUNNING), make_trial(3, TrialState.RUNNING)
    retry = make_trial(4, TrialState.WAITING, retry_of=1)

    assert [is_surplus([*done, first, second], t, 2) for t in (first, second)] == [True, True]
    assert [is_surplus([*done, first, second], t, 3) for t in (first, second)] == [False, True]
    assert [is_surplus([*done, first, second], t, 4) for t in (first, second)] == [False, False]
    assert [is_surplus([*done, first, retry], t, 2) for t in (first, retry)] == [True, False]


def test_a_retry_of_what_was_too_much_already_is_handed_back():
    """A worker that was killed between taking a trial and seeing that the budget was used up: found by `make chaos`, seed 1."""
    done = [make_trial(0, TrialState.COMPLETE, 0.9), make_trial(1, TrialState.COMPLETE, 0.8)]
    lost = [make_trial(n, TrialState.FAIL, preempted=True, attempt=1) for n in (2, 3)]
    retries = [make_trial(n + 2, TrialState.RUNNING, retry_of=n, attempt=2) for n in (2, 3)]

    assert [is_surplus([*done, *lost, *retries], t, 3) for t in retries] == [False, True]
    assert tally([*done, *lost, *retries], "RocAuc").spent == 4


def test_a_trial_given_up_for_good_leaves_its_place_to_another():
    """One that was lost in its last attempt, or handed back, counts as nothing."""
    gone = make_trial(0, TrialState.FAIL, preempted=True, attempt=3)
    new = make_trial(1, TrialState.RUNNING)

    assert is_surplus([gone, new], new, 1) is False
    assert tally([gone], "RocAuc").spent == 0


@pytest.mark.parametrize(
    ("metric", "values", "best", "since"),
    [("RocAuc", [0.7, 0.9, 0.8, 0.9], 0.9, 2), ("Rmse", [3.0, 2.0, 2.5], 2.0, 1)],
)
def test_the_trials_since_the_best_are_counted_in_the_metrics_own_direction(metric, values, best, since):
    """An equal value is no improvement."""
    trials = [make_trial(i, TrialState.COMPLETE, v) for i, v in enumerate(values)]

    seen = tally(trials, metric)

    assert (seen.best, seen.since_best) == (best, since)


@pytest.mark.parametrize(
    ("limits", "seen", "why"),
    [
        ({}, {}, None),
        ({"stop": True}, {}, Stop.STOPPED),
        ({"search_deadline": 1000.0}, {}, Stop.DEADLINE),
        ({"search_deadline": 1010.0}, {}, None),
        ({"max_failed_trials": 2}, {"failed": 2}, Stop.FAILED_TRIALS),
        ({"target_value": 0.5}, {"best": 0.5}, Stop.TARGET),
        ({"target_value": 0.6}, {"best": 0.5}, None),
        ({"patience_trials": 3}, {"since_best": 3}, Stop.PATIENCE),
        ({"patience_trials": 3}, {"since_best": 9, "best": None}, None),
        ({"max_trials": 4}, {"spent": 4}, Stop.MAX_TRIALS),
        ({"max_trials": 4}, {"spent": 4, "waiting": 1}, None),
        ({"max_trials": 4}, {"spent": 3}, None),
    ],
)
def test_the_first_limit_reached_ends_the_search(limits, seen, why):
    """A waiting retry is taken even when all trials are spent: it was counted when it ran first."""
    assert reason_to_stop(make_limits(**limits), make_tally(**seen), "RocAuc", now=1000.0) is why


def test_only_families_whose_trials_end_in_time_are_sampled():
    """One that never ran gets the chance; without a deadline, or with enough time, all do."""
    families = ("Good", "Slow", "New")
    seen = make_tally(seconds={"Good": 1.0, "Slow": 9.0}, bests={"Good": 0.9, "Slow": 0.8})

    assert families_in_time(families, seen, "RocAuc", left=5.0) == ["Good", "New"]
    assert families_in_time(families, seen, "RocAuc", left=50.0) == ["Good", "Slow", "New"]
    assert families_in_time(families, seen, "RocAuc", left=None) == ["Good", "Slow", "New"]


@pytest.mark.parametrize("metric", ["RocAuc", "Rmse"])
def test_the_last_seconds_do_not_go_into_cheap_families_without_a_chance(metric):
    """When only the worse half fits, nothing is worth starting."""
    sign = 1 if metric == "RocAuc" else -1
    bests = {"Strong": 0.9 * sign, "Good": 0.8 * sign, "Cheap": 0.5 * sign}
    seen = make_tally(seconds={"Strong": 9.0, "Good": 3.0, "Cheap": 0.1}, bests=bests)

    assert families_in_time(tuple(bests), seen, metric, left=5.0) == ["Good"]
    assert families_in_time(tuple(bests), seen, metric, left=2.0) == []


def test_all_fits_of_a_trial_end_before_the_deadline():
    """Each gets its share of a part of the time left, a first trial of all of it, and none more than there is."""
    usual = {"takes_all": False, "is_cold": False}
    assert fit_seconds(40.5, 8, takes_all=True, is_cold=False) == 5.0
    assert fit_seconds(40.5, 8, **usual) == 1.25
    assert fit_seconds(2.5, 8, **usual) == 0.25
    assert fit_seconds(0.1, 1, **usual) == 0.0
    assert fit_seconds(None, 8, **usual) == float("inf")


def test_a_familys_first_fit_in_a_process_may_pay_for_its_libraries():
    """Importing torch alone takes longer than a fold may."""
    assert fit_seconds(40.5, 8, takes_all=False, is_cold=True) == 10.0
