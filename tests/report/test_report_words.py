"""The words that a linear model goes by: under the right class, with their own weights, whatever columns stand beside them."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.report.words import MOST_WORDS, read_words
from kubeautoml_trainer.tasks import task_for

SAYS = {0: "good sunny", 1: "bad rainy", 2: "plain cloudy"}


def make_pipeline(family: str, classes: int, *, several: bool = False, **parameters: object) -> FittedPipeline:
    """Texts whose words say the class, or the number, and a number that says nothing."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, max(2, classes), 120)
    text = pd.Series([f"{SAYS[k]} day {rng.integers(5)}" for k in y], dtype=object)
    columns = [Column("size", ColumnType.NUMBER), Column("text", ColumnType.TEXT)]
    frame = pd.DataFrame({"size": rng.normal(size=120), "text": text})
    if several:
        columns.append(Column("note", ColumnType.TEXT))
        frame["note"] = pd.Series(["the same note"] * 120, dtype=object)
    schema = Schema("mood", tuple(columns), tuple("abc"[:classes]))
    kind = TaskType.TEXT_CLASSIFICATION if classes else TaskType.TEXT_REGRESSION
    context = FitContext(task_for(kind, schema), "Accuracy" if classes else "Rmse", 0, 1, time.monotonic() + 60)
    rows = Rows(frame, y if classes else y.astype(np.float64))
    return family_named(family).fit(rows, None, schema, parameters, context)


@pytest.mark.parametrize("family", ["Linear", "NaiveBayesSvm"])
@pytest.mark.parametrize("terms", ["words", "both"])
def test_each_class_has_its_own_words_first(family: str, terms: str):
    """Three classes, two, and a number, which words push up or down."""
    three = read_words(make_pipeline(family, 3, terms=terms), "mood", ("a", "b", "c"))
    two = read_words(make_pipeline(family, 2, terms=terms), "mood", ("a", "b"))
    number = read_words(make_pipeline(family, 0, terms=terms), "mood", ())

    assert three is not None and two is not None and number is not None
    for found, sides in ((three, ("a", "b", "c")), (two, ("a", "b")), (number, ("less mood", "more mood"))):
        assert tuple(side for side, _ in found.by_side) == sides
        for said, (_, words) in zip(SAYS.values(), found.by_side, strict=False):
            assert {w for w, _ in words[:4]} >= set(said.split())
            weights = [w for _, w in words]
            assert weights == sorted(weights, reverse=True) and weights[-1] > 0 and len(words) <= MOST_WORDS


def test_words_of_several_columns_say_which():
    """The column's name stands behind."""
    found = read_words(make_pipeline("Linear", 2, several=True, terms="both"), "mood", ("a", "b"))

    assert found is not None
    assert "good (text)" in {word for word, _ in found.by_side[0][1]}


@pytest.mark.parametrize("family", ["Dummy", "LightGBM"])
def test_other_models_have_no_weights_of_words(family: str):
    """None, and the report has no such part."""
    assert read_words(make_pipeline(family, 2), "mood", ("a", "b")) is None


def test_runs_of_characters_alone_are_no_words():
    """They are hashes, which nobody can read."""
    assert read_words(make_pipeline("Linear", 2, terms="characters"), "mood", ("a", "b")) is None
