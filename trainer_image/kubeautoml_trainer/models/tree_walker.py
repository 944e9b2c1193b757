"""Many rows through many small trees by XGBoost's predictor, whichever library grew them: it takes a block of rows through one tree after
the other, and through a tree's first levels without a branch that a processor could guess wrongly.

Measured on one thread, per row and tree: 7 ns where numpy takes 40 to 48 (scikit-learn's trees of 23 nodes), 10 to 28 where LightGBM takes
22 to 42. Trees of a hundred leaves and more are no faster, and to hand over a forest's takes as long as it saves on many thousand rows.

Trees are handed over in the format in which XGBoost saves them (UBJSON; https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html),
which later versions read, too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np

W = TypeVar("W")

MANY_ROWS = 2_000
"""In a call. To make a walker takes as long as it saves on 700 (scikit-learn's trees) to 6,000 rows (LightGBM's); measured."""
_NO_PARENT = 2**31 - 1
_VERSION = [3, 0, 0]
"""Of the format."""
_LENGTH = struct.Struct(">q")
_TYPES = {"f4": b"d", "u1": b"U", "i4": b"l", "i8": b"L"}


@dataclass(frozen=True)
class Categories:
    """Splits by categories. node: int64 (splits,), rising, numbers of `Nodes`. values: int32, the categories that go right, those of a
    split behind those of the one before. ends: int64 (splits + 1,), from 0, where each split's begin and the last one's end.
    """

    node: np.ndarray
    values: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True)
class Nodes:
    """The nodes of all trees, those of a tree behind one another.

    ends: int64 (trees + 1,), from 0; a tree begins with its root. left: int32 (nodes,), the left child, counted from the root; the right
    one is the node behind it; -1 for a leaf. feature: int32 (nodes,), a column. bound: float32 (nodes,): what is below it goes left; of a
    leaf, what it adds. nan_left: bool (nodes,), whether what is missing goes left.
    """

    ends: np.ndarray
    left: np.ndarray
    feature: np.ndarray
    bound: np.ndarray
    nan_left: np.ndarray
    categories: Categories | None = None


class Walker:
    """Trees that many rows can be taken through, from several threads at once."""

    def __init__(self, nodes: Nodes, columns: int, scores: int = 1, score: np.ndarray | None = None) -> None:
        """scores: how many there are of a row. score: int64 (trees,), which one each tree adds to; None: one after the other, in turn."""
        import xgboost as xgb

        self._booster = xgb.Booster({"nthread": 1}, model_file=bytearray(_model(nodes, columns, scores, score)))
        self._scores = scores

    def sums(self, x: np.ndarray) -> np.ndarray:
        """float32 (n, scores): the sum of the leaves that each row reaches. x: float32 (n, columns), NaN where missing."""
        said = self._booster.inplace_predict(x, predict_type="margin")
        return np.asarray(said).reshape(len(x), self._scores)


class WayForMany(Generic[W]):
    """A way for calls of many rows, made at the first of them. Calls of as many rows go the same way, whatever was asked before: the same
    rows get the same answer to the last bit.
    """

    def __init__(self) -> None:
        self._lock, self._is_tried = Lock(), False
        self._made: W | None = None

    def of(self, rows: int, make: Callable[[], W | None]) -> W | None:
        """For a call of so many rows, from several threads at once; None for few. make: called once; None where there is no such way."""
        if rows < MANY_ROWS:
            return None
        with self._lock:
            if not self._is_tried:
                self._made, self._is_tried = make(), True
            return self._made


def _model(nodes: Nodes, columns: int, scores: int, score: np.ndarray | None) -> bytes:
    """The file that XGBoost reads. All trees are one round: there need not be as many of each score."""
    count = len(nodes.ends) - 1
    score = np.arange(count) % scores if score is None else score
    classes = {"name": "multi:softprob", "softmax_multiclass_param": {"num_class": str(scores)}}
    numbers = {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}}
    model: dict[str, Any] = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(count)},
        "iteration_indptr": [0, count],
        "tree_info": score.tolist(),
        "trees": _Written(b"[" + b"".join(_trees(nodes, columns)) + b"]"),
        "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
    }
    learner = {
        "attributes": {},
        "feature_names": [],
        "feature_types": [],
        "gradient_booster": {"model": model, "name": "gbtree"},
        "learner_model_param": {
            "base_score": "0E0",
            "boost_from_average": "0",
            "num_class": str(scores if scores > 1 else 0),
            "num_feature": str(columns),
            "num_target": "1",
        },
        "objective": classes if scores > 1 else numbers,
    }
    return _ubjson({"learner": learner, "version": _VERSION})


def _trees(nodes: Nodes, columns: int) -> Iterator[bytes]:
    """Each tree's object. What all of them say in the same words is written once: there may be thousands."""
    total = len(nodes.left)
    here, of_tree = np.arange(total), np.repeat(nodes.ends[:-1], np.diff(nodes.ends))
    inner = np.flatnonzero(nodes.left >= 0)
    parent = np.full(total, _NO_PARENT, dtype=np.int32)
    for side in (0, 1):
        parent[of_tree[inner] + nodes.left[inner] + side] = here[inner] - of_tree[inner]
    right = np.where(nodes.left >= 0, nodes.left + 1, -1)
    kinds = np.zeros(total, dtype=np.uint8)
    if nodes.categories is not None:
        kinds[nodes.categories.node] = 1
    zeros = np.zeros(total)
    whole = [
        _Column("left_children", nodes.left, "i4"),
        _Column("right_children", right, "i4"),
        _Column("parents", parent, "i4"),
        _Column("split_indices", nodes.feature, "i4"),
        _Column("split_conditions", nodes.bound, "f4"),
        _Column("default_left", nodes.nan_left, "u1"),
        _Column("split_type", kinds, "u1"),
        *(_Column(name, zeros, "f4") for name in ("base_weights", "loss_changes", "sum_hessian")),
    ]
    no_splits = b"".join(_Column(name, zeros[:0], kind).part(0, 0) for name, kind in _OF_CATEGORIES)
    sizes = {"num_deleted": "0", "num_feature": str(columns), "size_leaf_vector": "1"}
    head = b"{" + _name("tree_param") + _ubjson(sizes)[:-1] + _name("num_nodes")  # the object goes on
    number = b"}" + _name("id")
    for k, (first, end) in enumerate(zip(nodes.ends[:-1].tolist(), nodes.ends[1:].tolist(), strict=True)):
        splits = no_splits if nodes.categories is None else _splits(nodes.categories, first, end)
        about = (head, _ubjson(str(end - first)), number, _ubjson(k), splits)
        yield b"".join([*about, *(column.part(first, end) for column in whole), b"}"])


_OF_CATEGORIES = (
    ("categories", "i4"),
    ("categories_nodes", "i4"),
    ("categories_segments", "i8"),
    ("categories_sizes", "i8"),
)


def _splits(categories: Categories, first: int, end: int) -> bytes:
    """What a tree from one node to another says of its splits by categories."""
    begin, stop = np.searchsorted(categories.node, [first, end])
    ends = categories.ends[begin : stop + 1]
    values = categories.values[ends[0] : ends[-1]]
    found = (values, categories.node[begin:stop] - first, ends[:-1] - ends[0], np.diff(ends))
    named = zip(_OF_CATEGORIES, found, strict=True)
    return b"".join(_Column(name, array, kind).part(0, len(array)) for (name, kind), array in named)


class _Column:
    """An array of which each tree writes a part."""

    def __init__(self, name: str, values: np.ndarray, kind: str) -> None:
        self._head = _name(name) + b"[$" + _TYPES[kind] + b"#L"
        self._bytes = values.astype(f">{kind}").tobytes()
        self._size = np.dtype(kind).itemsize

    def part(self, first: int, end: int) -> bytes:
        return self._head + _LENGTH.pack(end - first) + self._bytes[first * self._size : end * self._size]


@dataclass(frozen=True)
class _Written:
    """What is UBJSON already."""

    data: bytes


def _ubjson(value: Any) -> bytes:
    """As XGBoost reads it (https://ubjson.org): objects, lists, strings and whole numbers."""
    if isinstance(value, _Written):
        return value.data
    if isinstance(value, dict):
        return b"{" + b"".join(_name(key) + _ubjson(each) for key, each in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b"".join(map(_ubjson, value)) + b"]"
    if isinstance(value, str):
        return b"S" + _name(value)
    return b"L" + _LENGTH.pack(value)


def _name(text: str) -> bytes:
    data = text.encode()
    return b"L" + _LENGTH.pack(len(data)) + data
