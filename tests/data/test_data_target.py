"""The target: what can be learned, and what is said about everything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.data_factories import make_pod_job, regression
from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import DataError
from kubeautoml_trainer.data.target import Target, read_target


def read(values: Any, column: str = "bought", **spec: Any) -> Target:
    """The target column of these values; text as a CSV file gives it."""
    return read_target(pd.DataFrame({"age": range(len(values)), column: values}), make_pod_job(**spec).task)


def positive(name: str) -> dict[str, Any]:
    return {"task": {"type": "TabularClassification", "target": "bought", "positiveClass": name}}


@pytest.mark.parametrize(
    ("values", "classes", "positive_class"),
    [
        (["yes", "no", "no"] * 5, ("no", "yes"), "yes"),
        (["yes", "yes", "no"] * 5, ("no", "yes"), "yes"),
        (["0", "1", "1"] * 5, ("0", "1"), "1"),
        ([0, 1, 1] * 5, ("0", "1"), "1"),
        ([0.0, 1.0, 1.0] * 5, ("0", "1"), "1"),
        (["0.0", "1.0", "1.0"] * 5, ("0", "1"), "1"),
        ([True, False, True] * 5, ("false", "true"), "true"),
        (["bad", "good", "good"] * 5, ("bad", "good"), "bad"),
        (["b", "a", "c"] * 5, ("a", "b", "c"), None),
        (["10", "9", "2"] * 5, ("2", "9", "10"), None),
        (["None", "NA", "NA"] * 5, ("NA", "None"), "None"),
        ([" a", "a ", "b"] * 5, ("a", "b"), "b"),
    ],
)
def test_classes_are_sorted_text(values: list[Any], classes: tuple[str, ...], positive_class: str | None):
    """Numbers in their own order and without needless decimals; the default positive class is the telling or the rarer one."""
    found = read(values)

    assert (found.classes, found.positive_class) == (classes, positive_class)
    assert found.y.dtype == np.int64


@pytest.mark.parametrize(("asked", "got"), [("no", "no"), ("No", "no"), ("YES ", "yes")])
def test_the_positive_class_may_be_written_in_another_case(asked: str, got: str):
    """A file may hold True where the manifest says true."""
    assert read(["yes", "no"] * 6, **positive(asked)).positive_class == got


def test_rows_without_a_target_are_left_out_with_a_warning():
    """The warning counts them."""
    found = read(["yes", "no", None, ""] * 6)

    assert found.usable.tolist() == [True, True, False, False] * 6
    assert found.warnings == ("12 rows without a value of the target 'bought' are left out",)


def test_words_for_nothing_are_missing_among_numbers():
    """NA is no number, and no class either in a regression."""
    found = read(["1.5", "2", "NA", "nan"] * 6, **regression())

    assert found.y.tolist() == [1.5, 2.0] * 6
    assert found.warnings == ("12 rows without a value of the target 'bought' are left out",)


@pytest.mark.parametrize(
    ("values", "spec", "reason", "message"),
    [
        (
            ["a"] * 20,
            {"target": "boght"},
            Reason.TARGET_NOT_FOUND,
            "spec.task.target: column 'boght' is not in the data; did you mean 'bought'? columns: age, bought",
        ),
        (
            ["a"] * 20,
            {"target": "zzz"},
            Reason.TARGET_NOT_FOUND,
            "spec.task.target: column 'zzz' is not in the data; columns: age, bought",
        ),
        (
            [None] * 20,
            {},
            Reason.TARGET_UNUSABLE,
            "spec.task.target: column 'bought' has no value in any row",
        ),
        (
            ["NA"] * 20,
            regression(),
            Reason.TARGET_UNUSABLE,
            "spec.task.target: column 'bought' has no value in any row",
        ),
        (
            ["a"] * 20,
            {},
            Reason.TARGET_UNUSABLE,
            "spec.task.target: column 'bought' has the same value, 'a', in every row; there is nothing to learn",
        ),
        (
            [7] * 20,
            regression(),
            Reason.TARGET_UNUSABLE,
            "spec.task.target: column 'bought' has the same value, 7, in every row; there is nothing to learn",
        ),
        (
            ["a", "b"] * 10 + ["c"],
            {},
            Reason.TARGET_UNUSABLE,
            "spec.task.target: column 'bought' must have at least two rows of each class, 'c' has one; add rows or remove the class",
        ),
        (
            list(range(30)),
            {},
            Reason.TARGET_UNUSABLE,
            "spec.task.target: column 'bought' must have at least two rows of each class, '0', '1', '10', '11', '12' have one; "
            "add rows or remove the class, or use TabularRegression if these are quantities",
        ),
        (
            [i / 7 for i in range(30)],
            {},
            Reason.TARGET_UNUSABLE,
            "spec.task.target: column 'bought' has 30 different values; for numbers use task type TabularRegression",
        ),
        (
            [0.0, 1.0, np.inf] * 8,
            {},
            Reason.TARGET_UNUSABLE,
            "spec.task.target: column 'bought' must hold classes, got infinite numbers; remove those rows",
        ),
        (
            [0.0, 1.0, np.inf] * 8,
            regression(),
            Reason.TARGET_UNUSABLE,
            "spec.task.target: column 'bought' must hold finite numbers, 8 values are infinite; remove those rows",
        ),
        (
            ["cheap", "dear"] * 8,
            regression(),
            Reason.TARGET_UNUSABLE,
            "spec.task.target: column 'bought' must hold numbers for TabularRegression, got 'cheap'; for classes use TabularClassification",
        ),
        (
            pd.date_range("2024-01-01", periods=20),
            regression(),
            Reason.TARGET_UNUSABLE,
            "spec.task.target: column 'bought' must hold numbers for TabularRegression, got dates such as '2024-01-01 00:00:00'; "
            "turn them into a duration",
        ),
        (
            [[1], [2]] * 8,
            {},
            Reason.TARGET_UNUSABLE,
            "spec.task.target: column 'bought' must hold one value a row, got a list or an object",
        ),
        (
            ["a", "b"] * 4,
            {},
            Reason.TOO_FEW_ROWS,
            "the data must have at least 10 rows with a value of 'bought', got 8",
        ),
        (
            ["yes", "no"] * 8,
            positive("maybe"),
            Reason.TARGET_UNUSABLE,
            "spec.task.positiveClass must be one of the classes no, yes, got 'maybe'",
        ),
    ],
)
def test_a_target_that_cannot_be_learned_is_explained(values: Any, spec: dict[str, Any], reason: Reason, message: str):
    """Field, column, rule, value, and what to do where that is known."""
    with pytest.raises(DataError) as caught:
        read(values, **spec)

    assert (caught.value.reason, str(caught.value)) == (reason, message)
