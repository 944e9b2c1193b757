"""Images served: every way to send them, the same predictions as the trainer's own, and words for what is wrong."""

from __future__ import annotations

import base64
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from openapi_spec_validator import OpenAPIV31SpecValidator
from PIL import Image

from images.image_factories import encoded, make_digit, make_image_job, make_picture, make_table
from kubeautoml.cli.main import main as command
from kubeautoml_trainer.data.prepare import prepare_frames
from kubeautoml_trainer.data.schema import coerce
from kubeautoml_trainer.features import Recipe, fit_features, load_features
from kubeautoml_trainer.features.images import ImageFeatures
from kubeautoml_trainer.serve.app import create_app
from kubeautoml_trainer.serve.page import page
from serve.asking import ask_records, ask_tensors, assert_same, from_records, from_tensors
from serve.bundles import Trained, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(
        tmp_path_factory.mktemp("photos"),
        make_table(),
        "label",
        ["Linear", "LightGBM", "ConvNet"],
        types={"note": "Text"},
    )


@pytest.fixture(scope="module")
def client(trained: Trained) -> TestClient:
    return TestClient(create_app(trained.model, name="bars", version="v1"), raise_server_exceptions=False)


def sent(trained: Trained, prefix: str = "") -> list[dict[str, Any]]:
    """The hold-out rows as a client sends them."""
    rows = trained.raw.drop(columns="label").astype({"age": object}).to_dict("records")
    return [{**r, "photo": prefix + base64.b64encode(r["photo"]).decode()} for r in rows]


def test_a_table_of_everything_is_learned_and_served_as_the_trainer_saw_it(trained: Trained, client: TestClient):
    """Image, number, category and text in one model; a batch of base64 gives the trainer's own predictions."""
    assert [c.type.value for c in trained.schema.features] == ["Image", "Number", "Category", "Text"]

    assert_same(from_records(ask_records(client, sent(trained)), trained.schema), trained.expected)
    urls = sent(trained, "data:image/png;base64,")
    assert_same(from_records(ask_records(client, {"instances": urls}), trained.schema), trained.expected)


def tensors(records: list[dict[str, Any]], photo: dict[str, Any]) -> dict[str, Any]:
    datatypes = {"age": "INT64", "plan": "BYTES", "note": "BYTES"}
    rest = [
        {"name": n, "datatype": d, "shape": [len(records)], "data": [r[n] for r in records]}
        for n, d in datatypes.items()
    ]
    return {"inputs": [{"name": "photo", **photo}, *rest]}


def test_the_open_inference_protocol_takes_files_and_pixels(trained: Trained, client: TestClient):
    """BYTES of base64; UINT8 pixels, nested or flat, with and without channels."""
    column = trained.schema.columns[0]
    records = [
        r
        for r, photo in zip(sent(trained), trained.raw["photo"], strict=True)
        if Image.open(io.BytesIO(photo)).size == (12, 12)
    ]
    photos = [np.asarray(Image.open(io.BytesIO(base64.b64decode(r["photo"])))) for r in records]
    rows = len(records)
    files = {"datatype": "BYTES", "shape": [rows, 1], "data": [[r["photo"]] for r in records]}
    nested = {"datatype": "UINT8", "shape": [rows, 12, 12], "data": np.stack(photos).tolist()}
    flat = {"datatype": "UINT8", "shape": [rows, 12, 12, 1], "data": np.stack(photos).ravel().tolist()}

    answers = [from_tensors(ask_tensors(client, tensors(records, t), "bars")) for t in (files, nested, flat)]

    assert (column.height, column.width, column.channels) == (14, 14, 1)
    assert_same(answers[1], answers[0])
    assert_same(answers[2], answers[0])


def test_metadata_and_documentation_describe_images(trained: Trained, client: TestClient):
    """What to send, and what it becomes; the examples work as they stand."""
    document = client.get("/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    body = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]

    assert client.get("/v2/models/bars").json()["inputs"][0] == {
        "name": "photo",
        "datatype": "BYTES",
        "shape": [-1],
        "parameters": {"content_type": "base64", "height": 14, "width": 14, "channels": 1},
    }
    assert body["schema"]["anyOf"][2]["properties"]["photo"] == {
        "type": ["string", "null"],
        "description": "image: PNG, JPEG, WebP, GIF, BMP or TIFF, as base64 or a data: URL; made 14 x 14 pixels, grey before it is looked at",
        "contentEncoding": "base64",
    }
    for path, operation in ((p, i["post"]) for p, i in document["paths"].items() if "post" in i):
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert client.post(path.format(model_name="bars"), json=example).status_code == 200


def test_the_page_offers_an_upload_and_room_for_prose(trained: Trained):
    """What the form makes of each column; a person has looked at it."""
    text = page("bars", "v1", trained.schema, {})

    assert '"type": "Image", "about": "14 x 14 pixels, grey", "input": "image"' in text
    assert '"type": "Text", "about": "", "input": "prose"' in text
    assert "img-src data:" in create_headers(trained)


def create_headers(trained: Trained) -> str:
    return TestClient(create_app(trained.model, name="bars", version="v1")).get("/").headers["content-security-policy"]


PIXELS = {"datatype": "UINT8", "shape": [1, 2, 2], "data": [1, 2, 3, 4]}
WRONG = [
    (PIXELS | {"shape": [1, 2, 2, 2]}, "shape of UINT8 images must be [rows, height, width] or [rows, height, width, 1, 3 or 4], got [1, 2, 2, 2]"),
    (PIXELS | {"shape": [4]}, "shape of UINT8 images must be [rows, height, width] or [rows, height, width, 1, 3 or 4], got [4]"),
    (PIXELS | {"shape": [1, 2, 3]}, "shape [1, 2, 3] needs 6 values in data, flat or nested as shape says, got (4,)"),
    (PIXELS | {"data": [1, 2, 3, 256]}, "datatype UINT8 needs whole numbers from 0 to 255"),
    (PIXELS | {"data": [1, 2, 3, None]}, "datatype UINT8 needs whole numbers from 0 to 255"),
    (PIXELS | {"data": [[1, 2], [3]]}, "rows of data must have the same length, as shape says"),
    (PIXELS | {"datatype": "FP32"}, "datatype of images must be BYTES (base64) or UINT8 (pixels), got FP32"),
]  # fmt: skip


@pytest.mark.parametrize(("photo", "words"), WRONG)
def test_a_wrong_tensor_is_refused(photo: dict[str, Any], words: str, trained: Trained, client: TestClient):
    """400, with the input, the rule and the value."""
    answer = ask_tensors(client, tensors(sent(trained)[:1], photo), "bars")

    assert (answer.status_code, answer.json()) == (400, {"error": f"input 'photo': {words}"})


@pytest.mark.parametrize(
    ("photo", "words"),
    [
        ("????", "is no base64: '????'"),
        (base64.b64encode(encoded(make_picture(height=40, width=40))[:300]).decode(), "is damaged or cut off"),
        (base64.b64encode(b"<html>").decode(), "or a damaged one (unknown format)"),
        (base64.b64encode(encoded(Image.new("1", (20_000, 20_000)))).decode(), "must have at most 50,000,000 pixels"),
        ([[1, 2], [3, 4]], "must be the base64 of a PNG"),
        (True, "must be the base64 of a PNG"),
    ],
)
def test_a_wrong_image_is_refused(photo: Any, words: str, trained: Trained, client: TestClient):
    """400, with column, row and rule."""
    records = [*sent(trained)[:2], sent(trained)[2] | {"photo": photo}]

    answer = ask_records(client, records)

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("column 'photo' must be an image (PNG, JPEG, ")
    assert "the one in row 2 " in answer.json()["error"]
    assert words in answer.json()["error"]


def test_a_missing_image_is_missing(trained: Trained, client: TestClient):
    """null is allowed, as everywhere."""
    assert ask_records(client, sent(trained)[0] | {"photo": None}).status_code == 200


def predict(trained: Trained, given: Path, out: Path, *more: str) -> int:
    return command(["predict", "--model", str(trained.folder), "--input", str(given), "--output", str(out), *more])


def test_a_file_of_images_is_predicted_as_the_trainer_saw_it(trained: Trained, tmp_path: Path):
    """Parquet with bytes, and a table with paths."""
    rows = trained.raw.drop(columns="label").assign(unknown=trained.raw["photo"])
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    for k, photo in enumerate(rows["photo"]):
        (tmp_path / f"{k}.png").write_bytes(photo)
    rows.assign(photo=[f"{k}.png" for k in range(len(rows))]).to_csv(tmp_path / "rows.csv", index=False)

    for name in ("rows.parquet", "rows.csv"):
        assert predict(trained, tmp_path / name, tmp_path / "out.csv") == 0
        assert_same(pd.read_csv(tmp_path / "out.csv"), trained.expected)


def test_a_folder_is_predicted_by_path_and_a_broken_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The model calls its images as its training table did; nothing may be left out of an answer."""
    model = train(tmp_path / "fit", make_table()[["photo", "label"]], "label", ["Linear"])
    folder = tmp_path / "new"
    folder.mkdir()
    for k, photo in enumerate(model.raw["photo"]):
        (folder / f"{k:02}.png").write_bytes(photo)

    assert predict(model, folder, tmp_path / "out.csv") == 0
    found = pd.read_csv(tmp_path / "out.csv")
    with tarfile.open(tmp_path / "new.tar", "w") as tar:
        tar.add(folder, "new")
    assert predict(model, tmp_path / "new.tar", tmp_path / "shard.csv") == 0
    (folder / "00.png").write_bytes(b"")
    code = predict(model, folder, tmp_path / "again.csv")

    assert found["path"].tolist() == [f"{k:02}.png" for k in range(len(model.raw))]
    assert_same(found.drop(columns="path"), model.expected)
    shard = pd.read_csv(tmp_path / "shard.csv").sort_values("path", ignore_index=True)
    assert shard["path"].tolist() == [f"new/{k:02}" for k in range(len(model.raw))]
    assert_same(shard.drop(columns="path"), model.expected)
    assert code == 1
    assert f"file://{folder}/00.png, which is empty (0 bytes); leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (40, 30, 3), (224, 168, 3)])
def test_features_of_training_and_of_a_request_are_the_same_bits(shape: tuple[int, ...], tmp_path: Path):
    """From the mapped file and its cache in the one, from bytes and one by one in the other; saved and loaded between."""
    frame = pd.DataFrame({"photo": [encoded(make_picture(k, *shape)) for k in range(24)], "label": ["a", "b"] * 12})
    data, _ = prepare_frames(frame, None, make_image_job(tmp_path))
    features, encoded_rows = fit_features(Recipe(scaling="standard"), data.train, data.schema, 1)
    features.save(tmp_path)
    served = load_features(tmp_path)
    files = [encoded(v) for v in data.train.frame["photo"]]

    each = [served.transform(coerce(pd.DataFrame({"photo": [f]}), data.schema)).numbers[0] for f in files]

    assert encoded_rows.numbers.shape[1] == features.pictures[0].count
    assert (np.stack(each) == encoded_rows.numbers).all()


def test_features_tell_edges_and_colours():
    """A missing image is missing numbers; the same picture turned has other edges and the same colours."""
    features = ImageFeatures(28, 28, 3)
    lying = np.repeat(make_digit(0, 3, side=28), 3, axis=2)
    found = features.numbers(np.array([lying, np.ascontiguousarray(lying.transpose(1, 0, 2)), None], dtype=object)[:3])

    assert np.isnan(found[2]).all()
    assert np.isfinite(found[:2]).all()
    assert not np.allclose(found[0], found[1])
    assert np.allclose(np.sort(found[0, -64:]), np.sort(found[1, -64:]))
