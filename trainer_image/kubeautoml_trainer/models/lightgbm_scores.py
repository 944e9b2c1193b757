"""What a LightGBM booster says of many rows, faster than by its own way, which takes each row through all trees before the next, and so
fetches every tree from memory again for every row.

Some hundred rows go through a few trees at a time: measured on 10,000 rows and 631 trees of 31 leaves, 0.16 s for 0.45 s. More go through
them by `lightgbm_walk`, which takes between three quarters and less than half of that again.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np

from kubeautoml_trainer.models.blocks import by_shares
from kubeautoml_trainer.models.lightgbm_walk import LightGBMWalk, walk_of
from kubeautoml_trainer.models.tree_walker import WayForMany

_MANY_ROWS = 256
"""From which the trees are more than the calls."""
_TREES_AT_ONCE = 16
_COLUMNS_A_TREE = 2
"""Each call copies each row, so wide ones are taken through more trees at once."""


class BoosterScores:
    """A booster that holds only what prediction needs. text: LightGBM's own.

    A booster keeps in itself which of its trees a call is about (`GBDT::InitPredict`), so that of two calls at once one would answer with
    the other's trees. Each call has the booster to itself, therefore.

    Raises:
        lightgbm.basic.LightGBMError: the text is no model.
    """

    def __init__(self, text: str) -> None:
        import lightgbm as lgb

        self.text = text
        self.booster = lgb.Booster(model_str=text)
        self._booster_lock = Lock()
        self._width = self.booster.num_model_per_iteration()
        self._walk = WayForMany[LightGBMWalk]()

    def scores(self, x: np.ndarray, threads: int = 1) -> np.ndarray:
        """float64 (n,), or (n, k) of a booster of k trees a round: the sum of the leaves reached.

        Args:
            x: float64 (n, columns).
        """
        walk = self._walk.of(len(x), lambda: walk_of(self.text))
        if walk is not None:
            return by_shares(len(x), threads, lambda rows: walk.scores(x[rows]))
        rounds = self.booster.current_iteration()
        at_once = max(1, max(_TREES_AT_ONCE, x.shape[1] // _COLUMNS_A_TREE) // self._width)
        if len(x) < _MANY_ROWS or rounds <= at_once:
            return self._asked(x, threads, raw_score=True)
        total = np.zeros(len(x) if self._width == 1 else (len(x), self._width))
        for first in range(0, rounds, at_once):
            total += self._asked(x, threads, raw_score=True, start_iteration=first, num_iteration=at_once)
        return total

    def probabilities(self, x: np.ndarray, threads: int = 1) -> np.ndarray:
        """float64 (n,) of the second class for the objective binary, (n, k) for multiclass."""
        if len(x) < _MANY_ROWS:
            return self._asked(x, threads)
        from scipy.special import expit, softmax

        raw = self.scores(x, threads)
        return np.asarray(expit(raw) if raw.ndim == 1 else softmax(raw, axis=1))

    def _asked(self, x: np.ndarray, threads: int, **trees: Any) -> np.ndarray:
        with self._booster_lock:
            return np.asarray(self.booster.predict(x, num_threads=threads, **trees))
