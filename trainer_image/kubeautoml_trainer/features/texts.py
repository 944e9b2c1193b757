"""Texts as TF-IDF over words and word pairs, whole or reduced to a few numbers (latent semantic analysis)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kubeautoml_trainer.features.again import known
from kubeautoml_trainer.features.char_grams import NOTHING, tfidf_matrix
from kubeautoml_trainer.features.term_counts import TermCounts, numbers_of_terms, terms

MAX_TERMS = 50_000
SVD_NUMBERS = 32
SAMPLE = 50_000  # texts are enough to learn the terms from
_counts = TermCounts()
"""Of this process."""


@dataclass(frozen=True)
class Text:
    """TF-IDF of one column: the terms, their inverse document frequency float32 (terms,), and the reduction float32
    (r, terms).
    """

    vocabulary: tuple[str, ...]
    idf: np.ndarray
    components: np.ndarray | None

    @cached_property
    def _place(self) -> dict[str, int]:
        return {term: k for k, term in enumerate(self.vocabulary)}

    @cached_property
    def _numbered(self) -> tuple[np.ndarray, np.ndarray]:
        """The terms' numbers, ascending, and the place of each."""
        numbers = numbers_of_terms(self.vocabulary)
        order = np.argsort(numbers)
        return numbers[order], order.astype(np.int32)

    def matrix(self, values: np.ndarray) -> Any:
        """object (n,) -> scipy CSR float32 (n, terms), rows of length 1; empty for missing texts."""
        counts = known("terms", len(values), _counts, TermCounts)
        found = [self._of(value, counts) if isinstance(value, str) else NOTHING for value in values]
        return tfidf_matrix(found, self.idf)

    def _of(self, text: str, counts: TermCounts | None) -> tuple[np.ndarray, np.ndarray]:
        """Places of the terms that are known, int32, and how often each is there, float32."""
        if counts is None:
            places = Counter(p for p in map(self._place.get, terms(text)) if p is not None)
            return np.fromiter(places, np.int32, len(places)), np.fromiter(places.values(), np.float32, len(places))
        own, place = self._numbered
        if not len(own):
            return NOTHING
        numbers, often = counts.of(text)
        at = np.minimum(np.searchsorted(own, numbers), len(own) - 1)
        is_own = own[at] == numbers
        return place[at[is_own]], often[is_own]

    def numbers(self, values: np.ndarray) -> np.ndarray:
        """object (n,) -> float64 (n, r)."""
        assert self.components is not None
        return np.asarray(self.matrix(values) @ self.components.T, dtype=np.float64)


def fit_text(values: np.ndarray, reduce: bool, seed: int, most: int = MAX_TERMS) -> Text:
    """Learn the terms that occur in at least two texts (in one, where there are few texts), the most frequent first."""
    if not most:
        return Text((), np.zeros(0, dtype=np.float32), None)
    values = values[:: max(1, len(values) // SAMPLE)]
    texts = [v for v in values if isinstance(v, str)]
    least = 2 if len(texts) >= 20 else 1
    every = np.concatenate([_counts.of(t)[0] for t in texts]) if texts else np.zeros(0, dtype=np.uint64)
    numbers, frequency = np.unique(every, return_counts=True)
    if len(numbers) > most:
        least = max(least, int(np.partition(frequency, -most)[-most]))
    numbers, frequency = numbers[frequency >= least], frequency[frequency >= least]
    counts = dict(zip(_counts.name(numbers, texts), frequency.tolist(), strict=True))
    kept = sorted(counts, key=lambda t: (-counts[t], t))[:most]
    idf = np.array([np.log((1 + len(texts)) / (1 + counts[t])) + 1 for t in kept], dtype=np.float32)
    text = Text(tuple(kept), idf, None)
    return Text(text.vocabulary, idf, _components(text.matrix(values), seed)) if reduce else text


def _components(matrix: Any, seed: int) -> np.ndarray:
    """Right singular vectors, float32 (r, terms)."""
    r = min(SVD_NUMBERS, min(matrix.shape) - 1)
    if r < 1:
        return np.zeros((0, matrix.shape[1]), dtype=np.float32)
    from sklearn.utils.extmath import randomized_svd

    return np.ascontiguousarray(randomized_svd(matrix, r, random_state=seed)[2], dtype=np.float32)
