"""What /docs says about the bodies of requests: the model's own columns, with an example that works."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import Column, Schema
from kubeautoml_trainer.data.images import WANTED
from kubeautoml_trainer.serve.rows import DATATYPES, example_record

ERROR: dict[str, Any] = {
    "description": "What is wrong, in one sentence.",
    "content": {
        "application/json": {
            "schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
            "example": {"error": "column 'age' must be a number, got 'old' in row 0"},
        }
    },
}
"""The answer to every refused request."""

_JSON_TYPES: dict[ColumnType, str] = {ColumnType.NUMBER: "number", ColumnType.BOOLEAN: "boolean"}


def describe(column: Column) -> str:
    """A column's type and what the training rows showed of it, in a few words."""
    shown = seen(column)
    if column.type is ColumnType.IMAGE:
        return f"image: {WANTED}, as base64 or a data: URL; made {shown} before it is looked at"
    if column.type is ColumnType.NUMBER or column.type is ColumnType.DATETIME:
        kind = "number" if column.type is ColumnType.NUMBER else "date or time, ISO 8601"
        return f"{kind}, {shown} in training" if shown else kind
    return f"{column.type.value.lower()}: {shown}" if shown else column.type.value.lower()


def seen(column: Column) -> str:
    """The range, the levels or the size of the training rows; empty where there is none of them."""
    if column.type is ColumnType.IMAGE:
        return f"{column.width} x {column.height} pixels, {'grey' if column.channels == 1 else 'colour'}"
    if column.type in (ColumnType.NUMBER, ColumnType.DATETIME):
        if column.low is None or column.high is None:
            return ""
        write = _day if column.type is ColumnType.DATETIME else "{:g}".format
        return f"{write(column.low)} to {write(column.high)}"
    return ", ".join(column.levels[:8]) + (", ..." if len(column.levels) > 8 else "")


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def records_body(schema: Schema) -> dict[str, Any]:
    """OpenAPI of POST /v1/predict."""
    record = {
        "type": "object",
        "required": [c.name for c in schema.features],
        "properties": {
            c.name: {
                "type": [_JSON_TYPES.get(c.type, "string"), "null"],
                "description": describe(c),
                **({"contentEncoding": "base64"} if c.type is ColumnType.IMAGE else {}),
            }
            for c in schema.features
        },
    }
    records = {"type": "array", "minItems": 1, "items": record}
    instances = {"type": "object", "required": ["instances"], "properties": {"instances": records}}
    body = {"anyOf": [instances, records, record]}
    return _json_body(body, {"instances": [example_record(schema)]})


def infer_body(schema: Schema) -> dict[str, Any]:
    """OpenAPI of POST /v2/models/{name}/infer."""
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"type": "string", "enum": [c.name for c in schema.features]},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "datatype": {"type": "string"},
            "data": {"type": "array", "items": {}},
        },
    }
    body = {
        "type": "object",
        "required": ["inputs"],
        "properties": {"id": {"type": "string"}, "inputs": {"type": "array", "items": tensor}},
    }
    example = example_record(schema)
    inputs = [
        {"name": c.name, "shape": [1], "datatype": DATATYPES[c.type], "data": [example[c.name]]}
        for c in schema.features
    ]
    return _json_body(body, {"inputs": inputs})


def _json_body(schema: dict[str, Any], example: Any) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}
