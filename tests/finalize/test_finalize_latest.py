"""The ensemble of a job with a time split: models that know all rows, in the end the latest too, not one for each stretch of the past."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bundle.bundle_factories import QUICK, boston
from finalize.finalize_factories import make_searched, soon
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer import finalize as finalizer
from kubeautoml_trainer.bundle import load_bundle
from kubeautoml_trainer.data.prepare import prepare
from kubeautoml_trainer.finishing import bundle as finishing
from kubeautoml_trainer.finishing.bundle import build_model, quality
from kubeautoml_trainer.finishing.work import load
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.tasks import task_for
from kubeautoml_trainer.variants import latest
from kubeautoml_trainer.variants.all_rows import NOTE
from kubeautoml_trainer.variants.refit import NOT_REFITTED, Refits

ENTRIES = (Entry("Linear", {}), Entry("LightGBM", QUICK["LightGBM"]))


def make_timed(folder, entries=ENTRIES, **changes):
    """Boston, a row a day, in two folds of which each knows only what came before."""
    frame = boston().assign(
        day=[f"{1970 + i // 300}-{1 + i // 25 % 12:02d}-{1 + i % 25:02d}" for i in range(len(boston()))]
    )
    dataset = {
        "train": {"uri": f"file://{folder}/train.csv"},
        "split": {"folds": 2, "type": "Time", "timeColumn": "day"},
    }
    return make_searched(folder, "MEDV", entries=entries, frame=frame, dataset=dataset, **changes)


def make_bench(folder, **changes):
    searched = make_timed(folder, **changes)
    work = load(searched.context, searched.study)
    shop, built = build_model(work, soon(60), keeps_constraints=False)
    return finalizer.make_maker(work, shop, built)._bench, quality(shop, built)


@pytest.mark.parametrize("refit_on", ["AllRows", "TrainingRows"])
def test_every_member_has_learned_from_all_rows_and_the_score_is_of_those_that_knew_the_training_rows(
    tmp_path, refit_on
):
    """With the hold-out, which is the latest of all, once it has scored them."""
    searched = make_timed(tmp_path, entries=ENTRIES[:1], refit_on=refit_on)
    data = prepare(searched.context)
    task = task_for(TaskType.TABULAR_REGRESSION, data.schema)

    model = load_bundle(finalizer.finalize(searched.context, searched.study).model_uri)

    context = FitContext(task, "Rmse", 0, 1, math.inf)
    fits = {
        name: family_named("Linear").fit(rows, None, data.schema, {}, context)
        for name, rows in (("AllRows", data.all_rows), ("TrainingRows", data.train))
    }
    assert data.has_time
    assert [len(m.pipelines) for m in model.members] == [1]
    assert model.predict_rows(data.train.frame) == pytest.approx(fits[refit_on].predict(data.train.frame), rel=1e-5)
    scored = task.score("Rmse", data.holdout.y, fits["TrainingRows"].predict(data.holdout.frame), None)
    assert model.metrics["Rmse"] == pytest.approx(scored, rel=1e-5)
    assert (NOTE in model.variant.notes) == (refit_on == "AllRows")


@pytest.mark.parametrize(("deadline", "fits"), [(51.0, 2), (49.0, 1)])
def test_where_chance_has_a_part_another_seed_is_fitted_too(tmp_path, monkeypatch, deadline, fits):
    """Up to as many as there were folds, while there is time to fit them all again with the hold-out: a round of fits takes 10 s here."""
    bench, before = make_bench(tmp_path, entries=ENTRIES[1:])
    monkeypatch.setattr(latest, "time", SimpleNamespace(monotonic=iter([0.0, 10.0, 10.0, 20.0]).__next__))

    made = latest.of_latest_rows(replace(bench, deadline=deadline), Refits(bench), before)

    assert [len(m.folders) for m in made.members] == [fits]
    said = [load_pipeline(f).predict(bench.shop.data.holdout.frame) for f in made.members[0].folders]
    assert made.holdout == pytest.approx(np.mean(said, axis=0, dtype=float), rel=1e-5)
    assert made.honest is None and made.notes == ()


def test_without_time_the_latest_fold_stands_in(tmp_path):
    """It knows most, whatever the others scored on rows that were nearer to theirs."""
    searched = make_timed(tmp_path, entries=ENTRIES[:1], job_deadline=soon(0))

    model = load_bundle(finalizer.finalize(searched.context, searched.study).model_uri)

    data = prepare(searched.context)
    known = data.train.take(data.fold < 1)
    context = FitContext(task_for(TaskType.TABULAR_REGRESSION, data.schema), "Rmse", 0, 1, math.inf)
    newest = family_named("Linear").fit(known, data.train.take(data.fold == 1), data.schema, {}, context)
    assert model.predict_rows(data.train.frame) == pytest.approx(newest.predict(data.train.frame), rel=1e-5)
    assert model.variant.notes == (f"trial 0: {NOT_REFITTED}",)


def test_fits_that_would_break_the_constraints_are_not_taken(tmp_path, monkeypatch):
    """The stored model keeps them."""
    searched = make_timed(tmp_path, entries=ENTRIES[:1], constraints=[{"metric": "ModelSizeMegabytes", "max": "1"}])
    ship = finishing.ship
    monkeypatch.setattr(
        finishing,
        "ship",
        lambda work, made, name: replace(ship(work, made, name), size_bytes=1e5 if name == "bundle" else 2e6),
    )

    model = load_bundle(finalizer.finalize(searched.context, searched.study).model_uri)

    assert [len(m.pipelines) for m in model.members] == [2] and model.variant.notes == ()
