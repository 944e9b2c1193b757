"""A LightGBM model's trees, read from its text, for `tree_walker`.

The walker compares in float32; rows are handed to it as the number of thresholds below each of their values, so that each goes where
LightGBM, which compares in float64, sends it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kubeautoml_trainer.models.column_tables import ColumnTables, Splits
from kubeautoml_trainer.models.tree_walker import Categories, Nodes, Walker

_SMALL = 48
"""Leaves of a tree, on average, up to which the walker is faster."""
_ROWS_AT_ONCE = 8_192
"""Whose ranks are held."""
_CATEGORICAL, _DEFAULT_LEFT, _MISSING, _NAN_IS_MISSING = 1, 2, 12, 8
"""Bits of a split's `decision_type`; the third are two that say what is missing, the fourth of what they may say that it is NaN."""
_WORD = 32
"""Categories in a word of a split's set."""


def walk_of(text: str) -> LightGBMWalk | None:
    """None for large trees, which LightGBM takes rows through as fast. text: the model."""
    trees = _read(text)
    return LightGBMWalk(trees) if trees.leaves.mean() <= _SMALL else None


class LightGBMWalk:
    """The same trees for the walker, but those that ask for one column, which are a table of it, and those that are a leaf."""

    def __init__(self, trees: _Trees) -> None:
        self._scores = trees.scores
        self._used = np.unique(trees.feature)
        self._is_code = np.isin(self._used, trees.feature[trees.is_set])
        feature = np.searchsorted(self._used, trees.feature)
        self._levels = list[np.ndarray]()
        bound, order = np.zeros(len(feature), dtype=np.int64), np.argsort(feature, kind="stable")
        for here in np.split(order, np.searchsorted(feature[order], np.arange(1, len(self._used)))):
            levels = np.unique(trees.threshold[here])
            bound[here] = np.searchsorted(levels, trees.threshold[here])
            self._levels.append(levels)
        trees = replace(trees, feature=feature, bound=bound)
        is_leaf, is_single = trees.leaves == 1, _ask_for_one_column(trees)
        self._constant = np.zeros(trees.scores)
        np.add.at(self._constant, trees.score[is_leaf], trees.value[trees.first_leaf[is_leaf]])
        single, others = trees.only(is_single), trees.only(~is_leaf & ~is_single)
        self._tables = ColumnTables(_splits(single), [len(levels) for levels in self._levels], trees.scores)
        self._walker = Walker(_nodes(others), self._columns, trees.scores, others.score) if len(others.leaves) else None

    @property
    def _columns(self) -> int:
        return max(1, len(self._used))

    def scores(self, x: np.ndarray) -> np.ndarray:
        """float64 (n,), or (n, k) of a model of k trees a round: the sum of the leaves reached. x: float64 (n, columns)."""
        out = np.tile(self._constant, (len(x), 1))
        for first in range(0, len(x), _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            ranks = self._ranks(x[part])
            self._tables.add(ranks, out[part])
            if self._walker is not None:
                out[part] += self._walker.sums(ranks)
        return out[:, 0] if self._scores == 1 else out

    def _ranks(self, x: np.ndarray) -> np.ndarray:
        """float32 (n, columns used): how many thresholds are below a number; codes as they are; NaN stays."""
        ranks = np.zeros((len(x), self._columns), dtype=np.float32)
        for k, column in enumerate(self._used):
            values = np.ascontiguousarray(x[:, column])
            ranks[:, k] = values if self._is_code[k] else np.searchsorted(self._levels[k], values)
            ranks[np.isnan(values), k] = np.nan
        return ranks


@dataclass(frozen=True)
class _Trees:
    """What LightGBM's text says, the trees behind one another. scores: of a row. leaves: of each tree. value: of each leaf. Of each split:
    feature, threshold, decision, and its children, numbered anew in each tree, leaves as -1 and below. A split by categories has the number
    of its set for a threshold. sets: of each tree; bounds: of each tree that has sets, where their words begin, and end; words: uint32, a
    bit a category. score: of each tree, which one it adds to. bound: of each split, the last rank that goes left; 0 until `LightGBMWalk`
    ranks thresholds.
    """

    scores: int
    leaves: np.ndarray
    value: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    decision: np.ndarray
    left: np.ndarray
    right: np.ndarray
    sets: np.ndarray
    bounds: np.ndarray
    words: np.ndarray
    score: np.ndarray
    bound: np.ndarray

    @property
    def is_set(self) -> np.ndarray:
        """bool (splits,): those by categories."""
        return self.decision & _CATEGORICAL > 0

    @property
    def nan_left(self) -> np.ndarray:
        """bool (splits,), of those by numbers."""
        nan_is_zero = self.decision & _MISSING != _NAN_IS_MISSING
        return np.where(nan_is_zero, self.threshold >= 0, self.decision & _DEFAULT_LEFT > 0)

    @property
    def tree(self) -> np.ndarray:
        """int64 (splits,): of each split."""
        return np.repeat(np.arange(len(self.leaves)), self.leaves - 1)

    @property
    def first_leaf(self) -> np.ndarray:
        """int64 (trees,)."""
        return np.asarray(np.cumsum(self.leaves) - self.leaves)

    def only(self, kept: np.ndarray) -> _Trees:
        """Some of the trees; none that is left out may split by categories. kept: bool (trees,)."""
        split, leaf = kept[self.tree], np.repeat(kept, self.leaves)
        of_split = ("feature", "threshold", "decision", "left", "right", "bound")
        return replace(
            self,
            leaves=self.leaves[kept],
            score=self.score[kept],
            value=self.value[leaf],
            sets=self.sets[kept],
            **{name: getattr(self, name)[split] for name in of_split},
        )


_OF_TREES: dict[str, tuple[str, type[np.number[Any]]]] = {
    "num_leaves": ("leaves", np.int64),
    "leaf_value": ("value", np.float64),
    "split_feature": ("feature", np.int64),
    "threshold": ("threshold", np.float64),
    "decision_type": ("decision", np.int64),
    "left_child": ("left", np.int64),
    "right_child": ("right", np.int64),
    "num_cat": ("sets", np.int64),
    "cat_boundaries": ("bounds", np.int64),
    "cat_threshold": ("words", np.uint32),
}
"""A line's name, and what becomes of it."""


def _read(text: str) -> _Trees:
    lines: dict[str, list[str]] = {key: [] for key in ("num_tree_per_iteration", *_OF_TREES)}
    for line in text.splitlines():
        key, _, values = line.partition("=")
        if key in lines:
            lines[key].append(values)
    arrays = {name: _numbers(" ".join(lines[key]), kind) for key, (name, kind) in _OF_TREES.items()}
    scores = int(lines["num_tree_per_iteration"][0])
    score = np.arange(len(arrays["leaves"])) % scores
    return _Trees(scores, **arrays, score=score, bound=np.zeros(len(arrays["feature"]), dtype=np.int64))


def _numbers(text: str, kind: type[np.number[Any]]) -> np.ndarray:
    """Of numbers with spaces between them."""
    if kind is not np.float64:
        return np.fromstring(text, kind, sep=" ")
    import pyarrow as pa

    return np.asarray(pa.array(text.split(), pa.string()).cast(pa.float64()))  # three times as fast as numpy


def _ask_for_one_column(trees: _Trees) -> np.ndarray:
    """bool (trees,): those of which all splits are of the same column, and none by categories."""
    tree, feature = trees.tree, trees.feature
    first = np.cumsum(trees.leaves - 1) - (trees.leaves - 1)
    is_other = (feature != feature[first[tree]]) | trees.is_set
    others = np.bincount(tree, is_other, len(trees.leaves))
    return np.asarray((trees.leaves > 1) & (others == 0))


def _splits(trees: _Trees) -> Splits:
    return Splits(
        tree=trees.tree,
        feature=trees.feature,
        bound=trees.bound,
        nan_left=trees.nan_left,
        left=trees.left,
        right=trees.right,
        first_leaf=trees.first_leaf,
        value=trees.value,
        score=trees.score,
    )


def _nodes(trees: _Trees) -> Nodes:
    """The children of a tree's split k are its nodes 2k + 1 and 2k + 2. A split by categories is turned round: its set goes right."""
    is_set, tree, splits = trees.is_set, trees.tree, trees.leaves - 1
    first_split, first_leaf = (np.cumsum(splits) - splits)[tree], trees.first_leaf[tree]
    k = np.arange(len(tree)) - first_split  # of each split in its tree
    ends = np.append(0, np.cumsum(2 * trees.leaves - 1))
    root = ends[tree]
    place = root.copy()  # of each split; its parent moves it
    value = np.zeros(ends[-1])
    for child, side in ((trees.left, is_set.astype(int)), (trees.right, (~is_set).astype(int))):
        there, is_leaf = root + 2 * k + 1 + side, child < 0
        place[(first_split + child)[~is_leaf]] = there[~is_leaf]
        value[there[is_leaf]] = trees.value[(first_leaf - child - 1)[is_leaf]]
    left, used, nan_left = np.full(ends[-1], -1), np.zeros(ends[-1], dtype=np.int64), np.zeros(ends[-1], dtype=bool)
    left[place], used[place], value[place] = 2 * k + 1, trees.feature, trees.bound + 0.5
    nan_left[place] = is_set | trees.nan_left
    return Nodes(ends, left, used, value, nan_left, _categories(trees, place[is_set]) if is_set.any() else None)


def _categories(trees: _Trees, place: np.ndarray) -> Categories:
    """place: of each split by categories, in the order of their sets."""
    last = np.cumsum(trees.sets[trees.sets > 0] + 1) - 1
    size = np.delete(np.diff(trees.bounds), last[:-1])  # words of each set
    word, bit = np.divmod(np.flatnonzero(np.unpackbits(trees.words.view(np.uint8), bitorder="little")), _WORD)
    of_set = np.repeat(np.arange(len(size)), size)[word]
    value = _WORD * (word - (np.cumsum(size) - size)[of_set]) + bit
    order = np.argsort(place[of_set], kind="stable")
    counts = np.bincount(of_set, minlength=len(size))[np.argsort(place)]
    return Categories(np.sort(place), value[order], np.append(0, np.cumsum(counts)))
