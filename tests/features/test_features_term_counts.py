"""Terms by number: the same matrix as by name, counted once a text, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from kubeautoml_trainer.features import again, texts
from kubeautoml_trainer.features.term_counts import TermCounts, numbers_of, numbers_of_terms, terms, words_of
from kubeautoml_trainer.features.texts import fit_text

TEXTS = [
    "The river runs to the sea, the sea to the river",
    "Größe S, Größe M",
    "don't run",
    "東京 to 大阪",
    "run",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_term_has_one_number_however_it_is_reached(text: str) -> None:
    """By its words or by its spelling."""
    spelt = list(terms(text))

    assert numbers_of(words_of(text)).tolist() == numbers_of_terms(spelt).tolist()
    assert len(set(numbers_of_terms(spelt).tolist())) == len(set(spelt))


def test_a_pair_is_not_its_reverse() -> None:
    a, b, same = numbers_of_terms(["sea river", "river sea", "sea river"])

    assert a == same != b


def test_the_matrix_is_the_same_with_and_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server, which keeps nothing, counts by name."""
    values = np.array([*TEXTS * 5, None, "never seen before", "river sea"], dtype=object)
    fitted = fit_text(values[:-2], reduce=True, seed=0)
    by_number, numbers = fitted.matrix(values), fitted.numbers(values)

    monkeypatch.setattr(texts, "known", lambda *asked: None)
    by_name = fitted.matrix(values)

    assert by_name.nnz == by_number.nnz > 0
    assert (by_name != by_number).nnz == 0
    assert np.array_equal(fitted.numbers(values), numbers)
    assert not by_number[[-3]].nnz


def test_a_text_is_read_once_and_another_fold_names_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What costs is taking texts apart; fold after fold does it with the same ones."""
    counts = TermCounts()
    monkeypatch.setattr(texts, "_counts", counts)
    monkeypatch.setattr(again, "_PROCESS", again._Process(keeps=True))
    values = np.array([f"{t} {k % 3}" for k, t in enumerate(TEXTS * 8)], dtype=object)
    first = fit_text(values, reduce=False, seed=0)

    def refuse(text: str) -> list[str]:
        raise AssertionError(f"read again: {text}")

    monkeypatch.setattr("kubeautoml_trainer.features.term_counts.words_of", refuse)
    second = fit_text(values[:40], reduce=False, seed=0)

    assert set(second.vocabulary) <= set(first.vocabulary)
    assert second.matrix(values).shape == (48, len(second.vocabulary))


def test_no_more_is_kept_than_allowed() -> None:
    """Later texts are counted every time, and right."""
    counts = TermCounts(most=10)
    for text in TEXTS:
        numbers, found = counts.of(text)
        assert found.sum() == len(list(terms(text)))
        assert len(numbers) == len(set(terms(text)))

    assert 0 < counts._weight <= 10
