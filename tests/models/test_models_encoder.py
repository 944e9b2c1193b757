"""Pretrained vision backbones: which folders are taken, frozen features with a head, fine-tuning layer by layer."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kubeautoml.api.errors import BundleError, DataError, UsageError
from kubeautoml.api.search import Pretrained
from kubeautoml_trainer.models import FAMILIES, PRETRAINED_FAMILIES, bound_families, family_named
from kubeautoml_trainer.models import torch_encoder_fit as encoder_fit
from kubeautoml_trainer.models.base import FitTimeout
from kubeautoml_trainer.models.image_encoder import DEFAULTS, ImageEncoder
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.models.torch_encoder import Encoder, load_backbone
from kubeautoml_trainer.models.torch_head import Head, layered_groups
from kubeautoml_trainer.pretrained import digest, fetch_pretrained
from models.picture_factories import (
    make_picture_context,
    make_picture_rows,
    make_picture_schema,
    make_picture_shape,
)

QUICK = {"pixels": 16, "epochs": 30, "batch_size": 32, "head_rate": 0.02, "tuning_epochs": 3, "dropout": 0.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A tiny residual network and a tiny transformer for pictures, with random weights, as save_pretrained writes them."""
    from transformers import BertConfig, BertModel, ResNetConfig, ResNetForImageClassification, ViTConfig
    from transformers import ViTForImageClassification as Vit

    root = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(0)
    residual = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5)
    ResNetForImageClassification(residual).save_pretrained(root / "resnet")
    patches = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    Vit(ViTConfig(**patches, intermediate_size=16, num_labels=4)).save_pretrained(root / "vit")
    words = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    BertModel(BertConfig(**words)).save_pretrained(root / "bert")
    return {name: root / name for name in ("resnet", "vit", "bert")}


def fit(
    folder: Path, parameters=None, classes: int = 3, channels: int = 3, beside: bool = False, valid=True, **context
):
    schema = make_picture_schema(classes, 12, channels, beside=beside)
    rows, held_out = (make_picture_rows(classes, 90, 12, channels, seed=s, beside=beside) for s in (0, 1))
    family = ImageEncoder().bound(folder)
    made = make_picture_context(schema, **context)
    return family.fit(rows, held_out if valid else None, schema, QUICK | (parameters or {}), made), made.task


@pytest.mark.parametrize("kind", ["resnet", "vit"])
@pytest.mark.parametrize(("classes", "channels"), [(3, 3), (3, 1), (0, 3)], ids=["colours", "grey", "numbers"])
def test_a_head_on_frozen_features_learns(folders, kind, classes, channels):
    """Even random features tell where a picture is light."""
    beside = kind == "resnet"
    fitted, task = fit(folders[kind], classes=classes, channels=channels, beside=beside)
    fresh = make_picture_rows(classes, 90, 12, channels, seed=2, beside=beside)

    prediction = fitted.predict(fresh.frame)

    floor = task.score("Accuracy" if classes else "R2", fresh.y, np.tile(task.prior(fresh.y, None), (90, 1)), None)
    assert task.score("Accuracy" if classes else "R2", fresh.y, prediction, None) > floor + 0.15
    assert prediction.shape == (90, max(1, classes)) and prediction.dtype == np.float32


@pytest.mark.parametrize("kind", ["resnet", "vit"])
@pytest.mark.parametrize("parameters", [{}, {"views": "mirror"}, {"tuning": "fine"}], ids=["frozen", "views", "fine"])
def test_the_saved_model_answers_as_the_fitted_one(folders, kind, parameters, tmp_path):
    """By onnxruntime alone, whichever way the fitted one took."""
    fitted, _ = fit(folders[kind], parameters, beside=True)
    fresh = make_picture_rows(3, 20, 12, 3, seed=2, beside=True).frame
    fresh.loc[3, "photo"] = None

    fitted.save(tmp_path)

    assert np.abs(load_pipeline(tmp_path).predict(fresh) - fitted.predict(fresh)).max() < 1e-5


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_onnxruntime_computes_what_torch_does(folders, kind):
    """Backbone and head, of pictures scaled to its size, to 1e-4."""
    fitted, _ = fit(folders[kind], {"tuning": "fine", "tuning_epochs": 1})
    backbone = load_backbone(folders[kind])
    rows = make_picture_rows(3, 9, 12, 3, seed=2)
    pictures = rows.frame["photo"].to_numpy()
    told = encoder_fit.Extractor(folders[kind], 16, (12, 12, 3)).features(pictures, float("inf"), 1)

    served = encoder_fit._served_of(str(folders[kind]), 16, (12, 12, 3))
    with torch.no_grad():
        by_torch = served(torch.from_numpy(np.stack(list(pictures))), torch.zeros(0, 0)).numpy()

    assert np.abs(told - by_torch).max() < 1e-4 * max(1.0, np.abs(by_torch).max())
    assert fitted.model.network.outputs == 3 and backbone.is_pooled is (kind == "resnet")


def test_fine_tuning_moves_the_backbone_and_lower_layers_less(folders):
    """Each layer has the rate of the one above times the decay; the head is fastest."""
    net = Encoder(load_backbone(folders["vit"]), Head(torch.zeros(16), torch.ones(16), 0, 3, hidden=False, dropout=0.0))

    groups = layered_groups(net.backbone, net.head, 0.5)

    factor_of = {id(t): g["factor"] for g in groups for t in g["params"]}
    named = {n: factor_of[id(p)] for n, p in net.named_parameters()}
    layers = sorted({f for n, f in named.items() if n.startswith("backbone.") and (".layer." in n or ".layers." in n)})
    assert layers == [0.25, 0.5]
    assert {f for n, f in named.items() if "embeddings" in n} == {0.125}
    assert {f for n, f in named.items() if n.startswith("head.")} == {10.0}
    assert len(factor_of) == sum(1 for _ in net.parameters())


def test_two_processes_tune_a_backbone_and_one_where_they_cannot_meet(folders, monkeypatch, caplog):
    """As on the GPUs of one pod; where the processes fail the fit goes on with one, and says so."""
    from kubeautoml_trainer.models import torch_parallel

    def fitted() -> np.ndarray:
        settings = {"tuning": "fine", "crop": 0.0, "colour": 0.0, "shift": 0.0, "flip": "no", "tuning_epochs": 2}
        return fit(folders["resnet"], settings)[0].predict(make_picture_rows(3, 30, 12, 3, seed=2).frame)

    one = fitted()
    monkeypatch.setattr(torch_parallel, "accelerators", lambda: [torch.device("cpu")] * 2)
    both = fitted()
    np.testing.assert_allclose(both, one, atol=0.02)

    def broken(*arguments: object) -> None:
        raise RuntimeError("no meeting")

    monkeypatch.setattr(torch_parallel, "everywhere", broken)
    assert np.array_equal(fitted(), one)
    assert "training on several accelerators failed: on with one" in caplog.text


def test_features_are_looked_at_once_for_all_folds_and_trials(folders, monkeypatch):
    """The second trial asks the backbone nothing."""
    monkeypatch.setattr(encoder_fit, "FEATURES", encoder_fit.FeatureStore())
    looked: list[int] = []
    look = encoder_fit.Extractor._look

    def counted(self, pictures, threads):
        looked.append(len(pictures))
        return look(self, pictures, threads)

    monkeypatch.setattr(encoder_fit.Extractor, "_look", counted)
    first, _ = fit(folders["resnet"])
    second, _ = fit(folders["resnet"], {"head": "hidden"})
    second.predict(make_picture_rows(3, 90, 12, 3, seed=1).frame)

    assert sum(looked) == 180 and first.best_iteration is not None


def test_kept_features_stay_within_their_bytes():
    """The ones that were used last stay."""
    store = encoder_fit.FeatureStore(most_bytes=3 * 40)
    for k in range(5):
        store.keep(("a", 1, bytes([k])), np.zeros(10, np.float32))
        store.find(("a", 1, bytes([0])))

    kept = [k for k in range(5) if store.find(("a", 1, bytes([k]))) is not None]

    assert kept == [0, 3, 4]


def test_no_time_to_look_at_the_pictures_is_said(folders, monkeypatch):
    """FitTimeout, with how many are left."""
    monkeypatch.setattr(encoder_fit, "FEATURES", encoder_fit.FeatureStore())

    with pytest.raises(FitTimeout, match=r"90 are left.*maxDurationSeconds"):
        fit(folders["resnet"], deadline=0.0)


def test_the_same_seed_gives_the_same_model(folders):
    """To the last bit, fine-tuned or not."""
    fresh = make_picture_rows(3, 20, 12, 3, seed=2).frame

    for parameters in ({}, {"tuning": "fine"}):
        first, second = (fit(folders["resnet"], parameters)[0].predict(fresh) for _ in range(2))
        assert np.array_equal(first, second)


def copy(folder: Path, to: Path, **config) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    if config:
        stored = json.loads((to / "config.json").read_text())
        (to / "config.json").write_text(json.dumps(stored | config))
    return to


def test_a_folder_that_is_no_backbone_is_refused_in_one_sentence(folders, tmp_path):
    """What must be there, and what is."""

    def refused(folder: Path) -> str:
        with pytest.raises(BundleError) as caught:
            ImageEncoder().bound(folder)
        return str(caught.value)

    bare = copy(folders["resnet"], tmp_path / "bare")
    (bare / "config.json").unlink()
    assert "must hold config.json" in refused(bare)

    broken = copy(folders["resnet"], tmp_path / "broken")
    (broken / "config.json").write_text("{")
    assert "must be JSON with a model_type" in refused(broken)

    empty = copy(folders["resnet"], tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    assert "must hold model.safetensors" in refused(empty)
    (empty / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "not pytorch_model.bin, which may run code" in refused(empty)

    assert "'klingon' is no architecture" in refused(copy(folders["resnet"], tmp_path / "k", model_type="klingon"))
    assert "'bert' is no vision model" in refused(folders["bert"])
    assert "must be a folder" in refused(folders["resnet"] / "config.json")
    larger = copy(folders["resnet"], tmp_path / "larger", hidden_sizes=[8, 32])
    assert "do not go with config.json" in refused(larger)
    cut = copy(folders["resnet"], tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-500])
    assert "do not go with config.json" in refused(cut)


def test_weights_of_another_digest_fail_before_the_first_trial(folders, tmp_path):
    """The manifest's digest is the folder's, or nothing is searched; it says which it is."""
    uri, right = f"file://{folders['resnet']}/", digest(folders["resnet"])
    wrong = hashlib.sha256(b"other").hexdigest()

    def fetched(sha256: str) -> dict[str, Path]:
        return fetch_pretrained([Pretrained(family="ImageEncoder", uri=uri, sha256=sha256)], tmp_path)

    with pytest.raises(DataError, match=rf"sha256 must be the digest of .*{right}"):
        fetched(wrong)
    (family,) = bound_families(fetched(right))
    assert family.name == "ImageEncoder" and family.fits(make_picture_shape(make_picture_schema()))


def test_without_weights_it_is_not_there():
    """Not searched, and a fit says what is missing."""
    unbound, schema = family_named("ImageEncoder"), make_picture_schema()

    assert unbound in PRETRAINED_FAMILIES and unbound not in FAMILIES
    assert not unbound.fits(make_picture_shape(schema))
    with pytest.raises(UsageError, match=r"spec.search.pretrained"):
        unbound.fit(make_picture_rows(), None, schema, {}, make_picture_context(schema))


@pytest.mark.parametrize("accelerated", [False, True])
def test_portfolio_and_space_are_of_known_parameters(accelerated):
    """Every name has a default."""
    shape = make_picture_shape(make_picture_schema(), accelerated=accelerated)
    family = ImageEncoder(Path("somewhere"))

    assert set(family.space(shape)) <= set(DEFAULTS)
    assert all(set(p) <= set(DEFAULTS) for _, p in family.portfolio(shape))
