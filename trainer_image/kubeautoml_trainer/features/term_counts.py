"""Which terms texts hold, as numbers: counted once for each text, since trials fit the same texts again, fold by fold.

A term's number is a hash of 64 bits, valid in this process only; two terms of one number among millions are as good as impossible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from kubeautoml_trainer.features.again import Kept

MAX_TOKENS = 2_000  # of one text; a guess that bounds the time of one row
MOST_KEPT = 8_000_000
"""Numbers that are kept for the next fold: 100 MB. Of more texts the later ones are counted every time."""
# A character of a script that puts no spaces between words stands for itself (CJK, kana, Thai ...); elsewhere a word
# is a word.
_TOKEN = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_]+(?:['’][^\W_]+)*"
)
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd, so that nothing of a hash is lost


def words_of(text: str) -> list[str]:
    """In lower case, at most `MAX_TOKENS`."""
    return [m.casefold() for m in _TOKEN.findall(text)[:MAX_TOKENS]]


def terms(text: str) -> Iterator[str]:
    """Words in lower case, then pairs of neighbours. No list of stop words: those know one language only.

    >>> list(terms("Größe S"))
    ['größe', 's', 'größe s']
    """
    words = words_of(text)
    yield from words
    yield from (f"{a} {b}" for a, b in pairwise(words))


def numbers_of(words: Sequence[str]) -> np.ndarray:
    """uint64 (2 n - 1,): the numbers of n words, then of their pairs; in the order of `terms`."""
    single = np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).view(np.uint64)
    return np.concatenate([single, single[:-1] * _FIRST + single[1:] * _SECOND])


def numbers_of_terms(spelt: Sequence[str]) -> np.ndarray:
    """uint64 (n,): of terms as `terms` spells them, words or pairs."""
    halves = [t.partition(" ") for t in spelt]
    first = np.array([hash(a) for a, _, _ in halves], dtype=np.int64).view(np.uint64)
    second = np.array([hash(b) for _, _, b in halves], dtype=np.int64).view(np.uint64)
    is_pair = np.array([bool(space) for _, space, _ in halves], dtype=bool)
    return np.where(is_pair, first * _FIRST + second * _SECOND, first)


def counted(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a text's terms, uint64 (terms,), ascending, and how often each is in it, float32 (terms,)."""
    numbers, counts = np.unique(numbers_of(words_of(text)), return_counts=True)
    return numbers, counts.astype(np.float32)


class TermCounts(Kept[tuple[np.ndarray, np.ndarray]]):
    """Keeps what `counted` says of each text, up to so many numbers; and how terms are spelt."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        super().__init__(counted, most, lambda found: len(found[0]))
        self.names: dict[int, str] = {}
        """Of terms that were asked for: those of one fold are mostly those of the next."""

    def name(self, wanted: np.ndarray, texts: Iterable[str]) -> list[str]:
        """The terms of these numbers, each of which is in one of the texts. wanted: uint64 (n,), ascending."""
        numbers = wanted.tolist()
        missing = [n for n in numbers if n not in self.names]
        if missing:
            self._spell(np.array(missing, dtype=np.uint64), texts)
        return [self.names[n] for n in numbers]

    def _spell(self, missing: np.ndarray, texts: Iterable[str]) -> None:
        left = set(missing.tolist())
        for text in texts:
            numbers, _ = self.of(text)
            place = np.minimum(np.searchsorted(missing, numbers), len(missing) - 1)
            here = left.intersection(numbers[missing[place] == numbers].tolist())
            if here:
                spelt = zip(numbers_of(words_of(text)).tolist(), terms(text), strict=True)
                self.names.update((n, t) for n, t in spelt if n in here)
                left -= here
                if not left:
                    return
