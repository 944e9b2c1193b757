"""Rare classes: trials choose whether they count more, are compared at their best decision, and the model's probabilities are right."""

from __future__ import annotations

import csv
import io
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

from bundle.bundle_factories import make_pod_job
from finalize.finalize_factories import make_searched
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.objective import ClassWeight
from kubeautoml_trainer import finalize
from kubeautoml_trainer.bundle import load_bundle
from kubeautoml_trainer.data.prepare import prepare
from kubeautoml_trainer.ensemble.decisions import out_of_fold_score, quick_decision
from kubeautoml_trainer.models.base import DataShape
from kubeautoml_trainer.models.weights import without_class_weight
from kubeautoml_trainer.search.plan import Entry, data_shape, search_plan
from kubeautoml_trainer.tasks import metrics as m
from kubeautoml_trainer.tasks import task_for

BALANCED = (
    Entry("Linear", {"class_weight": "balanced"}),
    Entry("LightGBM", {"iterations": 40, "class_weight": "balanced"}),
    Entry("Linear", {"C": 0.1, "class_weight": "none"}),
)
SHAPE = DataShape(TaskType.TABULAR_CLASSIFICATION, 1000, 5, 0, 0, 2, balance=0.2)


def rare_tumours() -> pd.DataFrame:
    """Breast cancer with most of the malignant cases left out: 1 in 9; four columns, so that it is not too easy."""
    x, y = load_breast_cancer(return_X_y=True, as_frame=True)
    columns = ["mean texture", "mean smoothness", "mean symmetry", "texture error"]
    frame = x[columns].assign(survived=np.where(y == 0, "yes", "no"))
    ill = frame[frame["survived"] == "yes"]
    return pd.concat([frame[frame["survived"] == "no"], ill.iloc[::5]]).sample(frac=1.0, random_state=0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A job about F1 of the rare class."""
    folder = tmp_path_factory.mktemp("rare")
    dataset = {"train": {"uri": f"file://{folder}/train.csv"}, "split": {"folds": 4}}
    searched = make_searched(
        folder, entries=BALANCED, frame=rare_tumours(), dataset=dataset,
        objective={"metric": "F1"}, variants=("Quality", "Balanced"),
    )  # fmt: skip
    return searched, finalize.finalize(searched.context, searched.study)


def test_each_trial_chooses_where_it_may_pay(tmp_path):
    """Metrics of decisions and rare classes, unless the job says what to do; families that look at weights."""

    def spaces(metric, shape=SHAPE, **objective):
        job = make_pod_job(objective={"metric": metric, **objective})
        return search_plan(job, shape)

    plan = spaces("F1")
    assert "class_weight" in plan.spaces["LightGBM"] and "class_weight" in plan.spaces["Linear"]
    assert "class_weight" not in plan.spaces["Dummy"]
    balanced = [e.family for e in plan.portfolio if e.parameters.get("class_weight") == "balanced"]
    assert "LightGBM" in balanced and "Linear" in balanced
    for other in (
        spaces("RocAuc"),
        spaces("F1", replace(SHAPE, balance=0.9)),
        spaces("F1", classWeight="None"),
        spaces("F1", classWeight="Balanced"),
    ):
        assert not any("class_weight" in space for space in other.spaces.values())
        assert not any("class_weight" in e.parameters for e in other.portfolio)


def test_a_warm_start_brings_no_choice_that_the_job_does_not_have():
    """A balanced trial of an earlier job starts this one without it."""
    warm = [Entry("Linear", {"C": 2.0, "class_weight": "balanced"})]

    first = {
        weight: search_plan(make_pod_job(objective={"metric": "F1", "classWeight": weight}), SHAPE, warm).portfolio[0]
        for weight in ("Auto", "None")
    }

    assert first == {"Auto": warm[0], "None": Entry("Linear", {"C": 2.0})}


def test_how_rare_the_rarest_class_is_is_a_fact_of_the_data(finished):
    """One in nine of two classes: 0.22 of an even share."""
    searched, _ = finished
    data = prepare(searched.context)

    assert data_shape(data, searched.context.job).balance == pytest.approx(2 * np.mean(data.train.y == 1), abs=0.01)


def test_what_the_job_says_goes_before_what_a_trial_chose():
    """And Auto without a choice is None."""
    chosen = {"C": 1.0, "class_weight": "balanced"}

    assert without_class_weight(chosen, ClassWeight.NONE) == ({"C": 1.0}, ClassWeight.NONE)
    assert without_class_weight({"C": 1.0}, ClassWeight.BALANCED) == ({"C": 1.0}, ClassWeight.BALANCED)
    assert without_class_weight({"C": 1.0}, ClassWeight.AUTO) == ({"C": 1.0}, ClassWeight.NONE)


def test_probabilities_are_right_after_balanced_fits(finished):
    """Balanced members say far too often that somebody is ill; the model does not."""
    searched, result = finished
    model, data = load_bundle(result.model_uri), prepare(searched.context)
    assert any(x.parameters.get("class_weight") == "balanced" for x in model.variant.members)
    frame = pd.concat([data.train.frame, data.holdout.frame], ignore_index=True)
    ill = np.concatenate([data.train.y, data.holdout.y]) == 1

    raw = model.predict_rows(frame)
    said = model.post.calibrated(raw)

    assert abs(raw[:, 1].mean() - ill.mean()) > 0.08
    assert abs(said[:, 1].mean() - ill.mean()) < 0.03
    oof_error = m.expected_calibration_error(ill.astype(int), said, np.ones(len(ill)), bins=5)
    assert oof_error < 0.06


def test_trials_are_compared_at_their_best_decision(finished):
    """Not by the most probable class, which a rare one seldom is: the leaderboard's values are reachable by the model's rule."""
    searched, result = finished
    rows = list(csv.DictReader(io.StringIO(searched.text(searched.paths.leaderboard))))
    data = prepare(searched.context)
    task = task_for(TaskType.TABULAR_CLASSIFICATION, data.schema)
    plain = {r["trial"]: float(r["value"]) for r in rows if r["trial"]}["2"]

    from kubeautoml_trainer.artifacts import read_predictions

    oof = read_predictions(searched.store, searched.paths, 2).oof
    assert plain > task.score("F1", data.train.y, oof, None) + 0.1
    rule = quick_decision(task, "F1", data.train.y, oof, None)
    assert plain == pytest.approx(task.score("F1", data.train.y, oof, None, rule(oof)))
    assert result.metrics["F1"] > 0.2


def test_the_exported_script_weighs_and_decides_alike(finished, tmp_path):
    """Its hold-out F1 is the one on the leaderboard."""
    searched, _ = finished
    script = tmp_path / "pipeline.py"
    script.write_text(searched.text(searched.paths.pipeline))
    data = searched.context.job.dataset.train.uri.removeprefix("file://")
    rows = list(csv.DictReader(io.StringIO(searched.text(searched.paths.leaderboard))))

    out = tmp_path / "out.csv"
    command = [sys.executable, str(script), data, "--threads", "1", "--predict", data, "--output", str(out)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    best = "balanced" in rows[0]["parameters"]
    assert ("CLASS_WEIGHT = 'Balanced'" in script.read_text()) is best
    reached = next(float(line.split()[1]) for line in said.splitlines() if line.startswith("F1 "))
    assert reached == pytest.approx(float(rows[0]["holdout_value"]), rel=1e-4)
    decided = pd.read_csv(out)["survived"]
    assert 0.03 < np.mean(decided == "yes") < 0.5


@pytest.mark.parametrize("metric", ["F1", "BalancedAccuracy", "MatthewsCorrelation", "F1Macro"])
def test_the_quick_decision_is_nearly_the_best_there_is(metric, finished):
    """A hundred thresholds find what all of them would, also where only one row in fifty is a hit."""
    searched, _ = finished
    task = task_for(TaskType.TABULAR_CLASSIFICATION, prepare(searched.context).schema)
    rng = np.random.default_rng(0)
    y = (rng.random(5000) < 0.02).astype(int)
    score = 1 / (1 + np.exp(-(rng.normal(size=5000) + 2 * y - 3)))
    p = np.stack([1 - score, score], axis=1)

    quick = out_of_fold_score(task, metric, y, p, None)

    tables = [task.score(metric, y, p, None, (score > cut).astype(int)) for cut in np.sort(score)[::7]]
    assert quick >= max(tables) - 0.01
    assert quick >= task.score(metric, y, p, None)


def test_more_than_two_classes_have_rules_by_their_shares():
    """The rare class is decided more often than it is the most probable one; other metrics are left alone."""
    from ensemble.test_ensemble_greedy import THREE

    rng = np.random.default_rng(0)
    y = rng.choice(3, 3000, p=[0.9, 0.07, 0.03])
    logits = np.eye(3)[y] * 1.5 + rng.normal(0, 1, (3000, 3)) + np.log([0.9, 0.07, 0.03])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    best = out_of_fold_score(THREE, "BalancedAccuracy", y, p, None)

    assert best > THREE.score("BalancedAccuracy", y, p, None) + 0.1
    assert quick_decision(THREE, "Accuracy", y, p, None) is None
    assert out_of_fold_score(THREE, "LogLoss", y, p, None) == THREE.score("LogLoss", y, p, None)
    assert math.isnan(out_of_fold_score(THREE, "F1Macro", y[:0], p[:0], None))
