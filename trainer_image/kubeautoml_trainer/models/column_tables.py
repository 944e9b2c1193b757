"""Trees that ask for one column each, however many, as one table of that column: what they add together to each of its values.

Boosting ends in thousands of them where a class is learned or few splits are left that pay: of eight models of 3,300 to 5,200 trees on
four classes, four fifths ask for one column or none. A column's table takes a row as long as two or three trees of a walker do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Splits:
    """The splits of some trees, those of a tree behind one another, its root first; each tree asks for one column.

    tree: int64 (splits,), rising from 0, of each split. feature: int64 (splits,). bound: int64 (splits,), the last rank that goes left.
    nan_left: bool (splits,). left, right: int64 (splits,), the child, a split of the same tree counted from its root, or a leaf, as -1 for
    the first of the tree and below. first_leaf: int64 (trees,), where a tree's leaves begin in `value`. value: float64 (leaves,). score:
    int64 (trees,), which of a row's scores a tree adds to.
    """

    tree: np.ndarray
    feature: np.ndarray
    bound: np.ndarray
    nan_left: np.ndarray
    left: np.ndarray
    right: np.ndarray
    first_leaf: np.ndarray
    value: np.ndarray
    score: np.ndarray


class ColumnTables:
    """What such trees add to rows that are handed over as ranks."""

    def __init__(self, splits: Splits, levels: Sequence[int], scores: int) -> None:
        """levels: of each column how many thresholds it has; its ranks go from 0 to as many. scores: how many there are of a row."""
        sizes = np.asarray(levels, dtype=np.int64) + 2  # a table ends with what is missing
        first = np.cumsum(sizes) - sizes
        steps = np.zeros((int(sizes.sum()), scores))
        missing = np.zeros((len(sizes), scores))
        for at in _leaves(splits, np.asarray(levels, dtype=np.int64)):
            start = first[at.feature]
            np.add.at(steps, (start + at.low, at.score), at.value)
            np.add.at(steps, (start + at.high + 1, at.score), -at.value)
            np.add.at(missing, (at.feature[at.with_nan], at.score[at.with_nan]), at.value[at.with_nan])
        self._tables = {}
        for column in np.unique(splits.feature).tolist():
            table = np.cumsum(steps[first[column] : first[column] + sizes[column]], axis=0)
            table[-1] = missing[column]
            self._tables[column] = table

    def add(self, ranks: np.ndarray, out: np.ndarray) -> None:
        """To `out`, float64 (n, scores). ranks: float32 (n, columns), NaN where missing."""
        for column, table in self._tables.items():
            rank = ranks[:, column]
            out += table[np.where(np.isnan(rank), len(table) - 1, rank).astype(np.int64)]


@dataclass(frozen=True)
class _Leaves:
    """Of each: its column, the first and the last rank that reach it, whether what is missing does, the score, and what it adds."""

    feature: np.ndarray
    low: np.ndarray
    high: np.ndarray
    with_nan: np.ndarray
    score: np.ndarray
    value: np.ndarray


def _leaves(splits: Splits, levels: np.ndarray) -> Iterator[_Leaves]:
    """One depth of all trees after the other; a leaf that no rank reaches has its last rank before its first."""
    root = np.searchsorted(splits.tree, np.arange(len(splits.first_leaf)))
    at, low, high = root, np.zeros(len(root), dtype=np.int64), levels[splits.feature[root]]
    with_nan = np.ones(len(root), dtype=bool)
    while len(at):
        bound, nan_left = splits.bound[at], splits.nan_left[at]
        child = np.concatenate([splits.left[at], splits.right[at]])
        low, high = np.concatenate([low, np.maximum(low, bound + 1)]), np.concatenate([np.minimum(high, bound), high])
        with_nan = np.concatenate([with_nan & nan_left, with_nan & ~nan_left])
        parent = np.concatenate([at, at])
        high = np.maximum(high, low - 1)
        tree, is_leaf = splits.tree[parent], child < 0
        value = splits.value[splits.first_leaf[tree[is_leaf]] - child[is_leaf] - 1]
        feature = splits.feature[parent[is_leaf]]
        yield _Leaves(feature, low[is_leaf], high[is_leaf], with_nan[is_leaf], splits.score[tree[is_leaf]], value)
        goes_on = ~is_leaf
        at = root[tree[goes_on]] + child[goes_on]
        low, high, with_nan = low[goes_on], high[goes_on], with_nan[goes_on]
