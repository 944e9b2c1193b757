"""What stands around predictions: metrics, OpenAPI, /docs, and the page at /."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client.parser import text_string_to_metric_families

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import Column, Schema
from kubeautoml_trainer.serve.app import create_app
from kubeautoml_trainer.serve.page import page
from serve.asking import ask_records
from serve.bundles import Trained

HOSTILE = "</script><img src=x onerror=alert(1)>\"'`$facts{{}}"
HOSTILE_SCHEMA = Schema(
    target=HOSTILE,
    columns=(
        Column(HOSTILE, ColumnType.CATEGORY, levels=(HOSTILE, "'; DROP", "&amp;"), example=HOSTILE),
        Column("__proto__", ColumnType.NUMBER, low=0, high=1, mean=0.5, example="0.5"),
        Column("elements", ColumnType.TEXT, example="<b>bold</b>"),
        Column("submit", ColumnType.BOOLEAN, example="true"),
    ),
    classes=(HOSTILE, "no"),
)


def metric(client: TestClient, name: str, **labels: str) -> float:
    """One sample of /metrics; 0 while nobody counted."""
    samples = (s for f in text_string_to_metric_families(client.get("/metrics").text) for s in f.samples)
    return next((s.value for s in samples if s.name == name and labels.items() <= s.labels.items()), 0.0)


def test_requests_rows_and_ignored_columns_are_counted(churn: Trained, client: TestClient):
    """By endpoint and status, whether predicted or refused."""
    names = ("requests_total", "requests_total", "predicted_rows_total", "ignored_columns_total")
    labels = ({"endpoint": "/v1/predict", "code": "200"}, {"endpoint": "/v1/predict", "code": "400"}, {}, {})

    def read() -> list[float]:
        return [metric(client, f"kubeautoml_server_{n}", **each) for n, each in zip(names, labels, strict=True)]

    before = read()
    ask_records(client, [{**r, "colour": "red"} for r in churn.records])
    ask_records(client, {"age": "old"})

    assert [b - a for a, b in zip(before, read(), strict=True)] == [1, 1, len(churn.records), 1]


def test_metrics_name_the_model(churn: Trained, client: TestClient):
    """So that a dashboard can tell which version answers."""
    info = {"model": "churn", "version": "v3", "sha256": churn.sha256}

    assert metric(client, "kubeautoml_server_model_info", **info) == 1


def test_a_caller_cannot_make_up_label_values(churn: Trained):
    """Paths and methods nobody knows are one endpoint."""
    client = TestClient(create_app(churn.model, name="churn", version="v3"))
    for i in range(20):
        client.get(f"/made-up-{i}")
        client.get(f"/v2/models/made-up-{i}")
        client.get(f"/static-offline-docs/made-up-{i}")
        client.request(f"MADEUP{i}", "/v1/predict")

    families = {f.name: f for f in text_string_to_metric_families(client.get("/metrics").text)}
    seen = {s.labels["endpoint"] for s in families["kubeautoml_server_requests"].samples}

    assert seen == {"other", "/v2/models/{model_name}", "/v1/predict"}


def test_promtool_finds_nothing_to_say(client: TestClient):
    """The exposition format and the naming rules of Prometheus."""
    text = client.get("/metrics").text

    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_openapi_is_valid_and_its_examples_work(client: TestClient):
    """Both bodies in /docs can be sent as they stand."""
    document = client.get("/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()

    posts = {path: item["post"] for path, item in document["paths"].items() if "post" in item}
    assert list(posts) == ["/v2/models/{model_name}/infer", "/v1/predict"]
    for path, operation in posts.items():
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert client.post(path.format(model_name="churn"), json=example).status_code == 200
        assert set(operation["responses"]) == {"200", "4XX"}


def test_the_documented_record_names_types_and_ranges(client: TestClient):
    """Every column, with what the training rows showed."""
    document = client.get("/openapi.json").json()

    body = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    record = body["anyOf"][2]

    assert record["required"] == ["age", "balance", "plan", "active", "since", "note"]
    assert record["properties"]["age"] == {"type": ["number", "null"], "description": "number, 18 to 88 in training"}
    assert record["properties"]["active"]["type"] == ["boolean", "null"]
    assert record["properties"]["since"] == {
        "type": ["string", "null"],
        "description": "date or time, ISO 8601, 2020-01-08 to 2025-05-14 in training",
    }
    assert record["properties"]["note"]["description"] == "text"


class Links(HTMLParser):
    """Everything that a document makes a browser load or offers to click."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [v for k, v in attrs if k in ("src", "href", "action", "data") and v]


def test_docs_need_no_other_host(client: TestClient):
    """Everything /docs loads lies below the server's own path, relative, so that a proxy's prefix does no harm."""
    text = client.get("/docs").text

    links = Links(text).found
    assert len(links) == 3
    for link in links:
        assert re.fullmatch(r"static-offline-docs/[a-z.-]+", link)
        assert client.get(f"/{link}").status_code == 200
    assert "url: 'openapi.json'" in text.replace('"', "'")
    assert "://" not in text


def test_the_page_needs_no_other_host(client: TestClient):
    """One document; links are relative, and the browser is told to refuse all else."""
    response = client.get("/")

    assert Links(response.text).found == ["data:,", "docs", "v2/models/churn", "metrics"]
    assert "://" not in response.text
    assert response.headers["content-security-policy"].startswith("default-src 'none';")


def test_names_cannot_break_the_page():
    """Quotes, HTML and template marks in the model's name, in columns and levels stay text."""
    text = page(HOSTILE, HOSTILE, HOSTILE_SCHEMA, {"metrics": {HOSTILE: 1.0}})
    plain = page("m", "v", replace(HOSTILE_SCHEMA, target="t", columns=(), classes=()), {})

    assert Links(text).tags == Links(plain).tags
    assert "<img" not in text
    facts = json.loads(re.findall(r'<script type="application/json" id="facts">(.*?)</script>', text)[0])
    assert facts["target"] == facts["columns"][0]["name"] == facts["columns"][0]["example"] == HOSTILE


@pytest.mark.parametrize("path", ["/v1/predict", "/v2/models/churn/infer"])
def test_answers_are_json_and_say_so(client: TestClient, path: str):
    """Also when refused."""
    assert client.post(path, content=b"x").headers["content-type"] == "application/json"
