"""What a raw column is taken for, and what is said about it."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import DataError
from kubeautoml_trainer.data.infer import infer_column

N = 60


def texts(*values: str | None, rows: int = N) -> pd.Series:
    """A column as a CSV file gives it: the values in turn."""
    return pd.Series([values[i % len(values)] for i in range(rows)], dtype="str")


def unique(form: str, rows: int = N) -> pd.Series:
    return pd.Series([form.format(i) for i in range(rows)], dtype="str")


@pytest.mark.parametrize(
    ("name", "raw", "kind"),
    [
        ("age", texts("1", "2.5", "-3e2", None), ColumnType.NUMBER),
        ("age", texts(" 1", "2 ", "NA", "nan", "null", "?"), ColumnType.NUMBER),
        ("age", pd.Series([1, 2, None] * 20), ColumnType.NUMBER),
        ("age", pd.Series([1, 2, None] * 20, dtype="Int64"), ColumnType.NUMBER),
        ("age", pd.Series([Decimal("1.5"), Decimal(2), None] * 20, dtype=object), ColumnType.NUMBER),
        ("wait", pd.Series(pd.to_timedelta([1, 2, 3] * 20, unit="s")), ColumnType.NUMBER),
        ("flag", texts("0", "1"), ColumnType.NUMBER),
        ("flag", texts("yes", "no", None), ColumnType.BOOLEAN),
        ("flag", texts("True", "FALSE"), ColumnType.BOOLEAN),
        ("flag", texts("t", "f", "NA"), ColumnType.CATEGORY),
        ("flag", texts("on", "off"), ColumnType.BOOLEAN),
        ("flag", pd.Series([True, False] * 30), ColumnType.BOOLEAN),
        ("flag", pd.Series([True, None, False] * 20, dtype=object), ColumnType.BOOLEAN),
        ("flag", pd.Series([True, None, False] * 20, dtype="boolean"), ColumnType.BOOLEAN),
        ("plz", texts("01067", "53111"), ColumnType.CATEGORY),
        ("fuel", texts("None", "Gas", "NA"), ColumnType.CATEGORY),
        ("size", texts("1", "2", "3", "XL"), ColumnType.CATEGORY),
        ("size", pd.Series(["a", "b"] * 30, dtype="category"), ColumnType.CATEGORY),
        ("size", pd.Series([1, 2] * 30, dtype="category"), ColumnType.NUMBER),
        ("day", texts("2024-01-31", "2024-02-01"), ColumnType.DATETIME),
        ("day", texts("2024-01-31T10:00:00Z", "2024-02-01T10:00:00+02:00"), ColumnType.DATETIME),
        ("day", texts("31.01.2024", "01.02.2024"), ColumnType.DATETIME),
        ("day", texts("01/31/2024", "02/01/2024 10:30"), ColumnType.DATETIME),
        ("day", texts("31 Jan 2024", "1 February 2024"), ColumnType.DATETIME),
        ("day", pd.Series(pd.to_datetime(["2024-01-31", None, "2024-02-01"] * 20)), ColumnType.DATETIME),
        ("day", pd.Series([dt.date(2024, 1, 31), None, dt.date(2024, 2, 1)] * 20), ColumnType.DATETIME),
        ("order_date", texts("20240131", "20240201"), ColumnType.DATETIME),
        ("amount", texts("20240131", "20240201"), ColumnType.NUMBER),
        ("day", texts("2024-01-31", "later"), ColumnType.CATEGORY),
        ("user_id", unique("{}"), ColumnType.IDENTIFIER),
        ("userId", pd.Series(range(N)), ColumnType.IDENTIFIER),
        ("user_id", texts("1", "2"), ColumnType.NUMBER),
        ("price", unique("{}"), ColumnType.NUMBER),
        ("ref", unique("A-{}"), ColumnType.IDENTIFIER),
        ("ref", pd.Series([str(uuid.UUID(int=i)) for i in range(N)]), ColumnType.IDENTIFIER),
        ("note", unique("the goods number {} came late again"), ColumnType.TEXT),
        ("one", texts("x"), ColumnType.CONSTANT),
        ("one", texts("7"), ColumnType.CONSTANT),
        ("one", texts("7", None), ColumnType.CONSTANT),
        ("none", texts(None, ""), ColumnType.CONSTANT),
        ("none", pd.Series([None] * N, dtype=object), ColumnType.CONSTANT),
    ],
)
def test_a_column_is_taken_for_what_it_holds(name: str, raw: pd.Series, kind: ColumnType):
    """Types follow from values, and from the name only where values cannot tell."""
    assert infer_column(name, raw).column.type is kind


@pytest.mark.parametrize(
    "values",
    [
        ("1", "2.5", "-3e2", None),
        ("4", None, "", "7"),
        ("1", "nan", "3"),
        ("inf", "2", "5", None),
        ("1e300", "2"),
        (None, None),
        ("5", "5"),
        ("007", "012"),
        ("20240131", "20230228"),
    ],
)
@pytest.mark.parametrize("name", ["size", "date"])
def test_a_column_of_text_and_the_same_one_of_objects_are_described_alike(name: str, values: tuple[str | None, ...]):
    """Text of plain numbers goes a shorter way, with the same result."""
    raw, train = texts(*values), np.arange(N) % 3 > 0

    assert infer_column(name, raw, None, train) == infer_column(name, raw.astype(object), None, train)


def test_a_few_words_among_numbers_mean_missing_and_are_remembered():
    """At most two in a hundred: the column stays one of numbers, with a warning."""
    raw = pd.Series([*map(str, range(99)), "Unknown"], dtype="str")

    found = infer_column("age", raw)

    assert (found.column.type, found.column.missing_words) == (ColumnType.NUMBER, ("unknown",))
    assert found.warnings == ("column 'age' is read as numbers; 1 values that are words ('unknown') count as missing",)


def test_more_words_make_a_category_and_a_warning():
    """Never a crash; the warning says how to have it otherwise."""
    raw = pd.Series([*map(str, range(90)), *["unknown"] * 10], dtype="str")

    found = infer_column("age", raw)

    assert found.column.type is ColumnType.CATEGORY
    assert found.warnings == (
        "column 'age' mixes numbers and words (10% words such as 'unknown'); it is read as a category; "
        "set spec.dataset.columns.types if it holds numbers",
    )


def test_an_override_to_number_makes_words_missing():
    """What the author says is followed as far as the values allow."""
    raw = pd.Series([*map(str, range(90)), *["unknown"] * 10], dtype="str")

    found = infer_column("age", raw, ColumnType.NUMBER).column

    assert (found.type, found.missing_words, found.high) == (ColumnType.NUMBER, ("unknown",), 89.0)


def test_infinite_values_of_a_feature_count_as_missing():
    """They are no bound of the column, and the warning counts them."""
    found = infer_column("age", pd.Series([*map(str, range(50)), "inf", "-Infinity"], dtype="str"))

    assert (found.column.low, found.column.high) == (0.0, 49.0)
    assert found.warnings == ("column 'age' holds 2 infinite values; they count as missing",)


def test_an_infinite_value_does_not_end_in_an_overflow_for_whole_numbers():
    """A Parquet column of floats with an infinity is a number like others."""
    assert infer_column("user_id", pd.Series([*range(30), np.inf])).column.type is ColumnType.NUMBER


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            ColumnType.NUMBER,
            ("a", "b"),
            "column 'x' must hold numbers, as dataset.columns.types says, got 'a' in row 0",
        ),
        (
            ColumnType.BOOLEAN,
            ("yes", "maybe"),
            "column 'x' must hold booleans (true/false, yes/no, 1/0), as dataset.columns.types says, got 'maybe' in row 1",
        ),
        (
            ColumnType.DATETIME,
            ("2024-01-31", "soon"),
            "column 'x' must hold dates or times such as 2024-01-31 or 2024-01-31T12:00:00Z, as dataset.columns.types says, "
            "got 'soon' in row 1",
        ),
    ],
)
def test_an_override_that_does_not_fit_is_refused(kind: ColumnType, values: tuple[str, ...], message: str):
    """The first value that does not fit is named with its row."""
    with pytest.raises(DataError) as caught:
        infer_column("x", texts(*values), kind)

    assert str(caught.value) == message


@pytest.mark.parametrize("value", [[1], {"a": 1}, np.array([1]), (1,)])
def test_nested_values_are_refused(value: Any):
    """Lists and objects, as JSON and Parquet may hold them."""
    raw = pd.Series([None, value], dtype=object)

    with pytest.raises(DataError) as caught:
        infer_column("x", raw)

    said = f"column 'x' must hold one value a row, got {value!r} in row 1; flatten it, or name it in spec.dataset.columns.ignore"
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("values", "day_first"),
    [
        (("03/04/2020", "13/04/2020"), True),
        (("03/04/2020", "04/13/2020"), False),
        (("03.04.2020", "04.05.2020"), True),
        (("2020-04-03", "2020-04-13"), False),
    ],
)
def test_the_order_of_day_and_month_is_told_from_the_whole_column(values: tuple[str, ...], day_first: bool):
    """One value alone may be read both ways."""
    assert infer_column("day", texts(*values)).column.day_first is day_first


def test_statistics_describe_training_rows_only():
    """The type comes from all rows; levels and bounds do not know the hold-out."""
    train = np.arange(N) < N - 10
    number = pd.Series([str(i % 7) for i in range(N - 10)] + ["1000"] * 10, dtype="str")
    level = pd.Series(["a", "b"] * 25 + ["hidden"] * 10, dtype="str")

    assert infer_column("x", number, train=train).column.high == 6.0
    assert infer_column("x", level, train=train).column.levels == ("a", "b")


def test_levels_come_most_frequent_first_and_equals_by_name():
    """The order does not depend on the order of rows."""
    raw = pd.Series(["b", "c", "a", "c", "a", "b", "d", "c"], dtype="str")

    assert infer_column("x", raw).column.levels == ("c", "a", "b", "d")
