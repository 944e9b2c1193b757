"""Pretrained text encoders: transformers' own numbers from onnxruntime, weights that stand once, deadlines, and bad folders."""

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
from kubeautoml_trainer.features import Recipe, encoders, fit_features
from kubeautoml_trainer.features.encoders import Encoder, EncodingTimeout
from kubeautoml_trainer.models import bound_families, family_as_fitted, family_named
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.models.text_encoder import TextEncoder
from kubeautoml_trainer.models.torch_text_encoder import computed_on, export
from kubeautoml_trainer.tasks import task_for
from models.encoder_factories import TEXTS, write_encoder

SCHEMA = Schema("y", (Column("text", ColumnType.TEXT), Column("size", ColumnType.NUMBER)), ("n", "p"))


pytestmark = pytest.mark.usefixtures("own_shelf")


def make_rows(n: int = 80, seed: int = 0) -> Rows:
    """Texts of two kinds, and a number."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    words = np.where(y == 1, "good movie", "bad film")
    tails = rng.choice(["the sea", "and the river", "größe m", ""], n)
    text = pd.Series([f"{w} {t}".strip() for w, t in zip(words, tails, strict=True)], dtype=object)
    return Rows(pd.DataFrame({"text": text, "size": rng.normal(size=n)}), y.astype(np.int64))


def make_context(**changes: object) -> FitContext:
    task = task_for(TaskType.TEXT_CLASSIFICATION, SCHEMA)
    return replace(FitContext(task, "Accuracy", 0, 1, time.monotonic() + 60), **changes)


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5"])
def test_onnxruntime_says_what_transformers_says(kind: str, tmp_path: Path):
    """The mean over the last layer's vectors, of length 1, for texts of every length, alone and in batches, with padding in theirs."""
    from transformers import AutoModel, PreTrainedTokenizerFast

    source = write_encoder(tmp_path / kind, kind=kind)
    (tmp_path / "out").mkdir()
    export(source, tmp_path / "out")
    encoder = Encoder("x", lambda: tmp_path / "out")
    texts = [*TEXTS, "x", " ".join(TEXTS), "novel " * 200]

    ours = encoder.encode(texts)

    net = AutoModel.from_pretrained(source, attn_implementation="eager").eval()
    net = net.get_encoder() if kind == "t5" else net
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), pad_token="[PAD]")
    most = encoder.facts["maxTokens"]
    given = tokenizer(texts, padding=True, truncation=True, max_length=most, return_tensors="pt")
    with torch.no_grad():
        states = net(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
    mask = given["attention_mask"][:, :, None]
    theirs = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(np.vstack([encoder.encode([t]) for t in texts]), ours, atol=1e-6)


def test_an_accelerator_says_what_onnxruntime_says(weights: Path):
    """What the fits of a pod with a GPU read; here on the CPU, in test_models_cuda on a device."""
    ours = TextEncoder().bound(weights).encoder
    assert ours is not None and ours._compute is None
    fast = Encoder(ours.sha256, lambda: ours.folder, lambda: computed_on(torch.device("cpu"), weights))
    texts = [*TEXTS, *(f"the sea {k}" for k in range(300)), ""]

    np.testing.assert_allclose(fast.encode(texts), ours.encode(texts), atol=1e-5)
    assert "_session" not in vars(fast)


def test_texts_are_cut_into_the_tokens_of_the_folder_and_nothing_else(weights: Path, tmp_path: Path):
    """Bit for bit what the tokenizer's own library says, up to the model's length."""
    from tokenizers import Tokenizer

    encoder = TextEncoder().bound(weights).encoder
    assert encoder is not None
    tokenizer = Tokenizer.from_file(str(weights / "tokenizer.json"))
    texts = ["Good MOVIE!", "größe m", "很好", "", "a" * 5000, "x\0y"]

    for text, ids in zip(texts, encoder.tokens.of(texts), strict=True):
        whole = tokenizer.encode(text).ids
        assert ids.tolist() == whole if len(whole) <= 62 else len(ids) == 62


def test_a_text_is_encoded_once_and_a_single_row_every_time(weights: Path, monkeypatch: pytest.MonkeyPatch):
    """Folds share the work; a row whose time is measured is not looked up."""
    encoder = TextEncoder().bound(weights).encoder
    assert encoder is not None
    seen: list[int] = []
    run = encoder._run
    monkeypatch.setattr(encoder, "_run", lambda ids: (seen.append(len(ids)), run(ids))[1])

    encoder.encode([*TEXTS, *TEXTS, None])
    encoder.encode([*TEXTS[:3], "new words", None])
    encoder.encode(["good movie"])

    assert sum(seen) == len(TEXTS) + 1 + 1
    assert not encoder.encode([None, ""])[0].any()


def test_it_learns_with_the_text_alone_and_with_its_words(weights: Path, tmp_path: Path):
    """Both forms beat chance, save a few kilobytes without the weights, and load to the same predictions in this process."""
    family = bound_families({"TextEncoder": weights})[0]
    rows, fresh = make_rows(), make_rows(seed=1)

    for k, terms in enumerate(("none", "both")):
        fitted = family.fit(rows, make_rows(20, 2), SCHEMA, {"C": 1.0, "terms": terms}, make_context())
        assert (fitted.predict(fresh.frame).argmax(axis=1) == fresh.y).mean() > 0.85
        fitted.save(tmp_path / str(k))
        assert np.array_equal(load_pipeline(tmp_path / str(k)).predict(fresh.frame), fitted.predict(fresh.frame))
        assert sum(p.stat().st_size for p in (tmp_path / str(k)).iterdir()) < 100_000
        again = family_as_fitted("TextEncoder", lambda k=k: tmp_path / str(k))
        assert np.array_equal(
            again.fit(rows, None, SCHEMA, {"C": 1.0, "terms": terms}, make_context()).predict(fresh.frame),
            fitted.predict(fresh.frame),
        )


@pytest.mark.parametrize("name", ["Linear", "LightGBM", "XGBoost", "CatBoost", "SupportVectors", "NearestNeighbors"])
def test_a_tables_family_may_read_texts_by_the_encoder(name: str, weights: Path, tmp_path: Path):
    """A searched choice where the job names weights, and none where it does not; saved and loaded alike."""
    shape = DataShape(TaskType.TEXT_CLASSIFICATION, 80, 2, 0, 1, 2)
    family, rows, fresh = family_named(name), make_rows(), make_rows(seed=1)
    assert "texts" not in family.space(shape)
    assert all("texts" not in p for _, p in family.portfolio(shape))
    with pytest.raises(UsageError, match="needs weights of a TextEncoder"):
        family.fit(rows, None, SCHEMA, {"texts": "embeddings"}, make_context())

    bound_families({"TextEncoder": weights})
    able = replace(shape, encodes_texts=True)
    assert family.space(able)["texts"].choices == ("terms", "embeddings")
    assert [p["texts"] for _, p in family.portfolio(able) if "texts" in p] == ["embeddings"]
    fitted = family.fit(rows, make_rows(30, 2), SCHEMA, {"texts": "embeddings"}, make_context())
    fitted.save(tmp_path)

    assert (fitted.predict(fresh.frame).argmax(axis=1) == fresh.y).mean() > 0.85
    assert np.array_equal(load_pipeline(tmp_path).predict(fresh.frame), fitted.predict(fresh.frame))


def test_components_are_those_in_which_the_texts_differ_most(weights: Path):
    """As scikit-learn's, but for the sign."""
    from sklearn.decomposition import PCA

    (family,) = bound_families({"TextEncoder": weights})
    encoder = encoders.encoder_of_job()
    assert isinstance(family, TextEncoder) and encoder is not None
    rows = make_rows()
    recipe = Recipe(text="none", text_statistics=False, encoder=encoder.sha256, encoder_numbers=3)

    _, encoded = fit_features(recipe, rows, SCHEMA, 0)
    theirs = PCA(3).fit_transform(encoder.encode(rows.frame["text"].to_numpy()))

    assert encoded.numbers.shape == (80, 1 + 3)
    np.testing.assert_allclose(np.abs(encoded.numbers[:, 1:]), np.abs(theirs), atol=1e-4)


class Clock:
    """Time that goes by while texts are encoded, and only then."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def monotonic(self) -> float:
        return self.now


def test_a_process_that_never_fits_keeps_nothing(weights: Path, monkeypatch: pytest.MonkeyPatch):
    """A server's memory does not grow with its requests; a finalizer, whose many models read the same rows, keeps them."""
    from kubeautoml_trainer.features import again

    encoder = TextEncoder().bound(weights).encoder
    assert encoder is not None
    monkeypatch.setattr(again, "_PROCESS", again._Process())
    encoder.encode([*TEXTS])
    assert encoder.missing(TEXTS) == len(TEXTS)

    again.keep_for_rows_that_come_again()
    encoder.encode([*TEXTS])
    assert encoder.missing(TEXTS) == 0


def test_a_fit_without_time_learns_from_fewer_texts_or_ends(weights: Path, monkeypatch: pytest.MonkeyPatch):
    """Rows for which there is no time are left out; with no time at all it is a timeout that names the family."""
    (family,) = bound_families({"TextEncoder": weights})
    assert isinstance(family, TextEncoder) and family.encoder is not None
    encoder, learned, clock = family.encoder, [], Clock()
    run = encoder._run

    def slow(ids: np.ndarray) -> np.ndarray:
        clock.now += 10.0 * len(ids)
        return run(ids)

    monkeypatch.setattr(encoder, "_run", slow)
    monkeypatch.setattr("kubeautoml_trainer.features.encoders.time", clock)
    monkeypatch.setattr("kubeautoml_trainer.models.text_encoder.time", clock)
    monkeypatch.setattr(
        "kubeautoml_trainer.models.text_encoder.fit_features",
        lambda recipe, train, *rest: (learned.append(len(train)), fit_features(recipe, train, *rest))[1],
    )
    rows, valid = make_rows(400), make_rows(40, 1)
    for part in (rows, valid):
        part.frame["text"] = [f"{t} {k} {len(part)}" for k, t in enumerate(part.frame["text"])]

    fitted = family.fit(rows, valid, SCHEMA, {"C": 1.0}, make_context(deadline=clock.now + 4500.0))

    assert 200 < learned[0] < 360  # 0.8 of the time, less that of 40 rows for validation and as many more
    assert np.isfinite(fitted.predict(rows.frame.iloc[:2])).all()
    later = make_rows(400, 5)
    later.frame["text"] = [f"{t} {k} again" for k, t in enumerate(later.frame["text"])]
    with pytest.raises(FitTimeout):  # fewer than half of them
        family.fit(later, None, SCHEMA, {}, make_context(deadline=clock.now + 2000.0))
    with pytest.raises(FitTimeout, match="TextEncoder: no time for one"):
        family.fit(make_rows(50, 9), make_rows(50, 8), SCHEMA, {}, make_context(deadline=clock.now - 1))
    with pytest.raises(EncodingTimeout):
        encoder.encode(["never", "seen before"], clock.now - 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("config.json", r"must hold config\.json, which is absent; save the model and its tokenizer there"),
        ("tokenizer.json", r"must hold tokenizer\.json, which is absent"),
        ("model.safetensors", r"must hold model\.safetensors, which is absent"),
        ("no json", r"config\.json must be JSON"),
        ("no type", r"config\.json must name the model_type"),
        ("file", r"must be a folder of a transformers model"),
    ],
)
def test_a_folder_that_is_no_encoder_is_refused_before_anything_is_read(
    damage: str, message: str, weights: Path, tmp_path: Path
):
    """One sentence that names the file and what to do."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        if name != damage:
            (folder / name).write_bytes((weights / name).read_bytes())
    if damage.startswith("no"):
        (folder / "config.json").write_text("{" if damage == "no json" else "{}")

    with pytest.raises(BundleError, match=message):
        TextEncoder().bound(folder / "config.json" if damage == "file" else folder)


def test_weights_that_transformers_cannot_read_end_in_one_sentence(weights: Path, tmp_path: Path):
    """An unknown architecture, say: found when the encoder is needed first."""
    folder = write_encoder(tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "oracle"}))

    encoder = TextEncoder().bound(folder).encoder
    assert encoder is not None
    with pytest.raises(BundleError, match="transformers cannot read the text encoder"):
        encoder.encode(["hello", "world"])


def test_a_pipeline_whose_encoder_is_not_here_says_so(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It names the digest, and where weights come from."""
    (family,) = bound_families({"TextEncoder": weights})
    family.fit(make_rows(), None, SCHEMA, {}, make_context()).save(tmp_path)
    monkeypatch.setattr(encoders, "_SHELF", encoders._Shelf({}))

    with pytest.raises(BundleError, match=r"by an encoder with weights [0-9a-f]{64}, which are not here"):
        load_pipeline(tmp_path).predict(make_rows().frame)


def test_a_bundles_pipelines_share_the_encoder_and_need_no_torch(weights: Path, tmp_path: Path):
    """encoders/DIGEST beside pipelines/N: read by a process without torch and transformers, to the same numbers."""
    (family,) = bound_families({"TextEncoder": weights})
    assert isinstance(family, TextEncoder) and family.encoder is not None
    rows = make_rows()
    fitted = family.fit(rows, None, SCHEMA, {"terms": "both"}, make_context())
    fitted.save(tmp_path / "pipelines" / "0")
    place = tmp_path / "encoders" / family.encoder.sha256
    place.mkdir(parents=True)
    for file in family.encoder.folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    rows.frame.to_json(tmp_path / "rows.json", orient="records")
    script = f"""
import sys, json, pathlib, pandas as pd
from kubeautoml_trainer.models.pipeline import load_pipeline
folder = pathlib.Path({str(tmp_path)!r})
frame = pd.DataFrame(json.loads((folder / "rows.json").read_text()))
frame["text"] = frame["text"].astype(object)
found = load_pipeline(folder / "pipelines" / "0").predict(frame)
print(sorted({{"torch", "transformers", "optuna", "sklearn"}} & set(sys.modules)), found[:, 1].tolist())
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    modules, _, numbers = done.stdout.partition("] ")
    assert modules == "["
    np.testing.assert_allclose(json.loads(numbers), fitted.predict(rows.frame)[:, 1], atol=1e-6)
