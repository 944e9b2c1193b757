"""The slot for tabular foundation models: off without weights; with them it learns from rows, saves, loads and keeps its time."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import BundleError, UsageError
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.models import (
    FAMILIES,
    PRETRAINED_FAMILIES,
    bound_families,
    family_as_fitted,
    family_named,
    tabular_foundation,
)
from kubeautoml_trainer.models.base import DataShape, FitTimeout
from kubeautoml_trainer.models.in_context import NUMPY, answer, load_network, remember
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.models.tabular_foundation import TabularFoundation, drawn
from kubeautoml_trainer.models.torch_in_context import TORCH, on_device
from models.foundation_factories import TINY, make_network, trained_network, write_network
from models.models_factories import CLS, REG, clock_by_hand, make_context, make_real, parts_of, weighted

SHAPE = DataShape(CLS, rows=300, features=8, categories=1, texts=0, outputs=2)


@pytest.fixture(scope="module")
def trained():
    return trained_network()


def make_mixed(classes: int, n: int = 150, seed: int = 0) -> tuple[Rows, Schema]:
    """Numbers with gaps, a category and a text: more columns than the network has room for."""
    rng = np.random.default_rng(seed)
    size, gappy = rng.normal(size=n), rng.normal(size=n)
    colour = rng.choice(np.array(["red", "green", None], dtype=object), n)
    y = 2 * size + (colour == "red")
    gappy[::5] = np.nan
    frame = pd.DataFrame({"size": size, "gappy": gappy, "colour": pd.Series(colour, dtype=object)})
    frame["note"] = pd.Series(rng.choice(np.array(["a loud song", "two quiet words"], dtype=object), n), dtype=object)
    kinds = (ColumnType.NUMBER, ColumnType.NUMBER, ColumnType.CATEGORY, ColumnType.TEXT)
    columns = tuple(Column(name, kind) for name, kind in zip(frame.columns, kinds, strict=True))
    target = y if not classes else np.searchsorted(np.quantile(y, np.arange(1, classes) / classes), y).astype(np.int64)
    return Rows(frame, target), Schema("t", columns, tuple("abc"[:classes]))


def test_torch_and_numpy_run_the_same_network():
    """To 1e-5, for both heads, by the functions themselves and by what the device would run."""
    rng, network = np.random.default_rng(0), make_network()
    x, asked = rng.normal(size=(40, 10)).astype(np.float32), rng.normal(size=(30, 10)).astype(np.float32)
    y = rng.integers(0, 3, 40).astype(np.float32)
    tensors = {name: torch.from_numpy(a) for name, a in network.weights.items()}

    for head in ("class", "number"):
        by_numpy = answer(NUMPY, TINY, network.weights, remember(NUMPY, TINY, network.weights, x, y), asked, head)
        memory = remember(TORCH, TINY, tensors, torch.from_numpy(x), torch.from_numpy(y))
        by_torch = answer(TORCH, TINY, tensors, memory, torch.from_numpy(asked), head).numpy()
        assert by_numpy.dtype == np.float32 and by_numpy.shape == (30, 3 if head == "class" else 1)
        assert np.abs(by_numpy - by_torch).max() < 1e-5
        assert np.abs(on_device(network, x, y, head)(asked) - by_numpy).max() < 1e-5


def test_a_row_is_predicted_by_itself_and_by_all_rows_to_learn_from():
    """Other rows that are asked for change nothing; a row to learn from changes everything; their order does not."""
    rng, network = np.random.default_rng(0), make_network()
    x, y = rng.normal(size=(40, 10)).astype(np.float32), rng.integers(0, 3, 40).astype(np.float32)
    asked, order = rng.normal(size=(30, 10)).astype(np.float32), rng.permutation(40)

    def predict(x, y, asked):
        return answer(NUMPY, TINY, network.weights, remember(NUMPY, TINY, network.weights, x, y), asked, "class")

    whole = predict(x, y, asked)
    np.testing.assert_allclose(predict(x, y, asked[:1]), whole[:1], atol=1e-6)
    np.testing.assert_allclose(predict(x[order], y[order], asked), whole, atol=1e-6)
    assert np.abs(predict(x, np.where(np.arange(40) == 7, 2 - y, y), asked) - whole).max() > 1e-6


def test_it_learns_from_the_rows_it_is_given(trained):
    """Trained on made tasks alone, for seconds: real classes, and a line, are predicted far better than by chance."""
    rows, schema = make_real("breast_cancer")
    train, valid, test = parts_of(rows)
    context = make_context(schema)
    fitted = TabularFoundation(trained).fit(train, valid, schema, {"views": 2}, context)
    line, line_schema = make_real("diabetes")
    slope = np.linspace(-1, 2, 10)
    exact = Rows(line.frame, line.frame.to_numpy() @ slope)
    of_line, _, fresh = parts_of(exact)
    number = TabularFoundation(trained).fit(of_line, None, line_schema, {}, make_context(line_schema))

    auc = context.task.score("RocAuc", test.y, fitted.predict(test.frame), None)
    r2 = make_context(line_schema).task.score("R2", fresh.y, number.predict(fresh.frame), None)

    assert auc > 0.93
    assert r2 > 0.1


@pytest.mark.parametrize("classes", [0, 2, 3], ids=["numbers", "two classes", "three classes"])
@pytest.mark.parametrize("views", [1, 3])
def test_a_fitted_model_is_the_same_after_loading_and_needs_no_torch(classes, views, tmp_path):
    """To the last bit, with its own copy of the weights, on mixed columns with surprises; predictions have the task's form."""
    rows, schema = make_mixed(classes)
    family = TabularFoundation(make_network())
    fitted = family.fit(weighted(rows), None, schema, {"views": views}, make_context(schema))
    fresh = make_mixed(classes, 40, seed=1)[0].frame
    fresh.loc[:5, "colour"] = "violet"

    fitted.save(tmp_path)
    script = f"""
import sys, pathlib, numpy as np, pandas as pd
from kubeautoml_trainer.models.pipeline import load_pipeline
frame = pd.read_json({str(tmp_path / "rows.json")!r}, dtype=False)
np.save({str(tmp_path / "there.npy")!r}, load_pipeline(pathlib.Path({str(tmp_path)!r})).predict(frame))
print(sorted({{"torch", "optuna"}} & set(sys.modules)))
"""
    fresh.to_json(tmp_path / "rows.json", double_precision=15)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    predicted = fitted.predict(fresh)
    assert done.stdout.strip() == "[]", done.stderr
    assert np.array_equal(load_pipeline(tmp_path).predict(fresh), predicted)
    np.testing.assert_allclose(np.load(tmp_path / "there.npy"), predicted, atol=1e-6)
    assert predicted.shape == (40, max(1, classes)) and predicted.dtype == np.float32
    assert not classes or np.allclose(predicted.sum(axis=1), 1, atol=1e-5)
    assert len(fitted.model.columns) == TINY.features


def test_no_more_rows_are_learned_from_than_the_weights_allow():
    """Of each kind its share; heavy rows stay, rows that weigh nothing go."""
    rows, schema = make_real("breast_cancer")
    family = TabularFoundation(make_network(replace(TINY, rows=50)))

    fitted = family.fit(rows, None, schema, {}, make_context(schema))

    assert fitted.model.x.shape == (50, 10) and 0.4 < fitted.model.y.mean() < 0.85
    weight = np.where(np.arange(100) < 10, 8.1, 0.0)
    assert set(drawn(weight, True, 1000, 0)) == set(range(10)) and len(drawn(weight, True, 1000, 0)) == 100
    assert np.array_equal(drawn(np.ones(5), False, 10, 0), np.arange(5))


def test_a_short_time_leaves_fewer_rows_and_none_is_a_timeout(monkeypatch):
    """By what a few rows took. The clock runs by hand: each look at it is a second, and so 64 rows take one."""
    rows, schema = make_real("diabetes")
    family = TabularFoundation(make_network())
    clock = clock_by_hand(monkeypatch, tabular_foundation)

    plenty = family.fit(rows, None, schema, {}, make_context(schema, deadline=1e6))
    short = family.fit(rows, None, schema, {}, make_context(schema, deadline=clock() + 7))

    assert len(plenty.model.x) == TINY.rows and len(short.model.x) == TINY.rows // 2
    with pytest.raises(FitTimeout, match="TabularFoundation: no time for one"):
        family.fit(rows, None, schema, {}, make_context(schema, deadline=clock() - 1))


def test_it_takes_part_only_with_weights_for_such_data(tmp_path):
    """Unbound it fits nothing and says what is missing; bound, as far as its config goes."""
    unbound, bound = family_named("TabularFoundation"), TabularFoundation(make_network())
    rows, schema = make_mixed(2)

    assert unbound in PRETRAINED_FAMILIES and unbound not in FAMILIES and not unbound.fits(SHAPE)
    with pytest.raises(UsageError, match=r"needs weights; name them in spec\.search\.pretrained"):
        unbound.fit(rows, None, schema, {}, make_context(schema))
    assert bound.fits(SHAPE) and bound.fits(replace(SHAPE, task=REG, outputs=1))
    assert not bound.fits(replace(SHAPE, outputs=4)) and not bound.fits(replace(SHAPE, rows=100_000))
    assert not bound.fits(replace(SHAPE, task=REG, outputs=3, quantiles=3))
    assert not TabularFoundation(make_network(replace(TINY, numbers=0))).fits(replace(SHAPE, task=REG, outputs=1))
    assert bound_families({}) == ()
    (found,) = bound_families({"TabularFoundation": write_network(tmp_path / "w", make_network())})
    assert found.fits(SHAPE) and found.name == "TabularFoundation"


def test_a_saved_pipeline_can_be_fitted_again(tmp_path):
    """Its folder holds the weights, so a refit needs no other place; another family is just itself."""
    rows, schema = make_mixed(2)
    fitted = TabularFoundation(make_network()).fit(rows, None, schema, {}, make_context(schema))
    fitted.save(tmp_path)

    again = family_as_fitted("TabularFoundation", lambda: tmp_path).fit(rows, None, schema, {}, make_context(schema))

    assert np.array_equal(again.predict(rows.frame), fitted.predict(rows.frame))
    assert family_as_fitted("Linear", lambda: tmp_path / "absent") is family_named("Linear")


DAMAGES = {
    "a file": r"the weights must be a folder, with a URI that ends in /",
    "no config": r"config\.json cannot be read",
    "no tensors": r"model\.safetensors cannot be read",
    "format 2": r"config\.json must have format 1 and exactly the members features, classes",
    "more members": r"config\.json must have format 1 and exactly the members features, classes",
    "negative": r"config\.json: all members must be whole numbers of 0 or more",
    "no columns": r"config\.json: features, rows, width, heads and hidden must be 1 or more",
    "odd heads": r"config\.json: heads must divide width",
    "more layers": r"model\.safetensors must hold exactly the tensors of its config, 'layer2\.",
    "wider": r"model\.safetensors: .* must be float32 \(.*\), got float32",
    "not a number": r"model\.safetensors: feature\.bias must hold finite numbers only",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_cannot_be_run_are_refused_with_what_is_wrong(damage, tmp_path):
    """Before anything is learned with them."""
    folder = write_network(tmp_path / "w", make_network())
    config = json.loads((folder / "config.json").read_text())
    changes = {
        "format 2": {"format": 2},
        "more members": {"dropout": 0},
        "negative": {"layers": -1},
        "no columns": {"features": 0},
        "odd heads": {"heads": 5},
        "more layers": {"layers": 3},
        "wider": {"width": 64},
    }.get(damage, {})
    (folder / "config.json").write_text(json.dumps(config | changes))
    if damage in ("no config", "no tensors"):
        (folder / {"no config": "config.json", "no tensors": "model.safetensors"}[damage]).unlink()
    if damage == "not a number":
        broken = make_network()
        broken.weights["feature.bias"][0] = np.nan
        write_network(folder, broken)
    path = folder / "config.json" if damage == "a file" else folder

    with pytest.raises(BundleError, match=DAMAGES[damage]):
        bound_families({"TabularFoundation": path})


def test_a_network_is_written_and_read_as_it_is(tmp_path):
    network = make_network()

    again = load_network(write_network(tmp_path, network))

    assert again.config == network.config
    assert all(np.array_equal(again.weights[name], a) for name, a in network.weights.items())
