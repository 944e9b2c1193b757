"""Boosters lose what only training needs, and nothing that a prediction does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import catboost
import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb
import zstandard

from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.packed import read_packed
from kubeautoml_trainer.models.prediction_only import forget_training, lightgbm_text, xgboost_ubj
from models.models_factories import make_context, make_real, parts_of

ROWS, COLUMNS, CODES = 2_500, 6, 40
FEWER = 0.7  # thresholds of numbers that are all different are the larger part of what stays
LOSSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "numbers": ({"objective": "regression"}, {"objective": "reg:squarederror"}),
    "quantiles": (
        {"objective": "quantile", "alpha": 0.9},
        {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.9]},
    ),
    "two classes": ({"objective": "binary"}, {"objective": "binary:logistic"}),
    "three classes": ({"objective": "multiclass", "num_class": 3}, {"objective": "multi:softprob", "num_class": 3}),
}


def make_rows() -> tuple[np.ndarray, np.ndarray]:
    """Numbers with gaps, the last column a code, and what they say."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, COLUMNS))
    x[:, -1] = rng.integers(0, CODES, ROWS)
    said = x[:, 0] * x[:, 1] + (x[:, -1] % 3) + rng.normal(size=ROWS) / 4
    x[rng.random(x.shape) < 0.05] = np.nan
    return x, said


def make_target(said: np.ndarray, kind: str) -> np.ndarray:
    if kind in ("numbers", "quantiles"):
        return said
    return np.digitize(said, np.quantile(said, [0.5] if kind == "two classes" else [0.3, 0.6])).astype(float)


def packed(raw: bytes) -> int:
    return len(zstandard.ZstdCompressor(level=3).compress(raw))


@pytest.mark.parametrize("kind", LOSSES)
def test_lightgbm_predicts_the_same_from_fewer_bytes(kind: str) -> None:
    x, said = make_rows()
    data = lgb.Dataset(x, make_target(said, kind), categorical_feature=[COLUMNS - 1])
    settings = LOSSES[kind][0] | {"num_leaves": 31, "verbosity": -1, "deterministic": True}
    whole = lgb.train(settings, data, num_boost_round=60).model_to_string()

    lean = lightgbm_text(whole)

    before, after = lgb.Booster(model_str=whole), lgb.Booster(model_str=lean)
    assert np.array_equal(before.predict(x), after.predict(x))
    assert np.array_equal(before.predict(x, pred_leaf=True), after.predict(x, pred_leaf=True))
    assert after.num_trees() == before.num_trees()
    assert packed(lean.encode()) < FEWER * packed(whole.encode())
    assert lightgbm_text(lean) == lean


@pytest.mark.parametrize("kind", LOSSES)
def test_xgboost_predicts_the_same_from_fewer_bytes(kind: str) -> None:
    x, said = make_rows()
    kinds = ["q"] * (COLUMNS - 1) + ["c"]
    data = xgb.QuantileDMatrix(x, make_target(said, kind), feature_types=kinds, enable_categorical=True)
    booster = xgb.train(LOSSES[kind][1] | {"max_depth": 6, "tree_method": "hist"}, data, num_boost_round=60)
    whole = bytes(booster.save_raw("ubj"))

    lean = xgboost_ubj(whole)

    after = xgb.Booster(model_file=bytearray(lean))
    assert np.array_equal(booster.predict(data), after.predict(data))
    assert np.array_equal(booster.predict(data, pred_leaf=True), after.predict(data, pred_leaf=True))
    assert packed(lean) < FEWER * packed(whole)
    assert xgboost_ubj(lean) == lean


def test_a_lightgbm_model_without_a_split_stays_one() -> None:
    x, _ = make_rows()
    booster = lgb.train({"objective": "regression", "verbosity": -1}, lgb.Dataset(x, np.full(ROWS, 3.0)), 2)
    whole = booster.model_to_string()

    again = lgb.Booster(model_str=lightgbm_text(whole))

    assert np.array_equal(again.predict(x), booster.predict(x))


@pytest.mark.parametrize("loss", ["RMSE", "Logloss", "MultiClass", "MultiQuantile:alpha=0.1,0.9"])
def test_catboost_predicts_the_same_without_its_records(tmp_path: Path, loss: str) -> None:
    x, said = make_rows()
    y = make_target(said, {"Logloss": "two classes", "MultiClass": "three classes"}.get(loss, "numbers"))
    booster = catboost.CatBoost({"loss_function": loss, "iterations": 40, "allow_writing_files": False, "verbose": 0})
    booster.fit(x, y)
    booster.save_model(str(tmp_path / "whole.cbm"))
    kind = "Probability" if loss in ("Logloss", "MultiClass") else "RawFormulaVal"
    before = booster.predict(x, prediction_type=kind)

    forget_training(booster)

    booster.save_model(str(tmp_path / "lean.cbm"))
    again = catboost.CatBoost().load_model(str(tmp_path / "lean.cbm"))
    assert np.array_equal(again.predict(x, prediction_type=kind), before)
    assert "training" not in again.get_metadata()
    assert "params" in again.get_metadata()
    assert packed((tmp_path / "lean.cbm").read_bytes()) < packed((tmp_path / "whole.cbm").read_bytes())


def test_bytes_that_are_no_booster_stay_as_they_are() -> None:
    assert lightgbm_text("no model") == "no model"
    assert xgboost_ubj(b"no model") == b"no model"


def test_families_store_no_more(tmp_path: Path) -> None:
    rows, schema = make_real("wine")
    train, valid, _ = parts_of(rows)
    for name in ("LightGBM", "XGBoost"):
        family_named(name).fit(train, valid, schema, {}, make_context(schema)).model.save(tmp_path)

    text = read_packed(tmp_path / "lightgbm.txt.zst").decode()
    raw = read_packed(tmp_path / "xgboost.ubj.zst")

    assert "leaf_value=" in text
    assert "split_gain=" not in text
    assert xgboost_ubj(raw) == raw
