"""Every budget of the contract, on simulated time: the job ends within 2 % or 30 s of it, whatever happens meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import make_profile
from kubeautoml.api.names import QUEUE_LABEL
from plan.simulation import Simulation

GPU = {"workers": {"parallelism": 4, "resources": {"limits": {"nvidia.com/gpu": "1"}}}}
MANY = {"maxTrials": 100_000, "maxFailedTrials": 100_000}


def slack(limit: float) -> float:
    return max(0.02 * limit, 30.0)


def seconds_used(sim: Simulation) -> float:
    status = sim.stage.job.status
    assert status.start_time is not None and status.completion_time is not None
    return (status.completion_time - status.start_time).total_seconds() - status.suspended_seconds


def timed(limit: int, **spec: Any) -> dict[str, Any]:
    return {"budget": {**MANY, "maxDurationSeconds": limit}, **spec}


def accelerated(limit: int, workers: int = 4) -> dict[str, Any]:
    gpu = {"workers": {**GPU["workers"], "parallelism": workers}}
    return {"budget": {**MANY, "maxAcceleratorSeconds": limit}, **gpu}


@pytest.mark.parametrize(
    ("limit", "trial_seconds"), [(60, 1.0), (60, 2000.0), (300, 1.0), (300, 20.0), (300, 2000.0), (3600, 20.0)]
)
def test_the_duration_is_kept(limit: int, trial_seconds: float) -> None:
    """Whether trials are short, or so long that none ends."""
    sim = Simulation(timed(limit, workers={"parallelism": 4}), seconds_of=lambda n: trial_seconds if n else 1.0)

    sim.to_the_end()

    assert sim.condition("Succeeded") == "True ModelTrained"
    assert sim.stage.job.status.budget_used.ended_by == "MaxDuration"
    assert seconds_used(sim) <= limit + slack(limit)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("limit", "workers"), [(600, 1), (600, 4), (1000, 16), (4000, 4), (20_000, 16)])
def test_accelerator_seconds_are_kept(limit: int, workers: int, seed: int) -> None:
    """As really used, the finalizer's included; and what the status says is what was used."""
    sim = Simulation(accelerated(limit, workers), seed)

    sim.to_the_end()

    used = sim.stage.job.status.budget_used
    assert used.ended_by == "MaxAccelerator"
    assert abs(sim.accelerator_seconds - limit) <= max(slack(limit), 1.5 * workers)
    assert abs(sim.accelerator_seconds - used.accelerator_seconds) <= slack(limit)


def test_accelerator_seconds_of_pods_that_were_lost_are_counted() -> None:
    """A node goes away every minute, and the operator is restarted; what is lost is bounded."""
    sim = Simulation(accelerated(6000))

    while not sim.has_ended:
        sim.run(60)
        if sim.workers():
            sim.lose(sim.workers()[0])

    assert sim.stage.job.status.budget_used.ended_by == "MaxAccelerator"
    assert 6000 - slack(6000) <= sim.accelerator_seconds <= 6000 * 1.08 + 30


def test_accelerators_of_others_and_of_servers_count_for_nothing() -> None:
    """Workers without accelerators use none."""
    sim = Simulation({"budget": {"maxTrials": 20, "maxAcceleratorSeconds": 10}, "workers": {"parallelism": 2}})

    sim.to_the_end()

    used = sim.stage.job.status.budget_used
    assert (used.ended_by, used.accelerator_seconds, sim.finished) == ("MaxTrials", 0, 20)


@pytest.mark.parametrize("workers", [1, 7])
def test_trials_are_counted_exactly(workers: int) -> None:
    sim = Simulation({"budget": {"maxTrials": 50}, "workers": {"parallelism": workers}})

    sim.to_the_end()

    assert (sim.finished, sim.stage.job.status.budget_used.ended_by) == (50, "MaxTrials")


def reached(sim: Simulation, moment: float) -> None:
    """The search has ended within 30 s of that moment."""
    sim.until(lambda s: s.stage.job.status.budget_used.ended_by is not None, 20_000)
    assert sim.now - moment <= 30
    sim.to_the_end()


def test_a_score_that_is_good_enough_ends_the_search() -> None:
    """Also while other trials would run for hours."""
    sim = Simulation(
        {"budget": {**MANY, "targetValue": "0.95"}, "workers": {"parallelism": 3}},
        seconds_of=lambda n: 10_000.0 if n in (3, 4) else 8.0,
        value_of=lambda n: 0.96 if n == 30 else 0.5,
    )

    sim.until(lambda s: any(t.value == 0.96 for t in s.trials), 5000)
    reached(sim, sim.now)

    assert sim.stage.job.status.budget_used.ended_by == "TargetValue"


def test_failures_end_the_search() -> None:
    sim = Simulation(
        {"budget": {"maxTrials": 1000, "maxFailedTrials": 5}, "workers": {"parallelism": 3}},
        seconds_of=lambda n: 10_000.0 if n in (3, 4) else 8.0,
        value_of=lambda n: None if n % 4 == 2 else 0.5,
    )

    sim.until(lambda s: s.count("failed") >= 5, 5000)
    reached(sim, sim.now)

    assert sim.count("failed") == 5
    assert sim.stage.job.status.budget_used.ended_by == "MaxFailedTrials"


def test_patience_ends_the_search() -> None:
    """So many trials after the best one, give or take those that were running."""
    sim = Simulation(
        {"budget": {**MANY, "patienceTrials": 20}, "workers": {"parallelism": 3}},
        value_of=lambda n: 0.9 if n == 15 else 0.5,
    )

    sim.to_the_end()

    assert sim.stage.job.status.budget_used.ended_by == "Patience"
    assert 36 <= sim.finished <= 36 + 3


# Edits, suspension, restarts


def test_a_duration_may_be_raised_and_lowered() -> None:
    """Raised at 100 s from 300 to 900; in another job lowered to less than has passed."""
    raised = Simulation(timed(300), edits={100: timed(900)})
    lowered = Simulation(timed(3600), edits={400: timed(200)})

    raised.to_the_end()
    lowered.to_the_end()

    assert 900 - 0.15 * 900 - 5 <= seconds_used(raised) <= 900 + slack(900)
    assert seconds_used(lowered) <= 400 + slack(200)


def test_accelerator_seconds_may_be_raised_and_lowered() -> None:
    raised = Simulation(accelerated(800), edits={100: accelerated(4000)})
    lowered = Simulation(accelerated(20_000), edits={600: accelerated(1000)})

    raised.to_the_end()
    lowered.until(lambda s: s.now >= 600, 1000)
    at_the_edit = lowered.accelerator_seconds
    lowered.to_the_end()

    assert abs(raised.accelerator_seconds - 4000) <= slack(4000)
    assert at_the_edit > 1000
    # the workers that are told to leave and the finalizer still hold theirs for some seconds
    assert lowered.accelerator_seconds - at_the_edit <= 4 * 12 + 30


def test_trials_may_be_raised_and_lowered() -> None:
    """Lowered below what has finished it ends at once, though a trial would run for hours; else when that many have."""

    def job(trials: int) -> dict[str, Any]:
        return {"budget": {"maxTrials": trials}, "workers": {"parallelism": 4}}

    raised = Simulation(job(20), edits={30: job(60)})
    lowered = Simulation(job(1000), edits={100: job(60)})
    below = Simulation(job(1000), seconds_of=lambda n: 10_000.0 if n == 5 else 8.0, edits={300: job(10)})

    for sim in (raised, lowered):
        sim.to_the_end()
    below.until(lambda s: s.now >= 300, 400)
    reached(below, below.now)

    assert (raised.finished, lowered.finished) == (60, 60)
    assert below.stage.job.status.budget_used.ended_by == "MaxTrials"


def test_a_suspended_job_uses_no_budget() -> None:
    """An hour's pause, twice; no pod after 15 s; no finished trial is lost; the end is as far away as before."""
    spec = timed(600, **GPU)
    sim = Simulation(
        spec, edits={200: {**spec, "suspend": True}, 3800: spec, 4000: {**spec, "suspend": True}, 7600: spec}
    )

    sim.until(lambda s: s.now >= 200, 300)
    finished = sim.finished
    sim.run(15)
    assert sim.living == []
    assert sim.finished >= finished
    sim.run(2000)
    assert sim.living == [] and sim.finished >= finished
    sim.to_the_end()

    used = sim.stage.job.status.budget_used
    assert 7200 <= sim.stage.job.status.suspended_seconds <= 7202
    assert used.ended_by == "MaxDuration"
    assert seconds_used(sim) <= 600 + slack(600)
    assert abs(sim.accelerator_seconds - used.accelerator_seconds) <= 2 * 4 * 8 + 10


def test_an_accelerator_budget_outlives_a_suspension() -> None:
    spec = accelerated(2000)
    sim = Simulation(spec, edits={200: {**spec, "suspend": True}, 3800: spec})

    sim.to_the_end()

    # the last seconds of pods that were told to go are not counted
    assert abs(sim.accelerator_seconds - 2000) <= slack(2000) + 4 * 8


def test_an_operator_that_was_away_finds_the_workers_gone_in_time() -> None:
    """They knew the deadline; only the model is as late as the operator."""
    sim = Simulation(timed(600, workers={"parallelism": 3}), is_down=lambda t: 100 < t < 590)

    sim.run(580)

    assert sim.workers() == []
    sim.to_the_end()
    assert seconds_used(sim) <= 600 + slack(600)


def test_parallelism_goes_up_and_down_while_it_runs() -> None:
    """Workers that are told to go give their trials back, and all trials are run."""

    def job(workers: int) -> dict[str, Any]:
        return {"budget": {"maxTrials": 150}, "workers": {"parallelism": workers}}

    sim = Simulation(job(2), edits={60: job(8), 120: job(1), 180: job(5)})

    counts = {}
    for moment in (50, 110, 175, 240):
        sim.run(moment - sim.now)
        counts[moment] = len(sim.workers())
    sim.to_the_end()

    assert counts == {50: 2, 110: 8, 175: 1, 240: 5}
    assert (sim.finished, sim.count("failed")) == (150, 0)


# Clocks


BACK = [-3600, -60, -8]


@pytest.mark.parametrize("jump", BACK)
def test_an_operator_s_clock_that_goes_back_neither_ends_nor_extends_the_job(jump: int) -> None:
    """Its own alone, for good, in the middle of the search: what pods write tells the time."""
    sim = Simulation(timed(900, workers={"parallelism": 3}), clock=lambda t: t + (jump if t > 300 else 0))

    sim.to_the_end()

    assert sim.stage.job.status.budget_used.ended_by == "MaxDuration"
    assert 900 * 0.8 <= sim.now <= 900 + slack(900)


@pytest.mark.parametrize("jump", BACK)
def test_clocks_that_all_go_back_neither_end_nor_extend_the_job(jump: int) -> None:
    """The time used goes on from what was published."""

    def clock(t: float) -> float:
        return t + (jump if t > 300 else 0)

    sim = Simulation(timed(900, workers={"parallelism": 3}), clock=clock, pods_clock=clock)

    sim.to_the_end()

    assert sim.stage.job.status.budget_used.ended_by == "MaxDuration"
    assert 900 * 0.8 <= sim.now <= 900 + slack(900) + 60  # the time since the last status was published


def test_a_clock_that_was_wrong_and_is_set_right_changes_little() -> None:
    """The operator's was an hour ahead when the job came."""
    sim = Simulation(timed(900, workers={"parallelism": 3}), clock=lambda t: t + (3600 if t < 300 else 0))

    sim.to_the_end()

    assert 900 * 0.8 <= sim.now <= 900 + slack(900) + 60


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_clock_that_jumps_and_comes_back_loses_no_trial_and_crashes_nothing(jump: int) -> None:
    """An hour forward looks like an operator that was away for an hour, so a budget may end early, with its model."""
    sim = Simulation(accelerated(3000), clock=lambda t: t + (jump if 200 < t < 260 else 0))

    sim.to_the_end()

    status = sim.stage.job.status
    assert sim.condition("Succeeded") == "True ModelTrained"
    assert status.budget_used.duration_seconds >= 0 and status.suspended_seconds >= 0
    assert sim.count("failed") == 0
    assert sim.accelerator_seconds <= 3000 + slack(3000)


def test_a_suspension_over_clocks_that_go_back_adds_no_time() -> None:
    """Neither a negative pause nor an hour for free."""

    def clock(t: float) -> float:
        return t - (3600 if t > 300 else 0)

    spec = timed(900, workers={"parallelism": 3})
    edits = {200.0: {**spec, "suspend": True}, 500.0: spec}
    sim = Simulation(spec, edits=edits, clock=clock, pods_clock=clock)

    sim.to_the_end()

    assert sim.stage.job.status.suspended_seconds >= 0
    assert 900 * 0.8 <= sim.now - 300 <= 900 + slack(900) + 60


# A queue


def queued(spec: dict[str, Any]) -> Simulation:
    """A job of a Kueue queue."""
    sim = Simulation(spec)
    meta = sim.stage.job.metadata.model_copy(update={"labels": {QUEUE_LABEL: "team-a"}})
    sim.stage.job = sim.stage.job.model_copy(update={"metadata": meta})
    return sim


def test_time_in_a_queue_counts_for_nothing_and_an_eviction_fails_no_trial() -> None:
    """Half an hour before it is admitted, then evicted twice, and the finalizer has to wait as well."""
    sim = queued(timed(600, workers={"parallelism": 4, "minParallelism": 2}))

    sim.run(1800)
    assert (sim.condition("Admitted"), sim.living) == ("False Queued", [])
    sim.admit(parallelism=3)
    sim.run(100)
    assert (sim.condition("Admitted"), len(sim.workers())) == ("True WorkersAdmitted", 3)
    assert sim.stage.message("Admitted") == "the queue admitted 3 of 4 workers"
    for _ in range(2):
        sim.evict()
        sim.run(700)
        assert (sim.condition("Admitted"), sim.living) == ("False Queued", [])
        sim.admit(parallelism=2)
        sim.run(100)
        assert len(sim.workers()) == 2
    sim.until(
        lambda s: s.condition("Succeeded") == "Unknown Finalizing" and s.condition("Admitted") == "False Queued", 900
    )
    sim.run(600)
    sim.admit()
    sim.to_the_end(100)

    status = sim.stage.job.status
    assert sim.condition("Succeeded") == "True ModelTrained"
    assert sim.count("failed") == 0 and sim.count("preempted") >= 2
    assert status.budget_used.ended_by == "MaxDuration"
    assert seconds_used(sim) <= 600 + slack(600)
    assert abs(status.suspended_seconds - (1800 + 2 * 700 + 600)) <= 30


# Anything at any time


@st.composite
def lives(draw: st.DrawFn) -> Simulation:
    """A job with some budgets, that is edited, suspended, and loses nodes while its operator comes and goes."""
    budget: dict[str, Any] = {"maxTrials": draw(st.integers(1, 60)), "maxFailedTrials": draw(st.integers(1, 60))}
    if draw(st.booleans()):
        budget["maxDurationSeconds"] = draw(st.integers(60, 400))
    if draw(st.booleans()):
        budget["maxAcceleratorSeconds"] = draw(st.integers(200, 2000))
    if draw(st.booleans()):
        budget["patienceTrials"] = draw(st.integers(3, 30))
    spec = {"budget": budget, **GPU}
    edits: dict[float, dict[str, Any]] = {}
    for _ in range(draw(st.integers(0, 4))):
        at = float(draw(st.integers(1, 500)))
        change = draw(st.sampled_from(["parallelism", "suspend", "budget", "illegal"]))
        if change == "parallelism":
            edits[at] = {**spec, "workers": {**GPU["workers"], "parallelism": draw(st.integers(1, 8))}}
        if change == "suspend":
            edits[at] = {**spec, "suspend": True}
            edits[at + draw(st.integers(1, 600))] = spec
        if change == "budget":
            edits[at] = {**spec, "budget": {**budget, "maxTrials": draw(st.integers(1, 80))}}
        if change == "illegal":
            edits[at] = {**spec, "budget": {**budget, "maxTrials": 90_000}}
    edits[1200.0] = spec
    away = draw(st.integers(0, 500))
    sim = Simulation(
        spec,
        seed=draw(st.integers(0, 999)),
        value_of=(lambda n: None if n % 7 == 3 else (n % 10) / 10) if draw(st.booleans()) else None,
        edits=edits,
        is_down=lambda t: away < t < away + 60,
    )
    sim.stage.profile = make_profile(limits={"maxTrials": 1000})
    return sim


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(lives(), st.lists(st.integers(1, 400), max_size=5))
def test_whatever_happens_a_job_ends_and_loses_no_finished_trial(sim: Simulation, losses: list[int]) -> None:
    """Every trial that finished is counted, none that was preempted failed, and no time limit is overrun."""
    for moment in sorted(losses):
        sim.run(max(0.0, moment - sim.now))
        if sim.workers():
            sim.lose(sim.workers()[0])

    sim.to_the_end(6000)

    status, budget = sim.stage.job.status, sim.stage.job.spec.budget
    counts = status.trials
    assert (counts.completed, counts.failed) == (sim.count("completed"), sim.count("failed"))
    assert sim.count("failed") == sum(t.state == "failed" and t.number % 7 == 3 for t in sim.trials)
    assert status.budget_used.ended_by is not None
    if budget.max_duration_seconds is not None and counts.completed:
        # an operator that is away cannot make the model
        assert seconds_used(sim) <= budget.max_duration_seconds + slack(budget.max_duration_seconds) + 60
