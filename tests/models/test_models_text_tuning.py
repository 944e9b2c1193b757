"""Fine-tuned text encoders: what they learn, that they are served as they were trained, without torch, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import BundleError, UsageError
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.features.tokens import Tokens
from kubeautoml_trainer.models import bound_families, torch_text_tuning
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.models.text_encoder import TextEncoder
from kubeautoml_trainer.models.torch_head import Head, layered_groups
from kubeautoml_trainer.models.torch_onnx import halved, to_onnx
from kubeautoml_trainer.models.torch_text_encoder import read_pooled
from kubeautoml_trainer.tasks import task_for
from models.encoder_factories import TEXTS

SCHEMA = Schema("y", (Column("text", ColumnType.TEXT),), ("n", "p"))
BESIDE = Schema("y", (Column("text", ColumnType.TEXT), Column("size", ColumnType.NUMBER)), ())
FINE = {"tuning": "fine", "tuning_epochs": 8, "learning_rate": 0.003, "batch_size": 16, "dropout": 0.0}


pytestmark = pytest.mark.usefixtures("own_shelf")


def make_rows(n: int = 120, seed: int = 0, *, number: bool = False) -> Rows:
    """Whether "good" stands before "bad": the same words either way, so that the order must be read."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    tails = rng.choice(["the sea", "and the river", "größe m", "", "what is a neural network"], n)
    words = np.where(y == 1, "good movie bad film", "bad film good movie")
    text = pd.Series([f"{w} {t}".strip() for w, t in zip(words, tails, strict=True)], dtype=object)
    frame = pd.DataFrame({"text": text, "size": rng.normal(size=n)})
    return Rows(frame, (3.0 * y + frame["size"].to_numpy()) if number else y.astype(np.int64))


def make_context(schema: Schema = SCHEMA, **changes: object) -> FitContext:
    kind = TaskType.TEXT_CLASSIFICATION if schema.classes else TaskType.TEXT_REGRESSION
    task = task_for(kind, schema)
    metric = "Accuracy" if schema.classes else "Rmse"
    return replace(FitContext(task, metric, 0, 1, time.monotonic() + 60), **changes)


def bound(weights: Path) -> TextEncoder:
    (family,) = bound_families({"TextEncoder": weights})
    assert isinstance(family, TextEncoder)
    return family


def test_it_learns_the_order_of_words_and_predicts_the_same_without_torch(weights: Path, tmp_path: Path):
    """Saved with its tokenizer, read by a process without torch and transformers."""
    family, fresh = bound(weights), make_rows(seed=1)

    tuned = family.fit(make_rows(), make_rows(40, 2), SCHEMA, FINE, make_context())
    tuned.save(tmp_path / "pipeline")

    assert (tuned.predict(fresh.frame).argmax(axis=1) == fresh.y).mean() > 0.95
    assert tuned.best_iteration is not None and 1 <= tuned.best_iteration <= 8
    assert np.array_equal(load_pipeline(tmp_path / "pipeline").predict(fresh.frame), tuned.predict(fresh.frame))
    fresh.frame.to_json(tmp_path / "rows.json", orient="records")
    script = f"""
import sys, json, pathlib, pandas as pd
from kubeautoml_trainer.models.pipeline import load_pipeline
folder = pathlib.Path({str(tmp_path)!r})
frame = pd.DataFrame(json.loads((folder / "rows.json").read_text()))
frame["text"] = frame["text"].astype(object)
found = load_pipeline(folder / "pipeline").predict(frame)
print(sorted({{"torch", "transformers", "optuna", "sklearn"}} & set(sys.modules)), found[:, 1].tolist())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules, _, numbers = done.stdout.partition("] ")
    assert modules == "["
    np.testing.assert_allclose(json.loads(numbers), tuned.predict(fresh.frame)[:, 1], atol=1e-6)


def test_numbers_beside_the_text_and_texts_of_every_length(weights: Path, tmp_path: Path):
    """A row's prediction depends on nothing but the row: alone, in a batch, with missing and empty texts."""
    family, rows = bound(weights), make_rows(number=True)

    fitted = family.fit(rows, make_rows(40, 2, number=True), BESIDE, FINE, make_context(BESIDE))
    fitted.save(tmp_path)

    fresh = make_rows(60, 3, number=True)
    explained = 1 - np.mean((fitted.predict(fresh.frame)[:, 0] - fresh.y) ** 2) / fresh.y.var()
    odd = pd.DataFrame({"text": pd.Series([*TEXTS, "", None, "novel " * 500], dtype=object), "size": 0.5})
    together = load_pipeline(tmp_path).predict(odd)
    alone = np.vstack([fitted.predict(odd.iloc[[k]]) for k in range(len(odd))])
    assert explained > 0.9
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.isfinite(together).all()


def test_padding_changes_nothing_and_the_file_says_what_torch_says(weights: Path):
    """Rows of a training batch are filled up; onnxruntime reads rows of one length; with weights in 16 bits to a thousandth."""
    from kubeautoml_trainer.models.onnx_network import OnnxNetwork

    torch.manual_seed(0)
    head = Head(torch.zeros(32), torch.ones(32), 0, 3, hidden=True, dropout=0.3)
    torch.nn.init.normal_(head.layers[-1].weight)
    net = torch_text_tuning.Tuned(read_pooled(weights), head).eval()
    ids = Tokens(weights / "tokenizer.json", 62).of(["good", *TEXTS])
    rows = torch_text_tuning.TokenRows(ids, torch.zeros(len(ids), 0))

    ((padded, there, numbers),) = rows.batches([torch.arange(len(ids))])
    with torch.no_grad():
        filled = net(padded, there, numbers).numpy()
    whole = OnnxNetwork(torch_text_tuning._written(net, 0))

    assert there.sum(dim=1).tolist() == [len(one) for one in ids] and len(set(map(len, ids))) > 2
    alone = np.vstack([whole.run({"ids": one[None]}) for one in ids])
    np.testing.assert_allclose(alone, filled, atol=5e-3)
    exact = OnnxNetwork(
        to_onnx(torch_text_tuning._Whole(net), [torch.ones((2, 7), dtype=torch.int64)], ["ids"], {"ids": {1: "tokens"}})
    )
    np.testing.assert_allclose(np.vstack([exact.run({"ids": one[None]}) for one in ids]), filled, atol=1e-5)
    assert len(halved(exact.data)) < 0.7 * len(exact.data)


def test_lower_layers_move_less_and_the_tokens_vectors_stay(weights: Path, monkeypatch: pytest.MonkeyPatch):
    """Rates fall by the decay from layer to layer; what is frozen has none, and is the same after training."""
    net = read_pooled(weights)
    net.net.get_input_embeddings().requires_grad_(False)
    head = Head(torch.zeros(32), torch.ones(32), 0, 2, hidden=False, dropout=0.0)
    factor = {id(t): g["factor"] for g in layered_groups(net, head, 0.5) for t in g["params"]}
    named = {name: factor.get(id(p)) for name, p in net.named_parameters()}
    assert {f for n, f in named.items() if ".layer.1." in n} == {0.5}
    assert {f for n, f in named.items() if ".layer.0." in n} == {0.25}
    assert named["net.embeddings.word_embeddings.weight"] is None
    assert {factor[id(p)] for p in head.parameters()} == {10.0}

    kept: list[torch_text_tuning.Tuned] = []
    written = torch_text_tuning._written
    monkeypatch.setattr(torch_text_tuning, "_written", lambda net, k: (kept.append(net), written(net, k))[1])
    bound(weights).fit(make_rows(), None, SCHEMA, {**FINE, "tuning_epochs": 2}, make_context())
    before, after = read_pooled(weights).state_dict(), kept[0].backbone.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "net.embeddings.word_embeddings.weight" not in moved
    assert any(".layer.0." in name for name in moved) and any(".layer.1." in name for name in moved)


def test_the_same_seed_gives_the_same_network(weights: Path):
    """To the last bit on one machine."""
    family, fresh = bound(weights), make_rows(20, 4)
    settings = {**FINE, "tuning_epochs": 2, "dropout": 0.3}

    first, second = (
        family.fit(make_rows(), make_rows(40, 2), SCHEMA, settings, make_context()).predict(fresh.frame) for _ in "ab"
    )

    assert np.array_equal(first, second)


def test_two_processes_tune_as_one_does(weights: Path, monkeypatch: pytest.MonkeyPatch):
    """As on the GPUs of one pod: each learns its share of every batch, and the gradients are those of all."""
    from kubeautoml_trainer.models import torch_parallel

    family, fresh = bound(weights), make_rows(60, 1)
    settings = {**FINE, "tuning_epochs": 4}

    def fitted() -> np.ndarray:
        return family.fit(make_rows(), make_rows(40, 2), SCHEMA, settings, make_context()).predict(fresh.frame)

    one = fitted()
    joined: list[int] = []
    everywhere = torch_parallel.everywhere
    monkeypatch.setattr(torch_parallel, "accelerators", lambda: [torch.device("cpu")] * 2)
    monkeypatch.setattr(
        torch_parallel,
        "everywhere",
        lambda work, devices, *rest: (joined.append(len(devices)), everywhere(work, devices, *rest))[1],
    )
    both = fitted()

    assert joined == [2]
    assert (both.argmax(axis=1) == fresh.y).mean() > 0.95
    np.testing.assert_allclose(both, one, atol=0.15)  # dropout inside the encoder falls otherwise in each process


def test_without_time_or_weights_one_sentence_says_so(weights: Path, tmp_path: Path):
    """The family is named, and what to do; a tuned pipeline is no start for another."""
    family = bound(weights)
    with pytest.raises(FitTimeout, match="TextEncoder: no time"):
        family.fit(make_rows(), None, SCHEMA, FINE, make_context(deadline=time.monotonic() - 1))
    with pytest.raises(UsageError, match="needs its weights to be fine-tuned"):
        TextEncoder(family.encoder).fit(make_rows(), None, SCHEMA, FINE, make_context())
    family.fit(make_rows(), None, SCHEMA, {**FINE, "tuning_epochs": 1}, make_context()).save(tmp_path)
    with pytest.raises(BundleError, match="does not hold the weights that it began with"):
        TextEncoder().bound(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        load_pipeline(tmp_path)
    (tmp_path / "tuned_text.json").write_text("{}")
    with pytest.raises(BundleError, match="the model is damaged"):
        load_pipeline(tmp_path)


def test_fine_tuning_is_tried_early_only_with_an_accelerator(weights: Path):
    """It takes minutes on a CPU; its parameters exist only with it."""
    family = bound(weights)
    shape = DataShape(TaskType.TEXT_CLASSIFICATION, 500, 1, 0, 1, 2)

    def rank(shape: DataShape) -> int:
        return next(r for r, p in family.portfolio(shape) if p.get("tuning") == "fine")

    assert rank(replace(shape, accelerated=True)) < rank(shape)
    space = family.space(shape)
    assert space["C"].when == {"tuning": "frozen"} and space["layer_decay"].when == {"tuning": "fine"}
