"""Explainable boosting: the library's predictions without the library, tables a person can read, a fit that ends in time."""

import subprocess
import sys
import time
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import BundleError
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.features import Recipe, fit_features
from kubeautoml_trainer.features.names import column_names
from kubeautoml_trainer.models import explainable_boosting as ebm
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import DataShape, FitTimeout
from kubeautoml_trainer.models.pipeline import load_pipeline
from models.models_factories import CLS, REG, clock_by_hand, make_context, make_real, parts_of, weighted

QUICK = {"learning_rate": 0.2, "smoothing_rounds": 2}
EVERY_TASK = pytest.mark.parametrize("classes", [0, 2, 3], ids=["numbers", "two classes", "three classes"])


def make_schema(classes: int) -> Schema:
    columns = (
        Column("size", ColumnType.NUMBER),
        Column("gappy", ColumnType.NUMBER, missing_fraction=0.3),
        Column("colour", ColumnType.CATEGORY),
    )
    return Schema("t", columns, tuple("abc"[:classes]))


def make_rows(classes: int, n: int = 400, seed: int = 0) -> Rows:
    """Gaps that matter, a category, and a product of two columns."""
    rng = np.random.default_rng(seed)
    size, gappy = np.round(rng.normal(size=n), 1), rng.normal(size=n)
    colour = rng.choice(np.array(["red", "green", "blue", None], dtype=object), n)
    signal = 2 * size + 1.5 * (colour == "red") * size + 0.2 * rng.normal(size=n)
    gone = rng.random(n) < 0.3
    signal = signal + gone
    gappy[gone] = np.nan
    frame = pd.DataFrame({"size": size, "gappy": gappy, "colour": pd.Series(colour, dtype=object)})
    y = signal if not classes else np.searchsorted(np.quantile(signal, np.arange(1, classes) / classes), signal)
    return Rows(frame, y.astype(np.int64) if classes else y)


def library_model(rows: Rows, schema: Schema, classes: int, interactions: int):
    """The library's own fit, and the same as an `AdditiveModel`, whose intercept is not yet settled."""
    from interpret.glassbox import ExplainableBoostingClassifier, ExplainableBoostingRegressor

    features, x = fit_features(Recipe(categories="codes"), rows, schema, 0)
    matrix = np.hstack([x.numbers, x.codes])
    library = ExplainableBoostingClassifier if classes else ExplainableBoostingRegressor
    types = ["continuous", "continuous", "nominal"]
    booster = library(feature_types=types, interactions=interactions, outer_bags=2, max_rounds=200, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        booster.fit(matrix, rows.y)
    present = np.arange(classes, dtype=np.intp)
    return booster, features, ebm.additive_model(booster, features, x, present, max(1, classes), None)


@EVERY_TASK
def test_the_tables_give_the_librarys_scores_to_the_last_bit(classes):
    """Also for values on a cut, beyond all cuts, missing, and for levels that training never had; pairs included."""
    rows, schema = make_rows(classes), make_schema(classes)
    booster, features, model = library_model(rows, schema, classes, 0 if classes == 3 else 2)
    fresh = make_rows(classes, 300, seed=1).frame
    fresh.loc[:20, "colour"] = "violet"
    fresh.loc[20:40, "size"] = np.resize([1e9, -1e9, np.nan], 21)
    cuts = booster.bins_[0][0]
    fresh.loc[100 : 100 + len(cuts[:100]) - 1, "size"] = cuts[:100]
    x = features.transform(fresh)
    matrix = np.hstack([x.numbers, x.codes])

    score = model.score(x)

    expected = booster.decision_function(matrix) if classes else booster.predict(matrix)
    assert np.array_equal(score.squeeze(), expected)
    if classes:
        np.testing.assert_allclose(model.predict(x), booster.predict_proba(matrix), rtol=1e-5, atol=1e-7)
    contributions = model.contributions(x)
    assert contributions.shape == (300, len(model.terms), score.shape[1])
    np.testing.assert_allclose(contributions.sum(axis=1) + model.intercept, score, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(contributions.squeeze(), booster.eval_terms(matrix))


def test_a_fit_can_be_read_in_its_files_and_by_its_terms(tmp_path):
    """Terms carry the columns' names; the two that make the target lead; loading gives the same tables."""
    rows, schema = make_rows(0), make_schema(0)
    fitted = family_named("ExplainableBoosting").fit(rows, make_rows(0, 200, 1), schema, QUICK, make_context(schema))

    fitted.save(tmp_path)
    loaded = load_pipeline(tmp_path)

    by_importance = sorted(loaded.model.terms, key=lambda t: -t.importance)
    assert by_importance[0].name == "size" and "size & colour" in [t.name for t in by_importance[:4]]
    x = loaded.features.transform(rows.frame)
    share = loaded.model.contributions(x)
    assert np.allclose(np.abs(share).mean(axis=(0, 2)), [t.importance for t in loaded.model.terms])
    assert np.array_equal(share, fitted.model.contributions(x))


@pytest.mark.parametrize(
    ("name", "metric", "share"),
    [("diabetes", "Rmse", 0.85), ("breast_cancer", "LogLoss", 0.35), ("wine", "LogLoss", 0.35)],
)
def test_it_learns_small_real_data(name, metric, share):
    """Its loss is at most this share of the constant prediction's, with weights."""
    rows, schema = make_real(name)
    train, valid, test = (weighted(part) for part in parts_of(rows))
    context = make_context(schema)
    fitted = family_named("ExplainableBoosting").fit(train, valid, schema, {"smoothing_rounds": 5}, context)
    constant = np.tile(context.task.prior(train.y, train.weight), (len(test), 1))

    own, floor = (context.task.score(metric, test.y, p, None) for p in (fitted.predict(test.frame), constant))

    assert own < share * floor


@EVERY_TASK
def test_the_intercept_is_learned_from_the_training_rows_alone(classes):
    """Their mean prediction is their mean, weights included, however different the validation rows are."""
    rows, schema = make_rows(classes), make_schema(classes)
    weight = np.random.default_rng(0).uniform(0.5, 1.5, len(rows))
    valid = make_rows(classes, 200, seed=1)
    other = replace(valid, y=valid.y + 50 if not classes else np.zeros_like(valid.y))
    fitted = family_named("ExplainableBoosting").fit(
        replace(rows, weight=weight), other, schema, QUICK, make_context(schema)
    )

    got = np.average(fitted.predict(rows.frame), axis=0, weights=weight)

    truth = np.eye(classes)[rows.y] if classes else rows.y[:, None]
    np.testing.assert_allclose(got, np.average(truth, axis=0, weights=weight), atol=0.02 if not classes else 1e-4)


def test_rows_that_weigh_nothing_are_as_good_as_absent():
    """Also where they are all the rows of a class."""
    rows, schema = make_rows(3), make_schema(3)
    weight = np.where(rows.y == 2, 0.0, 1.0)

    fitted = family_named("ExplainableBoosting").fit(
        replace(rows, weight=weight), make_rows(3, 100, 1), schema, QUICK, make_context(schema)
    )

    got = fitted.predict(rows.frame)
    assert np.isfinite(got).all() and (got[:, 2] == 0).all()


def test_the_time_is_shared_by_what_the_library_does():
    """A fit that would take for ever ends about when it must, also without validation rows; the library is as it was."""
    from interpret.glassbox._ebm import _ebm as library

    rows, schema, own = make_rows(2, 3000), make_schema(2), library.boost
    family = family_named("ExplainableBoosting")
    family.fit(make_rows(2), None, schema, {**QUICK, "interactions": 0.0}, make_context(schema))
    for valid in (make_rows(2, 500, 1), None):
        started = time.monotonic()

        fitted = family.fit(rows, valid, schema, {"learning_rate": 1e-5}, make_context(schema, deadline=started + 1.5))

        assert time.monotonic() - started < 1.5 + 1.5
        task = make_context(schema).task
        assert task.score("RocAuc", rows.y, fitted.predict(rows.frame), None) > 0.85
        assert any(len(t.columns) == 2 for t in fitted.model.terms)
    assert library.boost is own


def test_of_too_many_rows_for_the_time_a_sample_is_learned_from(monkeypatch):
    """What one column takes to sort tells how many; the clock runs by hand, a second a look. Small data is always whole."""
    rng, rows = np.random.default_rng(0), 100_000
    y = rng.integers(0, 2, rows)
    data = ebm.Data(rng.normal(size=(rows, 5)), y, np.arange(2), np.ones(rows), np.arange(rows) < 80_000, 5)
    small = data.of_rows(np.arange(1000))
    clock_by_hand(monkeypatch, ebm)

    all_of_it = ebm.in_time(data, 1e9, seed=0)
    some = ebm.in_time(data, 11.0 + 50.0, seed=0)  # 50 s of which 40 % are 20 s, and a row takes 0.001 s

    assert all_of_it is data and ebm.in_time(small, -1.0, seed=0) is small
    assert len(some.matrix) == len(some.y) == len(some.weight) == 20_000
    assert 15_000 < some.trains.sum() < 17_000 and some.trains[:10_000].all()
    with pytest.raises(FitTimeout, match="no time for one round"):
        ebm.in_time(data, 17.0 + 0.1, seed=0)


def test_a_sample_keeps_to_the_classes_that_it_has():
    """A class that only rows left out had is none of the model's."""
    y = np.array([0, 0, 1, 2, 2, 1])
    data = ebm.Data(np.arange(12.0).reshape(6, 2), y, np.array([1, 3, 4]), np.ones(6), np.arange(6) < 5, 2)

    some = data.of_rows(np.array([0, 3, 4, 5]))

    assert some.classes.tolist() == [1, 4]
    assert some.y.tolist() == [0, 1, 1] and some.trains.all()


def test_no_process_is_started_for_a_fit():
    """The library would start one to share a flag between jobs."""
    script = """
import multiprocessing.process as p, numpy as np
from models.models_factories import make_context, make_real, parts_of
from kubeautoml_trainer.models import family_named
started = []
p.BaseProcess.start = lambda self: started.append(self)
rows, schema = make_real("wine")
train, valid, _ = parts_of(rows)
family_named("ExplainableBoosting").fit(train, valid, schema, {"learning_rate": 0.3}, make_context(schema))
print(started)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=_environment()
    )

    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def _environment() -> dict[str, str]:
    import os
    from pathlib import Path

    tests = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}


def test_pairs_are_not_for_more_than_two_classes_nor_for_many_columns():
    """Where the library's tables of pairs cannot be read, or ranking them could not be ended."""
    family = family_named("ExplainableBoosting")
    shape = DataShape(CLS, rows=1000, features=5, categories=0, texts=0, outputs=3)
    assert "interactions" not in family.space(shape) and "interactions" in family.space(replace(shape, outputs=2))
    assert "interactions" in family.space(replace(shape, task=REG, outputs=1))
    rows, schema = make_rows(3), make_schema(3)

    fitted = family.fit(rows, None, schema, {**QUICK, "interactions": 3.0}, make_context(schema))

    assert {len(t.columns) for t in fitted.model.terms} == {1}
    assert not family.fits(replace(shape, rows=10**6)) and not family.fits(replace(shape, features=1000))


def test_two_columns_of_many_levels_are_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their table would have a cell for every two levels: five columns of a thousand each took half a gigabyte."""
    family, rng, n = family_named("ExplainableBoosting"), np.random.default_rng(0), 3_000
    words = {name: rng.integers(0, 300, n) for name in ("street", "shop")}
    signal = np.sin(words["street"]) + np.sin(words["shop"]) + (x := rng.normal(size=n)) * (words["street"] % 2)
    frame = pd.DataFrame({"x": x, **{name: [f"{name}{v}" for v in values] for name, values in words.items()}})
    kinds = (ColumnType.NUMBER, ColumnType.CATEGORY, ColumnType.CATEGORY)
    schema = Schema("t", tuple(Column(c, kind) for c, kind in zip(frame.columns, kinds, strict=True)), ())
    rows, wanted = Rows(frame, signal), {**QUICK, "interactions": 3.0}

    def pairs() -> set[tuple[int, ...]]:
        fitted = family.fit(rows, None, schema, wanted, make_context(schema))
        return {t.columns for t in fitted.model.terms if len(t.columns) == 2}

    assert pairs() == {(0, 1), (0, 2), (1, 2)}
    monkeypatch.setattr(ebm, "_MOST_TABLE_CELLS", 100_000)  # a third of it for each of three
    assert pairs() == {(0, 1), (0, 2)}


def test_columns_have_the_names_that_a_person_knows():
    """As many names as columns, whatever the types; and a recipe without names is refused."""
    columns = (
        Column("size", ColumnType.NUMBER), Column("open", ColumnType.BOOLEAN), Column("colour", ColumnType.CATEGORY),
        Column("from", ColumnType.DATETIME), Column("to", ColumnType.DATETIME), Column("note", ColumnType.TEXT),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=40), "open": 1.0, "from": 1e9 * rng.random(40), "to": 1.6e9})
    frame["colour"] = pd.Series(["red", "green"] * 20, dtype=object)
    frame["note"] = pd.Series(["a loud song", "two quiet words", "three more"] * 13 + [None], dtype=object)
    rows, schema = Rows(frame, rng.normal(size=40)), Schema("t", columns, ())

    features, x = fit_features(Recipe(), rows, schema, 0)
    names = column_names(features)

    assert len(names) == x.numbers.shape[1] + x.codes.shape[1] == len(set(names))
    assert {"size", "open", "colour", "from: weekday", "days from from to to", "note: words", "note: topic 1"} <= set(
        names
    )
    with pytest.raises(ValueError, match="have no names"):
        column_names(fit_features(Recipe(scaling="standard"), rows, schema, 0)[0])


@pytest.mark.parametrize("damage", ["no arrays", "cut", "no terms", "a term's bins"])
def test_a_damaged_model_is_refused(damage, tmp_path):
    rows, schema = make_rows(2), make_schema(2)
    family_named("ExplainableBoosting").fit(rows, None, schema, QUICK, make_context(schema)).save(tmp_path)
    arrays, described = tmp_path / "explainable.safetensors", tmp_path / "explainable.json"
    if damage == "no arrays":
        arrays.unlink()
    elif damage == "cut":
        arrays.write_bytes(arrays.read_bytes()[:50])
    elif damage == "no terms":
        described.write_text("{}")
    else:
        described.write_text(described.read_text().replace('"0.0"', '"9.0"'))

    with pytest.raises(BundleError, match=r"explainable\.safetensors cannot be read"):
        load_pipeline(tmp_path)


def test_the_interpretable_preset_takes_it():
    assert family_named("ExplainableBoosting").interpretable
    assert family_named("ExplainableBoosting").fits(DataShape(TaskType.TABULAR_REGRESSION, 300, 5, 0, 0, 1))
