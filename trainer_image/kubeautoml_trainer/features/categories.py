"""Categories as whole numbers, as 0/1 columns, and as how often a level occurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kubeautoml_trainer.features.base import MISSING, OTHER

_MANY = 1_000  # values from which on finding the distinct ones first is faster


@dataclass(frozen=True)
class Levels:
    """The levels of one column that are told apart, most frequent first; `gaps` and `others` say what else was seen
    in training.
    """

    levels: tuple[str, ...]
    gaps: bool
    others: bool

    def codes(self, values: np.ndarray) -> np.ndarray:
        """object (n,) -> int32 (n,): MISSING, OTHER, or 2 + position. The quick way for few values."""
        code = self._code
        found = (code.get(v, OTHER) if isinstance(v, str) else MISSING for v in values)
        return np.fromiter(found, dtype=np.int32, count=len(values))

    def codes_of(self, place: np.ndarray, distinct: np.ndarray) -> np.ndarray:
        """`codes` of values that have been told apart (`columns.Columns.distinct`)."""
        known = np.append(self.codes(distinct), np.int32(MISSING))
        return np.asarray(known[place])  # -1, a gap, is the last

    @cached_property
    def _code(self) -> dict[str, int]:
        return {level: k + 2 for k, level in enumerate(self.levels)}


def fit_levels(values: np.ndarray, max_levels: int, min_rows: int) -> Levels:
    """Find the levels worth telling apart."""
    counts = _counts(values)
    ordered = sorted(counts, key=lambda v: (-counts[v], v))
    kept = tuple(v for v in ordered if counts[v] >= min_rows)[:max_levels]
    return Levels(kept, gaps=counts.total() < len(values), others=len(kept) < len(ordered))


def _counts(values: np.ndarray) -> Counter[str]:
    """Rows of each text; what is no text is left out."""
    if len(values) <= _MANY:
        return Counter(v for v in values if isinstance(v, str))
    import pandas as pd

    place, distinct = pd.factorize(values, use_na_sentinel=True)
    rows = np.bincount(place[place >= 0], minlength=len(distinct)).tolist()
    return Counter({v: n for v, n in zip(distinct, rows, strict=True) if isinstance(v, str)})


def one_hot(codes: np.ndarray, columns: Sequence[Levels]) -> np.ndarray:
    """0/1 columns: one a level, and one each for MISSING and OTHER where training had them; all 0 for what training
    never had.

    Args:
        codes: int32 (n, columns).

    Returns:
        float64 (n, total).

    >>> one_hot(np.array([[2], [3], [0]], dtype=np.int32), [Levels(("a", "b"), gaps=True, others=False)])
    array([[0., 1., 0.],
           [0., 0., 1.],
           [1., 0., 0.]])
    """
    places, width = _places(columns)
    out = np.zeros((len(codes), width + 1))  # the last column takes what is not kept
    rows = np.arange(len(codes))
    for c, place in enumerate(places):
        out[rows, place[codes[:, c]]] = 1.0
    return out[:, :width]


def _places(columns: Sequence[Levels]) -> tuple[list[np.ndarray], int]:
    """For each column an array code -> position; what is not kept goes to the position behind the last."""
    places, width = [], 0
    for levels in columns:
        kept = (
            ([MISSING] if levels.gaps else [])
            + ([OTHER] if levels.others else [])
            + [k + 2 for k in range(len(levels.levels))]
        )
        place = np.full(len(levels.levels) + 2, -1, dtype=np.intp)
        place[kept] = width + np.arange(len(kept))
        width += len(kept)
        places.append(place)
    return places, width


@dataclass(frozen=True)
class Frequencies:
    """log(1 + rows) of each code in training, columns one under the other: float64 (all codes,); offsets int64 (c,)
    say where a column's codes begin. Codes without training rows get 0.
    """

    offsets: np.ndarray
    table: np.ndarray

    def apply(self, codes: np.ndarray) -> np.ndarray:
        """int (n, c) -> float64 (n, c)."""
        return np.asarray(self.table[codes + self.offsets])


def fit_frequencies(codes: np.ndarray, sizes: Sequence[int]) -> Frequencies:
    """Count the codes of training rows, int (n, c)."""
    counts = [np.bincount(codes[:, c], minlength=size) for c, size in enumerate(sizes)]
    for column in counts:
        column[OTHER] = min(column[OTHER], 1)  # many rare levels together are no frequent one
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    return Frequencies(offsets, np.log1p(np.concatenate(counts).astype(np.float64)))
