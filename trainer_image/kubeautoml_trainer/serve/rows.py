"""Requests to raw rows: plain JSON records, and the tensors of the Open Inference Protocol. Says what is wrong, where.

Only the form is checked here; whether the values fit the model's columns is `data.schema.coerce`'s business, which
training goes through as well.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import PredictionError
from kubeautoml_trainer.data.base import Column, Schema
from kubeautoml_trainer.data.images import data_url

MAX_ROWS = 100_000
"""Rows of one request; more belong into `kubeautoml predict`. A guess: about 100 MB of JSON at 50 columns."""

DATATYPES: dict[ColumnType, str] = {
    ColumnType.NUMBER: "FP64",
    ColumnType.BOOLEAN: "BOOL",
    ColumnType.CATEGORY: "BYTES",
    ColumnType.TEXT: "BYTES",
    ColumnType.DATETIME: "BYTES",
    ColumnType.IMAGE: "BYTES",
}
"""Open Inference Protocol datatype by column type; dates travel as ISO 8601 text, images as base64."""

KNOWN_DATATYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES",
)  # fmt: skip


def frame_from_records(body: Any, schema: Schema) -> pd.DataFrame:
    """One record, a list of records, or {"instances": [...]}: one row a record, a key that a record lacks is missing.

    Raises:
        PredictionError: it is none of these, or has no rows, or too many.
    """
    records = body.get("instances", [body]) if isinstance(body, dict) else body
    if not isinstance(records, list):
        raise PredictionError(
            'the body must be a record such as {"age": 42}, a list of records, or {"instances": [...]}, '
            f"got {_kind(body if not isinstance(body, dict) else records)}"
        )
    for i, record in enumerate(records):
        if not isinstance(record, dict):
            raise PredictionError(f'record {i} must be an object such as {{"age": 42}}, got {_kind(record)}')
    _check_rows(len(records))
    names = dict.fromkeys(chain.from_iterable(records))
    return _frame({name: [r.get(name) for r in records] for name in names}, len(records), schema)


def _frame(columns: dict[str, list[Any]], rows: int, schema: Schema) -> pd.DataFrame:
    """Columns as they came: 1 stays 1, true stays true, "007" stays text; types are the schema's business.

    Only plain numbers in a column of numbers become floats here, which means the same: measured on 30 columns, typing one row
    of objects took four fifths of the whole prediction.
    """
    numbers = {c.name for c in schema.features if c.type is ColumnType.NUMBER}
    made = {
        name: np.array(values, dtype=np.float64)
        if name in numbers and set(map(type, values)) <= _PLAIN
        else pd.Series(values, dtype=object)
        for name, values in columns.items()
    }
    return pd.DataFrame(made, index=pd.RangeIndex(rows))


_PLAIN = {int, float, type(None)}


def frame_from_tensors(body: Any, schema: Schema) -> pd.DataFrame:
    """The `inputs` of an inference request: one tensor a column, each of shape [rows] or [rows, 1]; of images also UINT8 pixels of shape
    [rows, height, width] or [rows, height, width, channels].

    Raises:
        PredictionError: a tensor is malformed; names it, the rule and the value.
    """
    if not isinstance(body, dict) or not isinstance(body.get("inputs"), list):
        raise PredictionError('the body must be {"inputs": [{"name", "shape", "datatype", "data"}, ...]}')
    columns: dict[str, list[Any]] = {}
    images = {c.name for c in schema.features if c.type is ColumnType.IMAGE}
    for tensor in body["inputs"]:
        name, values = _tensor_values(tensor, images)
        if name in columns:
            raise PredictionError(f"input '{name}' is given twice")
        columns[name] = values
    if not columns:
        raise PredictionError(f"inputs must not be empty; the model takes {', '.join(c.name for c in schema.features)}")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise PredictionError(f"all inputs must have the same number of rows, got {lengths}")
    rows = next(iter(lengths.values()))
    _check_rows(rows)
    return _frame(columns, rows, schema)


def _tensor_values(tensor: Any, images: set[str]) -> tuple[str, list[Any]]:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise PredictionError('every input must be an object with "name", "shape", "datatype" and "data"')
    name = tensor["name"]
    parameters = tensor.get("parameters")
    if isinstance(parameters, dict) and "binary_data_size" in parameters:
        raise PredictionError(f"input '{name}': binary tensor data is not supported; send data as JSON")
    for key in ("shape", "datatype", "data"):
        if key not in tensor:
            raise PredictionError(f"input '{name}' must have '{key}'")
    shape, datatype = tensor["shape"], tensor["datatype"]
    if datatype not in KNOWN_DATATYPES:
        raise PredictionError(f"input '{name}': datatype must be one of {', '.join(KNOWN_DATATYPES)}, got {datatype!r}")
    if name in images and datatype != "BYTES":
        return name, _pixels(name, shape, datatype, tensor["data"])
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape) or not 1 <= len(shape) <= 2:
        raise PredictionError(f"input '{name}': shape must be [rows] or [rows, 1], got {shape}")
    if len(shape) == 2 and shape[1] != 1:
        raise PredictionError(f"input '{name}': shape must be [rows] or [rows, 1] (one tensor a column), got {shape}")
    if not isinstance(tensor["data"], list):
        raise PredictionError(f"input '{name}': data must be a list, got {_kind(tensor['data'])}")
    values = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in tensor["data"]]
    if len(values) != shape[0]:
        raise PredictionError(f"input '{name}': shape {shape} needs {shape[0]} values in data, got {len(values)}")
    _check_values(name, datatype, values)
    return name, values


def _pixels(name: str, shape: Any, datatype: str, data: Any) -> list[Any]:
    """The images of a tensor of pixels, uint8 (height, width, channels) each."""
    if datatype != "UINT8":
        raise PredictionError(
            f"input '{name}': datatype of images must be BYTES (base64) or UINT8 (pixels), got {datatype}"
        )
    is_shape = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    if not is_shape or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
        raise PredictionError(
            f"input '{name}': shape of UINT8 images must be [rows, height, width] or [rows, height, width, 1, 3 or 4], got {shape}"
        )
    _check_rows(shape[0])
    try:
        values = np.array(data)
    except ValueError as error:
        raise PredictionError(f"input '{name}': rows of data must have the same length, as shape says") from error
    if values.shape != tuple(shape) and values.shape != (math.prod(shape),):
        raise PredictionError(
            f"input '{name}': shape {shape} needs {math.prod(shape)} values in data, flat or nested as shape says, got {values.shape}"
        )
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise PredictionError(f"input '{name}': datatype UINT8 needs whole numbers from 0 to 255")
    return list(values.astype(np.uint8).reshape(shape))


def _check_values(name: str, datatype: str, values: list[Any]) -> None:
    """Values must be what their datatype says; null is missing in all of them. BYTES is text, yet 7 is taken for "7"."""
    allowed = _allowed(datatype)
    if set(map(type, values)) <= allowed:
        return
    row, value = next((i, v) for i, v in enumerate(values) if type(v) not in allowed)
    wanted = "whole numbers" if int in allowed and float not in allowed else _WANTED.get(datatype, "numbers")
    raise PredictionError(
        f"input '{name}': datatype {datatype} needs {wanted} or null, got {str(value)[:80]!r} in row {row}"
    )


_WANTED = {"BOOL": "true, false", "BYTES": "text"}


def _allowed(datatype: str) -> set[type]:
    missing = type(None)
    if datatype == "BOOL":
        return {bool, missing}
    if datatype == "BYTES":
        return {str, int, float, bool, missing}
    return {int, float, missing} if datatype.startswith("FP") else {int, missing}


def _check_rows(rows: int) -> None:
    if not 1 <= rows <= MAX_ROWS:
        raise PredictionError(
            f"a request must hold 1 to {MAX_ROWS} rows, got {rows}; use 'kubeautoml predict' for larger files"
        )


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def example_value(column: Column) -> Any:
    """One value of a column as a person would type it in JSON."""
    if column.type is ColumnType.NUMBER:
        value = column.mean if column.example is None else float(column.example)
        return None if value is None else int(value) if column.is_integer else round(value, 4)
    if column.type is ColumnType.BOOLEAN:
        return (column.example or "true").lower() in ("true", "1", "1.0", "yes")
    if column.type is ColumnType.IMAGE:
        return data_url(np.full((column.height or 1, column.width or 1, column.channels or 1), 127, dtype=np.uint8))
    return column.example if column.example is not None else (column.levels[0] if column.levels else "")


def example_record(schema: Schema) -> dict[str, Any]:
    """A record that the model takes; made of single column values, so it is nobody's row."""
    return {c.name: example_value(c) for c in schema.features}
