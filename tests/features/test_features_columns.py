"""Columns of rows: the same within one prediction, never of other rows, and worked out once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from kubeautoml_trainer.features import columns as module
from kubeautoml_trainer.features.again import one_prediction
from kubeautoml_trainer.features.columns import Columns, columns_of


def make_frame(rows: int = 40) -> pd.DataFrame:
    colours = pd.array((["red", None, "blue", "red"] * rows)[:rows], dtype="string")
    return pd.DataFrame({"size": np.arange(rows, dtype=float), "colour": colours})


def test_all_pipelines_of_one_prediction_share_the_columns_of_their_rows():
    """Other rows have others, and after the prediction nothing is kept."""
    first, second = make_frame(), make_frame()

    with one_prediction():
        found = columns_of(first)
        assert columns_of(first) is found
        assert columns_of(second) is not found
    assert columns_of(first) is not found


def test_values_are_told_apart_once(monkeypatch: pytest.MonkeyPatch):
    """However many pipelines ask."""
    asked = []
    factorize = pd.factorize
    monkeypatch.setattr(pd, "factorize", lambda values, **how: asked.append(1) or factorize(values, **how))
    columns = Columns(make_frame())

    places, values = columns.distinct("colour")
    again, _ = columns.distinct("colour")

    assert places.tolist()[:4] == [0, -1, 1, 0]
    assert values.tolist() == ["red", "blue"]
    assert again is places
    assert len(asked) == 1


@pytest.mark.parametrize("rows", [3, 40])
def test_texts_are_bytes_and_gaps_are_empty(rows: int):
    strings = columns_of(make_frame(rows)).strings("colour")

    assert strings.tolist()[:3] == [b"red", b"", b"blue"]


def test_what_is_worked_out_of_many_rows_is_not_kept(monkeypatch: pytest.MonkeyPatch):
    """It would take memory for as long as the prediction lasts."""
    monkeypatch.setattr(module, "_KEPT_ROWS", 30)
    columns = Columns(make_frame())

    assert columns.distinct("colour")[0] is not columns.distinct("colour")[0]
    assert columns.strings("colour") is not columns.strings("colour")
    assert columns["size"] is columns["size"]
