"""Open Inference Protocol v2 over REST, as kserve/open-inference-protocol writes it (specification/protocol/inference_rest.md)."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from kubeautoml import __version__
from kubeautoml_trainer.serve.app import create_app
from serve.asking import ask_tensors, assert_same, from_tensors, tensors_of
from serve.bundles import Trained
from serve.conftest import Train


def test_health_says_that_server_and_model_are_ready(client: TestClient):
    """200 with the objects of the specification, with and without a version."""
    answers = {
        path: client.get(path).json()
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/churn/ready", "/v2/models/churn/versions/v3/ready")
    }  # fmt: skip

    assert answers == {
        "/v2/health/live": {"live": True},
        "/v2/health/ready": {"ready": True},
        "/v2/models/churn/ready": {"name": "churn", "ready": True},
        "/v2/models/churn/versions/v3/ready": {"name": "churn", "ready": True},
    }


def test_server_metadata_names_server_and_version(client: TestClient):
    """No extensions are offered."""
    assert client.get("/v2").json() == {"name": "kubeautoml", "version": __version__, "extensions": []}


def test_model_metadata_names_every_column_and_output(client: TestClient):
    """Types as the specification spells them; -1 for the number of rows."""
    metadata = client.get("/v2/models/churn").json()

    assert metadata == {
        "name": "churn",
        "versions": ["v3"],
        "platform": "kubeautoml",
        "inputs": [
            {"name": "age", "datatype": "FP64", "shape": [-1]},
            {"name": "balance", "datatype": "FP64", "shape": [-1]},
            {"name": "plan", "datatype": "BYTES", "shape": [-1]},
            {"name": "active", "datatype": "BOOL", "shape": [-1]},
            {"name": "since", "datatype": "BYTES", "shape": [-1]},
            {"name": "note", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "target", "datatype": "BYTES", "shape": [-1]},
            {"name": "target_no", "datatype": "FP64", "shape": [-1]},
            {"name": "target_yes", "datatype": "FP64", "shape": [-1]},
        ],
    }
    assert client.get("/v2/models/churn/versions/v3").json() == metadata


def test_a_number_has_one_output(trained: Train):
    """Regression gives FP64 and no probabilities."""
    client = TestClient(create_app(trained("Linear", False).model, name="price", version="v1"))

    assert client.get("/v2/models/price").json()["outputs"] == [{"name": "target", "datatype": "FP64", "shape": [-1]}]


def test_an_answer_has_the_fields_of_the_specification(churn: Trained, client: TestClient):
    """Names, shapes and datatypes as the metadata promises."""
    body = ask_tensors(client, {**tensors_of(churn.records[:2], churn.schema), "id": "42"}).json()

    described = [{k: o[k] for k in ("name", "datatype", "shape")} for o in body["outputs"]]
    promised = client.get("/v2/models/churn").json()["outputs"]
    assert list(body) == ["model_name", "model_version", "outputs", "id"]
    assert (body["model_name"], body["model_version"], body["id"]) == ("churn", "v3", "42")
    assert described == [{**o, "shape": [2]} for o in promised]
    assert all(len(o["data"]) == 2 for o in body["outputs"])


def test_without_an_id_none_is_returned(churn: Trained, client: TestClient):
    """The id is the client's; the server makes none up."""
    assert "id" not in ask_tensors(client, tensors_of(churn.records[:1], churn.schema)).json()


def test_only_the_outputs_asked_for_come_back_in_that_order(churn: Trained, client: TestClient):
    """`outputs` selects; an empty list means all."""
    body = tensors_of(churn.records[:1], churn.schema)

    some = ask_tensors(client, {**body, "outputs": [{"name": "target_yes"}, {"name": "target"}]}).json()
    every = ask_tensors(client, {**body, "outputs": []}).json()

    assert [o["name"] for o in some["outputs"]] == ["target_yes", "target"]
    assert [o["name"] for o in every["outputs"]] == ["target", "target_no", "target_yes"]


def test_parameters_are_allowed_everywhere(churn: Trained, client: TestClient):
    """None is defined; those a client sends change nothing."""
    body: dict[str, Any] = tensors_of(churn.records, churn.schema)
    plain = ask_tensors(client, body).json()

    for tensor in body["inputs"]:
        tensor["parameters"] = {"content_type": "str"}
    body["parameters"] = {"priority": 1, "trace": True}
    body["outputs"] = [{"name": o["name"], "parameters": {"binary_data": False}} for o in plain["outputs"]]

    assert ask_tensors(client, body).json() == plain


def test_a_version_in_the_path_is_the_same_model(churn: Trained, client: TestClient):
    """/versions/v3/infer is /infer."""
    body = tensors_of(churn.records, churn.schema)

    assert client.post("/v2/models/churn/versions/v3/infer", json=body).json() == ask_tensors(client, body).json()


def test_data_may_be_flat_or_a_column(churn: Trained, client: TestClient):
    """Shapes [rows] and [rows, 1], natural or flattened."""
    body = tensors_of(churn.records, churn.schema)
    for i, tensor in enumerate(body["inputs"]):
        tensor["shape"].append(1)
        if i % 2:
            tensor["data"] = [[v] for v in tensor["data"]]

    assert_same(from_tensors(ask_tensors(client, body)), churn.expected)


def test_binary_tensors_are_refused_in_words(churn: Trained, client: TestClient):
    """A client of another server's extension learns what to do."""
    response = client.post(
        "/v2/models/churn/infer",
        content=b'{"inputs": []}\0\0\0\0',
        headers={"Inference-Header-Content-Length": "14", "Content-Type": "application/octet-stream"},
    )

    assert response.status_code == 400
    assert response.json() == {
        "error": "binary tensor data is not supported (Inference-Header-Content-Length); send the tensors' data as JSON"
    }


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain", ""])
def test_the_content_type_does_not_matter(churn: Trained, client: TestClient, content_type: str):
    """`curl -d` says form-urlencoded; the body is JSON all the same."""
    response = client.post("/v1/predict", content=b'{"age": 1}', headers={"Content-Type": content_type})

    assert response.status_code == 400
    assert response.json()["error"].startswith("columns 'balance'")
