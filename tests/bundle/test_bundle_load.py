"""A bundle: what goes in comes out, and what is not exactly what was written is refused with the file's name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import kubeautoml_trainer
from bundle.bundle_factories import boston, make_bundle, make_pod_job, prepared, titanic
from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import BundleError, PredictionError
from kubeautoml.api.metrics import TaskType
from kubeautoml.storage import open_store, upload_folder
from kubeautoml_trainer.bundle import bundle_size, load_bundle
from kubeautoml_trainer.bundle.manifest import digest
from kubeautoml_trainer.data.prepare import prepare_frames
from kubeautoml_trainer.features.again import known
from kubeautoml_trainer.models.packed import read_packed
from kubeautoml_trainer.models.pipeline import FittedPipeline


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A good bundle that nobody changes, its digest, and the pipelines in it."""
    folder = tmp_path_factory.mktemp("bundles") / "model"
    sha256, pipelines = make_bundle(folder)
    return folder, sha256, pipelines


@pytest.fixture
def copy(original, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(original[0], tmp_path / "model"))


def test_a_loaded_model_predicts_the_weighted_mean_of_its_members(original):
    """Of each member the mean over folds; from raw text as from typed rows."""
    folder, _, pipelines = original
    typed = prepared().holdout.frame

    model = load_bundle(folder)

    expected = np.mean([np.mean([p.predict(typed) for p in folds], axis=0) for folds in pipelines.values()], axis=0)
    np.testing.assert_allclose(model.predict_rows(typed), expected, atol=1e-6)
    assert model.classes == ("0", "1")


def test_threads_share_many_rows_and_say_what_one_says(tmp_path, monkeypatch):
    """Every kind of model at once, each row in its place; and boosters, networks and kernels are asked by several threads."""
    families = ("LightGBM", "XGBoost", "CatBoost", "ExtraTrees", "SupportVectors", "NearestNeighbors", "Linear")
    make_bundle(tmp_path / "model", prepared("MEDV"), families)
    model, seen = load_bundle(tmp_path / "model"), []
    frame = prepared("MEDV").train.frame
    many = frame.iloc[np.random.default_rng(0).integers(len(frame), size=1600)]
    model.set_threads(1)
    alone = model.predict_rows(many)
    predict = FittedPipeline.predict
    monkeypatch.setattr(FittedPipeline, "predict", lambda self, rows: seen.append(len(rows)) or predict(self, rows))

    model.set_threads(3)
    together = [model.predict_rows(many) for _ in range(5)]

    for found in together:
        np.testing.assert_allclose(found, alone, rtol=1e-6)
    assert set(seen) == {533, 534}
    assert [len(model.predict_rows(many.iloc[:n])) for n in (0, 1, 7)] == [0, 1, 7]


def test_where_rows_hold_texts_the_libraries_that_read_them_have_the_threads(tmp_path, monkeypatch):
    """Threads of ours beside theirs would only wait for one another."""
    frame = pd.DataFrame({"note": [f"words number {k} are {k % 7} and {k % 5}" for k in range(90)], "y": range(90)})
    data = prepare_frames(frame.astype(str), None, make_pod_job("y", TaskType.TABULAR_REGRESSION))[0]
    make_bundle(tmp_path / "model", data, ("Linear",))
    model, seen = load_bundle(tmp_path / "model"), []
    monkeypatch.setattr(
        FittedPipeline, "predict", lambda self, rows: seen.append(len(rows)) or np.zeros((len(rows), 1))
    )

    model.set_threads(3)
    model.predict_rows(data.train.frame.iloc[np.arange(1600) % len(data.train)])

    assert [c.type for c in data.schema.features] == [ColumnType.TEXT] and set(seen) == {1600}


def test_what_one_pipeline_works_out_of_a_row_the_others_find(original, monkeypatch):
    """Within a prediction, and not after it: texts and images are read once, however many pipelines there are."""
    model, seen = load_bundle(original[0]), []

    def predict(pipeline, frame):
        seen.append(known("vectors", len(frame), None, list))
        return np.full((len(frame), 2), 0.5, dtype=np.float32)

    monkeypatch.setattr(FittedPipeline, "predict", predict)
    for _ in range(2):
        model.predict_rows(prepared().holdout.frame.iloc[:1])

    half = len(seen) // 2
    assert half > 1 and all(one is seen[0] for one in seen[:half]) and all(one is seen[half] for one in seen[half:])
    assert seen[0] is not None and seen[0] is not seen[half]
    assert known("vectors", 1, None, list) is None


@pytest.mark.parametrize("target", ["survived", "MEDV"])
def test_a_model_answers_in_labels_probabilities_and_frames(tmp_path, target):
    """All forms come from the same prediction."""
    data = prepared(target)
    make_bundle(tmp_path / "model", data, ("Linear",))
    raw = (titanic() if target == "survived" else boston()).iloc[10:30]

    model = kubeautoml_trainer.load_model(tmp_path / "model")
    frame = model.predict_frame(raw)

    assert list(frame.index) == list(raw.index)
    assert list(frame[target]) == list(model.predict(raw))
    if target == "survived":
        assert list(frame.columns) == ["survived", "survived_0", "survived_1"]
        proba = model.predict_proba(raw)
        assert proba.dtype == np.float32
        np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
        assert list(model.predict(raw)) == [model.classes[k] for k in proba.argmax(axis=1)]
    else:
        assert list(frame.columns) == ["MEDV"]
        with pytest.raises(PredictionError, match="'MEDV' is a number and has no classes; use predict"):
            model.predict_proba(raw)


def test_column_order_extra_columns_and_the_target_do_not_matter(original):
    """Columns are found by name."""
    model = load_bundle(original[0])
    raw = titanic().iloc[:20]
    shuffled = raw[list(raw.columns)[::-1]].assign(extra=1)

    assert (model.raw_prediction(raw) == model.raw_prediction(shuffled.drop(columns="survived"))).all()


def test_a_missing_column_is_named(original):
    """In the words of the data layer."""
    with pytest.raises(PredictionError, match="column 'age' must be given"):
        load_bundle(original[0]).predict(titanic().drop(columns="age"))


def test_no_rows_give_no_predictions(original):
    """An empty frame is not an error."""
    assert load_bundle(original[0]).predict_proba(titanic().iloc[:0]).shape == (0, 2)


def test_the_same_members_give_the_same_digest(original, tmp_path):
    """Nothing in a bundle depends on when or where it was written."""
    again, _ = make_bundle(tmp_path / "elsewhere")

    assert again == original[1] == digest((tmp_path / "elsewhere" / "bundle.json").read_bytes())


def test_the_digest_is_checked_when_it_is_given(original):
    """A model that is not the one asked for is refused."""
    folder, sha256, _ = original

    assert load_bundle(folder, sha256=sha256).sha256 == sha256
    with pytest.raises(BundleError, match=f"must have sha256 {'0' * 64}, got {sha256}"):
        load_bundle(folder, sha256="0" * 64)


def test_a_bundle_holds_no_pickle(original):
    """No file starts or ends as a pickle does, or is named like one."""
    for path in original[0].rglob("*"):
        if path.is_file():
            assert path.suffix in (".json", ".safetensors", ".zst"), path
            start = (read_packed(path) if path.suffix == ".zst" else path.read_bytes())[:9]
            # safetensors begin with the length of their JSON, which may begin with any byte
            assert start[:1] != b"\x80" or start[8:] == b"{", path


def edit(folder: Path, change) -> None:
    body = json.loads((folder / "bundle.json").read_text())
    change(body)
    (folder / "bundle.json").write_text(json.dumps(body))


def rename_file(body, new):
    body["files"][new] = body["files"].pop("pipelines/0/pipeline.json")


DAMAGE = {
    "changed": (
        lambda f: (f / "pipelines/1/lightgbm.txt.zst").write_text("tree"),
        "pipelines/1/lightgbm.txt.zst was changed",
    ),
    "cut off": (
        lambda f: (f / "card.json").write_bytes((f / "card.json").read_bytes()[:-1]),
        "card.json was changed or cut off",
    ),
    "missing": (lambda f: (f / "pipelines/2/features.json").unlink(), "pipelines/2/features.json is missing"),
    "extra": (lambda f: (f / "pipelines/extra.pkl").write_bytes(b"x"), "pipelines/extra.pkl is not listed"),
    "hidden": (lambda f: (f / ".hidden").write_bytes(b"x"), ".hidden is not listed"),
    "no index": (lambda f: (f / "bundle.json").unlink(), "holds no bundle.json, so it is no model"),
    "index not JSON": (lambda f: (f / "bundle.json").write_text("{"), "bundle.json is not JSON"),
    "another format": (lambda f: edit(f, lambda b: b.update(format=4)), "format must be 5, got 4"),
    "no format": (lambda f: edit(f, lambda b: b.pop("format")), "format must be 5, got None"),
    "unknown field": (lambda f: edit(f, lambda b: b.update(surprise=1)), "surprise"),
    "no variants": (lambda f: edit(f, lambda b: b.update(variants=[])), "variants"),
    "a variant twice": (lambda f: edit(f, lambda b: b.update(variants=b["variants"] * 2)), "variants must differ"),
    "unknown post": (lambda f: edit(f, lambda b: b["variants"][0]["post"].update(magic=1)), "post of variant Quality"),
    "climbing name": (lambda f: edit(f, lambda b: rename_file(b, "../../etc/passwd")), "'../../etc/passwd' must be"),
    "absolute name": (lambda f: edit(f, lambda b: rename_file(b, "/etc/passwd")), "'/etc/passwd' must be"),
    "sly name": (lambda f: edit(f, lambda b: rename_file(b, "pipelines/0/../x")), "'pipelines/0/../x' must be"),
    "backslash": (lambda f: edit(f, lambda b: rename_file(b, "pipelines/0\\x")), "must be card.json, or <file>"),
    "fewer folds": (
        lambda f: edit(f, lambda b: b["variants"][0]["members"][0].update(pipelines=[0])),
        "do not agree about pipelines/1",
    ),
    "link": (
        lambda f: ((f / "card.json").unlink(), (f / "card.json").symlink_to("/etc/hostname")),
        "card.json must be a plain file",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_bundle_is_refused(copy, kind):
    """The message names the file or field."""
    damage, words = DAMAGE[kind]
    damage(copy)

    with pytest.raises(BundleError) as error:
        load_bundle(copy)

    assert words in str(error.value)


@pytest.mark.parametrize("uri", ["/no/such/folder", "file:///no/such/folder"])
def test_a_folder_that_is_not_there_is_no_model(uri):
    """Not a stack trace."""
    with pytest.raises(BundleError, match=r"holds no bundle\.json"):
        load_bundle(uri)


def test_an_unknown_scheme_is_refused():
    """Says what is possible."""
    with pytest.raises(BundleError, match="a folder, a file:// or an s3:// URI, got ftp://host/model"):
        load_bundle("ftp://host/model")


def test_a_path_with_spaces_and_percent_signs_loads_as_a_uri(original, tmp_path):
    """A percent sign in a URI is written %25."""
    shutil.copytree(original[0], tmp_path / "my 100% model")

    assert load_bundle(f"file://{tmp_path}/my 100%25 model").sha256 == original[1]


def test_size_counts_all_files(original):
    """bundle.json included."""
    files = [p for p in original[0].rglob("*") if p.is_file()]

    assert bundle_size(original[0]) == sum(p.stat().st_size for p in files) > 1000


def imported_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(m for m in sys.modules if '.' not in m))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_loading_imports_only_what_the_members_need(original):
    """No optimiser, no torch, no plots; and of the boosters only those that are in it."""
    code = f"from kubeautoml_trainer import load_model\nload_model({str(original[0])!r})"

    loaded = imported_after(code)

    assert "lightgbm" in loaded
    assert not loaded & {"optuna", "torch", "catboost", "matplotlib", "boto3", "kopf", "kubernetes"}


def test_importing_the_package_imports_nothing_heavy():
    """`kubeautoml_trainer` alone costs nothing."""
    assert not imported_after("import kubeautoml_trainer") & {"numpy", "pandas", "sklearn", "pydantic"}


@pytest.fixture
def in_bucket(original, s3_bucket, s3_credentials, tmp_path, monkeypatch):
    """The good bundle in a bucket, credentials for it, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    uri = f"{s3_bucket}team/model"
    upload_folder(open_store(uri, s3_credentials), original[0], uri)
    return uri, s3_credentials


@pytest.mark.s3
def test_a_bundle_in_a_bucket_is_downloaded_once(in_bucket, original, tmp_path, monkeypatch):
    """The second time it comes from the cache, which is named by its digest; a damaged cache is fetched again."""
    uri, keys = in_bucket
    cached = tmp_path / "cache" / "kubeautoml" / "bundles" / original[1]

    first = load_bundle(uri, keys, original[1])
    (cached / "card.json").write_text("{}")
    again = load_bundle(uri + "/", keys)

    raw = titanic().iloc[:5]
    assert (first.raw_prediction(raw) == again.raw_prediction(raw)).all()
    assert again.card["name"] == "passengers"
    assert [p.name for p in cached.parent.iterdir()] == [original[1]]


@pytest.mark.s3
def test_a_bundle_in_a_bucket_is_as_strict_as_one_on_disk(in_bucket):
    """Missing and extra objects, and no bundle at all."""
    uri, keys = in_bucket
    store = open_store(uri, keys)
    store.write(f"{uri}/pipelines/0/extra.txt", b"x")
    with pytest.raises(BundleError, match=r"pipelines/0/extra.txt is not listed"):
        load_bundle(uri, keys)

    store.delete(f"{uri}/pipelines/0/extra.txt")
    store.delete(f"{uri}/pipelines/0/pipeline.json")
    with pytest.raises(BundleError, match=r"pipelines/0/pipeline.json is missing"):
        load_bundle(uri, keys)

    with pytest.raises(BundleError, match=r"holds no bundle.json"):
        load_bundle(f"{uri}/nothing", keys)
