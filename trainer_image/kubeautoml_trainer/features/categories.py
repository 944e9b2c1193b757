"""Categories as whole numbers, as 0/1 columns, and as means of the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kubeautoml_trainer.features.base import MISSING, OTHER

# Rows of prior mixed into a level's mean, as in AutoGluon's out-of-fold target encoder.
TARGET_MEAN_PRIOR_ROWS = 10.0
TARGET_MEAN_FOLDS = 5


@dataclass(frozen=True)
class Levels:
    """The levels of one column that are told apart, most frequent first; `gaps` and `others` say what else was seen
    in training.
    """

    levels: tuple[str, ...]
    gaps: bool
    others: bool

    def codes(self, values: np.ndarray) -> np.ndarray:
        """object (n,) -> int32 (n,): MISSING, OTHER, or 2 + position."""
        code = self._code
        found = (code.get(v, OTHER) if isinstance(v, str) else MISSING for v in values)
        return np.fromiter(found, dtype=np.int32, count=len(values))

    @cached_property
    def _code(self) -> dict[str, int]:
        return {level: k + 2 for k, level in enumerate(self.levels)}


def fit_levels(values: np.ndarray, max_levels: int, min_rows: int) -> Levels:
    """Find the levels worth telling apart."""
    counts = Counter(v for v in values if isinstance(v, str))
    ordered = sorted(counts, key=lambda v: (-counts[v], v))
    kept = tuple(v for v in ordered if counts[v] >= min_rows)[:max_levels]
    return Levels(kept, gaps=counts.total() < len(values), others=len(kept) < len(ordered))


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
class TargetMeans:
    """Means of the target a level of one column: float64 (codes, targets), shrunk to the overall mean."""

    column: int
    means: np.ndarray


def fit_target_means(codes: np.ndarray, column: int, size: int, targets: np.ndarray, weight: np.ndarray) -> TargetMeans:
    """Learn from int32 codes (n,) and float64 targets (n, t)."""
    overall = np.average(targets, axis=0, weights=weight)
    rows = np.bincount(codes, weights=weight, minlength=size)
    sums = np.stack([np.bincount(codes, weights=weight * t, minlength=size) for t in targets.T], axis=1)
    means = (sums + TARGET_MEAN_PRIOR_ROWS * overall) / (rows + TARGET_MEAN_PRIOR_ROWS)[:, None]
    return TargetMeans(column, means)


def out_of_fold_means(codes: np.ndarray, size: int, targets: np.ndarray, weight: np.ndarray, seed: int) -> np.ndarray:
    """The training rows' own encoding, float64 (n, t): a row's value comes from the other folds, so it cannot repeat
    its target.
    """
    fold = np.random.default_rng(seed).permutation(len(codes)) % TARGET_MEAN_FOLDS
    out = np.empty((len(codes), targets.shape[1]))
    for k in range(TARGET_MEAN_FOLDS):
        rest, here = fold != k, fold == k
        out[here] = fit_target_means(codes[rest], 0, size, targets[rest], weight[rest]).means[codes[here]]
    return out
