"""Runs of characters: those of scikit-learn's char_wb, by numbers that every process finds again."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.features import Recipe, char_grams, fit_features, load_features
from kubeautoml_trainer.features.char_grams import fit_grams, gram_counts, grams_of

TEXTS = [
    "The river runs to the sea",
    "Größe S, größe M: don't!",
    "東京タワーはどこですか",
    "ฉันรักคุณ",
    "a",
    "🙂🙂 ok",
    "x\0y \t z",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_runs_are_those_of_char_wb(text: str):
    """As many different ones, each as often; in every script, and whatever blanks are between the words."""
    analyze = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), lowercase=False).build_analyzer()
    spelt = pd.Series(analyze(text.casefold())).value_counts()

    numbers = pd.Series(grams_of(text)).value_counts()

    assert sorted(numbers) == sorted(spelt)


def test_the_matrix_is_scikit_learns():
    """Sublinear TF-IDF of runs that are in two texts, rows of length 1, whatever the order of columns."""
    values = np.array(TEXTS * 3 + ["seaside river", "größer"] * 2, dtype=object)
    peer = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2, preprocessor=str.casefold
    )

    ours = fit_grams(values, 10**6).matrix(values)
    theirs = peer.fit_transform(values)

    assert ours.shape == theirs.shape
    np.testing.assert_allclose((ours @ ours.T).toarray(), (theirs @ theirs.T).toarray(), atol=1e-5)


def test_numbers_are_the_same_in_every_process():
    """A bundle is read by other processes than wrote it."""
    script = "from kubeautoml_trainer.features.char_grams import grams_of; print(grams_of('Größe S').tolist())"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == str(grams_of("Größe S").tolist())


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """Columns by `most`, the most frequent first; what is kept for the next fold, and what is learned from, by constants."""
    values = np.array([f"word{k} common" for k in range(50)], dtype=object)
    monkeypatch.setattr(char_grams, "LEARNED_CHARACTERS", 60)
    counts = gram_counts(most=30)

    few = fit_grams(values, 5)
    assert len(few.numbers) == 5 and np.isin(few.numbers, grams_of("word common")).all()
    for text in values:
        counts.of(text)
    assert counts._weight <= 30 and len(counts._seen) < 3


@pytest.mark.parametrize("terms", ["words", "characters", "both"])
def test_fitted_features_with_runs_are_stored_bit_for_bit(terms: str, tmp_path):
    """Loaded features encode as those that were fitted, also texts that nobody has seen; two columns of texts, both read."""
    schema = Schema("y", (Column("a", ColumnType.TEXT), Column("b", ColumnType.TEXT)), ("n", "p"))
    texts = pd.Series([*TEXTS, None, ""] * 4, dtype=object)
    rows = Rows(pd.DataFrame({"a": texts, "b": texts[::-1].to_numpy()}), np.arange(len(texts)) % 2)

    features, encoded = fit_features(Recipe(text="sparse", terms=terms), rows, schema, 0)
    features.save(tmp_path)
    loaded = load_features(tmp_path)

    assert encoded.sparse.shape[1] > 0
    new = pd.DataFrame({"a": pd.Series(["run, río!", None], dtype=object), "b": pd.Series(["", "海"], dtype=object)})
    for frame in (rows.frame, new):
        assert (loaded.transform(frame).sparse != features.transform(frame).sparse).nnz == 0
    assert (loaded.transform(rows.frame).sparse != encoded.sparse).nnz == 0


def test_features_of_an_earlier_version_are_read(tmp_path):
    """They have no member for runs of characters, and mean none."""
    schema = Schema("y", (Column("a", ColumnType.TEXT),), ("n", "p"))
    rows = Rows(pd.DataFrame({"a": pd.Series(TEXTS, dtype=object)}), np.arange(len(TEXTS)) % 2)
    features, encoded = fit_features(Recipe(text="sparse"), rows, schema, 0)
    features.save(tmp_path)
    file = tmp_path / "features.json"
    old = file.read_text().replace(',"grams":[]', "").replace(',"terms":"words","most_terms":50000', "")
    assert old != file.read_text()
    file.write_text(old)

    assert (load_features(tmp_path).transform(rows.frame).sparse != encoded.sparse).nnz == 0
