"""The forms of a finished model: each is in the bundle, predicts, costs less than the ensemble, and says what it is."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import kubeautoml_trainer
from bundle.bundle_factories import boston, titanic
from finalize.finalize_factories import ENTRIES, make_searched, soon
from kubeautoml.api.errors import BundleError
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.objective import ModelVariant
from kubeautoml.api.trials import StudyAttr
from kubeautoml.study import study_attr
from kubeautoml_trainer import finalize as finalizer
from kubeautoml_trainer import predict
from kubeautoml_trainer.bundle import load_bundle
from kubeautoml_trainer.data.row import typed_row
from kubeautoml_trainer.data.schema import coerce
from kubeautoml_trainer.ensemble.candidates import best_first
from kubeautoml_trainer.ensemble.stored import ScoredTrial
from kubeautoml_trainer.finishing.bundle import build_model
from kubeautoml_trainer.finishing.work import load
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.serve import command
from kubeautoml_trainer.tasks import task_for
from kubeautoml_trainer.variants.all_rows import NOTE
from kubeautoml_trainer.variants.distilled import mixed, taught
from kubeautoml_trainer.variants.fast import choose_fast
from kubeautoml_trainer.variants.refit import Refits

ALL = ["Balanced", "Quality", "Fast", "Distilled"]


@pytest.fixture(scope="module", params=["survived", "MEDV"])
def finished(request, tmp_path_factory):
    """A job that wants all four, with time."""
    folder = tmp_path_factory.mktemp("jobs") / request.param
    searched = make_searched(folder, request.param, entries=ENTRIES[1:], variants=ALL)
    return searched, finalizer.finalize(searched.context, searched.study)


def raw_of(searched):
    return titanic() if searched.context.job.task.target == "survived" else boston()


def test_every_wanted_variant_is_in_the_bundle_and_predicts(finished):
    """In the order of the manifest, the first one answering unless another is asked for."""
    searched, result = finished
    raw = raw_of(searched).head(20)

    models = {name: load_bundle(result.model_uri, variant=name.lower()) for name in ALL}

    assert load_bundle(result.model_uri).variant.name == "Balanced"
    assert models["Fast"].variants == tuple(ALL)
    for name, model in models.items():
        assert model.variant.name == name
        assert len(model.predict(raw)) == 20
        assert math.isfinite(next(iter(model.metrics.values())))


def test_a_variant_that_is_not_there_is_named_with_those_that_are(finished):
    """Not a KeyError."""
    _, result = finished

    with pytest.raises(BundleError, match=r"has no variant 'Tiny', it has Balanced, Quality, Fast, Distilled"):
        kubeautoml_trainer.load_model(result.model_uri, variant="Tiny")


def test_a_balanced_member_is_one_model_that_learned_from_all_rows(finished):
    """One pipeline a member in place of one a fold, with as many rounds as the folds found best on average."""
    searched, result = finished
    model = load_bundle(result.model_uri, variant="Balanced")

    assert model.variant.notes == (NOTE,)
    for member in model.variant.members:
        assert len(member.pipelines) == 1
        record = json.loads(searched.text(searched.paths.trial(member.trial, "trial.json")))
        pipeline = load_pipeline(
            Path(result.model_uri.removeprefix("file://")) / "pipelines" / str(member.pipelines[0])
        )
        if member.family == "LightGBM":
            assert pipeline.best_iteration == max(1, round(np.mean(record["best_iterations"])))
    assert sum(m.weight for m in model.variant.members) == pytest.approx(1)


def test_refits_learn_from_the_hold_out_once_it_has_scored_them(tmp_path):
    """The models of the bundle are those of a fit on all rows; the scores are those of the same models without the hold-out."""
    metrics, results = {}, {}
    for rows in ("AllRows", "TrainingRows"):
        output = {"uri": f"file://{tmp_path}/{rows}/out", "variants": ["Balanced", "Fast"], "refitOn": rows}
        searched = make_searched(tmp_path / rows, "MEDV", entries=ENTRIES[1:3], output=output)
        result = finalizer.finalize(searched.context, searched.study)
        metrics[rows] = load_bundle(result.model_uri).metrics
        results[rows] = result.model_uri
    data = load(searched.context, searched.study).data
    rows = data.all_rows
    context = FitContext(task_for(TaskType.TABULAR_REGRESSION, data.schema), "Rmse", 0, 1, math.inf)

    linear = family_named("Linear").fit(rows, None, data.schema, {}, context)

    found = next(p for m, p in pipelines_of(results["AllRows"]) if m.family == "Linear")
    assert len(rows) == len(boston())
    assert found.predict(data.train.frame) == pytest.approx(linear.predict(data.train.frame))
    assert metrics["AllRows"] == metrics["TrainingRows"]
    assert NOTE in load_bundle(results["AllRows"]).variant.notes
    assert NOTE not in load_bundle(results["TrainingRows"]).variant.notes


def test_rows_of_a_test_set_are_never_learned_from(tmp_path):
    """Whoever gives some wants to know how the model does on them, again and again."""
    boston().iloc[150:].to_csv(tmp_path / "test.csv", index=False)
    dataset = {"train": {"uri": f"file://{tmp_path}/train.csv"}, "test": {"uri": f"file://{tmp_path}/test.csv"}}
    searched = make_searched(
        tmp_path, "MEDV", entries=ENTRIES[1:2], frame=boston().iloc[:150], variants=["Balanced"], dataset=dataset
    )

    result = finalizer.finalize(searched.context, searched.study)

    assert NOTE not in load_bundle(result.model_uri).variant.notes


def test_without_time_the_scored_refits_stay(tmp_path):
    """A variant of old and new models is nothing that was scored."""
    searched = make_searched(tmp_path, "MEDV", entries=ENTRIES[1:3], variants=["Balanced"])
    work = load(searched.context, searched.study)
    shop, built = build_model(work, soon(60), keeps_constraints=False)
    maker = finalizer.make_maker(work, shop, built)
    made = maker.make((ModelVariant.BALANCED,), fit=True)

    late = maker.with_all_rows(made, time.monotonic())

    assert late[0] is made[0]
    assert maker.with_all_rows(made, math.inf)[0].honest is made[0].holdout


def pipelines_of(uri):
    """(member, pipeline) of the default variant of a bundle."""
    folder = Path(uri.removeprefix("file://")) / "pipelines"
    members = load_bundle(uri).variant.members
    return [(m, load_pipeline(folder / str(p))) for m in members for p in m.pipelines]


def test_variants_share_what_they_have_in_common(finished):
    """The fast model is a refit that Balanced may have too: no pipeline is stored that no variant names, none twice."""
    _, result = finished
    manifest = load_bundle(result.model_uri).manifest
    named = [i for v in manifest.variants for m in v.members for i in m.pipelines]
    digests = {}
    for i in set(named):
        digests.setdefault(tuple(f.sha256 for n, f in manifest.files.items() if n.startswith(f"pipelines/{i}/")), i)

    assert len(digests) == len(set(named))


def test_the_fast_variant_is_the_best_single_model(finished):
    """By cross-validation, of those quick enough; one pipeline."""
    searched, result = finished
    variant = load_bundle(result.model_uri, variant="Fast").variant
    rows = [r for r in csv.DictReader(io.StringIO(searched.text(searched.paths.leaderboard))) if r["trial"]]

    assert [len(m.pipelines) for m in variant.members] == [1]
    assert variant.members[0].trial in [int(r["trial"]) for r in rows]
    assert variant.cross_validated == pytest.approx(
        next(float(r["value"]) for r in rows if int(r["trial"]) == variant.members[0].trial), rel=1e-6
    )


def test_the_distilled_variant_is_a_student_or_says_why_not(finished):
    """One model, and a note that compares it with the fast one."""
    _, result = finished
    variant = load_bundle(result.model_uri, variant="Distilled").variant

    assert [len(m.pipelines) for m in variant.members] == [1]
    assert "rows that neither learned from" in variant.notes[0] or "the fast model stands in" in variant.notes[0]


def test_status_leaderboard_and_metrics_name_quality_and_cost_of_each(finished):
    """Hold-out value, time to fit, time for a row, size; the first one's metrics are the model's."""
    searched, result = finished
    metrics = json.loads(searched.text(searched.paths.metrics))
    rows = [r for r in csv.DictReader(io.StringIO(searched.text(searched.paths.leaderboard))) if r["variant"]]

    assert [v.name for v in result.variants] == [r["variant"] for r in rows] == ALL
    assert [v["name"] for v in metrics["variants"]] == ALL
    assert result.variants[0].value == pytest.approx(result.metrics[searched.context.job.metric])
    for told, row in zip(result.variants, rows, strict=True):
        assert told.size_bytes == int(row["size_bytes"]) > 0
        assert told.fit_seconds >= 0 and told.latency_p50_ms > 0 and float(row["rows_per_second"]) > 0
    sizes = {v.name: v.size_bytes for v in result.variants}
    # which single model Fast is depends on how busy the machine is, and so whether it is smaller than Balanced
    assert max(sizes["Fast"], sizes["Balanced"]) < sizes["Quality"]
    assert study_attr(searched.study, StudyAttr.RESULT) == result
    assert "<h2>Variants</h2>" in searched.text(searched.paths.report)


def test_the_commands_take_a_variant(finished, tmp_path, monkeypatch):
    """`predict` writes what that variant says; `serve` refuses one that is not there before it listens to anybody."""
    searched, result = finished
    target = searched.context.job.task.target
    data = searched.context.job.dataset.train.uri.removeprefix("file://")
    uri, out = result.model_uri, str(tmp_path / "out.parquet")

    assert predict.main(["--model", uri, "--input", data, "--output", out, "--variant", "fast"]) == 0

    expected = load_bundle(uri, variant="Fast").predict_frame(pd.read_csv(data, dtype=str))
    written = pd.read_parquet(out)
    assert list(written.columns) == list(expected.columns)
    assert written[target].tolist() == expected[target].tolist()
    monkeypatch.setattr(command.signal, "signal", lambda number, handler: None)  # this process keeps its own
    with pytest.raises(BundleError, match="has no variant 'Tiny'"):
        command.main(["--model", uri, "--port", "0", "--host", "127.0.0.1", "--variant", "Tiny"])


def test_without_time_every_variant_is_there_all_the_same(tmp_path):
    """Models of the best folds stand in, and the card says so."""
    searched = make_searched(tmp_path, entries=ENTRIES[1:4], job_deadline=soon(0), variants=ALL)

    result = finalizer.finalize(searched.context, searched.study)

    variants = {v.name.value: v for v in load_bundle(result.model_uri).manifest.variants}
    assert list(variants) == ALL
    assert "models of its best folds stand in" in variants["Balanced"].notes[0]
    assert "the fast model stands in" in variants["Distilled"].notes[0]
    assert json.loads(searched.text(f"{result.model_uri}/card.json"))["variants"][0]["notes"]


def test_only_what_is_wanted_is_stored(tmp_path):
    """A bundle of the fast variant alone holds one pipeline."""
    searched = make_searched(tmp_path, entries=ENTRIES[1:4], job_deadline=soon(0), variants=["Fast"])

    result = finalizer.finalize(searched.context, searched.study)

    names = {n.split("/")[1] for n in load_bundle(result.model_uri).manifest.files if n.startswith("pipelines/")}
    assert names == {"0"}
    assert len(result.members) == 1


def test_a_constraint_holds_for_the_fast_variant_where_the_ensemble_is_not_wanted(tmp_path, monkeypatch):
    """Too small for any: the reason and the nearest value are said."""
    searched = make_searched(
        tmp_path,
        entries=ENTRIES[1:3],
        job_deadline=soon(0),
        constraints=[{"metric": "ModelSizeMegabytes", "max": "0.00001"}],
        variants=["Fast"],
    )

    with pytest.raises(finalizer.KubeAutoMLError, match="ModelSizeMegabytes must be at most 1e-05, the nearest model"):
        finalizer.finalize(searched.context, searched.study)


def test_a_row_typed_alone_is_the_row_that_pandas_types(finished):
    """To the last bit, over all rows; what is not plain goes the long way."""
    searched, result = finished
    model, raw = load_bundle(result.model_uri), raw_of(searched)
    typed = coerce(raw, model.schema)
    alone = [typed_row(raw.iloc[[k]], model.schema) for k in range(60)]

    assert sum(a is not None for a in alone) > 40
    for k, a in enumerate(alone):
        if a is not None:
            for name in typed.columns:
                np.testing.assert_array_equal(a[name].to_numpy(), typed[name].to_numpy()[[k]])


def test_mixed_rows_are_made_of_the_values_of_real_ones():
    """Whole columns come from one or the other row; the same seed gives the same rows."""
    frame = boston().head(30)

    made = mixed(frame, 50, seed=3)

    assert len(made) == 50
    assert all(set(made[c]) <= set(frame[c]) for c in frame.columns)
    assert made.equals(mixed(frame, 50, seed=3))


def test_soft_labels_become_weighed_rows():
    """A class a row where it is likely, as heavy as it is likely, the mean weight 1."""
    frame = boston().head(2)[["CRIM"]]

    rows = taught(frame, np.array([[0.75, 0.25], [1.0, 0.0]]), None, classes=True)

    assert rows.y.tolist() == [0, 1, 0]
    np.testing.assert_allclose(rows.weight, np.array([0.75, 0.25, 1.0]) * 3 / 2)
    assert rows.frame["CRIM"].tolist() == [frame["CRIM"].iloc[k] for k in (0, 0, 1)]


def test_quantiles_have_all_variants_but_no_student(tmp_path):
    """A student learns one number a row: the lowest quantile would be all it is taught."""
    task = {"type": "TabularRegression", "target": "MEDV", "quantiles": ["0.1", "0.5", "0.9"]}
    searched = make_searched(
        tmp_path, "MEDV", (Entry("Linear", {}), Entry("LightGBM", {"iterations": 30})), job_task=task, variants=ALL
    )

    result = finalizer.finalize(searched.context, searched.study)

    models = {name: load_bundle(result.model_uri, variant=name) for name in ALL}
    raw = boston().head(30)
    for model in models.values():
        frame = model.predict_frame(raw)
        assert (frame["MEDV_q0.1"] <= frame["MEDV_q0.9"]).all()
    assert "not quantiles" in models["Distilled"].variant.notes[0]


def test_a_busy_moment_does_not_make_the_best_model_too_slow(finished, monkeypatch):
    """It is measured again; one that is slow by far is not."""
    searched, _ = finished
    work = load(searched.context, searched.study)
    shop, built = build_model(work, math.inf, keeps_constraints=True)
    bench = finalizer.make_maker(work, shop, built)._bench
    best = best_first(
        [ScoredTrial(n, t.record.family, t.record.value) for n, t in built.candidates.items()], shop.job.metric
    )[0].trial

    measured = iter([3.0, 1.5])
    monkeypatch.setattr("kubeautoml_trainer.variants.fast.latency_ms", lambda *a: next(measured))
    assert choose_fast(bench, Refits(bench)) == best

    measured = iter([30.0, 1.5])
    assert choose_fast(bench, Refits(bench)) != best
