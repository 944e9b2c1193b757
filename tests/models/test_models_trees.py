"""Trees kept as our own arrays predict what the library's do, and are good on small real data."""

import time

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets, ensemble

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import DataShape, FitContext
from kubeautoml_trainer.models.forest import dense
from kubeautoml_trainer.tasks import task_for

CLS, REG = TaskType.TABULAR_CLASSIFICATION, TaskType.TABULAR_REGRESSION


def make_real(name: str) -> tuple[Rows, Schema]:
    """One of scikit-learn's own sets: wine, breast_cancer (classes), diabetes (a number)."""
    read = getattr(datasets, f"load_{name}")()
    names = [f"x{k}" for k in range(read.data.shape[1])]
    classes = () if name == "diabetes" else tuple(str(c) for c in range(len(read.target_names)))
    schema = Schema("y", tuple(Column(n, ColumnType.NUMBER) for n in names), classes)
    return Rows(pd.DataFrame(read.data, columns=names), read.target.astype(np.int64 if classes else float)), schema


def make_context(schema: Schema, **changes) -> FitContext:
    task = task_for(CLS if schema.classes else REG, schema)
    metric = "LogLoss" if schema.classes else "Rmse"
    values = {"task": task, "metric": metric, "seed": 3, "threads": 1, "deadline": time.monotonic() + 120}
    return FitContext(**(values | changes))


def parts_of(rows: Rows, seed: int = 0) -> tuple[Rows, Rows, Rows]:
    """60 % to train on, 20 % to stop by, 20 % to judge."""
    order = np.random.default_rng(seed).permutation(len(rows))
    a, b = len(rows) * 3 // 5, len(rows) * 4 // 5
    return rows.take(order[:a]), rows.take(order[a:b]), rows.take(order[b:])


def weighted(rows: Rows) -> Rows:
    return Rows(rows.frame, rows.y, np.where(np.arange(len(rows)) % 3 == 0, 1.5, 0.75))


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
    settings = {"max_depth": 3, "max_features": 0.5, "subsample": 0.8, "learning_rate": 0.1}
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
}


@pytest.mark.parametrize("name", FLOORS)
def test_families_are_good_on_real_data(name):
    """ROC AUC of wine and of breast cancer, R2 of diabetes, on rows never seen, without tuning: the first entry of each portfolio."""
    for data, floor in zip(("wine", "breast_cancer", "diabetes"), FLOORS[name], strict=True):
        rows, schema = make_real(data)
        context, family = make_context(schema), family_named(name)
        scores = []
        for seed in range(2):
            train, valid, test = parts_of(rows, seed)
            shape = DataShape(
                CLS if schema.classes else REG, len(train), len(schema.columns), 0, 0, context.task.outputs
            )
            parameters = family.portfolio(shape)[0][1]
            fitted = family.fit(train, valid, schema, parameters, context)
            metric = "RocAuc" if schema.classes else "R2"
            scores.append(context.task.score(metric, test.y, fitted.predict(test.frame), None))
        assert np.mean(scores) > floor, (name, data, scores)
