"""Target encoding: means of the target a level, shrunk to the overall mean, out of fold for the rows they were
learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FOLDS = 5
MAX_TARGETS = 20
"""Classes with a mean of their own, the most frequent; a thousand classes would give a thousand numbers a column."""


@dataclass(frozen=True)
class TargetMeans:
    """Means of several columns, one under the other.

    columns: intp (c,), positions among the code columns. offsets: int64 (c,), where a column's codes begin in the
    table. means: float64 (all codes, targets).

    >>> means = TargetMeans(np.array([0]), np.array([0]), np.array([[0.5], [0.5], [0.1], [0.9]]))
    >>> means.apply(np.array([[3], [2], [0]]))
    array([[0.9],
           [0.1],
           [0.5]])
    """

    columns: np.ndarray
    offsets: np.ndarray
    means: np.ndarray

    def apply(self, codes: np.ndarray) -> np.ndarray:
        """int (n, all code columns) -> float64 (n, c * targets)."""
        width = len(self.columns) * self.means.shape[1]
        return np.asarray(self.means[codes[:, self.columns] + self.offsets].reshape(len(codes), width))


def target_columns(y: np.ndarray, classes: int) -> np.ndarray:
    """float64 (n, t): the number (t = 1); or which class, without the first (it follows from the others), at most
    `MAX_TARGETS`, the most frequent.
    """
    if not classes:
        return y.astype(np.float64)[:, None]
    rows = np.bincount(y, minlength=classes)[1:]
    used = 1 + np.sort(np.argsort(-rows, kind="stable")[:MAX_TARGETS])
    return np.asarray(y[:, None] == used, dtype=np.float64)


def fit_target_means(
    codes: np.ndarray,
    columns: Sequence[int],
    sizes: Sequence[int],
    targets: np.ndarray,
    weight: np.ndarray,
    prior_rows: float,
) -> TargetMeans:
    """Learn from training rows.

    Args:
        codes: int (n, all code columns).
        columns: positions of those to encode; `sizes` are their numbers of codes.
        targets: float64 (n, t).
        weight: float64 (n,).
        prior_rows: rows of the overall mean mixed into each level's.
    """
    tables = []
    used = weight > 0  # a row of another fold must leave no trace, not even a rounding error
    codes, targets, weight = codes[used], targets[used], weight[used]
    overall = np.average(targets, axis=0, weights=weight)
    for column, size in zip(columns, sizes, strict=True):
        code = codes[:, column]
        rows = np.bincount(code, weights=weight, minlength=size)
        # Around the overall mean: a level without rows gets it to the last bit
        sums = [
            np.bincount(code, weights=weight * (t - m), minlength=size) for t, m in zip(targets.T, overall, strict=True)
        ]
        tables.append(np.stack(sums, axis=1) / np.maximum(rows + prior_rows, 1e-12)[:, None] + overall)
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    return TargetMeans(np.asarray(columns, dtype=np.intp), offsets, np.concatenate(tables))


def inner_folds(n: int, groups: np.ndarray | None, seed: int) -> np.ndarray:
    """Which fold each training row is in, int64 (n,); rows of a group stay together."""
    rng = np.random.default_rng(seed)
    if groups is None:
        return np.asarray(rng.permutation(n) % FOLDS)
    _, group = np.unique(groups.astype(str), return_inverse=True)
    count = int(group.max()) + 1
    return np.asarray((rng.permutation(count) % FOLDS)[group])


@dataclass(frozen=True)
class OutOfFold:
    """The training rows' own encoding: a row's value comes from the other folds, so it cannot repeat its target.

    fold: int64 (n,). means: by fold, learned from the rows of all others.
    """

    fold: np.ndarray
    means: tuple[TargetMeans, ...]

    def apply(self, codes: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
        """int (m, all code columns) of these training rows -> float64 (m, c * targets)."""
        fold = self.fold[rows]
        out = np.empty((len(codes), len(self.means[0].columns) * self.means[0].means.shape[1]))
        for k, means in enumerate(self.means):
            here = fold == k
            out[here] = means.apply(codes[here])
        return out


def fit_out_of_fold(
    codes: np.ndarray,
    columns: Sequence[int],
    sizes: Sequence[int],
    targets: np.ndarray,
    weight: np.ndarray,
    prior_rows: float,
    fold: np.ndarray,
) -> OutOfFold:
    """`fit_target_means` once a fold, on all others. Where a fold leaves no rows (all are one group), all levels get
    the overall mean.
    """
    means = []
    for k in range(FOLDS):
        rest = fold != k
        use = weight * rest if weight[rest].sum() > 0 else weight
        prior = prior_rows if weight[rest].sum() > 0 else np.inf
        means.append(fit_target_means(codes, columns, sizes, targets, use, prior))
    return OutOfFold(fold, tuple(means))
