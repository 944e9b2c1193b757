"""Runs of two to five characters within words, as numbers: they know stems, endings and spelling mistakes of any language, and
words of languages that put no spaces between them.

A run's number is a hash of 32 bits that is the same in every process, so that a bundle holds numbers in place of strings. Two runs
of one number among a few hundred thousand share a column, which does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kubeautoml_trainer.features.again import Kept, known

SHORTEST, LONGEST = 2, 5
GRAM_CHARACTERS = 3_000
"""Of one text; runs of later characters say little that the words do not. A guess that bounds the time of a long text."""
LEARNED_CHARACTERS = 8_000_000
"""Characters of the texts from which the runs are learned; a guess that bounds memory (30 million runs, 120 MB)."""
MOST_KEPT = 16_000_000
"""Numbers that are kept for the next fold: 128 MB. Of more texts the later ones are counted every time."""
_SPACE = np.uint32(32)
# Odd, so that nothing of a hash is lost; the last is that of splitmix64 (Steele et al. 2014), which spreads all bits over the upper half.
_STEP, _MIX = np.uint64(0x100000001B3), np.uint64(0xBF58476D1CE4E5B9)
_OF_LENGTH = {n: np.uint64(n * 0x9E3779B97F4A7C15 % 2**64) for n in range(SHORTEST, LONGEST + 1)}


def grams_of(text: str) -> np.ndarray:
    """uint32 (m,): the number of each run, in no order, as often as it occurs. A word begins and ends with a space; no run goes
    beyond that.

    >>> len(grams_of("ab")), len(grams_of("a b")), len(grams_of(" "))
    (6, 6, 0)
    """
    words = text[:GRAM_CHARACTERS].casefold().split()
    if not words:
        return np.zeros(0, dtype=np.uint32)
    line = f" {' '.join(words)} "
    codes = np.frombuffer(line.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    is_space = codes == _SPACE
    wide = codes.astype(np.uint64)
    hashed, is_inside, found = wide, np.ones(len(wide), dtype=bool), []
    for length in range(SHORTEST, min(LONGEST, len(wide)) + 1):
        hashed = hashed[:-1] * _STEP + wide[length - 1 :]
        is_inside = is_inside[:-1]
        if length > SHORTEST:
            is_inside = is_inside & ~is_space[length - 2 : -1]  # of the characters between the first and the last
        mixed = (hashed[is_inside] + _OF_LENGTH[length]) * _MIX
        found.append((mixed >> np.uint64(32)).astype(np.uint32))
    return np.concatenate(found)


def counted(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The runs of a text, uint32 (runs,), ascending, and how often each is in it, float32 (runs,)."""
    numbers, counts = np.unique(grams_of(text), return_counts=True)
    return numbers, counts.astype(np.float32)


def gram_counts(most: int = MOST_KEPT) -> Kept[tuple[np.ndarray, np.ndarray]]:
    """Keeps what `counted` says of each text, up to so many numbers."""
    return Kept(counted, most, lambda found: len(found[0]))


_counts = gram_counts()
"""Of this process."""


@dataclass(frozen=True)
class Grams:
    """TF-IDF of one column's runs. numbers: uint32 (runs,), ascending. idf: float32 (runs,)."""

    numbers: np.ndarray
    idf: np.ndarray

    def matrix(self, values: np.ndarray) -> Any:
        """object (n,) of str or None -> scipy CSR float32 (n, runs), rows of length 1; empty where there is no text."""
        counts = known("runs", len(values), _counts, gram_counts)
        found = [self._of(value, counts) if isinstance(value, str) else NOTHING for value in values]
        return tfidf_matrix(found, self.idf)

    def _of(self, text: str, kept: Kept[tuple[np.ndarray, np.ndarray]] | None) -> tuple[np.ndarray, np.ndarray]:
        numbers, counts = counted(text) if kept is None else kept.of(text)
        if not len(self.numbers):
            return NOTHING
        at = np.minimum(np.searchsorted(self.numbers, numbers), self._last)
        is_known = self.numbers[at] == numbers
        return at[is_known].astype(np.int32), counts[is_known]

    @cached_property
    def _last(self) -> int:
        return len(self.numbers) - 1


NOTHING = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)


def tfidf_matrix(found: list[tuple[np.ndarray, np.ndarray]], idf: np.ndarray) -> Any:
    """Places int32 and counts float32 of each text's terms -> scipy CSR float32 (n, terms), (1 + log count) * idf, rows of length 1."""
    from scipy import sparse

    position = np.concatenate([p for p, _ in found]) if found else NOTHING[0]
    data = np.concatenate([c for _, c in found]) if found else NOTHING[1]
    indptr = np.concatenate([[0], np.cumsum([len(p) for p, _ in found])]).astype(np.int32)
    weights = (1 + np.log(data)) * idf[position]
    matrix = sparse.csr_matrix((weights, position, indptr), shape=(len(found), len(idf)), dtype=np.float32)
    matrix.sort_indices()
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1))).ravel()
    matrix.data /= np.repeat(np.maximum(length, 1e-12), np.diff(matrix.indptr)).astype(np.float32)
    return matrix


def fit_grams(values: np.ndarray, most: int) -> Grams:
    """Learn the runs that are in at least two texts (in one, where there are few texts), the most frequent first."""
    texts = _some([v for v in values if isinstance(v, str)])
    least = 2 if len(texts) >= 20 else 1
    every = np.concatenate([_counts.of(t)[0] for t in texts]) if texts else np.zeros(0, dtype=np.uint32)
    numbers, frequency = np.unique(every, return_counts=True)
    is_kept = frequency >= least
    numbers, frequency = numbers[is_kept], frequency[is_kept]
    if len(numbers) > most:
        best = np.sort(np.argsort(-frequency, kind="stable")[:most])
        numbers, frequency = numbers[best], frequency[best]
    idf = np.log((1 + len(texts)) / (1 + frequency)) + 1
    return Grams(numbers, idf.astype(np.float32))


def _some(texts: list[str]) -> list[str]:
    """So many texts, evenly spread, that their characters are few enough."""
    characters = sum(min(len(t), GRAM_CHARACTERS) for t in texts)
    return texts[:: max(1, -(-characters // LEARNED_CHARACTERS))]
