"""Requests to a server under test, in both protocols, and their answers as frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from fastapi.testclient import TestClient
from httpx import Response

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.serve.rows import DATATYPES

Record = dict[str, Any]


def tensors_of(records: Sequence[Record], schema: Schema) -> dict[str, Any]:
    """The body of an inference request: one tensor a column."""
    columns = [
        {
            "name": c.name,
            "datatype": DATATYPES[c.type],
            "shape": [len(records)],
            "data": [r.get(c.name) for r in records],
        }
        for c in schema.features
    ]
    return {"inputs": columns}


def ask_records(client: TestClient, records: Any) -> Response:
    return client.post("/v1/predict", json=records)


def ask_tensors(client: TestClient, body: Any, name: str = "churn") -> Response:
    return client.post(f"/v2/models/{name}/infer", json=body)


def from_records(response: Response, schema: Schema) -> pd.DataFrame:
    """The answer of /v1/predict, in the form of `Model.predict_frame`."""
    assert response.status_code == 200, response.text
    rows = response.json()["predictions"]
    columns = {schema.target: [r[schema.target] for r in rows]}
    for c in schema.classes:
        columns[f"{schema.target}_{c}"] = [r["probabilities"][c] for r in rows]
    return pd.DataFrame(columns)


def from_tensors(response: Response) -> pd.DataFrame:
    """The answer of an inference request, in the same form."""
    assert response.status_code == 200, response.text
    return pd.DataFrame({o["name"]: o["data"] for o in response.json()["outputs"]})


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Equal to float32's last digits, in which a batch may differ from single rows."""
    assert list(found.columns) == list(expected.columns)
    for name in expected.columns:
        if pd.api.types.is_numeric_dtype(expected[name].dtype):
            np.testing.assert_allclose(found[name].astype(float), expected[name].astype(float), rtol=2e-6, atol=1e-7)
        else:
            assert found[name].tolist() == expected[name].tolist()


def integers_as_floats(record: Record, schema: Schema) -> Record:
    """The same record with 42.0 for 42."""
    numbers = {c.name for c in schema.features if c.type is ColumnType.NUMBER}
    return {k: float(v) if k in numbers and v is not None else v for k, v in record.items()}
