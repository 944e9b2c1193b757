"""An ensemble learns from the hold-out once that has scored it: which models, on which rows, and what stays as it was."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from finalize.finalize_factories import ENTRIES, make_searched, soon
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.trials import StudyAttr, StudyLimits
from kubeautoml.study import set_study_attr
from kubeautoml_trainer import finalize as finalizer
from kubeautoml_trainer.bundle import load_bundle
from kubeautoml_trainer.data.base import PreparedData, Rows
from kubeautoml_trainer.data.prepare import prepare
from kubeautoml_trainer.finishing import bundle as finishing
from kubeautoml_trainer.finishing.bundle import build_model, quality
from kubeautoml_trainer.finishing.work import load
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.search.finalists import folds_of_round
from kubeautoml_trainer.search.trial import fold_rows
from kubeautoml_trainer.tasks import task_for
from kubeautoml_trainer.variants import refolded
from kubeautoml_trainer.variants.refolded import RefoldTask, note_of, start_refolding

LINEAR, SIZE = type(family_named("Linear")), "ModelSizeMegabytes"


def make_bench(folder, entries=ENTRIES[1:3], **changes):
    """What making variants needs, and the ensemble of the trials: Linear and LightGBM, two folds each."""
    searched = make_searched(folder, "MEDV", entries=entries, **changes)
    work = load(searched.context, searched.study)
    shop, built = build_model(work, soon(60), keeps_constraints=False)
    return finalizer.make_maker(work, shop, built)._bench, quality(shop, built)


def fit_linear(data: PreparedData, fold: int):
    learned, valid, _ = fold_rows(data, fold)
    context = FitContext(task_for(TaskType.TABULAR_REGRESSION, data.schema), "Rmse", 0, 1, math.inf)
    return LINEAR().fit(learned.joined(data.holdout), valid, data.schema, {}, context)


def test_every_model_of_the_bundle_has_learned_from_the_hold_out_and_the_scores_are_those_from_before(tmp_path):
    """By default; `refitOn: TrainingRows` leaves the models as they were scored."""
    models = {}
    for rows in ("AllRows", "TrainingRows"):
        searched = make_searched(tmp_path / rows, "MEDV", entries=ENTRIES[1:3], refit_on=rows)
        models[rows] = load_bundle(finalizer.finalize(searched.context, searched.study).model_uri)
    data, model = prepare(searched.context), models["AllRows"]
    linear = next(m for m, v in zip(model.members, model.variant.members, strict=True) if v.family == "Linear")

    for fold in (0, 1):
        expected = fit_linear(data, fold).predict(data.train.frame)
        assert linear.pipelines[fold].predict(data.train.frame) == pytest.approx(expected)
    assert model.metrics == models["TrainingRows"].metrics
    assert model.variant.notes[-1] == note_of(2, 2)
    assert models["TrainingRows"].variant.notes == ()
    assert len(model.members) == 2


def test_what_there_is_no_time_for_stays_and_is_counted(tmp_path, monkeypatch):
    """One member's models are new, the other's are not, and the hold-out's predictions are theirs."""
    bench, before = make_bench(tmp_path)
    fit = refolded.refolded
    monkeypatch.setattr(refolded, "refolded", lambda ground, task: fit(ground, task) if task.place else None)

    made = start_refolding(bench, before, math.inf).made()

    of = sum(len(m.folders) for m in before.members)
    assert made.notes == (note_of(of // 2, of),) and note_of(of // 2, of).startswith(f"{of // 2} of {of} models fitted")
    for new, old in zip(made.members, before.members, strict=True):
        assert new.folders[0] == old.folders[0] and new.folders[1] != old.folders[1]
    assert made.honest is before.holdout
    expected = 0
    for member in made.members:
        said = [load_pipeline(f).predict(bench.shop.data.holdout.frame) for f in member.folders]
        expected = expected + member.weight * np.mean(said, axis=0, dtype=float)
    assert made.holdout == pytest.approx(expected, rel=1e-5)
    assert start_refolding(bench, before, time.monotonic()).made() is before


@pytest.mark.parametrize("why", ["many rows", "a time split", "no hold-out"])
def test_an_ensemble_stays_where_the_hold_out_is_not_for_it(tmp_path, monkeypatch, why):
    """Of many rows a fifth more hardly matter; what is last in time must say when to stop, not be among what is learned."""
    bench, before = make_bench(tmp_path)
    data = bench.shop.data
    if why == "many rows":
        monkeypatch.setattr(refolded, "MOST_ROWS_REFOLDED", len(data.train) - 1)
    elif why == "a time split":
        data = replace(data, fold=np.where(np.arange(len(data.fold)) < 50, -1, data.fold).astype(np.int16))
    else:
        data = replace(data, holdout=data.holdout.take(np.arange(0)))
    bench = replace(bench, shop=replace(bench.shop, data=data))

    assert start_refolding(bench, before, math.inf).made() is before


@pytest.mark.parametrize("what", ["fails", "is wrong", "takes too long"])
def test_a_fit_that_is_no_good_leaves_the_model_that_there_is(tmp_path, monkeypatch, what):
    """Whatever goes wrong, a whole ensemble is there already."""
    bench, before = make_bench(tmp_path, entries=ENTRIES[1:2])
    fit = LINEAR.fit

    def spoiled(self, train, valid, schema, parameters, context):
        if what == "fails":
            raise RuntimeError("no")
        if what == "takes too long":
            monkeypatch.setattr(refolded.time, "monotonic", lambda: context.deadline)
        return fit(
            self, train if what != "is wrong" else replace(train, y=-train.y), valid, schema, parameters, context
        )

    monkeypatch.setattr(LINEAR, "fit", spoiled)

    assert start_refolding(bench, before, time.monotonic() + 60).made() is before


def test_a_repeated_trial_has_the_folds_of_its_rounds(tmp_path, monkeypatch):
    """The model in the fourth place of two folds is of the second fold of the second round, and stops by its rows."""
    bench, _ = make_bench(tmp_path, entries=ENTRIES[1:2])
    record = replace(bench.built.members[0].record, folds=4, fold_values=bench.built.members[0].record.fold_values * 2)
    seen = []
    fit = LINEAR.fit
    monkeypatch.setattr(LINEAR, "fit", lambda self, *a: seen.append((a[0], a[1], a[4].seed)) or fit(self, *a))
    data, job = bench.shop.data, bench.shop.job

    fold = bench.built.files[0].folders[0]
    refolded.refolded(bench.ground, RefoldTask(record, 3, 7, fold, tmp_path / "new", math.inf))

    learned, valid, seed = seen[0]
    stops_by = folds_of_round(data, job, 1) == 1
    assert not np.array_equal(stops_by, data.fold == 1)
    assert valid.frame.equals(data.train.frame[stops_by]) and seed == 7
    assert len(learned) == (~stops_by).sum() + len(data.holdout)


def test_rows_that_are_learned_from_together_keep_groups_and_weights():
    """What is made of rows while fitting keeps groups whole; what has no weights counts one."""
    frame = pd.DataFrame({"x": [1.0, 2.0]})
    first = Rows(frame, np.zeros(2), groups=np.array(["a", "b"], dtype=object))
    second = Rows(frame, np.ones(2), weight=np.array([0.5, 1.5]), groups=np.array(["c", "c"], dtype=object))

    both = first.joined(second)

    assert both.groups is not None and both.groups.tolist() == ["a", "b", "c", "c"]
    assert both.weight is not None and both.weight.tolist() == [1.0, 1.0, 0.5, 1.5]
    assert both.frame.index.tolist() == [0, 1, 2, 3] and both.y.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert first.joined(replace(second, groups=None)).groups is None


@pytest.mark.parametrize("why", ["accelerators", "constraints"])
def test_a_job_that_has_little_left_keeps_the_model_that_was_scored(tmp_path, monkeypatch, why):
    """Accelerator seconds are counted, and a larger model than is allowed is none."""
    searched = make_searched(tmp_path, "MEDV", entries=ENTRIES[1:2], constraints=[{"metric": SIZE, "max": "1"}])
    if why == "accelerators":
        set_study_attr(searched.study, StudyAttr.LIMITS, StudyLimits(1, 10, search_deadline=soon(0)))
    else:
        ship = finishing.ship
        monkeypatch.setattr(
            finishing,
            "ship",
            lambda work, made, name: replace(ship(work, made, name), size_bytes=2e6 if name == "all-rows" else 1e5),
        )

    result = finalizer.finalize(searched.context, searched.study)

    assert load_bundle(result.model_uri).variant.notes == ()
