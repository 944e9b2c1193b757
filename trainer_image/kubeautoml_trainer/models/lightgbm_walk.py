"""A LightGBM model's trees, read from its text, for `tree_walker`.

The walker compares in float32; rows are handed to it as the number of thresholds below each of their values, so that each goes where
LightGBM, which compares in float64, sends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

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
    """The same trees for the walker."""

    def __init__(self, trees: _Trees) -> None:
        self._scores = trees.scores
        self._used = np.unique(trees.feature)
        is_set = trees.decision & _CATEGORICAL > 0
        self._is_code = np.isin(self._used, trees.feature[is_set])
        feature = np.searchsorted(self._used, trees.feature)
        self._levels = list[np.ndarray]()
        bound, order = np.zeros(len(feature)), np.argsort(feature, kind="stable")
        for here in np.split(order, np.searchsorted(feature[order], np.arange(1, len(self._used)))):
            levels = np.unique(trees.threshold[here])
            bound[here] = np.searchsorted(levels, trees.threshold[here]) + 0.5
            self._levels.append(levels)
        self._walker = Walker(_nodes(trees, feature, bound, is_set), self._columns, trees.scores)

    @property
    def _columns(self) -> int:
        return max(1, len(self._used))

    def scores(self, x: np.ndarray) -> np.ndarray:
        """float64 (n,), or (n, k) of a model of k trees a round: the sum of the leaves reached. x: float64 (n, columns)."""
        out = np.empty((len(x), self._scores))
        for first in range(0, len(x), _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            out[part] = self._walker.sums(self._ranks(x[part]))
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
    """What LightGBM's text says, the trees behind one another. scores: trees a round. leaves: of each tree. value: of each leaf. Of each
    split: feature, threshold, decision, and its children, numbered anew in each tree, leaves as -1 and below. A split by categories has the
    number of its set for a threshold. sets: of each tree; bounds: of each tree that has sets, where their words begin, and end; words:
    uint32, a bit a category.
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
    return _Trees(int(lines["num_tree_per_iteration"][0]), **arrays)


def _numbers(text: str, kind: type[np.number[Any]]) -> np.ndarray:
    """Of numbers with spaces between them."""
    if kind is not np.float64:
        return np.fromstring(text, kind, sep=" ")
    import pyarrow as pa

    return np.asarray(pa.array(text.split(), pa.string()).cast(pa.float64()))  # three times as fast as numpy


def _nodes(trees: _Trees, feature: np.ndarray, bound: np.ndarray, is_set: np.ndarray) -> Nodes:
    """The children of a tree's split k are its nodes 2k + 1 and 2k + 2. A split by categories is turned round: its set goes right."""
    splits = trees.leaves - 1
    first_split, first_leaf = (np.repeat(np.cumsum(sizes) - sizes, splits) for sizes in (splits, trees.leaves))
    k = np.arange(len(feature)) - first_split  # of each split in its tree
    ends = np.append(0, np.cumsum(2 * trees.leaves - 1))
    root = np.repeat(ends[:-1], splits)
    place = root.copy()  # of each split; its parent moves it
    value = np.zeros(ends[-1])
    for child, side in ((trees.left, is_set.astype(int)), (trees.right, (~is_set).astype(int))):
        there, is_leaf = root + 2 * k + 1 + side, child < 0
        place[(first_split + child)[~is_leaf]] = there[~is_leaf]
        value[there[is_leaf]] = trees.value[(first_leaf - child - 1)[is_leaf]]
    is_single = splits == 0
    value[ends[:-1][is_single]] = trees.value[(np.cumsum(trees.leaves) - 1)[is_single]]
    left, used, nan_left = np.full(ends[-1], -1), np.zeros(ends[-1], dtype=np.int64), np.zeros(ends[-1], dtype=bool)
    left[place], used[place], value[place] = 2 * k + 1, feature, bound
    nan_is_zero = trees.decision & _MISSING != _NAN_IS_MISSING
    nan_left[place] = is_set | np.where(nan_is_zero, trees.threshold >= 0, trees.decision & _DEFAULT_LEFT > 0)
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
