"""Open Inference Protocol v2: metadata and answers. https://github.com/kserve/open-inference-protocol"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from kubeautoml import __version__
from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import PredictionError
from kubeautoml_trainer.data.base import Column, Schema
from kubeautoml_trainer.serve.rows import DATATYPES


def server_metadata() -> dict[str, Any]:
    """GET /v2."""
    return {"name": "kubeautoml", "version": __version__, "extensions": []}


def model_metadata(name: str, version: str, schema: Schema, more: Sequence[str] = ()) -> dict[str, Any]:
    """GET /v2/models/{name}: every column and type. `more`: `Model.interval_columns`."""
    inputs = [_input(c) for c in schema.features]
    return {
        "name": name,
        "versions": [version],
        "platform": "kubeautoml",
        "inputs": inputs,
        "outputs": output_metadata(schema, more),
    }


def _input(column: Column) -> dict[str, Any]:
    """One column; of images, what a file becomes before the model sees it."""
    described: dict[str, Any] = {"name": column.name, "datatype": DATATYPES[column.type], "shape": [-1]}
    if column.type is ColumnType.IMAGE:
        size = {"height": column.height, "width": column.width, "channels": column.channels}
        described["parameters"] = {"content_type": "base64", **size}
    return described


def output_metadata(schema: Schema, more: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The target, for classes the probability of each, and intervals or sets where the model has them."""
    target = {"name": schema.target, "datatype": "BYTES" if schema.classes else "FP64", "shape": [-1]}
    kind = "BYTES" if schema.classes else "FP64"
    return [
        target,
        *({"name": f"{schema.target}_{c}", "datatype": "FP64", "shape": [-1]} for c in schema.classes),
        *({"name": name, "datatype": kind, "shape": [-1]} for name in more),
    ]


def wanted_outputs(body: dict[str, Any], schema: Schema, more: Sequence[str] = ()) -> list[str]:
    """Names of the outputs that a request asks for; all when it names none.

    Raises:
        PredictionError: one is not an output of this model.
    """
    known = [o["name"] for o in output_metadata(schema, more)]
    asked = body.get("outputs")
    if asked is None or asked == []:
        return known
    if not isinstance(asked, list):
        raise PredictionError('outputs must be a list such as [{"name": "' + known[0] + '"}]')
    names = [o.get("name") if isinstance(o, dict) else o for o in asked]
    for name in names:
        if name not in known:
            raise PredictionError(f"output {name!r} is not one of this model's outputs: {', '.join(known)}")
    return [str(n) for n in names]


def request_id(body: dict[str, Any]) -> str | None:
    """The identifier that the answer must repeat.

    Raises:
        PredictionError: it is no text.
    """
    found = body.get("id")
    if found is not None and not isinstance(found, str):
        raise PredictionError(f"id must be text, got {found!r}")
    return found


def infer_response(
    name: str, version: str, request_id: str | None, predictions: pd.DataFrame, outputs: list[str], schema: Schema
) -> dict[str, Any]:
    """POST /v2/models/{name}/infer: one tensor an output."""
    more = [str(c) for c in predictions.columns]
    datatypes = {o["name"]: o["datatype"] for o in (*output_metadata(schema, more), *output_metadata(schema))}
    tensors = [
        {"name": o, "shape": [len(predictions)], "datatype": datatypes[o], "data": predictions[o].tolist()}
        for o in outputs
    ]
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": tensors}
    return answer if request_id is None else {**answer, "id": request_id}


def record_predictions(predictions: pd.DataFrame, schema: Schema) -> list[dict[str, Any]]:
    """POST /v1/predict: one object a row, {target: value, "probabilities": {class: p}}, and "low" and "high" or "set" where the
    model has them.
    """
    target = schema.target
    parts: list[list[dict[str, Any]]] = [[{target: v} for v in predictions[target].tolist()]]
    if schema.classes:
        columns = [predictions[f"{target}_{c}"].tolist() for c in schema.classes]
        parts.append([{"probabilities": dict(zip(schema.classes, p, strict=True))} for p in zip(*columns, strict=True)])
    for word in ("low", "high"):
        if not schema.classes and f"{target}_{word}" in predictions:
            parts.append([{word: v} for v in predictions[f"{target}_{word}"].tolist()])
    if schema.classes and f"{target}_set" in predictions and "set" not in schema.classes:
        parts.append([{"set": json.loads(v)} for v in predictions[f"{target}_set"]])
    return [{k: v for part in row for k, v in part.items()} for row in zip(*parts, strict=True)]
