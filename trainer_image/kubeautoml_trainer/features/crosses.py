"""Pairs of categories as categories of their own, chosen by what they say beyond the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from kubeautoml_trainer.features.base import OTHER
from kubeautoml_trainer.features.choose import Sample

MAX_CANDIDATES = 500  # as AutoGluon's cross generator
MAX_LEVELS = 20_000  # of one cross, the most frequent
_PRIOR_ROWS = 10.0


@dataclass(frozen=True)
class Crosses:
    """Pairs of code columns whose joint codes are looked up in one sorted table.

    left, right: intp (m,), positions among the code columns. base, width: int64 (m,): the key of codes (a, b) in cross
    j is base[j] + a * width[j] + b. keys: int64 (all levels,), increasing. start: int64 (m,), where a cross's levels
    begin in `keys`.
    """

    left: np.ndarray
    right: np.ndarray
    base: np.ndarray
    width: np.ndarray
    keys: np.ndarray
    start: np.ndarray

    @property
    def sizes(self) -> list[int]:
        """Codes of each cross, with MISSING (never used: a pair of gaps is a level) and OTHER."""
        return [int(v) + 2 for v in np.diff(np.append(self.start, len(self.keys)))]

    def apply(self, codes: np.ndarray) -> np.ndarray:
        """int32 (n, c) -> int32 (n, m): OTHER for pairs that training did not have, else 2 + position."""
        key = codes[:, self.left] * self.width + codes[:, self.right] + self.base
        place = np.searchsorted(self.keys, key)
        found = self.keys[np.minimum(place, len(self.keys) - 1)] == key
        return np.where(found, place - self.start + 2, OTHER).astype(np.int32)


def choose_crosses(sample: Sample, sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """The best pairs of code columns, at most `most` of at most `MAX_CANDIDATES`.

    A pair's worth is what its out-of-fold means explain of what quick trees leave, less what its parents' do.
    """
    usable = [c for c in np.argsort(-sample.code_use, kind="stable") if sizes[c] > 3]
    columns = int((1 + np.sqrt(1 + 8 * MAX_CANDIDATES)) // 2)
    # By position, as a sample is in random order
    half = np.arange(len(sample.codes)) % 2
    alone = {int(c): _gain(sample.codes[:, c].astype(np.int64), half, sample.residual) for c in usable[:columns]}
    scored = []
    for a, b in combinations(sorted(alone), 2):
        if sample.is_late:
            break
        key = sample.codes[:, a].astype(np.int64) * sizes[b] + sample.codes[:, b]
        scored.append((_gain(key, half, sample.residual) - max(alone[a], alone[b], 0.0), a, b))
    best = sorted((s for s in scored if s[0] > 0), key=lambda s: (-s[0], s[1:]))
    return sorted((a, b) for _, a, b in best[:most])


def fit_crosses(
    codes: np.ndarray, pairs: Sequence[tuple[int, int]], sizes: Sequence[int], min_rows: int
) -> Crosses | None:
    """Learn the levels of each pair: int32 (n, c) -> those with `min_rows` rows, at most `MAX_LEVELS`; None where none
    has any.
    """
    left, right = (np.array(side, dtype=np.intp) for side in zip(*pairs, strict=True))
    width = np.array([sizes[b] for b in right], dtype=np.int64)
    span = np.array([sizes[a] for a in left], dtype=np.int64) * width
    base = np.concatenate([[0], np.cumsum(span)[:-1]]).astype(np.int64)
    keys = []
    for a, b, wide, first in zip(left, right, width, base, strict=True):
        key, rows = np.unique(codes[:, a] * wide + codes[:, b], return_counts=True)
        often = np.argsort(-rows, kind="stable")[:MAX_LEVELS]
        keys.append(first + np.sort(key[often][rows[often] >= min_rows]))
    start = np.concatenate([[0], np.cumsum([len(k) for k in keys])[:-1]]).astype(np.int64)
    if not sum(map(len, keys)):
        return None
    return Crosses(left, right, base, width, np.concatenate(keys), start)


def _gain(key: np.ndarray, half: np.ndarray, residual: np.ndarray) -> float:
    """Share of the residual that means of the other half explain; below 0 where they only repeat noise."""
    if not residual.shape[1]:
        return 0.0
    _, level = np.unique(key, return_inverse=True)
    size = int(level.max()) + 1
    left = 0.0
    for k in range(2):
        rest, here = half != k, half == k
        rows = np.bincount(level[rest], minlength=size) + _PRIOR_ROWS
        for r in residual.T:
            mean = np.bincount(level[rest], weights=r[rest], minlength=size) / rows
            left += float(np.sum((r[here] - mean[level[here]]) ** 2))
    return 1.0 - left / float(np.sum(residual**2))
