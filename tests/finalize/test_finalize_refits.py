"""One fit on all rows in place of a model a fold: its rounds, its rows, and what stands in for it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from bundle.bundle_factories import prepared
from finalize.finalize_factories import make_searched, soon
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer import finalize as finalizer
from kubeautoml_trainer.bundle import load_bundle
from kubeautoml_trainer.finishing.bundle import build_model
from kubeautoml_trainer.finishing.work import load
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.tasks import task_for
from kubeautoml_trainer.variants import refit
from kubeautoml_trainer.variants.refit import Refits, mean_rounds, with_rounds


@pytest.mark.parametrize("family", ["LightGBM", "CatBoost", "XGBoost", "GradientBoosting"])
def test_a_booster_makes_the_rounds_it_is_told_to_where_nothing_says_when_to_stop(family):
    """Without validation rows no patience ends it early, and no cap of its own."""
    data = prepared("MEDV")
    context = FitContext(task_for(TaskType.TABULAR_REGRESSION, data.schema), "Rmse", 7, 1, math.inf)
    found = family_named(family)

    fitted = found.fit(data.train, None, data.schema, {found.rounds_parameter: 320}, context)

    assert fitted.best_iteration == 320


@pytest.mark.parametrize(("family", "rounds"), [("LightGBM", 34), ("NeuralNetwork", 17), ("Linear", None)])
def test_a_refit_makes_as_many_rounds_as_the_folds_found_best(family, rounds):
    """Of networks the geometric mean: one fold that goes on for long must not have a refit learn by heart."""
    record = SimpleNamespace(family=family, best_iterations=[4, 10, 16, 102, 2, 64, 40])

    assert mean_rounds(record) == rounds


@pytest.mark.parametrize(("best", "decay_until"), [([20, 30], 0.5), ([120, 100], 1.0)])
def test_a_network_whose_best_epochs_were_early_is_held_back_to_the_end(best, decay_until):
    """Its folds had not begun to take dropout away; what the portfolio leaves out is the family's default, 128 epochs."""
    record = SimpleNamespace(family="NeuralNetwork", parameters={"dropout": 0.3}, best_iterations=best)

    told = with_rounds(record)

    assert told == {"dropout": 0.3, "epochs": mean_rounds(record), "decay_until": decay_until}


def test_a_refit_learns_from_all_rows_or_with_the_hold_out_from_more(tmp_path, monkeypatch):
    """No rows are left out to stop by, whatever the folds found."""
    searched = make_searched(tmp_path, "MEDV", entries=[Entry("NeuralNetwork", {"epochs": 4, "width": 8})])
    work = load(searched.context, searched.study)
    shop, built = build_model(work, soon(60), keeps_constraints=False)
    bench = finalizer.make_maker(work, shop, built)._bench
    fits = []
    network = type(family_named("NeuralNetwork"))
    fit = network.fit
    monkeypatch.setattr(
        network, "fit", lambda self, train, valid, *a: fits.append((train, valid)) or fit(self, train, valid, *a)
    )
    built.candidates[0].record.best_iterations[:] = [1, 4]

    for with_holdout in (False, True):
        Refits(bench, with_holdout=with_holdout, name=str(with_holdout)).refit(0)

    assert [(len(train), valid) for train, valid in fits] == [(160, None), (200, None)]


@pytest.mark.parametrize(("worst_fold", "is_refit"), [(9.5, True), (8.5, False)])
def test_a_refit_that_scores_worse_than_the_ensemble_of_its_folds_is_held_to_each_of_them(
    tmp_path, monkeypatch, worst_fold, is_refit
):
    """A network held back by dropout scores worse on what it learned than many together do out of fold, and is sound all the same."""
    searched = make_searched(tmp_path, "MEDV", entries=[Entry("LightGBM", {"iterations": 5})])
    work = load(searched.context, searched.study)
    shop, built = build_model(work, soon(60), keeps_constraints=False)
    refits = Refits(finalizer.make_maker(work, shop, built)._bench)
    folds = built.candidates[0].record.folds
    scores = iter([99.0, 9.0, *[8.0] * (folds - 1), worst_fold])
    monkeypatch.setattr(refit, "value_of", lambda *_: next(scores))

    assert refits.refit(0).is_refit is is_refit
    assert next(scores, None) is None


def test_where_there_is_no_refit_as_many_folds_stand_in_as_there_is_room_for(tmp_path, monkeypatch):
    """The best first, and the bundle answers what was measured."""
    dataset = {"train": {"uri": f"file://{tmp_path}/train.csv"}, "split": {"folds": 20}}
    entry = Entry("CatBoost", {"iterations": 15, "learning_rate": 0.1})
    searched = make_searched(tmp_path, "MEDV", (entry,), dataset=dataset, variants=["Quality", "Balanced"])
    monkeypatch.setattr(refit, "refitted", lambda ground, task: None)

    result = finalizer.finalize(searched.context, searched.study)

    model = load_bundle(result.model_uri, variant="Balanced")
    assert [len(m.pipelines) for m in model.members] == [2]
    assert "best folds stand in" in model.variant.notes[0]


def test_a_balanced_member_of_a_repeated_trial_is_the_mean_of_refits_with_seeds_of_their_own(tmp_path):
    """Two of a booster whose trial has twenty folds, unlike each other; and the bundle answers what was measured."""
    entry = Entry("CatBoost", {"iterations": 15, "learning_rate": 0.1})
    dataset = {"train": {"uri": f"file://{tmp_path}/train.csv"}, "split": {"folds": 20}}
    searched = make_searched(tmp_path, "MEDV", (entry,), dataset=dataset, variants=["Quality", "Balanced"])

    result = finalizer.finalize(searched.context, searched.study)

    (member,) = load_bundle(result.model_uri, variant="Balanced").members
    frame = load(searched.context, searched.study).data.holdout.frame
    said = [p.predict(frame) for p in member.pipelines]
    assert len(said) == 2
    assert not np.array_equal(said[0], said[1])
