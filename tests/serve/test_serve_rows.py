"""Requests to raw rows: what is taken, and what is refused in which words."""

from __future__ import annotations

from typing import Any

import pytest

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import PredictionError
from kubeautoml_trainer.data.base import Column, Schema
from kubeautoml_trainer.serve.rows import MAX_ROWS, example_record, frame_from_records, frame_from_tensors

SCHEMA = Schema(
    target="churned",
    columns=(
        Column("age", ColumnType.NUMBER, low=1, high=90, mean=40.0, is_integer=True, example="42"),
        Column("plan", ColumnType.CATEGORY, levels=("basic", "pro"), example="pro"),
        Column("active", ColumnType.BOOLEAN, levels=("true", "false"), example="true"),
        Column("customer", ColumnType.IDENTIFIER, example="c-1"),
    ),
    classes=("no", "yes"),
    positive_class="yes",
)


def tensor(name: str = "age", shape: Any = (2,), datatype: str = "INT64", data: Any = (1, 2)) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": list(data)}


@pytest.mark.parametrize("body", [{"age": 42}, [{"age": 42}], {"instances": [{"age": 42}]}])
def test_one_record_a_list_and_instances_mean_the_same(body: Any):
    """The three plain forms give the same frame."""
    frame = frame_from_records(body, SCHEMA)

    assert frame.to_dict("records") == [{"age": 42}]


def test_values_stay_as_they_came_but_plain_numbers_in_a_number_column():
    """Those become floats, which is faster and means the same; nothing else is touched before the schema sees it."""
    record = {"age": 42, "plan": 7, "active": 1, "new": True}

    frame = frame_from_records([record, {**record, "plan": "007"}], SCHEMA)

    assert frame["age"].dtype == "float64"
    assert frame.drop(columns="age").to_dict("list") == {"plan": [7, "007"], "active": [1, 1], "new": [True, True]}
    assert [type(v) for v in frame.iloc[0, 1:]] == [int, int, bool]


def test_a_number_column_with_anything_else_in_it_is_left_for_the_schema():
    """Text and booleans are not numbers to us; the schema says what to do with them."""
    frame = frame_from_records([{"age": 1}, {"age": True}, {"age": "2"}, {"age": [3]}], SCHEMA)

    assert frame["age"].tolist() == [1, True, "2", [3]]


def test_a_key_that_a_record_lacks_is_missing():
    """Records need not have the same keys."""
    frame = frame_from_records([{"age": 1, "plan": "pro"}, {"age": 2}], SCHEMA)

    assert frame["plan"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("hello", 'the body must be a record such as {"age": 42}, a list of records, or {"instances": [...]}, got text'),
        ([1, 2], 'record 0 must be an object such as {"age": 42}, got a number'),
        ({"instances": 3}, 'the body must be a record such as {"age": 42}, a list of records, or {"instances": [...]}, got a number'),
        ([], f"a request must hold 1 to {MAX_ROWS} rows, got 0; use 'kubeautoml predict' for larger files"),
    ],
)  # fmt: skip
def test_bodies_that_are_no_records_are_refused_in_one_sentence(body: Any, message: str):
    """Every refusal says what a body must be and what came."""
    with pytest.raises(PredictionError) as refused:
        frame_from_records(body, SCHEMA)

    assert str(refused.value) == message


def test_tensors_become_columns_whether_flat_or_of_one_column():
    """Shapes [rows] and [rows, 1] are the same column."""
    body = {"inputs": [tensor("age"), tensor("plan", (2, 1), "BYTES", (["pro"], [None]))]}

    frame = frame_from_tensors(body, SCHEMA)

    assert frame["age"].tolist() == [1, 2]
    assert frame["plan"].tolist() == ["pro", None]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([tensor(datatype="INT65")], "input 'age': datatype must be one of BOOL, UINT8"),
        ([tensor(shape=(2, 3))], "input 'age': shape must be [rows] or [rows, 1] (one tensor a column), got [2, 3]"),
        ([tensor(shape=(3,))], "input 'age': shape [3] needs 3 values in data, got 2"),
        ([tensor(), tensor()], "input 'age' is given twice"),
        ([tensor(), tensor("plan", (1,), "BYTES", ("pro",))], "all inputs must have the same number of rows, got"),
        ([{"name": "age", "shape": [1]}], "input 'age' must have 'datatype'"),
        ([], "inputs must not be empty; the model takes age, plan, active"),
    ],
)
def test_malformed_tensors_are_named_with_rule_and_value(inputs: list[Any], message: str):
    """Every refusal names the input."""
    with pytest.raises(PredictionError) as refused:
        frame_from_tensors({"inputs": inputs}, SCHEMA)

    assert str(refused.value).startswith(message)


def test_the_sample_has_every_feature_in_its_own_json_type():
    """Numbers stay numbers, whole ones whole; identifiers, which no model uses, are left out."""
    assert example_record(SCHEMA) == {"age": 42, "plan": "pro", "active": True}
