"""Open Inference Protocol v2: metadata and answers. https://github.com/kserve/open-inference-protocol"""

from __future__ import annotations

from typing import Any

import pandas as pd

from kubeautoml import __version__
from kubeautoml.api.errors import PredictionError
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.serve.rows import DATATYPES


def server_metadata() -> dict[str, Any]:
    """GET /v2."""
    return {"name": "kubeautoml", "version": __version__, "extensions": []}


def model_metadata(name: str, version: str, schema: Schema) -> dict[str, Any]:
    """GET /v2/models/{name}: every column and type."""
    inputs = [{"name": c.name, "datatype": DATATYPES[c.type], "shape": [-1]} for c in schema.features]
    return {
        "name": name,
        "versions": [version],
        "platform": "kubeautoml",
        "inputs": inputs,
        "outputs": output_metadata(schema),
    }


def output_metadata(schema: Schema) -> list[dict[str, Any]]:
    """The target, and for classes the probability of each."""
    target = {"name": schema.target, "datatype": "BYTES" if schema.classes else "FP64", "shape": [-1]}
    return [target, *({"name": f"{schema.target}_{c}", "datatype": "FP64", "shape": [-1]} for c in schema.classes)]


def wanted_outputs(body: dict[str, Any], schema: Schema) -> list[str]:
    """Names of the outputs that a request asks for; all when it names none.

    Raises:
        PredictionError: one is not an output of this model.
    """
    known = [o["name"] for o in output_metadata(schema)]
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
    datatypes = {o["name"]: o["datatype"] for o in output_metadata(schema)}
    tensors = [
        {"name": o, "shape": [len(predictions)], "datatype": datatypes[o], "data": predictions[o].tolist()}
        for o in outputs
    ]
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": tensors}
    return answer if request_id is None else {**answer, "id": request_id}


def record_predictions(predictions: pd.DataFrame, schema: Schema) -> list[dict[str, Any]]:
    """POST /v1/predict: one object a row, {target: value, "probabilities": {class: p}}."""
    values = predictions[schema.target].tolist()
    if not schema.classes:
        return [{schema.target: v} for v in values]
    columns = [predictions[f"{schema.target}_{c}"].tolist() for c in schema.classes]
    rows = zip(*columns, strict=True)
    return [
        {schema.target: v, "probabilities": dict(zip(schema.classes, row, strict=True))}
        for v, row in zip(values, rows, strict=True)
    ]
