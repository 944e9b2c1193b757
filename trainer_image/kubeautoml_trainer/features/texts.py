"""Texts as TF-IDF over words and word pairs, whole or reduced to a few numbers (latent semantic analysis)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

MAX_TERMS = 50_000
MAX_TOKENS = 2_000  # of one text; a guess that bounds the time of one row
SVD_NUMBERS = 32
SAMPLE = 50_000  # texts are enough to learn the terms from
# A character of a script that puts no spaces between words stands for itself (CJK, kana, Thai ...); elsewhere a word
# is a word.
_TOKEN = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_]+(?:['’][^\W_]+)*"
)


def terms(text: str) -> Iterator[str]:
    """Words in lower case, then pairs of neighbours. No list of stop words: those know one language only.

    >>> list(terms("Größe S"))
    ['größe', 's', 'größe s']
    """
    words = [m.casefold() for m in _TOKEN.findall(text)[:MAX_TOKENS]]
    yield from words
    yield from (f"{a} {b}" for a, b in pairwise(words))


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

    def matrix(self, values: np.ndarray) -> Any:
        """object (n,) -> scipy CSR float32 (n, terms), rows of length 1; empty for missing texts."""
        from scipy import sparse

        data: list[float] = []
        indices: list[int] = []
        indptr = [0]
        for value in values:
            if isinstance(value, str):
                places = Counter(p for p in map(self._place.get, terms(value)) if p is not None)
                indices.extend(places)
                data.extend(places.values())
            indptr.append(len(indices))
        position = np.asarray(indices, dtype=np.int32)
        weights = (
            (1 + np.log(np.asarray(data, dtype=np.float32))) * self.idf[position] if data else np.zeros(0, np.float32)
        )
        matrix = sparse.csr_matrix((weights, position, indptr), shape=(len(values), len(self.idf)), dtype=np.float32)
        length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1))).ravel()
        matrix.data /= np.repeat(np.maximum(length, 1e-12), np.diff(matrix.indptr)).astype(np.float32)
        matrix.sort_indices()
        return matrix

    def numbers(self, values: np.ndarray) -> np.ndarray:
        """object (n,) -> float64 (n, r)."""
        assert self.components is not None
        return np.asarray(self.matrix(values) @ self.components.T, dtype=np.float64)


def fit_text(values: np.ndarray, reduce: bool, seed: int) -> Text:
    """Learn the terms that occur in at least two texts (in one, where there are few texts), the most frequent first."""
    values = values[:: max(1, len(values) // SAMPLE)]
    documents = [set(terms(v)) for v in values if isinstance(v, str)]
    counts = Counter(t for d in documents for t in d)
    least = 2 if len(documents) >= 20 else 1
    kept = sorted((t for t, n in counts.items() if n >= least), key=lambda t: (-counts[t], t))[:MAX_TERMS]
    idf = np.array([np.log((1 + len(documents)) / (1 + counts[t])) + 1 for t in kept], dtype=np.float32)
    text = Text(tuple(kept), idf, None)
    return Text(text.vocabulary, idf, _components(text.matrix(values), seed)) if reduce else text


def _components(matrix: Any, seed: int) -> np.ndarray:
    """Right singular vectors, float32 (r, terms)."""
    r = min(SVD_NUMBERS, min(matrix.shape) - 1)
    if r < 1:
        return np.zeros((0, matrix.shape[1]), dtype=np.float32)
    from sklearn.utils.extmath import randomized_svd

    return np.ascontiguousarray(randomized_svd(matrix, r, random_state=seed)[2], dtype=np.float32)
