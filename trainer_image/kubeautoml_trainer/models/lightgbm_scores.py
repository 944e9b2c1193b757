"""What a LightGBM booster says of many rows, a few trees at a time: its own way, all trees for one row after the other, fetches
every tree from memory again for every row. Measured on 10,000 rows and 631 trees of 31 leaves: 0.16 s for 0.45 s.

A booster keeps in itself which of its trees a call is about (`GBDT::InitPredict`), so that of two calls at once one answers with the
other's trees. Each call has the booster to itself, therefore.
"""

from __future__ import annotations

from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

_MANY_ROWS = 256
"""From which the trees are more than the calls."""
_TREES_AT_ONCE = 16
_COLUMNS_A_TREE = 2
"""Each call copies each row, so wide ones are taken through more trees at once."""


def scores(booster: Any, x: np.ndarray, threads: int) -> np.ndarray:
    """float64 (n,), or (n, k) of a booster of k trees a round: the sum of the leaves reached.

    Args:
        x: float64 (n, columns).
    """
    rounds, width = booster.current_iteration(), booster.num_model_per_iteration()
    at_once = max(1, max(_TREES_AT_ONCE, x.shape[1] // _COLUMNS_A_TREE) // width)
    if len(x) < _MANY_ROWS or rounds <= at_once:
        return _asked(booster, x, threads, raw_score=True)
    total = np.zeros(len(x) if width == 1 else (len(x), width))
    for first in range(0, rounds, at_once):
        total += _asked(booster, x, threads, raw_score=True, start_iteration=first, num_iteration=at_once)
    return total


def probabilities(booster: Any, x: np.ndarray, threads: int) -> np.ndarray:
    """float64 (n,) of the second class for the objective binary, (n, k) for multiclass."""
    if len(x) < _MANY_ROWS:
        return _asked(booster, x, threads)
    from scipy.special import expit, softmax

    raw = scores(booster, x, threads)
    return np.asarray(expit(raw) if raw.ndim == 1 else softmax(raw, axis=1))


_LOCKS: WeakKeyDictionary[Any, Lock] = WeakKeyDictionary()
_LOCKS_LOCK = Lock()


def _asked(booster: Any, x: np.ndarray, threads: int, **trees: Any) -> np.ndarray:
    with _LOCKS_LOCK:
        lock = _LOCKS.setdefault(booster, Lock())
    with lock:
        return np.asarray(booster.predict(x, num_threads=threads, **trees))
