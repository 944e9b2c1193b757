"""A second level on its way from trials to answers: bundle, variants, files for people; and jobs that must do without."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bundle.bundle_factories import titanic
from finalize.finalize_factories import make_searched
from kubeautoml.api.errors import BundleError
from kubeautoml_trainer import finalize
from kubeautoml_trainer.bundle import load_bundle
from kubeautoml_trainer.data.prepare import prepare
from kubeautoml_trainer.finishing.bundle import build_model, quality, ship
from kubeautoml_trainer.finishing.work import load
from kubeautoml_trainer.models.second_level import load_second_level
from kubeautoml_trainer.search.plan import Entry

# Fifteen rounds at a low rate say too little: what they say is right, but far from sure. Nothing weighs that away.
TIMID = (
    Entry("LightGBM", {"iterations": 15, "learning_rate": 0.03}),
    Entry("LightGBM", {"iterations": 15, "learning_rate": 0.03, "extra_trees": True}),
    Entry("Dummy", {}),
)
VARIANTS = ("Quality", "Balanced", "Fast", "Distilled")


def make_timid(folder: Path, entries=TIMID, **changes):
    dataset = {"train": {"uri": f"file://{folder}/train.csv"}, "split": {"folds": 4}}
    changes = {"objective": {"metric": "LogLoss"}, "dataset": dataset, "variants": VARIANTS} | changes
    changes |= {"refit_on": "TrainingRows"}  # so that what was scored is what is in the bundle
    return make_searched(folder, entries=entries, frame=titanic(1300), **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A job in which the second level must win, with its result."""
    searched = make_timid(tmp_path_factory.mktemp("timid"))
    return searched, finalize.finalize(searched.context, searched.study)


def test_the_second_level_is_in_the_bundle_and_better_on_rows_nobody_saw(finished):
    """Quality has it, and beats the best of its members by more than calibration could."""
    searched, result = finished
    model = load_bundle(result.model_uri)

    assert model.second is not None
    assert "SecondLevel" in result.members[0]
    assert model.second.weight + sum(m.weight for m in model.members) == pytest.approx(1)
    data = prepare(searched.context)
    frame, y = data.holdout.frame, data.holdout.y
    singles = [model.task.score("LogLoss", y, m.predict(frame), None) for m in model.members]
    assert model.task.score("LogLoss", y, model.predict_rows(frame), None) < min(singles) - 0.02


def test_what_the_bundle_says_is_what_it_answers(finished):
    """Hold-out metrics, and a raw row alone as among others."""
    searched, result = finished
    model, data = load_bundle(result.model_uri), prepare(searched.context)

    p = model.post.calibrated(model.predict_rows(data.holdout.frame))
    assert model.task.score("LogLoss", data.holdout.y, p, None) == pytest.approx(model.metrics["LogLoss"], rel=1e-6)
    raw = titanic(40)
    alone = np.concatenate([model.predict_proba(raw.iloc[[k]]) for k in range(40)])
    assert alone == pytest.approx(model.predict_proba(raw), abs=1e-6)


def test_the_variants_use_it_or_do_without(finished):
    """Balanced has the same level over first-level models fitted on all rows; Fast and Distilled are single models."""
    _, result = finished
    quality, balanced, fast, distilled = (load_bundle(result.model_uri, variant=v) for v in VARIANTS)

    assert balanced.second is not None
    assert balanced.second.level.base.tolist() == quality.second.level.base.tolist()
    assert all(len(m.pipelines) == 1 for m in balanced.members)
    assert fast.second is None and distilled.second is None
    assert len(fast.members) == len(distilled.members) == 1
    assert balanced.metrics["LogLoss"] == pytest.approx(quality.metrics["LogLoss"], rel=0.05)


def test_people_are_told_of_it(finished):
    """Leaderboard, metrics, report and card; the exported script is of the best single trial, as ever."""
    searched, _ = finished
    rows = list(csv.DictReader(io.StringIO(searched.text(searched.paths.leaderboard))))
    second = [r for r in rows if r["family"] == "SecondLevel"]
    metrics = json.loads(searched.text(searched.paths.metrics))

    assert len(second) == 1
    assert second[0]["trial"] == second[0]["rank"] == ""
    assert float(second[0]["value"]) < min(float(r["value"]) for r in rows if r["trial"])
    assert float(second[0]["holdout_value"]) < 0.7
    assert metrics["model"]["secondLevel"]["trials"]
    assert metrics["crossValidated"]["LogLoss"] < metrics["bestSingleCrossValidated"]
    assert "nested folds" in metrics["variants"][0]["notes"][0]
    assert "SecondLevel" in metrics["variants"][0]["families"]
    assert "a second level over" in searched.text(searched.paths.report)
    assert load_bundle(searched.paths.model).card["variants"][0]["secondLevel"]["weight"] > 0
    assert "FAMILY = 'LightGBM'" in searched.text(searched.paths.pipeline)


def test_a_damaged_second_level_is_refused(finished, tmp_path):
    """Like every other file of a bundle; also when the digests were mended."""
    _, result = finished
    folder = tmp_path / "bundle"
    shutil.copytree(result.model_uri.removeprefix("file://"), folder)
    place = next((folder / "second").iterdir())

    (place / "second.json").write_text('{"format": 9}')
    with pytest.raises(BundleError, match=r"second\.json"):
        load_bundle(folder)
    with pytest.raises(BundleError, match="another version"):
        load_second_level(place)
    (place / "second.json").write_text('{"format": 1, "scale": "probabilities", "kind": "Trees"}')
    if not (place / "lightgbm.txt").exists():
        with pytest.raises(BundleError, match="does not hold a second level"):
            load_second_level(place)
    (place / "second.json").unlink()
    with pytest.raises(BundleError, match="missing"):
        load_bundle(folder)


def test_a_finalizer_killed_before_the_result_makes_the_same_model_again(finished):
    """The second level of the same trials is the same to the last bit."""
    searched, result = finished
    work = load(searched.context, searched.study)
    shop, built = build_model(work, float("inf"), keeps_constraints=True)
    made = ship(work, [quality(shop, built)], "again")

    again, before = made.model, load_bundle(result.model_uri)
    frame = work.data.holdout.frame
    assert np.array_equal(again.predict_rows(frame), before.predict_rows(frame))


def test_it_is_not_tried_where_no_variant_can_use_it(tmp_path):
    """A single model has no first level."""
    searched = make_timid(tmp_path, variants=("Fast",))

    result = finalize.finalize(searched.context, searched.study)

    assert load_bundle(result.model_uri).second is None


def test_a_limit_that_only_the_first_level_keeps_is_kept(finished, tmp_path):
    """The second level's few files are what makes the model too large."""
    work = load(finished[0].context, finished[0].study)
    _, with_it = build_model(work, float("inf"), keeps_constraints=True)
    most = with_it.size_bytes - 100
    limit = [{"metric": "ModelSizeMegabytes", "max": f"{most / 1e6:.6f}"}]
    searched = make_timid(tmp_path, constraints=limit, variants=("Quality",))

    result = finalize.finalize(searched.context, searched.study)

    assert load_bundle(result.model_uri).second is None
    assert with_it.selection.second is not None


def test_where_it_does_not_win_the_greedy_ensemble_stays(tmp_path):
    """Well-fitted models on few rows, by ranking: nothing to put right beyond doubt."""
    searched = make_timid(
        tmp_path,
        (Entry("Linear", {}), Entry("LightGBM", {"iterations": 60})),
        objective={"metric": "RocAuc"},
        variants=("Quality", "Balanced"),
    )

    result = finalize.finalize(searched.context, searched.study)

    assert load_bundle(result.model_uri).second is None
    assert "SecondLevel" not in searched.text(searched.paths.leaderboard)
