"""Boosters whose leaves are told in fewer digits: smaller, and they predict the same but for what nobody can see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import catboost
import lightgbm as lgb
import numpy as np
import pytest

from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.leaf_values import KEPT, LEAN, lightgbm_leaves, round_catboost_leaves
from kubeautoml_trainer.models.packed import write_packed
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.models.prediction_only import lightgbm_text
from models.models_factories import make_context, make_real, parts_of

ROWS, TREES = 2_000, 200
SHARES = pytest.mark.parametrize("share", [KEPT, LEAN])


def make_rows(unit: float, mean: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 5))
    return x, mean + unit * (x[:, 0] * x[:, 1] + np.abs(x[:, 2]) + rng.normal(size=ROWS) / 4)


def bytes_of(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*"))


@SHARES
@pytest.mark.parametrize(("unit", "mean"), [(1.0, 0.0), (1e-9, 0.0), (1e9, 0.0), (1.0, 1e6)])
def test_a_lightgbm_model_is_smaller_whatever_the_unit_and_the_mean(
    tmp_path: Path, share: float, unit: float, mean: float
) -> None:
    """Errors are of the size of what trees say, not of the target's mean, which the first of them carries."""
    x, y = make_rows(unit, mean)
    settings = {"objective": "regression", "num_leaves": 31, "verbosity": -1, "num_threads": 1}
    whole = lightgbm_text(lgb.train(settings, lgb.Dataset(x, y), TREES).model_to_string())

    lean = lightgbm_leaves(whole, share)

    before, after = lgb.Booster(model_str=whole), lgb.Booster(model_str=lean)
    write_packed(tmp_path / "before", whole.encode())
    write_packed(tmp_path / "after", lean.encode())
    assert np.abs(before.predict(x) - after.predict(x)).max() < share * y.std()
    assert np.array_equal(before.predict(x, pred_leaf=True), after.predict(x, pred_leaf=True))
    assert (tmp_path / "after").stat().st_size < 0.8 * (tmp_path / "before").stat().st_size


@SHARES
@pytest.mark.parametrize("loss", ["RMSE", "Logloss", "MultiClass", "MultiQuantile:alpha=0.1,0.9"])
def test_a_catboost_model_predicts_by_its_new_leaves_at_once_and_once_it_is_read(
    tmp_path: Path, loss: str, share: float
) -> None:
    x, said = make_rows(1.0, 0.0)
    cuts = {"Logloss": [0.5], "MultiClass": [0.3, 0.6]}.get(loss)
    y = said if cuts is None else np.digitize(said, np.quantile(said, cuts))
    settings: dict[str, Any] = {"loss_function": loss, "iterations": 60, "allow_writing_files": False, "verbose": 0}
    booster = catboost.CatBoost(settings)
    booster.fit(x, y)
    before, leaves = booster.predict(x), booster.get_leaf_values()
    booster.save_model(str(tmp_path / "whole.cbm"))

    round_catboost_leaves(booster, share)

    after = booster.predict(x)
    booster.save_model(str(tmp_path / "lean.cbm"))
    again = catboost.CatBoost().load_model(str(tmp_path / "lean.cbm"))
    assert not np.array_equal(booster.get_leaf_values(), leaves)
    assert not np.array_equal(after, before) and np.abs(after - before).max() < share * before.std()
    assert np.array_equal(again.predict(x), after)


def test_what_holds_no_leaves_stays_as_it_is() -> None:
    """No model, and a tree that says nothing."""
    x, y = make_rows(1.0, 0.0)
    silent = lgb.train({"objective": "regression", "verbosity": -1}, lgb.Dataset(x, np.zeros(ROWS)), 2)
    text = silent.model_to_string()
    empty = catboost.CatBoost({"iterations": 2, "allow_writing_files": False, "verbose": 0})
    empty.fit(x, y)
    empty.set_leaf_values(np.zeros(len(empty.get_leaf_values())))

    round_catboost_leaves(empty, LEAN)

    assert lightgbm_leaves("no model", LEAN) == "no model"
    assert lightgbm_leaves(text, LEAN) == text
    assert not empty.get_leaf_values().any()


@pytest.mark.parametrize("name", ["LightGBM", "CatBoost", "XGBoost", "Linear"])
def test_a_lean_pipeline_is_stored_in_fewer_bytes_and_read_as_it_was(tmp_path: Path, name: str) -> None:
    """Also one that was read itself; a family that has no such way stays as it is."""
    rows, schema = make_real("wine")
    train, valid, test = parts_of(rows)
    whole = family_named(name).fit(train, valid, schema, {}, make_context(schema))
    whole.save(tmp_path / "whole")

    for k, pipeline in enumerate((whole, load_pipeline(tmp_path / "whole"))):
        lean = pipeline.lean()
        lean.save(tmp_path / f"lean{k}")

        said = lean.predict(test.frame)
        assert np.array_equal(load_pipeline(tmp_path / f"lean{k}").predict(test.frame), said)
        assert np.allclose(said, pipeline.predict(test.frame), atol=1e-3)
        smaller = bytes_of(tmp_path / f"lean{k}") / bytes_of(tmp_path / "whole")
        assert smaller < 0.9 if name in ("LightGBM", "CatBoost") else smaller == 1.0
        assert (lean is pipeline) == (name in ("XGBoost", "Linear"))
    assert np.array_equal(load_pipeline(tmp_path / "whole").predict(test.frame), whole.predict(test.frame))
