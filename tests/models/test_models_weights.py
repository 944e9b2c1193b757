"""Class weights: rows of rare classes count more in a fit, within bounds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kubeautoml.api.objective import ClassWeight
from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.models.weights import MOST, class_factors, weighed


def make_rows(y: list[int], weight: np.ndarray | None = None) -> Rows:
    return Rows(pd.DataFrame(index=range(len(y))), np.array(y, dtype=np.int64), weight)


def test_balanced_classes_count_alike_and_rows_as_much_as_before():
    """Like scikit-learn's class_weight="balanced"; with weights of rows, too."""
    rows = make_rows([0] * 90 + [1] * 10, np.linspace(0.5, 1.5, 100))

    weight = weighed(rows, class_factors(rows, 2, ClassWeight.BALANCED)).weight

    assert weight is not None
    assert weight[:90].sum() == pytest.approx(weight[90:].sum())
    assert weight.mean() == pytest.approx(1.0)


def test_without_a_wish_rows_are_left_alone():
    """Nothing is copied."""
    rows = make_rows([0, 0, 1])

    assert weighed(rows, class_factors(rows, 2, ClassWeight.NONE)) is rows


def test_one_row_in_ten_thousand_does_not_decide_all():
    """The ratio of two classes' weights is bounded; classes that are absent and tables without classes change nothing."""
    rows = make_rows([0] * 9_999 + [1])

    factors = class_factors(rows, 3, ClassWeight.BALANCED)

    assert factors is not None and factors[1] / factors[0] == pytest.approx(MOST)
    assert class_factors(rows, 0, ClassWeight.BALANCED) is None
