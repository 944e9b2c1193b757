"""Quantiles of a number: columns rise, cover as they say, beat constants, and are the same after loading."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.schema import schema_from_json, schema_to_json
from kubeautoml_trainer.models import QUANTILE_FAMILIES, family_named
from kubeautoml_trainer.models.pipeline import load_pipeline
from models.models_factories import make_context, make_real, parts_of

LEVELS = (0.1, 0.5, 0.9)


@pytest.fixture(scope="module")
def numbers():
    rows, schema = make_real("diabetes")
    return parts_of(rows), replace(schema, quantiles=LEVELS)


@pytest.mark.parametrize("name", QUANTILE_FAMILIES)
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
    (tmp_path / "lightgbm-quantiles.json").write_text(text)

    with pytest.raises(BundleError, match=r"lightgbm-quantiles\.json"):
        family_named("LightGBM").load(tmp_path)


def test_a_schema_keeps_its_quantiles():
    _, schema = make_real("diabetes")

    assert schema_from_json(schema_to_json(replace(schema, quantiles=LEVELS))) == replace(schema, quantiles=LEVELS)
