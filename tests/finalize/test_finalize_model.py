"""From stored trials to a stored model: the same model every time, damage costs only itself, the model comes before niceties."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bundle.bundle_factories import QUICK, titanic
from finalize.finalize_factories import ENTRIES, make_searched, soon
from kubeautoml.api.trials import StudyAttr, TrialAttr
from kubeautoml.study import set_study_attr, study_attr
from kubeautoml_trainer import finalize as finalizer
from kubeautoml_trainer.bundle import load_bundle
from kubeautoml_trainer.data.prepare import prepare
from kubeautoml_trainer.ensemble.build import FinalizeError
from kubeautoml_trainer.finishing import reports
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.tasks import task_for


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search with five trials, finalized; the model is the one that was scored."""
    searched = make_searched(tmp_path_factory.mktemp("jobs") / "classes", refit_on="TrainingRows")
    return searched, finalizer.finalize(searched.context, searched.study)


@pytest.fixture(scope="module")
def finished_numbers(tmp_path_factory):
    """The same for a number, seven columns of it with odd names."""
    searched = make_searched(tmp_path_factory.mktemp("jobs") / "numbers", "MEDV")
    return searched, finalizer.finalize(searched.context, searched.study)


def run_command(searched, monkeypatch) -> int:
    for name, value in searched.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(finalizer, "log_to_stderr", lambda: None)
    return finalizer.main([])


def test_the_stored_model_has_the_digest_and_metrics_of_the_result(finished):
    """The result names a bundle that loads, and whose hold-out predictions score what the result says."""
    searched, result = finished
    data = prepare(searched.context)

    model = load_bundle(result.model_uri, sha256=result.sha256)
    task = task_for(searched.context.job.task.type, data.schema)
    scored = task.score("RocAuc", data.holdout.y, model.predict_rows(data.holdout.frame), data.holdout.weight)

    assert scored == pytest.approx(result.metrics["RocAuc"], abs=1e-6)
    assert result.metrics == dict(model.metrics) == model.card["metrics"]
    assert result.data_sha256 == data.profile.sha256
    assert result.size_bytes == sum(s.size_bytes for s in searched.store.find(result.model_uri + "/", hidden=True))
    assert result.trials == 5
    assert all(m.split()[0] in ("Linear", "LightGBM", "ExtraTrees") for m in result.members)


def test_the_study_holds_the_result_once(finished):
    """It is what the operator waits for."""
    searched, result = finished

    assert study_attr(searched.study, StudyAttr.RESULT) == result
    assert study_attr(searched.study, StudyAttr.STAGE) == "Explaining"
    assert len(json.dumps(searched.study.user_attrs[StudyAttr.RESULT.value])) < 2000


def test_the_ensemble_is_at_least_as_good_out_of_fold_as_its_best_trial(finished):
    """metrics.json holds both."""
    searched, _ = finished
    metrics = json.loads(searched.text(searched.paths.metrics))

    assert metrics["crossValidated"]["RocAuc"] >= metrics["bestSingleCrossValidated"] - 1e-9
    assert metrics["model"]["predictLatencyP99Ms"] > 0
    assert metrics["rows"] == {"train": 240, "holdout": 60, "folds": 2}


def test_the_leaderboard_lists_all_trials_best_first(finished):
    """With hold-out value, costs, weight and parameters; behind them the model itself."""
    searched, _ = finished
    *rows, model = csv.DictReader(io.StringIO(searched.text(searched.paths.leaderboard)))
    assert (model["variant"], model["trial"]) == ("Quality", "")
    values = [float(r["value"]) for r in rows]

    assert values == sorted(values, reverse=True)
    assert {r["family"] for r in rows} == {e.family for e in ENTRIES}
    assert sum(float(r["ensemble_weight"]) for r in rows) == pytest.approx(1)
    assert all(float(r["fit_seconds"]) > 0 and int(r["size_bytes"]) > 0 for r in rows)
    assert all(json.loads(r["parameters"]) == dict(ENTRIES[int(r["trial"])].parameters) for r in rows)
    assert [r["holdout_value"] for r in rows if r["family"] != "Dummy"] != [""] * 4


def test_a_second_finalizer_leaves_the_model_alone(finished, monkeypatch):
    """The result is written once; a restarted pod finds it and leaves."""
    searched, result = finished

    assert run_command(searched, monkeypatch) == 0
    assert study_attr(searched.study, StudyAttr.RESULT) == result


def test_a_finalizer_killed_before_the_result_makes_the_same_model_again(tmp_path):
    """And what the first one had left in the folder is gone."""
    searched = make_searched(tmp_path, job_deadline=soon(0))
    first = finalizer.finalize(searched.context, searched.study)
    set_study_attr(searched.study, StudyAttr.RESULT, None)
    searched.store.write(f"{first.model_uri}/pipelines/9/left.over", b"x")

    second = finalizer.finalize(searched.context, searched.study)

    assert second.sha256 == first.sha256
    assert load_bundle(second.model_uri).sha256 == first.sha256


def test_numbers_are_finalized_too(finished_numbers):
    """Rmse improves downwards."""
    searched, result = finished_numbers
    metrics = json.loads(searched.text(searched.paths.metrics))

    assert metrics["crossValidated"]["Rmse"] <= metrics["bestSingleCrossValidated"] + 1e-9
    assert result.metrics["R2"] > 0.5


@pytest.mark.parametrize("which", ["finished", "finished_numbers"])
def test_the_exported_script_retrains_the_best_trial(which, request, tmp_path):
    """Run as a user would: its hold-out metric is the one on the leaderboard, and it predicts other rows."""
    searched, _ = request.getfixturevalue(which)
    script = tmp_path / "pipeline.py"
    script.write_text(searched.text(searched.paths.pipeline))
    data = searched.context.job.dataset.train.uri.removeprefix("file://")
    rows = list(csv.DictReader(io.StringIO(searched.text(searched.paths.leaderboard))))
    metric, target = searched.context.job.metric, searched.context.job.task.target

    command = [
        sys.executable,
        str(script),
        data,
        "--predict",
        data,
        "--output",
        str(tmp_path / "out.csv"),
        "--threads",
        "1",
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    reached = next(float(line.split()[1]) for line in said.splitlines() if line.startswith(f"{metric} "))
    assert reached == pytest.approx(float(rows[0]["holdout_value"]), rel=1e-4)
    assert len(pd.read_csv(tmp_path / "out.csv")[target]) == len(pd.read_csv(data))


DAMAGE = {
    "record gone": lambda s, uri: s.delete(uri + "trial.json"),
    "record broken": lambda s, uri: s.write(uri + "trial.json", b"{}"),
    "predictions gone": lambda s, uri: s.delete(uri + "oof.npy"),
    "predictions cut off": lambda s, uri: s.write(uri + "holdout.npy", s.read(uri + "holdout.npy")[:-9]),
    "predictions of other rows": lambda s, uri: s.write(uri + "oof.npy", s.read(uri + "holdout.npy")),
    "models gone": lambda s, uri: s.delete(uri + "models.tar"),
    "models cut off": lambda s, uri: s.write(uri + "models.tar", s.read(uri + "models.tar")[:5000]),
    "models of another trial": lambda s, uri: s.write(
        uri + "models.tar", s.read(uri.replace("/trials/1/", "/trials/0/") + "models.tar")
    ),
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A search to damage again and again: two trials, the better one is number 1."""
    entries = (ENTRIES[4], ENTRIES[1])
    searched = make_searched(tmp_path_factory.mktemp("jobs") / "pristine", entries=entries, job_deadline=soon(0))
    values = [t.value for t in searched.study.get_trials()]
    assert values[1] > values[0]
    return searched


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_trial_is_set_aside(pristine, kind, caplog):
    """With a warning that names it; the others make the model."""
    uri = pristine.paths.trial(1)
    kept = {s.uri: pristine.store.read(s.uri) for s in pristine.store.find(uri)}
    scratch = pristine.context.scratch_dir / "finalize"
    DAMAGE[kind](pristine.store, uri)
    try:
        result = finalizer.finalize(pristine.context, pristine.study)
    finally:
        for name, data in kept.items():
            pristine.store.write(name, data)
        shutil.rmtree(scratch, ignore_errors=True)

    assert [m.split()[0] for m in result.members] == ["ExtraTrees"]
    assert any(r.message == "trial set aside" and r.trial == 1 for r in caplog.records)


def test_when_all_trials_are_damaged_the_message_says_where_to_look(tmp_path, monkeypatch, capsys):
    """And the command ends with 1."""
    searched = make_searched(tmp_path, entries=ENTRIES[1:2])
    searched.store.delete(searched.paths.trial(0))

    assert run_command(searched, monkeypatch) == 1
    failure = study_attr(searched.study, StudyAttr.FAILURE)
    assert failure.stage == "finalize"
    assert f"no completed trial has usable artifacts below {searched.paths.root}/trials/" in failure.message
    assert capsys.readouterr().err.strip() == f"error: {failure.message}"


def test_without_a_completed_trial_the_most_frequent_error_is_named(tmp_path, monkeypatch):
    """Reason NoTrialCompleted, exit code 1."""
    searched = make_searched(tmp_path, entries=())
    for words in ("ValueError: b", "MemoryError: a", "MemoryError: a"):
        trial = searched.study.ask()
        trial.set_user_attr(TrialAttr.ERROR.value, words)
        searched.study.tell(trial, state=_fail_state())

    assert run_command(searched, monkeypatch) == 1
    failure = study_attr(searched.study, StudyAttr.FAILURE)
    assert (failure.stage, failure.reason) == ("finalize", "NoTrialCompleted")
    assert "2 of 3 trials ended in: MemoryError: a" in failure.message


def _fail_state():
    import optuna

    return optuna.trial.TrialState.FAIL


def test_without_any_trial_the_budget_is_named(tmp_path):
    """What to do: more time."""
    searched = make_searched(tmp_path, entries=())

    with pytest.raises(FinalizeError, match=r"no trial was started; give spec.budget.maxDurationSeconds more"):
        finalizer.finalize(searched.context, searched.study)


def test_a_search_that_found_only_the_constant_still_gives_a_model(tmp_path):
    """The dummy is left out only where there is better."""
    searched = make_searched(tmp_path, entries=ENTRIES[:1], job_deadline=soon(0))

    assert finalizer.finalize(searched.context, searched.study).members == ("Dummy 1.000 (trial 0)",)


@pytest.mark.parametrize("target", ["survived", "MEDV"])
def test_without_a_hold_out_cross_validation_says_what_the_model_is_worth(tmp_path, target):
    """testFraction "0": every row is learned from, no score of rows that do not exist, no warning of classes they lack."""
    dataset = {"train": {"uri": f"file://{tmp_path}/train.csv"}, "split": {"folds": 2, "testFraction": "0"}}
    # some of their libraries cannot predict no rows
    others = [Entry("CatBoost", QUICK["CatBoost"]), Entry("NearestNeighbors", {}), Entry("SupportVectors", {})]
    entries = [*ENTRIES, *others, Entry("GaussianProcess", {}), Entry("GradientBoosting", {"iterations": 10})]
    wanted = ["Quality", "Balanced", "Fast", "Distilled"]
    searched = make_searched(tmp_path, target, entries=entries, variants=wanted, dataset=dataset)

    result = finalizer.finalize(searched.context, searched.study)

    model, page = load_bundle(result.model_uri), searched.text(searched.paths.report)
    assert result.metrics == {}
    assert model.card["rows"]["holdout"] == 0
    assert model.card["crossValidated"]
    assert not [w for w in model.card["warnings"] if "hold-out" in w]
    assert "There are no hold-out rows, so the scores below are those of cross-validation" in page
    assert "The hold-out is the honest number" not in page
    assert "this job has none" in page


def test_with_no_time_left_the_model_is_made_and_explanations_are_left_out(tmp_path):
    """Model first, niceties after."""
    searched = make_searched(tmp_path, job_deadline=soon(0))

    result = finalizer.finalize(searched.context, searched.study)

    page = searched.text(searched.paths.report)
    assert load_bundle(result.model_uri).sha256 == result.sha256
    assert "There was no time left to measure the importance" in page
    assert "<svg" not in page


@pytest.mark.parametrize("step", ["_importance", "write_reports"])
def test_a_report_that_cannot_be_written_does_not_cost_the_model(tmp_path, monkeypatch, step):
    """The model is stored before."""
    searched = make_searched(tmp_path, entries=ENTRIES[1:2])

    def broken(*args):
        raise RuntimeError("a mistake in a plot")

    monkeypatch.setattr(reports, step, broken)

    assert finalizer.finalize(searched.context, searched.study).sha256 == load_bundle(searched.paths.model).sha256


@pytest.mark.parametrize("metric", ["PredictLatencyP99Ms", "ModelSizeMegabytes"])
def test_constraints_that_no_trial_keeps_are_named_with_the_nearest_value(tmp_path, metric, monkeypatch):
    """Reason ConstraintsNotMet."""
    searched = make_searched(tmp_path, constraints=[{"metric": metric, "max": "0.00001"}])

    assert run_command(searched, monkeypatch) == 1
    failure = study_attr(searched.study, StudyAttr.FAILURE)
    assert failure.reason == "ConstraintsNotMet"
    assert f"{metric} must be at most 1e-05, the nearest model has" in failure.message


def test_a_size_constraint_makes_the_model_smaller(tmp_path, finished):
    """Members are chosen so that all of them together fit."""
    most = round(0.9 * finished[1].size_bytes / 1e6, 3)
    searched = make_searched(
        tmp_path, job_deadline=soon(0), constraints=[{"metric": "ModelSizeMegabytes", "max": str(most)}]
    )

    result = finalizer.finalize(searched.context, searched.study)

    assert result.size_bytes / 1e6 <= most


def test_data_that_changed_since_the_search_is_refused(tmp_path, monkeypatch):
    """Predictions of other rows would be compared with these."""
    searched = make_searched(tmp_path, entries=ENTRIES[1:2])
    titanic().iloc[::-1].to_csv(Path(searched.context.job.dataset.train.uri.removeprefix("file://")), index=False)

    assert run_command(searched, monkeypatch) == 1
    assert "has changed since the job started" in study_attr(searched.study, StudyAttr.FAILURE).message


def test_the_command_takes_no_arguments(capsys):
    """Everything is in the environment."""
    assert finalizer.main(["--help"]) == 0
    assert finalizer.main(["now"]) == 2
    assert "usage: kubeautoml finalize" in capsys.readouterr().err


def test_weights_and_stored_predictions_give_the_hold_out_prediction(finished):
    """What is evaluated is what is served: the loaded model's predictions are the weighted stored ones."""
    searched, result = finished
    data, model = prepare(searched.context), load_bundle(result.model_uri)
    total = 0
    for member in model.variant.members:
        stored = np.load(io.BytesIO(searched.store.read(searched.paths.trial(member.trial, "holdout.npy"))))
        total = total + member.weight * stored.astype(float)

    np.testing.assert_allclose(model.predict_rows(data.holdout.frame), total, atol=1e-5)
