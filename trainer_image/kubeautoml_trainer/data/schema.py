"""Raw rows to typed rows by a schema: the one path that training, batch prediction and the server go through."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pandas as pd

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import BundleError, PredictionError
from kubeautoml_trainer.data.base import Column, Schema
from kubeautoml_trainer.data.images import typed_images
from kubeautoml_trainer.data.texts import read_part
from kubeautoml_trainer.data.values import MAX_NUMBER, Parsed, shown, to_booleans, to_numbers, to_seconds, to_texts

FORMAT_VERSION = 1

_WANTED = {
    ColumnType.NUMBER: "a number",
    ColumnType.BOOLEAN: "true or false",
    ColumnType.DATETIME: "a date or time such as 2024-01-31T12:00:00Z",
    ColumnType.CATEGORY: "text",
    ColumnType.TEXT: "text",
}


def coerce(raw: pd.DataFrame, schema: Schema, *, infinite_is_missing: bool = False) -> pd.DataFrame:
    """Typed rows, as `data.base.Rows.frame` describes. Order does not matter, unknown columns are left out.

    `infinite_is_missing`: for training files, whose infinities the profile warns of; a request is refused.

    Raises:
        PredictionError: columns that the model uses are missing, are there twice, or hold values of another kind.
    """
    check_columns(raw, schema)
    places = {str(n): i for i, n in enumerate(raw.columns)}
    typed = {
        column.name: typed_values(raw.iloc[:, places[column.name]], column, infinite_is_missing=infinite_is_missing)
        for column in schema.features
    }
    return frame_of(typed, len(raw))


def frame_of(columns: Mapping[str, np.ndarray], rows: int) -> pd.DataFrame:
    """The frame of typed columns, without a copy."""
    # dtype object for text, or pandas would choose a string type of its own
    series = {name: pd.Series(values, dtype=values.dtype, copy=False) for name, values in columns.items()}
    return pd.DataFrame(series, index=pd.RangeIndex(rows), copy=False)


def check_columns(raw: pd.DataFrame, schema: Schema) -> None:
    """Whether all columns that the model uses are there once.

    Raises:
        PredictionError: names those that are not.
    """
    present = [str(c) for c in raw.columns]
    missing = [c.name for c in schema.features if c.name not in present]
    if missing:
        few = ", ".join(f"'{n}'" for n in missing[:20])
        raise PredictionError(
            f"column{'s' if len(missing) > 1 else ''} {few} must be given (null where unknown), got columns {', '.join(present[:50])}"
        )
    if len(set(present)) != len(present):
        twice = next(c for c in present if present.count(c) > 1)
        raise PredictionError(f"column '{twice}' must be given once, got it {present.count(twice)} times")


def unknown_columns(raw: pd.DataFrame, schema: Schema) -> list[str]:
    """Columns of a request that the schema does not know; they are ignored."""
    known = {c.name for c in schema.columns} | {schema.target}
    return [str(c) for c in raw.columns if str(c) not in known]


def typed_values(raw: pd.Series, column: Column, *, infinite_is_missing: bool = False) -> np.ndarray:
    """One column as `data.base.Rows.frame` holds it, (n,).

    Raises:
        PredictionError: it holds values of another kind.
    """
    if column.type is ColumnType.IMAGE:
        return typed_images(raw, column)
    parsers: dict[ColumnType, Callable[[pd.Series], Parsed]] = {
        ColumnType.NUMBER: lambda s: to_numbers(s, frozenset(column.missing_words)),
        ColumnType.BOOLEAN: to_booleans,
        ColumnType.DATETIME: lambda s: to_seconds(s, day_first=column.day_first),
        ColumnType.CATEGORY: to_texts,
        ColumnType.TEXT: to_texts,
    }
    parsed = parsers[column.type](raw)
    if parsed.any_bad:
        row = int(np.flatnonzero(parsed.bad)[0])
        raise PredictionError(
            f"column '{column.name}' must be {_WANTED[column.type]}, got {shown(raw.iloc[row])} in row {row}"
        )
    if column.type is ColumnType.TEXT:
        return read_part(parsed.values)
    return _bounded(parsed.values, column, infinite_is_missing) if column.type is ColumnType.NUMBER else parsed.values


def _bounded(values: np.ndarray, column: Column, infinite_is_missing: bool) -> np.ndarray:
    """Numbers that any model can compute with: none is infinite, none beyond `MAX_NUMBER`."""
    # comparisons with NaN are false, and most columns hold nothing large: no copy is made then
    if not (np.abs(values) > MAX_NUMBER).any():
        return values
    infinite = np.isinf(values)
    if infinite.any() and not infinite_is_missing:
        row = int(np.flatnonzero(infinite)[0])
        raise PredictionError(
            f"column '{column.name}' must be finite, got {values[row]} in row {row}; give null if it is unknown"
        )
    return np.where(infinite, np.nan, np.clip(values, -MAX_NUMBER, MAX_NUMBER))


def schema_to_json(schema: Schema) -> str:
    """Text that `schema_from_json` reads."""
    columns = [
        {k: v for k, v in asdict(c).items() if v not in (None, (), "") and v is not False} for c in schema.columns
    ]
    body = {
        "format": FORMAT_VERSION,
        "target": schema.target,
        "classes": list(schema.classes),
        "positive_class": schema.positive_class,
        **({"quantiles": list(schema.quantiles)} if schema.quantiles else {}),
        "columns": columns,
    }
    return json.dumps(body, indent=1, ensure_ascii=False)


def schema_from_json(text: str) -> Schema:
    """The schema in a text.

    Raises:
        BundleError: it is damaged, or was written by a newer version.
    """
    try:
        body = json.loads(text)
        if body["format"] != FORMAT_VERSION:
            raise BundleError(
                f"schema format must be {FORMAT_VERSION}, got {body['format']}; use the version that wrote it"
            )
        unknown = set(body) - {"format", "target", "classes", "positive_class", "quantiles", "columns"}
        if unknown:
            raise ValueError(f"unknown fields {sorted(unknown)}")
        return Schema(
            target=body["target"],
            columns=tuple(_column(c) for c in body["columns"]),
            classes=tuple(body["classes"]),
            positive_class=body["positive_class"],
            quantiles=tuple(float(q) for q in body.get("quantiles", ())),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"the schema is damaged: {type(error).__name__}: {error}") from error


_COLUMN_FIELDS = {f.name for f in fields(Column)}


def _column(body: dict[str, Any]) -> Column:
    unknown = set(body) - _COLUMN_FIELDS
    if unknown:
        raise ValueError(f"unknown column fields {sorted(unknown)}")
    tuples = {k: tuple(v) for k, v in body.items() if isinstance(v, list)}
    return Column(**{**body, **tuples, "type": ColumnType(body["type"])})
