"""A worker's loop on a journal: what is tried, told and stored, and when it ends."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from optuna.trial import TrialState

from kubeautoml.api.trials import RetireTrial, StudyAttr, StudyOrders
from kubeautoml.study import carry_out_orders, load_summary, set_study_attr, study_attr
from kubeautoml_trainer.artifacts import read_predictions, read_record
from kubeautoml_trainer.models.base import FitTimeout
from kubeautoml_trainer.models.space import Float
from kubeautoml_trainer.search.budget import Stop
from search.fakes import FakeFamily, make_context, make_limits, make_loop, open_job_study, states

FOLDS = 3


def test_a_worker_runs_until_max_trials_and_stores_what_it_tells(tmp_path):
    """Every completed trial has a record with the told value, and predictions for every training row."""
    context = make_context(tmp_path, pruner={"type": "None"})
    study = open_job_study(context, make_limits(max_trials=4))
    loop = make_loop(context, (FakeFamily(),), study)

    assert loop.run() is Stop.MAX_TRIALS

    trials = study.get_trials(deepcopy=False)
    assert [t.user_attrs.get("portfolio") for t in trials] == [0, 1, None, None]
    for trial in trials:
        record = read_record(loop.store, context.job.paths, trial.number)
        found = read_predictions(loop.store, context.job.paths, trial.number)
        assert (record.value, record.family, record.attempt, record.folds) == (trial.value, "Fake", 1, FOLDS)
        assert len(record.fold_values) == FOLDS
        assert np.isfinite(found.oof).all() and len(found.oof) == len(loop.data.train)
        assert len(found.holdout) == len(loop.data.holdout)
        # the pooled metric, not the mean of the folds
        assert trial.value == pytest.approx(float(np.sqrt(np.mean((found.oof[:, 0] - loop.data.train.y) ** 2))))
    assert read_record(loop.store, context.job.paths, 1).parameters == {"rate": 0.5, "size": 3, "hidden": 7}


def test_one_worker_with_one_seed_finds_the_same_leaderboard_again(tmp_path):
    """Whatever the pod is called."""
    found = []
    for pod in ("first", "second"):
        context = make_context(tmp_path / pod, pod)
        study = open_job_study(context, make_limits(max_trials=25))
        make_loop(context, (FakeFamily(), FakeFamily(name="Other", entries=())), study).run()
        found.append([(t.state, t.value, t.params) for t in study.get_trials(deepcopy=False)])

    assert found[0] == found[1]


def test_workers_that_look_at_the_same_moment_take_no_more_than_the_budget(tmp_path, monkeypatch):
    """All have looked before any of them asks: what is too much is handed back, and not queued again."""
    context = make_context(tmp_path, pruner={"type": "None"})
    open_job_study(context, make_limits(max_trials=4))
    together = Barrier(3)

    def work(number: int) -> Stop | None:
        study = open_job_study(context, make_limits(max_trials=4))
        loop = make_loop(context, (FakeFamily(),), study)
        claim, waits = loop._claim, [together, together]
        # twice three workers take a trial at the same time
        monkeypatch.setattr(loop, "_claim", lambda: (waits and waits.pop().wait(30), claim())[1])
        return loop.run()

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3))) == [Stop.MAX_TRIALS] * 3

    study = open_job_study(context, make_limits(max_trials=4))
    carry_out_orders(study._storage, study.study_name, StudyOrders())
    summary = load_summary(study._storage, study.study_name)
    assert summary is not None
    assert (summary.completed, summary.failed, summary.running, summary.waiting) == (4, 0, 0, 0)
    assert summary.preempted == 2


def test_a_failing_fit_fails_its_trial_and_never_the_worker(tmp_path):
    """The reason is one line in the trial; too many of them end the search."""

    def on_fit(parameters, context):
        raise MemoryError("no room\nfor a tree")

    context = make_context(tmp_path)
    study = open_job_study(context, make_limits(max_failed_trials=2))

    assert make_loop(context, (FakeFamily(on_fit=on_fit),), study).run() is Stop.FAILED_TRIALS

    trials = study.get_trials(deepcopy=False)
    assert states(study) == ["FAIL", "FAIL"]
    assert trials[0].user_attrs["error"] == "MemoryError: no room for a tree"


def test_a_fit_without_time_and_a_prediction_that_is_no_number_are_not_kept(tmp_path):
    """The first is cut (time is to blame), the second fails (the model is)."""
    seen = []

    def on_fit(parameters, context):
        seen.append(parameters)
        if parameters["rate"] == 0.1:
            raise FitTimeout("no time for one round")

    family = FakeFamily(on_fit=on_fit, entries=((0, {"rate": 0.1}), (1, {"rate": math.nan})))
    context = make_context(tmp_path, pruner={"type": "None"})
    study = open_job_study(context, make_limits(max_trials=2))

    make_loop(context, (family,), study).run()

    assert states(study) == ["PRUNED", "FAIL"]
    assert study.trials[1].user_attrs["error"].startswith("ArithmeticError: Rmse of the predictions is not a number")


def test_a_fit_whose_share_was_too_short_gets_what_can_be_spared(tmp_path):
    """Once: then the trial is complete, though it took more than its share."""
    deadlines = []

    def on_fit(parameters, context):
        deadlines.append(context.deadline - time.monotonic())
        if context.deadline - time.monotonic() < 20:
            raise FitTimeout("too short")

    context = make_context(tmp_path, pruner={"type": "None"})
    study = open_job_study(context, make_limits(max_trials=2, search_deadline=time.time() + 100))
    loop = make_loop(context, (FakeFamily(on_fit=on_fit),), study)
    loop.run()

    assert states(study) == ["COMPLETE", "COMPLETE"]
    usual, spared = deadlines[FOLDS : FOLDS + 2]
    assert usual == pytest.approx(100 / FOLDS / 4, rel=0.1)
    assert spared == pytest.approx(100 / FOLDS, rel=0.1)


@pytest.mark.parametrize(
    ("change", "why"),
    [({"stop": True}, Stop.STOPPED), ({"search_deadline": 1.0}, Stop.DEADLINE)],
)
def test_a_stop_between_two_folds_cuts_the_trial(tmp_path, change, why):
    """The worker looks at the limits within a trial, too."""
    context = make_context(tmp_path)
    study = open_job_study(context, make_limits())

    def on_fit(parameters, _):
        set_study_attr(study, StudyAttr.LIMITS, make_limits(**change))
        loop._telling._read = (-math.inf, None)

    loop = make_loop(context, (FakeFamily(on_fit=on_fit),), study)

    assert loop.run() is why
    assert states(study) == ["PRUNED"]


def test_a_worker_leaves_when_nothing_worthwhile_fits_the_time_left(tmp_path):
    """The strong family takes longer than there is, and the cheap one has no chance: no trial of it fills the time."""

    def slow(parameters, context):
        time.sleep(0.5)

    strong = FakeFamily(name="Strong", entries=((0, {"rate": 0.5}),), on_fit=slow)
    cheap = FakeFamily(name="Cheap", entries=((1, {"rate": 0.01}),))
    context = make_context(tmp_path, pruner={"type": "None"})
    study = open_job_study(context)
    loop = make_loop(context, (strong, cheap), study)
    set_study_attr(study, StudyAttr.LIMITS, make_limits(search_deadline=time.time() + 3.0))

    assert loop.run() is Stop.DEADLINE

    assert [t.params["family"] for t in study.trials] == ["Strong", "Cheap"]


def test_a_retired_trial_is_left_alone_and_the_next_one_is_its_second_attempt(tmp_path):
    """The worker's late result is refused; the same parameters run again, once."""
    context = make_context(tmp_path, pruner={"type": "None"})
    study = open_job_study(context, make_limits(max_trials=3))
    fits = []

    def on_fit(parameters, fit):
        fits.append((dict(parameters), fit.seed))
        if len(fits) == FOLDS:
            order = RetireTrial(0, 1, "Preempted", requeue=True)
            carry_out_orders(study._storage, context.job.study_name, StudyOrders(retire=(order,)))

    loop = make_loop(context, (FakeFamily(on_fit=on_fit),), study)
    loop.run()

    trials = study.get_trials(deepcopy=False)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert fits[:FOLDS] == fits[FOLDS : 2 * FOLDS]
    assert (trials[1].user_attrs["attempt"], trials[1].user_attrs["retry_of"]) == (2, 0)
    assert read_record(loop.store, context.job.paths, 1).attempt == 2
    assert [t.user_attrs.get("portfolio") for t in trials] == [0, 0, 1, None]
    assert load_summary(study._storage, context.job.study_name).spent == 3


def test_four_workers_run_four_trials_at_a_time(tmp_path):
    """Every fit waits until four of different workers are running: none of them ever waits for another's trial to end."""
    together = Barrier(4)
    context = make_context(tmp_path, pruner={"type": "None"})
    study = open_job_study(context, make_limits(max_trials=12))

    def work(number: int) -> Stop | None:
        family = FakeFamily(on_fit=lambda parameters, fit: together.wait(60) and None)
        return make_loop(make_context(tmp_path, f"pod-{number}", pruner={"type": "None"}), (family,)).run()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [Stop.MAX_TRIALS] * 4

    by_pod = Counter(t.user_attrs["pod_uid"] for t in study.trials if t.state is TrialState.COMPLETE)
    assert by_pod == {f"pod-{i}-uid": 3 for i in range(4)}


def test_generations_end_the_search(tmp_path):
    """After the population and as many trials again for each generation; failed ones do not count, and the study says so."""
    fits = []

    def on_fit(parameters, context):
        fits.append(1)
        if len(fits) == 2:
            raise MemoryError("no room")

    sampler = {"type": "Evolutionary", "population": 4, "generations": 2}
    context = make_context(tmp_path, sampler=sampler, pruner={"type": "None"})
    study = open_job_study(context, make_limits(max_trials=100))

    assert make_loop(context, (FakeFamily(on_fit=on_fit),), study).run() is None

    assert states(study).count("COMPLETE") == 4 * (2 + 1)
    assert states(study).count("FAIL") == 1
    assert study_attr(study, StudyAttr.SEARCH) == {"exhausted": True}


def test_a_worker_leaves_the_last_trials_of_the_generations_to_those_who_run_them(tmp_path):
    """It starts none that would be too much; the search is not over before they have ended."""
    context = make_context(
        tmp_path, sampler={"type": "Evolutionary", "population": 2, "generations": 1}, pruner={"type": "None"}
    )
    study = open_job_study(context, make_limits(max_trials=100))
    loop = make_loop(context, (FakeFamily(),), study)
    study.ask()

    assert loop.run() is None

    assert sorted(states(study)) == ["COMPLETE"] * 3 + ["RUNNING"]
    assert study_attr(study, StudyAttr.SEARCH) is None


def test_a_grid_ends_when_it_is_exhausted(tmp_path):
    """Each point once; then the study says so."""
    family = FakeFamily(search_space={"rate": Float(0.1, 0.9)})
    context = make_context(tmp_path, sampler={"type": "Grid"})
    study = open_job_study(context, make_limits(max_trials=100))

    assert make_loop(context, (family,), study).run() is None

    assert sorted(t.params["Fake.rate"] for t in study.trials) == pytest.approx([0.1, 0.5, 0.9])
    assert study_attr(study, StudyAttr.SEARCH) == {"exhausted": True}


@pytest.mark.parametrize("kind", ["journal", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_workers_side_by_side_share_the_portfolio_without_doubles(tmp_path, kind, request):
    """Four workers, four connections to one study: every entry once, and not one trial too many."""
    url = request.getfixturevalue("postgres_url") if kind == "postgresql" else None
    entries = tuple((i, {"rate": round(0.01 * (i + 1), 2)}) for i in range(12))
    contexts = [make_context(tmp_path, f"pod-{i}", url, pruner={"type": "None"}) for i in range(4)]
    study = open_job_study(contexts[0], make_limits(max_trials=20))
    loops = [make_loop(context, (FakeFamily(entries=entries),)) for context in contexts]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda loop: loop.run(), loops)) == [Stop.MAX_TRIALS] * 4

    trials = study.get_trials(deepcopy=False)
    portfolio = sorted(t.user_attrs["portfolio"] for t in trials if "portfolio" in t.user_attrs)
    assert portfolio == list(range(12))
    complete = [t for t in trials if t.state is TrialState.COMPLETE]
    assert len(complete) == 20
    # those who looked at the same moment have handed back what was too much
    assert all(t.user_attrs["preempted"] for t in trials if t not in complete)
    sampled = [json.dumps(t.params) for t in complete if not {"portfolio", "promotes"} & t.user_attrs.keys()]
    assert len(set(sampled)) == len(sampled)
