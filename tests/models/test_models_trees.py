"""Trees kept as our own arrays predict what the library's do, and families are good on small real data."""

import numpy as np
import pandas as pd
import pytest
from sklearn import ensemble

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import DataShape
from kubeautoml_trainer.models.forest import dense
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.tasks.regression import RegressionTask
from models.models_factories import CLS, REG, make_context, make_real, parts_of, weighted


@pytest.mark.parametrize("data", ["wine", "diabetes"])
@pytest.mark.parametrize("name", ["ExtraTrees", "RandomForest"])
def test_a_forest_predicts_what_scikit_learns_does(name, data):
    """With weights, to 1e-5; trees grown a few at a time are those grown at once."""
    rows, schema = make_real(data)
    train, _, test = parts_of(weighted(rows))
    fitted = family_named(name).fit(train, None, schema, {"trees": 25, "max_features": 0.6}, make_context(schema))
    target = fitted.model.target
    theirs = getattr(ensemble, name + ("Classifier" if schema.classes else "Regressor"))(
        25, max_features=0.6, bootstrap=name == "RandomForest", max_samples=None, random_state=3
    )
    x = fitted.features.transform

    theirs.fit(dense(x(train.frame)), target.encode(train.y) if target else train.y, sample_weight=train.weight)

    z = dense(x(test.frame))
    expected = target.decode(theirs.predict(z)) if target else theirs.predict_proba(z)
    assert np.abs(fitted.predict(test.frame) - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("data", ["wine", "breast_cancer", "diabetes"])
def test_gradient_boosting_predicts_what_scikit_learns_does(data):
    """With weights, to 1e-5: numbers, two classes by one score, three by one each."""
    rows, schema = make_real(data)
    train, _, test = parts_of(weighted(rows))
    settings = {"max_depth": 3, "max_features": 0.5, "subsample": 0.8, "learning_rate": 0.2}
    fitted = family_named("GradientBoosting").fit(
        train, None, schema, settings | {"iterations": 30}, make_context(schema)
    )
    target = fitted.model.target
    kind = ensemble.GradientBoostingClassifier if schema.classes else ensemble.GradientBoostingRegressor
    x = fitted.features.transform

    theirs = kind(n_estimators=30, random_state=3, **settings)
    # the training rows' own encoding equals `transform` here: there are no categories
    theirs.fit(dense(x(train.frame)), target.encode(train.y) if target else train.y, sample_weight=train.weight)

    z = dense(x(test.frame))
    expected = target.decode(theirs.predict(z)) if target else theirs.predict_proba(z)
    assert fitted.best_iteration == 30
    assert np.abs(fitted.predict(test.frame) - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())


def test_xgboosts_stored_model_is_the_one_that_was_best():
    """The model is cut where the validation loss was lowest, and loads to the same prediction."""
    rows, schema = make_real("breast_cancer")
    train, valid, test = parts_of(rows)
    settings = {"learning_rate": 0.3, "max_depth": 3}

    stopped = family_named("XGBoost").fit(train, valid, schema, settings, make_context(schema))
    cut = family_named("XGBoost").fit(
        train, None, schema, {**settings, "iterations": stopped.best_iteration}, make_context(schema)
    )

    assert stopped.best_iteration < 300
    assert np.array_equal(stopped.predict(test.frame), cut.predict(test.frame))


def test_a_forest_of_large_trees_has_fewer_of_them():
    """A hundred trees at least; then a forest ends at half a million numbers in its leaves."""
    rng = np.random.default_rng(0)
    schema = Schema("y", (Column("x0", ColumnType.NUMBER),))
    rows = Rows(pd.DataFrame({"x0": rng.normal(size=4500)}), rng.normal(size=4500))

    fitted = family_named("ExtraTrees").fit(rows, None, schema, {}, make_context(schema))

    assert 100 <= fitted.best_iteration < 120


# Floors: a little below what the families reach; a broken link or a wrong column falls far below.
FLOORS = {
    "XGBoost": (0.98, 0.98, 0.25),
    "ExtraTrees": (0.98, 0.98, 0.30),
    "RandomForest": (0.98, 0.98, 0.30),
    "GradientBoosting": (0.98, 0.98, 0.25),
    "NearestNeighbors": (0.98, 0.97, 0.25),
    "SupportVectors": (0.98, 0.98, 0.15),
}


@pytest.mark.parametrize("name", FLOORS)
def test_families_are_good_on_real_data(name):
    """ROC AUC of wine and of breast cancer, R2 of diabetes, on rows never seen: the best entry of each portfolio."""
    family = family_named(name)
    for data, floor in zip(("wine", "breast_cancer", "diabetes"), FLOORS[name], strict=True):
        rows, schema = make_real(data)
        context = make_context(schema)
        train, valid, test = parts_of(rows, seed=1)
        shape = DataShape(CLS if schema.classes else REG, len(train), len(schema.columns), 0, 0, context.task.outputs)
        scores = []
        for _, parameters in family.portfolio(shape):
            fitted = family.fit(train, valid, schema, parameters, context)
            metric = "RocAuc" if schema.classes else "R2"
            scores.append(context.task.score(metric, test.y, fitted.predict(test.frame), None))

        assert max(scores) > floor, (data, scores)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({}, {"XGBoost", "ExtraTrees", "RandomForest", "GradientBoosting", "SupportVectors", "NearestNeighbors"}),
        ({"rows": 1_000_000}, {"XGBoost", "ExtraTrees", "RandomForest"}),
        ({"rows": 20_000}, {"XGBoost", "ExtraTrees", "RandomForest", "NearestNeighbors"}),
        ({"outputs": 1000}, {"NearestNeighbors"}),
        ({"rows": 2000, "features": 5000}, {"XGBoost", "ExtraTrees", "RandomForest"}),
        ({"texts": 40}, {"XGBoost", "ExtraTrees", "RandomForest", "GradientBoosting"}),
    ],
)
def test_families_stay_away_from_data_that_they_are_too_slow_for(shape, expected):
    """Rows, columns once words and levels are numbers, classes: what a step that cannot be interrupted costs."""
    values = {"task": CLS, "rows": 1500, "features": 50, "categories": 0, "texts": 0, "outputs": 2} | shape

    assert {name for name in FLOORS if family_named(name).fits(DataShape(**values))} == expected


@pytest.mark.parametrize("name", FLOORS)
def test_numbers_beyond_float32_are_learned_and_predicted(name):
    """In training, and in a row that comes later; the other columns still count."""
    rows, schema = make_real("wine")
    train, valid, test = parts_of(rows)
    frame = train.frame.copy()
    frame.iloc[:3, 0] = [1e300, -1e300, 1e39]
    later = test.frame.copy()
    later.iloc[:2, 1] = [1e300, -1e300]

    fitted = family_named(name).fit(Rows(frame, train.y), valid, schema, {}, make_context(schema))

    p = fitted.predict(later)
    assert np.isfinite(p).all() and np.mean(p.argmax(axis=1) == test.y) > 0.8


@pytest.mark.parametrize("name", ["XGBoost", "ExtraTrees", "GradientBoosting"])
def test_tree_families_can_be_given_made_features(name):
    """A product of two numbers, which trees find late: with arithmetic the error is smaller on rows never seen."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 4)) + 3
    names = [f"x{k}" for k in range(4)]
    schema = Schema("y", tuple(Column(n, ColumnType.NUMBER) for n in names))
    rows = Rows(pd.DataFrame(x, columns=names), x[:, 0] * x[:, 1] + 0.05 * rng.normal(size=500))
    train, valid, test = parts_of(rows)
    family, context = family_named(name), make_context(schema)
    quick = {"trees": 40} if "Forest" in name or "Trees" in name else {"learning_rate": 0.2}

    assert family.space(DataShape(REG, 300, 4, 0, 0, 1))["features"].choices == ("none", "A")
    plain, made = (
        context.task.score(
            "Rmse", test.y, family.fit(train, valid, schema, quick | {"features": f}, context).predict(test.frame), None
        )
        for f in ("none", "A")
    )
    assert made < 0.9 * plain


@pytest.mark.parametrize("name", ["XGBoost", "ExtraTrees", "RandomForest"])
def test_quantiles_rise_and_cover_what_they_say(name, tmp_path):
    """Noise that grows with a column: about 80 % of fresh rows lie between the quantiles 0.1 and 0.9, also after loading."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, size=(1500, 2))
    schema = Schema("y", (Column("x0", ColumnType.NUMBER), Column("x1", ColumnType.NUMBER)))
    rows = Rows(pd.DataFrame(x, columns=["x0", "x1"]), 50 * (x[:, 0] + (0.1 + x[:, 1]) * rng.normal(size=1500)))
    train, valid, test = parts_of(rows)
    task = RegressionTask(schema, (0.1, 0.5, 0.9))
    settings = {"learning_rate": 0.1} if name == "XGBoost" else {"trees": 100, "min_samples_leaf": 10}

    fitted = family_named(name).fit(
        train, valid, schema, settings, make_context(schema, task=task, metric="PinballLoss")
    )
    fitted.save(tmp_path)

    p = load_pipeline(tmp_path).predict(test.frame)
    inside = np.mean((test.y >= p[:, 0]) & (test.y <= p[:, 2]))
    wide = test.frame["x1"] > 0.7
    assert p.shape == (300, 3) and p.dtype == np.float32 and (np.diff(p, axis=1) >= 0).all()
    assert 0.65 < inside < 0.92
    assert (p[wide, 2] - p[wide, 0]).mean() > 1.5 * (p[~wide, 2] - p[~wide, 0]).mean()
