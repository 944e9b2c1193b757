"""When the search ends, what is counted, and when a status is worth an API write."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from factories import (
    NOON,
    SETTINGS,
    make_data,
    make_finished_trial,
    make_job,
    make_limits,
    make_observed,
    make_pod,
    make_summary,
)
from kubeautoml.api.conditions import BudgetEnd
from kubeautoml.api.job_status import AutoMLJobStatus, BudgetUsed, RankedTrial, TrialCounts
from kubeautoml.api.trials import MOST_ROWS_REFOLDED, StudyLimits, StudySummary
from kubeautoml.plan.budget import (
    accelerator_seconds,
    deadlines,
    elapsed_seconds,
    finalize_seconds,
    limits_of,
    progress_percentage,
    refits,
    search_end,
)
from kubeautoml.plan.status import worth_publishing


@pytest.mark.parametrize(("budget", "kept"), [(10, 5), (20, 10), (60, 15), (100, 15), (200, 30), (14400, 2160)])
def test_the_finalizer_s_share_of_the_time(budget: float, kept: float) -> None:
    """The larger of 15 s and 15 %, but at most half."""
    assert finalize_seconds(budget) == kept


@pytest.mark.parametrize(
    ("budget", "read_seconds", "kept"),
    [(60, 1.0, 21.2), (600, 1.0, 59.0), (3600, 2.0, 271.0), (60, 20.0, 30.0), (300, 20.0, 76.0), (20, 0.1, 10.0)],
)
def test_the_finalizer_s_share_follows_the_size_of_the_data_once_it_was_read(
    budget: float, read_seconds: float, kept: float
) -> None:
    """On little data the search gets more of the time, on much data less; never less than half."""
    data = make_data(read_seconds=read_seconds)

    assert finalize_seconds(budget, data) == pytest.approx(kept)
    job = make_job(budget={"maxDurationSeconds": budget}, output={"uri": "s3://models/a", "variants": ["Balanced"]})
    assert deadlines(job, NOON, 0, data) == (pytest.approx(NOON.timestamp() + budget - kept), NOON.timestamp() + budget)


@pytest.mark.parametrize(
    ("variants", "more", "data", "kept"),
    [
        (["Quality"], {}, {}, 38.0),
        (["Quality", "Balanced"], {}, {}, 59.0),
        (["Quality", "Fast"], {}, {}, 43.25),
        (["Fast"], {"refitOn": "TrainingRows"}, {}, 18.5),
        (["Fast"], {"refitOn": "TrainingRows"}, {"rows": MOST_ROWS_REFOLDED + 1}, 38.0),
        (["Fast", "Distilled"], {"refitOn": "TrainingRows"}, {}, 38.0),
        (["Quality"], {"refitOn": "TrainingRows"}, {}, 15.0),
        (["Quality"], {}, {"rows": MOST_ROWS_REFOLDED + 1}, 15.0),
        (["Quality"], {}, {"holdout_rows": 0}, 15.0),
    ],
)
def test_time_for_refits_is_kept_only_where_some_are_wanted(
    variants: list[str], more: dict[str, str], data: dict[str, int], kept: float
) -> None:
    """Once for variants of one fit each, and once for an ensemble that is to learn from the hold-out; little where all is one fit."""
    output = {"uri": "s3://models/a", "variants": variants, **more}
    job = make_job(budget={"maxDurationSeconds": 300}, output=output)

    search_end, end = deadlines(job, NOON, 0, make_data(read_seconds=1.0, **data))

    assert search_end is not None and end is not None
    assert end - search_end == pytest.approx(kept)


@pytest.mark.parametrize(
    ("dataset", "kinds"),
    [
        ({"test": {"uri": "s3://data/test.csv"}}, 0),
        ({"split": {"timeColumn": "when"}}, 1),
        ({"split": {"type": "Time", "timeColumn": "when"}, "test": {"uri": "s3://data/test.csv"}}, 1),
        ({"split": {"type": "Random", "timeColumn": "when"}}, 1),
        ({}, 1),
    ],
)
def test_a_test_set_is_never_learned_from_and_of_a_time_split_all_models_are_fitted_again(
    dataset: dict[str, Any], kinds: int
) -> None:
    """Each on all rows, in place of one for each stretch of the past."""
    data = {"train": {"uri": "s3://data/train.csv"}, **dataset}
    job = make_job(budget={"maxDurationSeconds": 300}, dataset=data)

    assert refits(job, make_data()) == kinds


def test_deadlines_move_by_the_time_suspended() -> None:
    """A minute's budget with an hour's pause is due an hour later."""
    job = make_job(budget={"maxDurationSeconds": 60})
    noon = NOON.timestamp()

    assert deadlines(job, NOON, 0) == (noon + 45, noon + 60)
    assert deadlines(job, NOON, 3600) == (noon + 3645, noon + 3660)
    assert deadlines(make_job(), NOON, 0) == (None, None)


def test_limits_tell_workers_the_whole_budget() -> None:
    budget = {
        "maxTrials": 7,
        "maxFailedTrials": 3,
        "maxDurationSeconds": 100,
        "targetValue": "0.95",
        "patienceTrials": 5,
    }
    noon = NOON.timestamp()

    assert limits_of(make_job(budget=budget), NOON, 0) == StudyLimits(
        max_trials=7,
        max_failed_trials=3,
        search_deadline=noon + 85,
        job_deadline=noon + 100,
        budget_seconds=100,
        target_value=0.95,
        patience_trials=5,
        keep_trial_artifacts=5,
        stop=False,
    )


BEST = [make_finished_trial(value=0.9)]
LOSS = {"objective": {"metric": "LogLoss"}}
ENDS: list[tuple[dict[str, Any], StudySummary, BudgetUsed, BudgetEnd | None]] = [
    ({"budget": {"maxTrials": 3}}, make_summary(completed=2), BudgetUsed(), None),
    ({"budget": {"maxTrials": 3}}, make_summary(completed=2, pruned=1), BudgetUsed(), BudgetEnd.MAX_TRIALS),
    ({"budget": {"maxTrials": 3}}, make_summary(completed=2, running=1), BudgetUsed(), None),
    ({"budget": {"maxTrials": 3}}, make_summary(completed=2, preempted=9), BudgetUsed(), None),
    ({"budget": {"targetValue": "0.95"}}, make_summary(best=BEST), BudgetUsed(), None),
    ({"budget": {"targetValue": "0.9"}}, make_summary(best=BEST), BudgetUsed(), BudgetEnd.TARGET_VALUE),
    ({"budget": {"targetValue": "0.8"}, **LOSS}, make_summary(best=BEST), BudgetUsed(), None),
    ({"budget": {"targetValue": "0.95"}, **LOSS}, make_summary(best=BEST), BudgetUsed(), BudgetEnd.TARGET_VALUE),
    ({"budget": {"maxFailedTrials": 2}}, make_summary(failed=2), BudgetUsed(), BudgetEnd.MAX_FAILED_TRIALS),
    ({"budget": {"maxDurationSeconds": 60}}, make_summary(), BudgetUsed(duration_seconds=44), None),
    (
        {"budget": {"maxDurationSeconds": 60}},
        make_summary(),
        BudgetUsed(duration_seconds=45),
        BudgetEnd.MAX_DURATION,
    ),
    ({"budget": {"maxAcceleratorSeconds": 60}}, make_summary(), BudgetUsed(accelerator_seconds=59), None),
    (
        {"budget": {"maxAcceleratorSeconds": 60}},
        make_summary(),
        BudgetUsed(accelerator_seconds=60),
        BudgetEnd.MAX_ACCELERATOR,
    ),
    ({"budget": {"patienceTrials": 5}}, make_summary(best=BEST, trials_since_best=4), BudgetUsed(), None),
    ({"budget": {"patienceTrials": 5}}, make_summary(best=BEST, trials_since_best=5), BudgetUsed(), BudgetEnd.PATIENCE),
    ({}, make_summary(exhausted=True), BudgetUsed(), BudgetEnd.EXHAUSTED),
    ({}, make_summary(exhausted=True, waiting=1), BudgetUsed(), None),
    ({}, make_summary(exhausted=True, running=1), BudgetUsed(), None),
    ({}, make_summary(limits=make_limits(stop=True)), BudgetUsed(), BudgetEnd.INTERRUPTED),
    ({}, make_summary(limits=make_limits()), BudgetUsed(), None),
]


@pytest.mark.parametrize(("spec", "study", "used", "end"), ENDS)
def test_the_first_limit_reached_ends_the_search(
    spec: dict[str, Any], study: StudySummary, used: BudgetUsed, end: BudgetEnd | None
) -> None:
    """Running trials count against maxTrials but must end first; preempted ones do not count."""
    assert search_end(make_job(**spec), study, used) == end


def test_a_stop_of_ours_whose_limit_was_raised_is_no_end() -> None:
    """The budget grew before the finalizer started: the search goes on. Ctrl-C stays an end."""
    stopped = make_summary(completed=3, limits=make_limits(stop=True))

    def end_after(ended_by: BudgetEnd) -> BudgetEnd | None:
        status = AutoMLJobStatus(budget_used=BudgetUsed(ended_by=ended_by))
        return search_end(make_job(status=status, budget={"maxTrials": 9}), stopped, BudgetUsed())

    assert end_after(BudgetEnd.MAX_TRIALS) is None
    assert end_after(BudgetEnd.INTERRUPTED) is BudgetEnd.INTERRUPTED


def test_time_suspended_does_not_count() -> None:
    status = AutoMLJobStatus(start_time=NOON, suspended_seconds=100, suspended_since=NOON + timedelta(seconds=500))

    assert elapsed_seconds(status, NOON + timedelta(seconds=800)) == 400
    assert elapsed_seconds(AutoMLJobStatus(), NOON) == 0


def test_accelerator_time_adds_up_over_pods_that_are_gone() -> None:
    """Each piece is counted once, from the duration the last status published; a deleted pod's time stays counted."""
    noon = NOON.timestamp()
    first = make_observed(pods=[make_pod(started_at=noon + 10, accelerators=2)])
    second = make_observed(pods=[make_pod("pod-2", started_at=noon + 110, finished_at=noon + 130, accelerators=1)])
    fresh = make_job(status=AutoMLJobStatus(start_time=NOON))

    after_first = accelerator_seconds(fresh, first, NOON + timedelta(seconds=100))
    used = BudgetUsed(duration_seconds=100, accelerator_seconds=after_first)
    later = make_job(status=AutoMLJobStatus(start_time=NOON, budget_used=used))

    assert after_first == 180
    assert accelerator_seconds(later, second, NOON + timedelta(seconds=200)) == 200
    assert accelerator_seconds(later, make_observed(), NOON + timedelta(seconds=200)) == 180
    assert accelerator_seconds(make_job(), first, NOON) == 0


def test_progress_is_the_budget_that_is_furthest_used() -> None:
    """Below 100 until the job has ended."""
    job = make_job(budget={"maxTrials": 10, "maxDurationSeconds": 100})

    assert progress_percentage(job, make_summary(completed=3), BudgetUsed(trials=3, duration_seconds=20)) == 30
    assert progress_percentage(job, make_summary(completed=3), BudgetUsed(trials=3, duration_seconds=50)) == 50
    assert progress_percentage(job, make_summary(completed=10), BudgetUsed(trials=10)) == 99
    assert progress_percentage(job, None, BudgetUsed()) == 0


RANKED = RankedTrial(trial=1, value="0.9", family="Linear")


def status_at(seconds: int, completed: int = 0, **fields: Any) -> AutoMLJobStatus:
    counts, used = TrialCounts(completed=completed), BudgetUsed(duration_seconds=seconds)
    return AutoMLJobStatus(trials=counts, budget_used=used, best=RANKED if completed else None, **fields)


@pytest.mark.parametrize(
    ("old", "new", "is_published"),
    [
        (status_at(0, 5), status_at(4, 25), False),
        (status_at(0, 5), status_at(5, 25), True),
        (status_at(0, 5), status_at(29, 14), False),
        (status_at(0, 5), status_at(30, 6), True),
        (status_at(0, 5), status_at(5, 15), True),
        (status_at(0, 5), status_at(59, 5), False),
        (status_at(0, 5), status_at(60, 5), True),
        (status_at(0, 0), status_at(1, 1), True),
        (status_at(0, 5), status_at(1, 5, progress_percentage=9), False),
        (status_at(0, 5), status_at(0, 5, suspended_since=NOON), True),
    ],
)
def test_counters_are_published_now_and_then_and_news_at_once(
    old: AutoMLJobStatus, new: AutoMLJobStatus, is_published: bool
) -> None:
    """After 5 s for ten trials, 30 s for fewer, 60 s for the clock alone; the first score at once."""
    assert worth_publishing(old, new, SETTINGS) == (new if is_published else old)
