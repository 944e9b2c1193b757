"""Families for texts, on real questions to a chat bot: as good as scikit-learn on the same rows, in any language."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.features import Encoded
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.linear import most_terms
from kubeautoml_trainer.models.naive_bayes_svm import log_ratios, mean_ratios
from kubeautoml_trainer.models.pipeline import FittedPipeline, load_pipeline
from kubeautoml_trainer.models.text_net import heaviest
from kubeautoml_trainer.tasks import task_for


def make_questions(language: str = "english", least: int = 20) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Questions object (n,), topics int64 (n,) and their names, in random order."""
    package = importlib.util.find_spec("chatterbot_corpus")
    assert package is not None and package.submodule_search_locations is not None, "pip install chatterbot-corpus"
    files = sorted((Path(package.submodule_search_locations[0]) / "data" / language).glob("*.yml"))
    said = {
        str(c[0]): f.stem for f in files for c in yaml.load(f.read_text(), Loader=yaml.CSafeLoader)["conversations"]
    }
    table = pd.DataFrame({"text": list(said), "topic": list(said.values())})
    table = table[table.groupby("topic")["topic"].transform("size") >= least].sample(frac=1, random_state=0)
    codes, names = pd.factorize(table["topic"], sort=True)
    return table["text"].to_numpy(dtype=object), codes.astype(np.int64), tuple(names)


def make_rows(texts: np.ndarray, y: np.ndarray, **more: np.ndarray) -> Rows:
    return Rows(pd.DataFrame({"text": pd.Series(texts, dtype=object), **more}), y)


def fit(
    family: str, rows: Rows, classes: tuple[str, ...], columns: tuple[Column, ...] = (), **parameters
) -> FittedPipeline:
    schema = Schema("y", (Column("text", ColumnType.TEXT), *columns), classes)
    kind = TaskType.TEXT_CLASSIFICATION if classes else TaskType.TEXT_REGRESSION
    context = FitContext(task_for(kind, schema), "Accuracy" if classes else "Rmse", 0, 1, time.monotonic() + 60)
    return family_named(family).fit(rows, None, schema, parameters, context)


def accuracy(fitted: FittedPipeline, texts: np.ndarray, y: np.ndarray) -> float:
    frame = pd.DataFrame({"text": pd.Series(texts, dtype=object)})
    return float((fitted.predict(frame).argmax(axis=1) == y).mean())


@pytest.mark.parametrize("language", ["english", "japanese"])
def test_linear_models_beat_tfidf_with_logistic_regression(language: str):
    """Questions of ten topics, half to learn from: both families against scikit-learn's defaults, also without spaces."""
    texts, y, names = make_questions(language)
    half = len(y) // 2
    peer = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000)).fit(texts[:half], y[:half])
    bar = float((peer.predict(texts[half:]) == y[half:]).mean())

    rows = make_rows(texts[:half], y[:half])
    linear = accuracy(fit("Linear", rows, names, C=3.0, terms="both"), texts[half:], y[half:])
    bayes = accuracy(fit("NaiveBayesSvm", rows, names, C=3.0), texts[half:], y[half:])

    assert min(linear, bayes) > bar + 0.03
    assert max(linear, bayes) > 0.6


def test_a_penalty_is_as_in_scikit_learn_on_the_same_columns():
    """C weighs the loss; on the same matrix the probabilities agree."""
    texts, y, names = make_questions()
    keep = y < 2
    rows = make_rows(texts[keep], y[keep])

    ours = fit("Linear", rows, names[:2], C=2.0, terms="both", scaling="standard")
    x = ours.features.transform(rows.frame)
    from scipy import sparse

    matrix = sparse.hstack([x.numbers, x.sparse]).tocsr()
    theirs = LogisticRegression(C=2.0, max_iter=2000, tol=1e-6).fit(matrix, rows.y)

    np.testing.assert_allclose(ours.predict(rows.frame), theirs.predict_proba(matrix), atol=0.01)


def test_log_ratios_are_those_of_naive_bayes():
    """log((p / |p|) / (q / |q|)) with p, q = rows with the term in and outside the class, plus the prior; dense columns count 1."""
    from scipy import sparse

    matrix = sparse.csr_matrix(np.array([[2.0, 0, 1], [1, 0, 0], [0, 3, 1]]))
    x = Encoded(np.zeros((3, 2)), np.zeros((3, 0), dtype=np.int32), sparse=matrix)
    truth = np.array([[1.0], [1.0], [0.0]])

    ratio = log_ratios(x, truth, np.ones(3), 1.0)
    means = mean_ratios(x, np.array([1.0, 0.0, -1.0]), np.ones(3), 1.0)

    p, q = np.array([3, 1, 2]), np.array([1, 2, 2])
    np.testing.assert_allclose(ratio[:, 0], [1, 1, *np.log((p / 6) / (q / 5))])
    np.testing.assert_allclose(means[:, 0], [1, 1, 1 / 3, -1 / 2, 0])


def test_other_columns_count_beside_the_text():
    """A number that says what the text does not is used by both families."""
    texts, _, _ = make_questions()
    rng = np.random.default_rng(0)
    number = rng.normal(size=len(texts))
    y = ((number > 0) ^ (rng.random(len(texts)) < 0.05)).astype(np.int64)
    rows = make_rows(texts, y, number=number)
    half = np.arange(len(y)) < len(y) // 2

    for family in ("Linear", "NaiveBayesSvm"):
        fitted = fit(family, rows.take(half), ("no", "yes"), (Column("number", ColumnType.NUMBER),))
        found = fitted.predict(rows.frame[~half]).argmax(axis=1)
        assert (found == y[~half]).mean() > 0.85


def test_many_classes_get_fewer_columns():
    """The solver's memory grows with columns times classes."""
    assert [most_terms(k) for k in (1, 2, 10, 100, 1000, 10_000)] == [200_000, 200_000, 200_000, 20_000, 2_000, 1_000]


def test_naive_bayes_is_for_texts():
    """It takes no part in a table without any, nor where quantiles are wanted."""
    family = family_named("NaiveBayesSvm")
    table = DataShape(TaskType.TABULAR_CLASSIFICATION, 100, 3, 1, 0, 2)

    assert not family.fits(table)
    assert family.fits(DataShape(TaskType.TABULAR_CLASSIFICATION, 100, 3, 1, 1, 2))
    assert not family.fits(DataShape(TaskType.TEXT_REGRESSION, 100, 1, 0, 1, 3, quantiles=3))


@pytest.mark.parametrize("kind", ["bag", "convolution"])
@pytest.mark.parametrize("classes", [0, 3])
def test_networks_for_texts_learn_are_stored_and_need_no_torch(kind: str, classes: int, tmp_path: Path):
    """Better than chance by far, the same twice, the same when loaded and row by row, also for what nobody has seen; a few megabytes."""
    texts, y, names = make_questions()
    kept = np.isin(y, [0, 1, 2])
    texts, y = texts[kept], y[kept]
    number = np.random.default_rng(0).normal(size=len(y))
    rows = make_rows(texts, y if classes else np.asarray(y == 1, dtype=np.float64), number=number)
    learned, judged = rows.take(np.arange(0, len(y), 2)), rows.take(np.arange(1, len(y), 2))
    columns = (Column("number", ColumnType.NUMBER),)
    settings = {"kind": kind, "epochs": 16, "batch_size": 16, "width": 32, "learning_rate": 0.01}

    first, second = (fit("TextNet", learned, names[:3] if classes else (), columns, **settings) for _ in range(2))
    found = first.predict(judged.frame)
    first.save(tmp_path)
    script = f"""
import sys, pathlib
from kubeautoml_trainer.models.pipeline import load_pipeline
load_pipeline(pathlib.Path({str(tmp_path)!r}))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
    assert np.array_equal(found, second.predict(judged.frame))
    odd = make_rows(np.array(["", None, "北京", "x" * 5000], dtype=object), np.zeros(4), number=np.zeros(4)).frame
    loaded = load_pipeline(tmp_path)
    assert np.array_equal(loaded.predict(judged.frame), found)
    assert np.isfinite(loaded.predict(odd)).all()
    alone = np.vstack([loaded.predict(judged.frame.iloc[k : k + 1]) for k in range(5)])
    np.testing.assert_allclose(alone, found[:5], atol=1e-5)
    if classes:
        assert (found.argmax(axis=1) == judged.y).mean() > np.bincount(judged.y).max() / len(judged.y) + 0.15
    else:
        assert np.corrcoef(found[:, 0], judged.y)[0, 1] > 0.4


def test_a_network_without_time_is_a_timeout_that_names_it():
    """As every family's."""
    texts, y, names = make_questions()
    schema = Schema("y", (Column("text", ColumnType.TEXT),), names)
    context = FitContext(task_for(TaskType.TEXT_CLASSIFICATION, schema), "Accuracy", 0, 1, time.monotonic() - 1)

    with pytest.raises(FitTimeout, match="TextNet: no time for one"):
        family_named("TextNet").fit(make_rows(texts, y), None, schema, {}, context)


def test_the_heaviest_terms_of_each_row_stay():
    """The others are left out; short rows are as they were."""
    from scipy import sparse

    matrix = sparse.csr_matrix(np.array([[0.1, 0.3, 0.2, 0.0], [0.0, 0.5, 0.0, 0.0]]))

    assert heaviest(matrix, 2).toarray().tolist() == [[0.0, 0.3, 0.2, 0.0], [0.0, 0.5, 0.0, 0.0]]
    assert heaviest(matrix, 3) is matrix
