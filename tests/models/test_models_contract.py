"""What every model family must keep: one suite over FAMILIES."""

import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import BundleError
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.models import FAMILIES, family_named
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.tasks import task_for

CLS, REG = TaskType.TABULAR_CLASSIFICATION, TaskType.TABULAR_REGRESSION
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
LEARNERS = pytest.mark.parametrize("family", [f for f in FAMILIES if f.name != "Dummy"], ids=lambda f: f.name)
EVERY_TASK = pytest.mark.parametrize("classes", [0, 2, 3], ids=["numbers", "two classes", "three classes"])
# Enough to learn something, short enough for a suite.
QUICK = {
    "LightGBM": {"iterations": 60},
    "CatBoost": {"iterations": 60},
    "XGBoost": {"iterations": 60},
    "ExtraTrees": {"trees": 40, "min_samples_leaf": 3},
    "RandomForest": {"trees": 40, "min_samples_leaf": 3},
    "GradientBoosting": {"iterations": 60},
    "NeuralNetwork": {"epochs": 30, "width": 32},
    "TabM": {"epochs": 30, "width": 32, "layers": 2, "members": 4, "bins": 8, "embedding": 4, "learning_rate": 0.01},
    "ExplainableBoosting": {"learning_rate": 0.1, "smoothing_rounds": 5, "interactions": 0.1, "max_bins": 32},
}


def make_schema(classes: int = 2, columns: tuple[Column, ...] | None = None) -> Schema:
    """One column of every type a model may use."""
    every = (
        Column("size", ColumnType.NUMBER),
        Column("gappy", ColumnType.NUMBER, missing_fraction=0.3),
        Column("open", ColumnType.BOOLEAN),
        Column("colour", ColumnType.CATEGORY),
        Column("when", ColumnType.DATETIME),
        Column("note", ColumnType.TEXT),
    )
    return Schema("t", every if columns is None else columns, tuple("abc"[:classes]))


def make_rows(classes: int = 2, n: int = 160, seed: int = 0) -> Rows:
    """A target that depends on a number, a category and a word."""
    rng = np.random.default_rng(seed)
    size, gappy = rng.normal(size=n), rng.normal(size=n)
    colour = rng.choice(["red", "green", "blue", None], n)
    loud = rng.random(n) < 0.5
    signal = 2 * size + 1.5 * (colour == "red") + loud + 0.1 * rng.normal(size=n)
    gappy[rng.random(n) < 0.3] = np.nan
    frame = pd.DataFrame(
        {
            "size": size,
            "gappy": gappy,
            "open": np.where(rng.random(n) < 0.1, np.nan, rng.integers(0, 2, n)),
            "colour": pd.Series(colour, dtype=object),
            "when": 1.6e9 + 1e7 * rng.random(n),
            "note": pd.Series(np.where(loud, "very loud song", "quiet song"), dtype=object),
        }
    )
    y = signal if not classes else np.searchsorted(np.quantile(signal, np.arange(1, classes) / classes), signal)
    return Rows(frame, y.astype(np.int64) if classes else y)


def make_context(schema: Schema, **changes) -> FitContext:
    task = task_for(CLS if schema.classes else REG, schema)
    values = {
        "task": task,
        "metric": "LogLoss" if schema.classes else "Rmse",
        "seed": 7,
        "threads": 1,
        "deadline": time.monotonic() + 60,
    }
    return FitContext(**(values | changes))


def fit(family, rows: Rows, schema: Schema, parameters=None, valid: Rows | None = None, **context):
    chosen = QUICK.get(family.name, {}) if parameters is None else parameters
    return family.fit(rows, valid, schema, chosen, make_context(schema, **context))


def shape_of(rows: Rows, schema: Schema) -> DataShape:
    types = [c.type for c in schema.features]
    return DataShape(
        CLS if schema.classes else REG,
        len(rows),
        len(types),
        types.count(ColumnType.CATEGORY),
        types.count(ColumnType.TEXT),
        max(1, len(schema.classes)),
    )


@EVERY_FAMILY
@EVERY_TASK
def test_predictions_have_the_tasks_form(family, classes):
    """float32, one column an output, finite; probabilities sum to 1."""
    schema, rows = make_schema(classes), make_rows(classes)

    prediction = fit(family, rows, schema, valid=make_rows(classes, 60, seed=1)).predict(rows.frame)

    assert prediction.dtype == np.float32 and prediction.shape == (160, max(1, classes))
    assert np.isfinite(prediction).all()
    assert not classes or np.allclose(prediction.sum(axis=1), 1, atol=1e-5)


@LEARNERS
@EVERY_TASK
def test_a_family_beats_the_constant_prediction(family, classes):
    """On fresh rows of a learnable target."""
    schema, rows, fresh = make_schema(classes), make_rows(classes), make_rows(classes, seed=2)
    metric = "RocAuc" if classes else "R2"
    task = task_for(CLS if classes else REG, schema)

    score = task.score(
        metric, fresh.y, fit(family, rows, schema, valid=make_rows(classes, 60, 1)).predict(fresh.frame), None
    )

    blind = family.name == "NearestNeighbors"  # every column counts alike, also those that say nothing
    assert score > (0.85 if classes else 0.7) - (0.15 if blind else 0.0)


@EVERY_FAMILY
@EVERY_TASK
def test_save_and_load_agree_to_the_last_bit(family, classes, tmp_path):
    """Also on rows with values that training never showed."""
    schema, rows = make_schema(classes), make_rows(classes)
    fitted = fit(family, rows, schema, valid=make_rows(classes, 60, seed=1))
    fresh = make_rows(classes, 50, seed=3).frame
    fresh.loc[:5, "colour"] = "violet"

    fitted.save(tmp_path)
    loaded = load_pipeline(tmp_path)

    assert np.array_equal(loaded.predict(fresh), fitted.predict(fresh))
    assert (loaded.family, loaded.parameters, loaded.best_iteration) == (
        fitted.family,
        fitted.parameters,
        fitted.best_iteration,
    )
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".pkl", ".joblib", ".pt")]


@EVERY_FAMILY
@EVERY_TASK
def test_the_same_seed_gives_the_same_model(family, classes):
    """Two fits predict the same to the last bit."""
    schema, rows = make_schema(classes), make_rows(classes)

    first, second = (fit(family, rows, schema, valid=make_rows(classes, 60, 1)).predict(rows.frame) for _ in range(2))

    assert np.array_equal(first, second)


@EVERY_FAMILY
def test_one_row_is_predicted_as_it_is_among_others(family):
    """A served row and a batch give the same answer."""
    schema, rows = make_schema(3), make_rows(3)
    fitted = fit(family, rows, schema)

    alone = np.vstack([fitted.predict(rows.frame.iloc[k : k + 1]) for k in range(10)])

    assert np.allclose(alone, fitted.predict(rows.frame)[:10], atol=1e-6)


@EVERY_FAMILY
def test_weights_change_the_model(family):
    """Where one class weighs more, fresh rows are given more of it."""
    schema, rows, fresh = make_schema(2), make_rows(2), make_rows(2, seed=1).frame
    noisy = np.where(np.random.default_rng(0).random(len(rows)) < 0.3, 1 - rows.y, rows.y)

    plain = fit(family, Rows(rows.frame, noisy), schema)
    weighted = fit(family, Rows(rows.frame, noisy, np.where(noisy == 1, 1.6, 0.4)), schema)

    assert weighted.predict(fresh)[:, 1].mean() > plain.predict(fresh)[:, 1].mean() + 0.02


@EVERY_FAMILY
@EVERY_TASK
def test_poor_columns_do_no_harm(family, classes, tmp_path):
    """All missing, constant, one level: fitted, saved, loaded and predicted like any other."""
    columns = (
        Column("nothing", ColumnType.NUMBER),
        Column("same", ColumnType.NUMBER),
        Column("empty", ColumnType.CATEGORY),
        Column("one", ColumnType.CATEGORY),
        Column("never", ColumnType.DATETIME),
        Column("silent", ColumnType.TEXT),
    )
    schema, n = make_schema(classes, columns), 40
    none = pd.Series([None] * n, dtype=object)
    frame = pd.DataFrame(
        {
            "nothing": np.full(n, np.nan),
            "same": np.ones(n),
            "empty": none,
            "one": pd.Series(["x"] * n, dtype=object),
            "never": np.full(n, np.nan),
            "silent": none,
        }
    )
    y = np.arange(n) % classes if classes else np.linspace(0, 1, n)
    fitted = fit(family, Rows(frame, y), schema)
    surprise = frame.assign(nothing=1.0, same=2.0, empty="y", one=None, never=1.6e9, silent="hello")

    fitted.save(tmp_path)

    assert np.isfinite(load_pipeline(tmp_path).predict(surprise)).all()


@EVERY_FAMILY
def test_a_single_feature_is_enough(family):
    """One number, nothing else."""
    schema = make_schema(2, (Column("size", ColumnType.NUMBER),))
    rows = make_rows(2)

    prediction = fit(family, Rows(rows.frame[["size"]], rows.y), schema).predict(rows.frame[["size"]])

    assert np.isfinite(prediction).all()


@EVERY_FAMILY
@pytest.mark.parametrize("rare_rows", [0, 1, 2])
def test_a_class_of_few_rows_keeps_its_column(family, rare_rows):
    """Also where a fold has none of it: the column is there, the probability small."""
    schema, rows = make_schema(3), make_rows(2)
    y = rows.y.copy()
    y[:rare_rows] = 2

    prediction = fit(family, Rows(rows.frame, y), schema, valid=make_rows(2, 40, 1)).predict(rows.frame)

    assert prediction.shape == (160, 3) and np.isfinite(prediction).all()
    assert prediction[rare_rows:, 2].mean() < 0.2


@EVERY_FAMILY
def test_a_handful_of_rows_is_no_crash(family):
    """Four rows, two a class."""
    schema, rows = make_schema(2), make_rows(2, 4)

    prediction = fit(family, Rows(rows.frame, np.array([0, 1, 0, 1])), schema).predict(rows.frame)

    assert np.isfinite(prediction).all()


@EVERY_FAMILY
@EVERY_TASK
def test_the_portfolio_fits_and_lies_in_known_parameters(family, classes):
    """Every entry runs as it is, in a moment, on data of its shape."""
    schema, rows = make_schema(classes), make_rows(classes, 80)
    shape = shape_of(rows, schema)

    for _, parameters in family.portfolio(shape):
        quick = {**parameters, **QUICK.get(family.name, {})}
        prediction = fit(family, rows, schema, quick, valid=make_rows(classes, 40, 1)).predict(rows.frame)
        assert np.isfinite(prediction).all()


def test_ranks_are_an_order_that_starts_with_the_floor():
    """Dummy, then Linear, then LightGBM; entries of one family never share a rank (between families the name decides)."""
    shape = shape_of(make_rows(2), make_schema(2))

    ranks = sorted((rank, f.name) for f in FAMILIES if f.fits(shape) for rank, _ in f.portfolio(shape))

    assert [name for _, name in ranks[:3]] == ["Dummy", "Linear", "LightGBM"]
    assert len(set(ranks)) == len(ranks)


@pytest.mark.parametrize("damage", ["unknown family", "newer", "no model", "no features", "garbage"])
def test_loading_is_strict(damage, tmp_path):
    """A folder that this code does not know whole is refused with a BundleError."""
    fit(family_named("Linear"), make_rows(2), make_schema(2)).save(tmp_path)
    described = tmp_path / "pipeline.json"
    text = described.read_text()
    if damage == "unknown family":
        described.write_text(text.replace("Linear", "Oracle"))
    elif damage == "newer":
        described.write_text(text.replace('"format": 1', '"format": 2'))
    elif damage == "no model":
        (tmp_path / "linear.safetensors").unlink()
    elif damage == "no features":
        (tmp_path / "features.json").unlink()
    else:
        described.write_text("{")

    with pytest.raises(BundleError):
        load_pipeline(tmp_path)


def test_loading_and_predicting_import_no_training_library(tmp_path):
    """A server that predicts with every family loads neither torch nor optuna."""
    rows = make_rows(2)
    for family in FAMILIES:
        fit(family, rows, make_schema(2)).save(tmp_path / family.name)
    rows.frame.to_parquet(tmp_path / "rows.parquet")
    script = f"""
import sys, pathlib, pandas as pd
from kubeautoml_trainer.models.pipeline import load_pipeline
folder = pathlib.Path({str(tmp_path)!r})
frame = pd.read_parquet(folder / "rows.parquet")
frame[["colour", "note"]] = frame[["colour", "note"]].astype(object).where(frame[["colour", "note"]].notna(), None)
for name in {[f.name for f in FAMILIES]!r}:
    load_pipeline(folder / name).predict(frame)
print(sorted({{"torch", "optuna", "interpret", "kubernetes", "kopf"}} & set(sys.modules)))
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


ENDLESS = {
    "LightGBM": {"iterations": 10**7, "learning_rate": 1e-5},
    "CatBoost": {"iterations": 10**6, "learning_rate": 1e-4},
    "XGBoost": {"iterations": 10**7, "learning_rate": 1e-5},
    "ExtraTrees": {"trees": 10**6},
    "RandomForest": {"trees": 10**6},
    "GradientBoosting": {"iterations": 10**7, "learning_rate": 1e-5},
    "NeuralNetwork": {"epochs": 10**6},
    "TabM": {"epochs": 10**6, "members": 4, "width": 64, "bins": 8, "embedding": 4, "learning_rate": 0.001},
    "ExplainableBoosting": {"learning_rate": 1e-4},
}


@LEARNERS
def test_a_deadline_ends_a_fit_with_the_best_so_far(family):
    """A fit that would take for ever returns a usable model about when it must."""
    schema, rows = make_schema(2), make_rows(2, 4000)
    fit(family, make_rows(2), schema)  # imports are not what is measured
    started = time.monotonic()

    fitted = fit(family, rows, schema, ENDLESS.get(family.name, {}), make_rows(2, 500, 1), deadline=started + 1.0)
    took = time.monotonic() - started

    task = task_for(CLS, schema)
    assert took < 1.0 + 1.0
    assert task.score("RocAuc", rows.y, fitted.predict(rows.frame), None) > 0.8


@LEARNERS
def test_a_deadline_in_the_past_is_a_timeout(family):
    """With no time for one step there is nothing to return."""
    with pytest.raises(FitTimeout, match=f"{family.name}: no time for one"):
        fit(family, make_rows(2), make_schema(2), deadline=time.monotonic() - 1)
