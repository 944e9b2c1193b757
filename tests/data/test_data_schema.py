"""Raw rows by a schema: training, files and requests go the same way."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import BundleError, PredictionError
from kubeautoml_trainer.data.base import Column, Schema
from kubeautoml_trainer.data.infer import infer_column
from kubeautoml_trainer.data.schema import coerce, schema_from_json, schema_to_json, unknown_columns

SCHEMA = Schema(
    target="bought",
    columns=(
        Column("age", ColumnType.NUMBER, missing_words=("unknown",), low=0.0, high=99.5, mean=40.0),
        Column("vip", ColumnType.BOOLEAN, levels=("false", "true")),
        Column("since", ColumnType.DATETIME, day_first=True),
        Column("city", ColumnType.CATEGORY, levels=("Bonn", "Kiel"), example="Bonn"),
        Column("note", ColumnType.TEXT),
        Column("ref", ColumnType.IDENTIFIER),
        Column("one", ColumnType.CONSTANT),
    ),
    classes=("no", "yes"),
    positive_class="yes",
)


def make_request(rows: int = 1, **changes: Any) -> pd.DataFrame:
    """Rows as JSON gives them."""
    row = {"age": 42, "vip": True, "since": "03/04/2020", "city": "Bonn", "note": "fine"}
    return pd.DataFrame([{**row, **changes}] * rows)


def test_typed_rows_have_the_dtypes_of_the_contract():
    """Numbers, booleans and dates are float64, text is object of str."""
    frame = coerce(make_request(), SCHEMA)

    assert {c: str(d) for c, d in frame.dtypes.items()} == {
        "age": "float64",
        "vip": "float64",
        "since": "float64",
        "city": "object",
        "note": "object",
    }
    assert frame.to_dict("records") == [
        {"age": 42.0, "vip": 1.0, "since": 1585872000.0, "city": "Bonn", "note": "fine"}
    ]


@pytest.mark.parametrize(
    ("column", "value", "typed"),
    [
        ("age", "42", 42.0),
        ("age", True, 1.0),
        ("age", "Unknown", None),
        ("age", "NA", None),
        ("age", "", None),
        ("age", None, None),
        ("vip", "Yes", 1.0),
        ("vip", 0, 0.0),
        ("vip", None, None),
        ("since", pd.Timestamp("2020-04-03T02:00:00+02:00"), 1585872000.0),
        ("since", 1585872000, 1585872000.0),
        ("since", "20200403", 1585872000.0),
        ("since", 20200403, 1585872000.0),
        ("since", None, None),
        ("city", "Ulm", "Ulm"),
        ("city", "NA", "NA"),
        ("city", " ", None),
        ("city", 7, "7"),
        ("city", 7.0, "7"),
        ("city", "7.0", "7"),
        ("city", True, "true"),
        ("city", None, None),
    ],
)
def test_a_value_reads_the_same_alone_and_among_others(column: str, value: Any, typed: Any):
    """What else is in the request cannot change a value."""
    alone = make_request(**{column: value})
    beside = pd.concat([make_request(), alone, make_request(**{column: None})], ignore_index=True).astype(object)

    found = [coerce(alone, SCHEMA)[column][0], coerce(beside, SCHEMA)[column][1]]

    assert [None if pd.isna(v) else v for v in found] == [typed, typed]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"age": "abc"}, "column 'age' must be a number, got 'abc' in row 0"),
        ({"age": [1]}, "column 'age' must be a number, got [1] in row 0"),
        ({"age": {"a": 1}}, "column 'age' must be a number, got {'a': 1} in row 0"),
        ({"age": np.inf}, "column 'age' must be finite, got inf in row 0; give null if it is unknown"),
        ({"age": "-inf"}, "column 'age' must be finite, got -inf in row 0; give null if it is unknown"),
        (
            {"age": pd.Timestamp("2020-01-01")},
            "column 'age' must be a number, got Timestamp('2020-01-01 00:00:00') in row 0",
        ),
        ({"vip": 2}, "column 'vip' must be true or false, got 2 in row 0"),
        ({"vip": [True]}, "column 'vip' must be true or false, got [True] in row 0"),
        ({"since": "soon"}, "column 'since' must be a date or time such as 2024-01-31T12:00:00Z, got 'soon' in row 0"),
        ({"since": {}}, "column 'since' must be a date or time such as 2024-01-31T12:00:00Z, got {} in row 0"),
        (
            {"since": 1e15},
            "column 'since' must be a date or time such as 2024-01-31T12:00:00Z, got 1000000000000000.0 in row 0",
        ),
        ({"city": ["Bonn"]}, "column 'city' must be text, got ['Bonn'] in row 0"),
        ({"note": {"a": 1}}, "column 'note' must be text, got {'a': 1} in row 0"),
    ],
)
def test_a_value_of_another_kind_is_refused(changes: dict[str, Any], message: str):
    """Column, rule, value and row."""
    raw = pd.DataFrame({c: [changes[c]] if c in changes else v for c, v in make_request().items()})

    with pytest.raises(PredictionError) as caught:
        coerce(raw, SCHEMA)

    assert str(caught.value) == message


def test_the_row_of_a_bad_value_is_counted_from_zero():
    """The row is that of the request, whatever its index says."""
    raw = pd.concat([make_request(3), make_request(age="abc")])

    with pytest.raises(PredictionError, match=r"^column 'age' must be a number, got 'abc' in row 3$"):
        coerce(raw, SCHEMA)


def test_missing_columns_are_all_named():
    """Columns that no model uses may be absent."""
    with pytest.raises(PredictionError) as caught:
        coerce(make_request()[["age", "city"]], SCHEMA)

    said = "columns 'vip', 'since', 'note' must be given (null where unknown), got columns age, city"
    assert str(caught.value) == said


def test_a_column_given_twice_is_refused():
    """Nobody could say which of the two counts."""
    raw = make_request()
    twice = pd.concat([raw, raw[["age"]]], axis=1)

    with pytest.raises(PredictionError, match=r"^column 'age' must be given once, got it 2 times$"):
        coerce(twice, SCHEMA)


def test_order_does_not_matter_and_unknown_columns_are_listed():
    """Identifiers, constants and the target are known though nothing uses them."""
    raw = make_request(extra=1, ref="r", one=1, bought="no")

    turned = raw[list(raw.columns)[::-1]]

    pd.testing.assert_frame_equal(coerce(turned, SCHEMA), coerce(make_request(), SCHEMA))
    assert unknown_columns(turned, SCHEMA) == ["extra"]


def test_wholly_missing_values_are_fine():
    """A row of nulls is a row."""
    nothing = make_request().map(lambda _: None)

    assert coerce(nothing, SCHEMA).isna().all(axis=None)


VALUES = {
    ColumnType.NUMBER: st.one_of(st.none(), st.floats(-1e9, 1e9).map(repr), st.integers(-99, 99).map(str)),
    ColumnType.CATEGORY: st.one_of(st.none(), st.text("abcxyzÄ NA01.", max_size=6)),
    ColumnType.BOOLEAN: st.sampled_from([None, "yes", "no", "True", "off", "NA"]),
    ColumnType.DATETIME: st.one_of(
        st.none(), st.datetimes(dt.datetime(1701, 1, 1), dt.datetime(2299, 12, 31)).map(str)
    ),
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_one_by_one_are_typed_as_all_together(data: st.DataObject):
    """Whatever a training file holds: each of its rows, sent alone as JSON, gives the training row."""
    rows = data.draw(st.integers(3, 8))
    raw = pd.DataFrame(
        {k.value: data.draw(st.lists(v, min_size=rows, max_size=rows)) for k, v in VALUES.items()}, dtype="str"
    )
    columns = tuple(infer_column(k.value, raw[k.value], k).column for k in VALUES)
    schema = Schema("y", columns)

    together = coerce(raw, schema)

    for i in range(rows):
        record = {k: None if pd.isna(v) else v for k, v in raw.iloc[i].items()}
        alone = coerce(pd.DataFrame([record]), schema)
        pd.testing.assert_frame_equal(alone, together.iloc[[i]].reset_index(drop=True))


def test_a_schema_survives_json():
    """Every field, also those at their defaults."""
    assert schema_from_json(schema_to_json(SCHEMA)) == SCHEMA


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "schema format must be 1, got 2; use the version that wrote it"),
        ({"extra": 1}, "the schema is damaged: ValueError: unknown fields ['extra']"),
        (
            {"columns": [{"name": "a", "type": "Number", "odd": 1}]},
            "the schema is damaged: ValueError: unknown column fields ['odd']",
        ),
        (
            {"columns": [{"name": "a", "type": "Colour"}]},
            "the schema is damaged: ValueError: 'Colour' is not a valid ColumnType",
        ),
        ({"columns": [{"type": "Number"}]}, None),
    ],
)
def test_a_foreign_schema_is_refused(change: dict[str, Any], message: str | None):
    """Loading is strict: nothing unknown, nothing missing."""
    body = {**json.loads(schema_to_json(SCHEMA)), **change}

    with pytest.raises(BundleError) as caught:
        schema_from_json(json.dumps(body))

    assert message is None or str(caught.value) == message
    assert str(caught.value).startswith("the schema is damaged: ") or message is not None
