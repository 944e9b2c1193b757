"""Wrong input: 4xx and one sentence with the column, the rule and the value; never a traceback."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubeautoml_trainer.serve import body as bodies
from kubeautoml_trainer.serve import rows
from kubeautoml_trainer.serve.app import create_app
from serve.asking import ask_records, ask_tensors, tensors_of
from serve.bundles import Trained

GOOD = {"age": 42, "balance": 10.5, "plan": "pro", "active": True, "since": "2021-05-04", "note": "called"}


def assert_refused(response: Response, status: int = 400) -> str:
    """The sentence of a refusal."""
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    assert "\n" not in body["error"]
    assert "Traceback" not in response.text
    return str(body["error"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": "old"}, "column 'age' must be a number, got 'old' in row 0"),
        ({"age": [1, 2]}, "column 'age' must be a number, got [1, 2] in row 0"),
        ({"age": {"years": 4}}, "column 'age' must be a number, got {'years': 4} in row 0"),
        ({"since": "soon"}, "column 'since' must be a date or time such as 2024-01-31T12:00:00Z, got 'soon' in row 0"),
        ({"since": [2024]}, "column 'since' must be a date or time such as 2024-01-31T12:00:00Z, got [2024] in row 0"),
        ({"active": "maybe"}, "column 'active' must be true or false, got 'maybe' in row 0"),
        ({"active": 7}, "column 'active' must be true or false, got 7 in row 0"),
        ({"plan": ["pro"]}, "column 'plan' must be text, got ['pro'] in row 0"),
        ({"note": {"a": 1}}, "column 'note' must be text, got {'a': 1} in row 0"),
        ({"age": float("inf")}, "column 'age' must be finite, got inf in row 0; give null if it is unknown"),
        ({"age": float("-inf")}, "column 'age' must be finite, got -inf in row 0; give null if it is unknown"),
    ],
)
def test_a_value_that_does_not_fit_is_named(client: TestClient, change: dict[str, Any], message: str):
    """Column, rule, value and row."""
    response = client.post("/v1/predict", content=json.dumps({**GOOD, **change}))

    assert assert_refused(response) == message


def test_the_row_of_a_wrong_value_is_named(client: TestClient):
    """The first wrong row, counted from 0."""
    response = ask_records(client, [GOOD, GOOD, {**GOOD, "age": "old"}])

    assert assert_refused(response).endswith("got 'old' in row 2")


@pytest.mark.parametrize("huge", ["1e999", "-1" + "0" * 400, "9" * 5000])
def test_numbers_beyond_floats_are_refused(client: TestClient, huge: str):
    """What no float64 can hold is infinite."""
    response = client.post("/v1/predict", content=json.dumps(GOOD).replace("42", huge))

    assert assert_refused(response).startswith("column 'age' must be finite, got")


def test_whole_numbers_of_any_size_that_floats_can_hold_are_taken(client: TestClient):
    """Beyond 64 bits as well; in text columns they are text."""
    assert ask_records(client, {**GOOD, "balance": 10**30, "plan": 10**30, "note": 2**64}).status_code == 200


def test_missing_columns_are_named(client: TestClient):
    """All of them, and what was there."""
    response = ask_records(client, {k: v for k, v in GOOD.items() if k not in ("age", "plan")})

    message = "columns 'age', 'plan' must be given (null where unknown), got columns balance, active, since, note"
    assert assert_refused(response) == message


def test_missing_columns_are_named_in_tensors_too(churn: Trained, client: TestClient):
    """The same rule for both protocols."""
    body = tensors_of([GOOD], churn.schema)
    del body["inputs"][0]

    assert assert_refused(ask_tensors(client, body)).startswith("column 'age' must be given (null where unknown)")


@pytest.mark.parametrize(
    ("body", "start"),
    [
        (b"", "the body must be JSON such as"),
        (b"   ", "the body must be JSON such as"),
        (b'{"age": 42', "the body must be JSON: Expecting ',' delimiter"),
        (b"age=42", "the body must be JSON: Expecting value"),
        (b'{"age": "\xff"}', "the body must be text in UTF-8"),
        (b'{"age": "\\ud800"}', "the body must be text in UTF-8"),
        (b"[" * 100_000, "the body must be JSON of at most a few levels"),
        (b"9" * 5000, "the body must be a record such as"),
        (b"null", "the body must be a record such as"),
        (b"42", "the body must be a record such as"),
        (b'"text"', "the body must be a record such as"),
        (b"[]", "a request must hold 1 to 100000 rows, got 0"),
        (b"[[1, 2]]", 'record 0 must be an object such as {"age": 42}, got a list'),
        (b'{"instances": {}}', "the body must be a record such as"),
        (b"{}", "columns 'age', 'balance', 'plan', 'active', 'since', 'note' must be given"),
        (b"[{}, {}]", "columns 'age', 'balance', 'plan', 'active', 'since', 'note' must be given"),
    ],
)
def test_bodies_that_are_no_records_are_refused(client: TestClient, body: bytes, start: str):
    """Malformed JSON, wrong forms, no rows."""
    assert assert_refused(client.post("/v1/predict", content=body)).startswith(start)
    assert_refused(client.post("/v2/models/churn/infer", content=body))


@pytest.mark.parametrize(
    ("change", "start"),
    [
        ({"datatype": "FLOAT"}, "input 'age': datatype must be one of BOOL, UINT8"),
        ({"datatype": None}, "input 'age': datatype must be one of BOOL, UINT8"),
        ({"shape": [2]}, "input 'age': shape [2] needs 2 values in data, got 1"),
        ({"shape": [1, 6]}, "input 'age': shape must be [rows] or [rows, 1] (one tensor a column), got [1, 6]"),
        ({"shape": [1, 1, 1]}, "input 'age': shape must be [rows] or [rows, 1], got [1, 1, 1]"),
        ({"shape": [-1]}, "input 'age': shape must be [rows] or [rows, 1], got [-1]"),
        ({"shape": [True]}, "input 'age': shape must be [rows] or [rows, 1], got [True]"),
        ({"shape": "1"}, "input 'age': shape must be [rows] or [rows, 1], got 1"),
        ({"data": 42}, "input 'age': data must be a list, got a number"),
        ({"data": ["old"]}, "input 'age': datatype FP64 needs numbers or null, got 'old' in row 0"),
        ({"data": [True]}, "input 'age': datatype FP64 needs numbers or null, got 'True' in row 0"),
        (
            {"data": [1.5], "datatype": "INT64"},
            "input 'age': datatype INT64 needs whole numbers or null, got '1.5' in row 0",
        ),
        (
            {"data": [1], "datatype": "BOOL"},
            "input 'age': datatype BOOL needs true, false or null, got '1' in row 0",
        ),
        ({"data": [[1, 2]]}, "input 'age': datatype FP64 needs numbers or null, got '[1, 2]' in row 0"),
        ({"data": ["old"], "datatype": "BYTES"}, "column 'age' must be a number, got 'old' in row 0"),
        ({"name": 7}, 'every input must be an object with "name", "shape", "datatype" and "data"'),
        ({"name": "balance"}, "input 'balance' is given twice"),
        ({"shape": [2], "data": [1, 2]}, "all inputs must have the same number of rows, got"),
        (
            {"parameters": {"binary_data_size": 8}},
            "input 'age': binary tensor data is not supported; send data as JSON",
        ),
    ],
)
def test_malformed_tensors_are_refused(churn: Trained, client: TestClient, change: dict[str, Any], start: str):
    """Wrong shapes, datatypes, data, names."""
    body = tensors_of([GOOD], churn.schema)
    body["inputs"][0].update(change)

    assert assert_refused(ask_tensors(client, body)).startswith(start)


@pytest.mark.parametrize(
    ("change", "start"),
    [
        ({"outputs": [{"name": "price"}]}, "output 'price' is not one of this model's outputs: target, target_no, target_yes"),
        ({"outputs": [{}]}, "output None is not one of this model's outputs"),
        ({"outputs": [["target"]]}, "output ['target'] is not one of this model's outputs"),
        ({"outputs": "target"}, "outputs must be a list such as"),
        ({"outputs": {"name": "target"}}, "outputs must be a list such as"),
        ({"id": 7}, "id must be text, got 7"),
        ({"inputs": []}, "inputs must not be empty; the model takes age, balance"),
        ({"inputs": None}, 'the body must be {"inputs": [{"name", "shape", "datatype", "data"}, ...]}'),
        ({"inputs": [3]}, 'every input must be an object with "name", "shape", "datatype" and "data"'),
    ],
)  # fmt: skip
def test_malformed_requests_are_refused(churn: Trained, client: TestClient, change: dict[str, Any], start: str):
    """Unknown outputs, wrong kinds."""
    body = {**tensors_of([GOOD], churn.schema), **change}

    assert assert_refused(ask_tensors(client, body)).startswith(start)


def test_too_many_rows_are_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    """A limit for one request; the sentence says where more rows belong."""
    monkeypatch.setattr(rows, "MAX_ROWS", 3)

    response = ask_records(client, [GOOD] * 4)

    message = "a request must hold 1 to 3 rows, got 4; use 'kubeautoml predict' for larger files"
    assert assert_refused(response) == message


def test_too_large_bodies_are_refused_whether_announced_or_not(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    """By Content-Length before a byte is read; chunked bodies as soon as they are too long."""
    monkeypatch.setattr(bodies, "MAX_BODY_BYTES", 100)

    announced = client.post("/v1/predict", content=b"x" * 101)
    chunked = client.post("/v1/predict", content=iter([b"x" * 60, b"x" * 60]))

    assert assert_refused(announced, 413) == "the body must be at most 100 bytes, got 101"
    assert assert_refused(chunked, 413) == "the body must be at most 100 bytes, got more"


def test_compressed_bodies_are_refused(client: TestClient):
    """The message says what to do."""
    response = client.post(
        "/v1/predict", content=gzip.compress(json.dumps(GOOD).encode()), headers={"Content-Encoding": "gzip"}
    )

    message = "Content-Encoding must be identity, got gzip; send the body uncompressed"
    assert assert_refused(response, 415) == message


@pytest.mark.parametrize("path", ["/v2/models/other/infer", "/v2/models/churn/versions/v9/infer"])
def test_unknown_models_and_versions_are_not_found(client: TestClient, path: str):
    """The sentence says what is served."""
    assert "is not served here; this server has '" in assert_refused(client.post(path, json={}), 404)
    assert_refused(client.get(path.removesuffix("/infer")), 404)
    assert_refused(client.get(path.replace("/infer", "/ready")), 404)


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/models/churn", "/v2/models", "/static-offline-docs/none.js"])
def test_unknown_paths_are_not_found_in_json(client: TestClient, path: str):
    """No HTML, no framework's own format."""
    assert assert_refused(client.get(path), 404) == f"there is nothing at {path}; /docs lists what there is"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/predict", "POST"),
        ("DELETE", "/v2/models/churn/infer", "POST"),
        ("POST", "/v2/models/churn", "GET"),
        ("PUT", "/", "GET"),
    ],
)
def test_wrong_methods_are_refused(client: TestClient, method: str, path: str, allowed: str):
    """405 with the method that is allowed."""
    response = client.request(method, path)

    assert assert_refused(response, 405) == f"{path} takes {allowed}, got {method}"
    assert response.headers["allow"] == allowed


def test_numbers_too_far_out_give_an_answer_or_a_sentence(client: TestClient):
    """1e300 is finite; whatever the models make of it, JSON comes back."""
    response = ask_records(client, {**GOOD, "age": 1e300, "balance": -1e300})

    assert response.status_code in (200, 400)
    assert response.json()


def test_a_bug_shows_no_more_than_that_it_is_one(churn: Trained, monkeypatch: pytest.MonkeyPatch):
    """No traceback, no value, no path leaves the server; the request is counted as 500."""

    def broken(frame: Any) -> Any:
        raise ValueError("secret of row 7")

    app = create_app(churn.model, name="churn", version="v1")
    monkeypatch.setattr(type(churn.model), "predict_frame", lambda self, frame: broken(frame))
    client = TestClient(app, raise_server_exceptions=False)

    message = assert_refused(ask_records(client, GOOD), 500)

    assert message == "internal error; the server's log has the details"
    assert 'requests_total{code="500",endpoint="/v1/predict"} 1.0' in client.get("/metrics").text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=st.dictionaries(st.sampled_from(sorted(GOOD)), JSON, min_size=1))
def test_any_json_value_in_any_column_is_predicted_or_refused(client: TestClient, change: dict[str, Any]):
    """Never a 500, whatever JSON can say."""
    response = client.post("/v1/predict", content=json.dumps({**GOOD, **change}))

    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert_refused(response)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=JSON, key=st.sampled_from(["inputs", "outputs", "id", "parameters", "name", "shape", "datatype", "data"]))
def test_any_json_value_in_any_place_of_a_tensor_is_predicted_or_refused(
    churn: Trained, client: TestClient, body: Any, key: str
):
    """Never a 500, whatever a client puts into the request."""
    request = tensors_of([GOOD], churn.schema)
    (request if key in ("inputs", "outputs", "id", "parameters") else request["inputs"][0])[key] = body

    response = client.post("/v2/models/churn/infer", content=json.dumps(request))

    assert response.status_code in (200, 400), response.text
