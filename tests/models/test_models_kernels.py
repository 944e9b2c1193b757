"""Neighbours and support vectors kept as our own arrays predict what the library's do."""

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.svm import SVC, SVR

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.features.base import Encoded
from kubeautoml_trainer.models import family_named, nearest_neighbors, support_vectors
from kubeautoml_trainer.models.base import DataShape
from kubeautoml_trainer.models.distances import smallest
from kubeautoml_trainer.models.platt import calibrate
from kubeautoml_trainer.models.relevance import relevance
from models.models_factories import make_context, make_real, parts_of, weighted

METRICS = {
    "euclidean": {"p": 2},
    "manhattan": {"p": 1},
    "minkowski": {"p": 1.5},
    "cosine": {"metric": "cosine"},
}


@pytest.mark.parametrize("weights", ["distance", "uniform"])
@pytest.mark.parametrize("distance", METRICS)
@pytest.mark.parametrize("data", ["wine", "diabetes"])
def test_neighbours_vote_as_scikit_learns_do(data, distance, weights):
    """To 1e-5; beside k neighbours one row's weight goes to the shares of the classes."""
    rows, schema = make_real(data)
    train, _, test = parts_of(rows)
    settings = {"k": 7, "distance": distance, "weights": weights, "scaling": "standard"}
    fitted = family_named("NearestNeighbors").fit(train, None, schema, settings, make_context(schema))
    kind = KNeighborsClassifier if schema.classes else KNeighborsRegressor

    theirs = kind(7, weights=weights, algorithm="brute", **METRICS[distance])
    target = fitted.model.target
    theirs.fit(fitted.features.transform(train.frame).numbers, target.encode(train.y) if target else train.y)

    z = fitted.features.transform(test.frame).numbers
    mixed = None if target else (7 * theirs.predict_proba(z) + fitted.model.prior) / 8
    expected = target.decode(theirs.predict(z)) if target else mixed
    assert np.abs(fitted.predict(test.frame) - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("classes", [0, 2])
def test_columns_that_say_nothing_are_made_small(classes):
    """Of ten columns one tells the target: neighbours by relevance find it, neighbours by all columns less often."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 10))
    y = x[:, 3] + 0.1 * rng.normal(size=400)
    names = [f"x{k}" for k in range(10)]
    schema = Schema("y", tuple(Column(n, ColumnType.NUMBER) for n in names), tuple("ab"[:classes]))
    rows = Rows(pd.DataFrame(x, columns=names), (y > 0).astype(np.int64) if classes else y)
    train, test, context = rows.take(np.arange(300)), rows.take(np.arange(300, 400)), make_context(schema)
    family = family_named("NearestNeighbors")

    alike, relevant = (
        family.fit(train, None, schema, {"k": 10, "columns": columns}, context) for columns in ("alike", "relevance")
    )

    assert relevant.model.columns.argmax() == 3 and np.sort(relevant.model.columns)[-2] < 0.5
    ours, theirs = (context.task.score(context.metric, test.y, m.predict(test.frame), None) for m in (relevant, alike))
    assert ours < 0.7 * theirs


def test_relevance_is_the_same_for_all_where_nothing_can_be_learned():
    """A constant target, or no time for a tree."""
    x, one = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), np.ones(50)

    constant = relevance(x, np.zeros(50), one, classes=False, seed=0, deadline=np.inf)
    late = relevance(x, x[:, 0].astype(float), one, classes=False, seed=0, deadline=0.0)

    assert constant.tolist() == late.tolist() == [1.0, 1.0, 1.0]


def test_a_row_that_was_trained_on_finds_itself():
    """At distance 0 only rows that are the same count."""
    rows, schema = make_real("diabetes")

    fitted = family_named("NearestNeighbors").fit(rows, None, schema, {"k": 5}, make_context(schema))

    assert np.allclose(fitted.predict(rows.frame)[:, 0], rows.y, rtol=1e-5)


def test_blocks_of_rows_do_not_change_neighbours(monkeypatch):
    """A few rows at a time or all at once."""
    rows, schema = make_real("wine")
    fitted = family_named("NearestNeighbors").fit(weighted(rows), None, schema, {}, make_context(schema))
    at_once = fitted.predict(rows.frame)

    monkeypatch.setattr(nearest_neighbors, "_BLOCK_VALUES", 2000)
    monkeypatch.setattr(nearest_neighbors, "_BLOCK_IN_CACHE", 1000)

    assert nearest_neighbors._block(fitted.model.x, fitted.model.k) < 10
    assert np.allclose(fitted.predict(rows.frame), at_once, atol=1e-6)


@pytest.mark.parametrize(("columns", "wanted"), [(5000, 40), (5003, 300), (5000, 900), (5000, 2000), (3, 1), (1, 1)])
def test_the_smallest_are_found_with_few_others(columns, wanted):
    """By a bound where there are many columns for those wanted, and one by one where there are few."""
    values = np.random.default_rng(0).normal(size=(50, columns)).astype(np.float32)

    found, counts = smallest(values, wanted)

    assert counts.sum(axis=1).min() >= wanted
    assert found.shape[1] <= 2 * wanted
    for row, place, is_there in zip(values, found, counts, strict=True):
        assert set(np.argsort(row)[:wanted]) <= set(place[is_there])
        assert len(set(place[is_there])) == is_there.sum()


def test_many_that_are_equal_are_not_all_taken():
    """Of a table of the same rows no more than are wanted."""
    found, counts = smallest(np.zeros((4, 5000), dtype=np.float32), 40)

    assert found.shape == counts.shape == (4, 40)
    assert counts.all()


@pytest.mark.parametrize("name", ["NearestNeighbors", "SupportVectors", "GaussianProcess", "NeuralNetwork", "TabM"])
@pytest.mark.parametrize("data", ["breast_cancer", "diabetes"])
def test_several_threads_say_what_one_says(monkeypatch, data, name):
    """Rows in blocks, a thread each."""
    monkeypatch.setattr(nearest_neighbors, "_BLOCK_IN_CACHE", 20_000)
    rows, schema = make_real(data)
    quick = {"epochs": 3} if name in ("NeuralNetwork", "TabM") else {}
    fitted = family_named(name).fit(rows, None, schema, quick, make_context(schema))
    x = fitted.features.transform(rows.take(np.tile(np.arange(len(rows)), 8)).frame)

    alone = fitted.model.predict(x, 1)

    np.testing.assert_allclose(fitted.model.predict(x, 3), alone, rtol=1e-5, atol=1e-6)


def test_slow_distances_look_at_fewer_rows(monkeypatch):
    """A prediction's cost is bounded: the kept rows times the columns."""
    rows, schema = make_real("wine")
    monkeypatch.setitem(nearest_neighbors._VALUES, "minkowski", 50 * 13)

    fitted = family_named("NearestNeighbors").fit(rows, None, schema, {"distance": "minkowski"}, make_context(schema))

    assert fitted.model.x.shape == (50, 13)
    assert fitted.predict(rows.frame).argmax(axis=1).tolist() != [0] * len(rows)


def test_neighbours_that_would_predict_too_long_are_thinned_out():
    """Predicting the validation rows must take no more than half of what is left."""
    rows, schema = make_real("breast_cancer")
    context = make_context(schema)
    fitted = family_named("NearestNeighbors").fit(rows, None, schema, {}, context)
    x = Encoded(fitted.features.transform(rows.frame).numbers, np.zeros((len(rows), 0), dtype=np.int32))
    many = rows.take(np.tile(np.arange(len(rows)), 200))

    thinned = nearest_neighbors._in_time(fitted.model, x, many, replace(context, deadline=time.monotonic() + 0.02))

    assert 1 <= len(thinned.x) < len(fitted.model.x)


@pytest.mark.parametrize("data", ["wine", "breast_cancer", "diabetes"])
def test_support_vectors_score_as_scikit_learns_do(data):
    """With weights: numbers to 1e-5; for classes every pair's decision, before it becomes a probability."""
    rows, schema = make_real(data)
    train, _, test = parts_of(weighted(rows))
    settings = {"C": 3.0, "gamma": 0.8, "epsilon": 0.2}
    fitted = family_named("SupportVectors").fit(train, None, schema, settings, make_context(schema))
    model, target = fitted.model, fitted.model.target
    x, z = (fitted.features.transform(part.frame).numbers.astype(np.float32) for part in (train, test))
    theirs = (
        SVC(C=3.0, gamma=model.gamma, decision_function_shape="ovo")
        if schema.classes
        else SVR(C=3.0, gamma=model.gamma, epsilon=0.2)
    )

    theirs.fit(x, target.encode(train.y) if target else train.y, sample_weight=train.weight)

    ours = support_vectors._Kernel(model.vectors, model.gamma).scores(z, model.coefficients, model.intercept)
    if target:
        assert np.abs(fitted.predict(test.frame) - target.decode(theirs.predict(z))).max() < 1e-3  # of some 150
        return
    expected = theirs.decision_function(z).reshape(len(z), -1)
    assert np.abs(ours - (-expected if data == "breast_cancer" else expected)).max() < 1e-5


def test_scores_become_calibrated_probabilities():
    """Half of a class that overlaps with the other is not given away as certain: log loss near the best possible."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(600, 1))
    y = (rng.random(600) < 1 / (1 + np.exp(-2 * truth[:, 0]))).astype(np.intp)

    slope, bias = calibrate(np.hstack([-3 * truth, 3 * truth]), y, np.ones(600))

    # softmax of (-3, 3) x slope must be the sigmoid of 2
    assert 6 * slope[0] == pytest.approx(2, rel=0.15) and abs(bias[1] - bias[0]) < 0.3


def test_support_vectors_take_fewer_rows_where_time_is_short():
    """What a probe on a few rows costs says how many fit into the time; every class stays."""
    rows, schema = make_real("breast_cancer")
    context = make_context(schema)
    x = rows.frame.to_numpy(dtype=np.float32)
    solver = support_vectors._Solver(x, rows.y, np.ones(len(x)), support_vectors.DEFAULTS, context, classes=True)

    solver.step_seconds = 1e9
    kept = solver.sample(np.arange(len(x)), 1.0)

    assert len(kept) < len(x) and set(rows.y[kept]) == {0, 1}
    assert len(solver.solve(kept, 1.0).vectors) > 0


@pytest.mark.parametrize("outputs", [1, 2, 10])
def test_support_vectors_come_early_where_they_take_a_moment(outputs: int) -> None:
    """On few rows before boosters with a tree a class have used a short budget up; on more behind them."""
    task = TaskType.TABULAR_REGRESSION if outputs == 1 else TaskType.TABULAR_CLASSIFICATION
    few, many = (DataShape(task, rows, 64, 0, 0, outputs) for rows in (1_000, 4_000))

    rank = {
        (f, s.rows): family_named(f).portfolio(s)[0][0] for f in ("SupportVectors", "CatBoost") for s in (few, many)
    }

    assert rank["SupportVectors", 1_000] < rank["CatBoost", 1_000]
    assert rank["SupportVectors", 4_000] > rank["CatBoost", 4_000]
