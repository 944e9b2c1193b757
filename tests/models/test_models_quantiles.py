"""Quantiles of a number: columns rise, cover as they say, beat constants, and are the same after loading."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.data.schema import schema_from_json, schema_to_json
from kubeautoml_trainer.models import FAMILIES, QUANTILE_FAMILIES, family_named
from kubeautoml_trainer.models.base import FitTimeout
from kubeautoml_trainer.models.packed import write_packed
from kubeautoml_trainer.models.pipeline import load_pipeline
from models.models_factories import make_context, make_real, parts_of

LEVELS = (0.1, 0.5, 0.9)


@pytest.fixture(scope="module")
def numbers():
    rows, schema = make_real("diabetes")
    return parts_of(rows), replace(schema, quantiles=LEVELS)


@pytest.mark.parametrize("name", [f.name for f in FAMILIES if f.name in QUANTILE_FAMILIES])
def test_quantiles_rise_beat_constants_and_load_back(name, numbers, tmp_path):
    """Float32 (n, 3), sorted in each row; the loss is at most that of the training rows' own quantiles."""
    (train, valid, test), schema = numbers
    context = make_context(schema, metric="PinballLoss")
    fitted = family_named(name).fit(train, valid, schema, {}, context)

    got = fitted.predict(test.frame)

    assert got.dtype == np.float32 and got.shape == (len(test), 3)
    assert np.all(np.diff(got, axis=1) >= 0)
    constant = np.tile(context.task.prior(train.y, None), (len(test), 1))
    loss, floor = (context.task.score("PinballLoss", test.y, p, None) for p in (got, constant))
    assert loss <= floor if name == "Dummy" else loss < 0.9 * floor
    assert np.mean((test.y >= got[:, 0]) & (test.y <= got[:, 2])) == pytest.approx(0.8, abs=0.2)
    fitted.save(tmp_path / "model")
    np.testing.assert_allclose(load_pipeline(tmp_path / "model").predict(test.frame), got, rtol=1e-5)


@pytest.mark.parametrize("text", ["[]", "{}", "nothing", '["no model"]'])
def test_damaged_quantile_boosters_are_refused(text, tmp_path):
    write_packed(tmp_path / "lightgbm-quantiles.json.zst", text.encode())

    with pytest.raises(BundleError, match=r"lightgbm-quantiles\.json"):
        family_named("LightGBM").load(tmp_path)


def test_a_schema_keeps_its_quantiles():
    _, schema = make_real("diabetes")

    assert schema_from_json(schema_to_json(replace(schema, quantiles=LEVELS))) == replace(schema, quantiles=LEVELS)


def make_lines(rows, *, seed=0):
    """A target whose spread grows with x, so that its quantiles are lines with different slopes."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, rows)
    y = 5 + 2 * x + (0.5 + x) * rng.standard_exponential(rows)
    frame = pd.DataFrame({"x": x, "other": rng.normal(size=rows)})
    columns = (Column("x", ColumnType.NUMBER), Column("other", ColumnType.NUMBER))
    return Rows(frame, y), Schema("y", columns, quantiles=LEVELS)


def test_linear_quantiles_are_scikit_learns():
    """Its linear programme, without a penalty, on rows whose spread grows: the same lines, and the same loss."""
    from sklearn.linear_model import QuantileRegressor

    train, schema = make_lines(600)
    test, _ = make_lines(4000, seed=1)
    context = make_context(schema, metric="PinballLoss")

    got = (
        family_named("Linear").fit(train, None, schema, {"C": 1e3, "scaling": "standard"}, context).predict(test.frame)
    )

    exact = [
        QuantileRegressor(quantile=q, alpha=0.0, solver="highs").fit(train.frame, train.y).predict(test.frame)
        for q in LEVELS
    ]
    ours, theirs = (
        context.task.score("PinballLoss", test.y, p, None) for p in (got, np.stack(exact, axis=1).astype(np.float32))
    )
    assert ours == pytest.approx(theirs, rel=0.005)
    true = 5 + 2 * test.frame["x"].to_numpy() - (0.5 + test.frame["x"].to_numpy()) * np.log(1 - 0.9)
    assert np.mean(np.abs(got[:, 2] - true)) < 0.1 * np.std(true)


def test_linear_quantiles_heed_weights_and_words(tmp_path):
    """Rows of no weight do not move them; a sparse matrix of words is a column like any other."""
    train, schema = make_lines(400)
    weight = np.where(np.arange(400) < 200, 2.0, 0.0)
    spoilt = np.where(weight > 0, train.y, -1e4)
    context = make_context(schema, metric="PinballLoss")

    some = family_named("Linear").fit(Rows(train.frame, spoilt, weight), None, schema, {"scaling": "standard"}, context)

    alone = family_named("Linear").fit(train.take(np.arange(200)), None, schema, {"scaling": "standard"}, context)
    inside = np.mean(train.y[:200, None] <= some.predict(train.frame.iloc[:200]), axis=0)
    assert inside == pytest.approx(LEVELS, abs=0.02)
    assert alone.predict(train.frame.iloc[:200]).mean() == pytest.approx(
        some.predict(train.frame.iloc[:200]).mean(), rel=0.2
    )
    worded = Rows(train.frame.assign(note=np.where(train.frame["x"] > 5, "steep high", "low flat")), train.y)
    texts = replace(schema, columns=(*schema.columns, Column("note", ColumnType.TEXT)))
    fitted = family_named("Linear").fit(worded, None, texts, {}, make_context(texts, metric="PinballLoss"))
    assert np.all(np.diff(fitted.predict(worded.frame), axis=1) >= 0)


def test_linear_quantiles_keep_their_deadline():
    """Without a step there is no model; with a few, there is one."""
    train, schema = make_lines(20_000)

    with pytest.raises(FitTimeout, match="Linear"):
        late = make_context(schema, metric="PinballLoss", deadline=time.monotonic() - 1)
        family_named("Linear").fit(train, None, schema, {}, late)
