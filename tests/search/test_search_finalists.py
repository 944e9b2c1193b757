"""What runs again towards the end, and what comes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from kubeautoml.storage import open_store
from kubeautoml_trainer.artifacts import read_predictions, read_record
from kubeautoml_trainer.data.base import PreparedData
from kubeautoml_trainer.data.split import sampled
from kubeautoml_trainer.finishing.work import scored_trials
from kubeautoml_trainer.search.budget import Stop
from kubeautoml_trainer.search.finalists import (
    ALL_ROWS_FROM,
    LEAST_COMPLETED,
    REPEATED,
    REPEATS_FROM,
    Scheme,
    effective_rows,
    next_finalist,
    progress,
    scheme_of,
)
from kubeautoml_trainer.search.trial import fold_rows
from search.fakes import FakeFamily, FakePipeline, make_context, make_data, make_limits, make_loop, open_job_study
from search.trials import START, make_trial

FOLDS = 3
REPEATED_SCHEME = Scheme(repeats=3, work=2.0)
SAMPLED_SCHEME = Scheme(sample=50_000, work=10.0)


def study_of(values: list[float], family: str = "A") -> list:
    return [make_trial(i, family, v) for i, v in enumerate(values)]


def test_finalists_wait_for_the_last_part_of_the_search_and_for_a_choice():
    """Neither begins early, nor is one of a few trials worth repeating."""
    trials = study_of([0.5 + 0.01 * i for i in range(LEAST_COMPLETED)])

    assert next_finalist(trials, "RocAuc", REPEATED_SCHEME, REPEATS_FROM - 0.01) is None
    assert next_finalist(trials[:-1], "RocAuc", REPEATED_SCHEME, 0.9) is None
    assert next_finalist(trials, "RocAuc", REPEATED_SCHEME, 0.9) == LEAST_COMPLETED - 1
    assert next_finalist(trials, "Rmse", REPEATED_SCHEME, 0.9) == 0
    assert next_finalist(trials, "RocAuc", Scheme(), 0.9) is None
    assert next_finalist(trials[:1], "RocAuc", SAMPLED_SCHEME, ALL_ROWS_FROM) == 0


def test_each_of_the_best_is_promoted_once_and_no_family_takes_all_places():
    """Running, ended and failed promotions count alike; what promotes is not promoted again."""
    trials = study_of([0.9 - 0.001 * i for i in range(12)]) + [
        make_trial(12 + i, "B", 0.8 - 0.01 * i) for i in range(6)
    ]
    order = []
    while (number := next_finalist(trials, "RocAuc", REPEATED_SCHEME, 0.9)) is not None:
        order.append(number)
        state = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)[len(order) % 3]
        value = 0.99 if state is TrialState.COMPLETE else None
        trials.append(make_trial(len(trials), "A", value, state=state, attrs={"promotes": number}))

    assert order == [0, 1, 2, 12, 13]
    assert len(order) == REPEATED


def test_the_progress_is_that_of_the_trials_or_of_the_time():
    """Whichever is further."""
    trials = study_of([0.5, 0.6])
    begin = START.timestamp()

    assert progress(trials, make_limits(max_trials=8), begin + 1e6) == 0.25
    assert progress(trials, make_limits(max_trials=8, search_deadline=begin + 100), begin + 80) == pytest.approx(0.8)
    assert progress(trials, make_limits(max_trials=2, search_deadline=begin + 100), begin + 1) == 1.0
    assert progress([], make_limits(search_deadline=1.0), 0.5) == 0.0


@pytest.fixture
def data(tmp_path) -> PreparedData:
    return make_data(make_context(tmp_path).job)


def test_the_scheme_follows_the_effective_rows(data, monkeypatch):
    """Groups count as one row each; a time split has one order only; many rows are explored on a sample."""
    groups = np.arange(len(data.train)) // 4
    late = replace(data, fold=np.where(np.arange(len(data.train)) < 10, -1, data.fold).astype(np.int16))

    assert scheme_of(data) == Scheme(repeats=5, work=4.0)
    assert effective_rows(replace(data, groups=groups)) == 12
    assert scheme_of(late) == Scheme()
    monkeypatch.setattr("kubeautoml_trainer.search.finalists.FEW_ROWS", 40)
    assert scheme_of(data) == Scheme(repeats=3, work=2.0)
    monkeypatch.setattr("kubeautoml_trainer.search.finalists.SMALL_ROWS", 48)
    assert scheme_of(data) == Scheme()
    monkeypatch.setattr("kubeautoml_trainer.search.finalists.LARGE_ROWS", 31)
    monkeypatch.setattr("kubeautoml_trainer.search.finalists.SAMPLE_ROWS", 16)
    assert scheme_of(data) == Scheme(sample=16, work=2.0)


def test_finalists_are_repeated_on_folds_of_their_own_and_take_the_place_of_their_trials(tmp_path):
    """The first round is read, not fitted again; the rest is drawn anew, the same for all; predictions are means over rounds."""
    fits: list[int] = []

    def load(folder: Path) -> FakePipeline:
        return FakePipeline(float((folder / "model.json").read_text()), 1)

    context = make_context(tmp_path, pruner={"type": "None"}, families={"include": ["Fake"]})
    study = open_job_study(context, make_limits(max_trials=24))
    loop = make_loop(context, (FakeFamily(on_fit=lambda p, c: fits.append(c.seed)),), study)
    loop.load = load
    rounds = loop._scheme.repeats

    assert loop.run() is Stop.MAX_TRIALS

    trials = study.get_trials(deepcopy=False)
    promoted = {t.number: t.user_attrs["promotes"] for t in trials if "promotes" in t.user_attrs}
    assert len(promoted) == 3  # of one family
    assert len(fits) == FOLDS * (len(trials) - len(promoted)) + FOLDS * (rounds - 1) * len(promoted)
    for number, original in promoted.items():
        assert trials[number].params == trials[original].params
        record = read_record(loop.store, context.job.paths, number)
        assert (record.folds, len(record.fold_values)) == (FOLDS * rounds, FOLDS * rounds)
        assert record.parameters == read_record(loop.store, context.job.paths, original).parameters
        found = read_predictions(loop.store, context.job.paths, number)
        assert np.allclose(found.oof, record.parameters["rate"]) and np.allclose(
            found.holdout, record.parameters["rate"]
        )
    scored = {t.trial for t in scored_trials(study)}
    assert scored == {t.number for t in trials} - set(promoted.values())


def test_a_finalist_that_came_out_worse_takes_no_place(tmp_path):
    """Its fits may have been cut short: then the trial on the sample is the better model, and both stay."""
    context = make_context(tmp_path)
    study = open_job_study(context, make_limits())  # of a loss
    for value, promotes in ((0.5, None), (0.6, None), (0.7, 0), (0.55, 1)):
        trial = study.ask()
        if promotes is not None:
            trial.set_user_attr("promotes", promotes)
        study.tell(trial, value)

    assert [t.trial for t in scored_trials(study)] == [0, 2, 3]


@pytest.mark.parametrize(
    ("folds", "value", "takes_it"),
    [
        ((0.3, 0.5, 0.7), 0.61, True),  # the standard error is 0.115
        ((0.3, 0.5, 0.7), 0.62, False),
        ((0.49, 0.5, 0.51), 0.51, False),
        ((), 0.5004, True),
    ],
)
def test_a_finalist_may_come_out_worse_by_chance(tmp_path, folds, value, takes_it):
    """The best of many trials is partly the luckiest: by the error of its folds the next draw may be worse."""
    study = open_job_study(make_context(tmp_path), make_limits())  # of a loss
    first = study.ask()
    for fold, one in enumerate(folds):
        first.report(one, fold)
    study.tell(first, 0.5)
    again = study.ask()
    again.set_user_attr("promotes", 0)
    study.tell(again, value)

    assert [(t.trial, t.promoted) for t in scored_trials(study)] == ([(1, 0)] if takes_it else [(0, None), (1, None)])


def test_a_finalist_whose_trial_is_gone_is_passed_over(tmp_path):
    """Its artifacts were deleted: the search goes on without it."""
    context = make_context(tmp_path, pruner={"type": "None"})
    study = open_job_study(context, make_limits(max_trials=20))
    loop = make_loop(context, (FakeFamily(),), study)
    store = open_store(context.job.output.uri)
    run_one, counted = loop._run_one, []

    def without_artifacts(*, is_first: bool) -> None:
        run_one(is_first=is_first)
        counted.append(store.delete(f"{context.job.paths.root}/trials/"))

    loop._run_one = without_artifacts  # type: ignore[method-assign]

    assert loop.run() is Stop.MAX_TRIALS

    assert not any("promotes" in t.user_attrs for t in study.trials)
    assert all(counted)


def test_on_many_rows_a_trial_learns_from_a_sample_and_a_finalist_from_all(tmp_path, monkeypatch):
    """Both are validated on the same rows, so their values compare."""
    monkeypatch.setattr("kubeautoml_trainer.search.finalists.LARGE_ROWS", 20)
    monkeypatch.setattr("kubeautoml_trainer.search.finalists.SAMPLE_ROWS", 10)
    seen: list[int] = []

    class Counting(FakeFamily):
        def fit(self, train, valid, schema, parameters, context):
            seen.append(len(train))
            return super().fit(train, valid, schema, parameters, context)

    context = make_context(tmp_path, pruner={"type": "None"})
    study = open_job_study(context, make_limits(max_trials=4))
    loop = make_loop(context, (Counting(),), study)

    loop.run()

    trials = study.get_trials(deepcopy=False)
    assert [t.user_attrs.get("promotes") is not None for t in trials] == [False, False, True, True]
    assert seen == [10] * 6 + [32] * 6
    assert [np.isfinite(read_predictions(loop.store, context.job.paths, t.number).oof).all() for t in trials] == [
        True
    ] * 4


def test_a_sample_keeps_every_class_and_the_folds_rows_apart(data):
    """Two rows of the rarest class at least; what is validated is never learned from."""
    y = np.array([0] * 900 + [1] * 97 + [2] * 3)

    rows = sampled(y, 100, True, seed=1)

    counts = np.bincount(y[rows])
    assert len(rows) == pytest.approx(100, abs=3) and counts[2] >= 2 and counts[1] in range(8, 13)
    assert (np.sort(np.unique(rows)) == rows).all()
    train, valid, where = fold_rows(data, 1, most_rows=10)
    assert (len(train), len(valid)) == (10, len(where))
    assert not set(train.y.tolist()) & set(valid.y.tolist())
