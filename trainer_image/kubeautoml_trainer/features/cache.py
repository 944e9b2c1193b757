"""Fitted features of earlier trials of this process, for trials with the same recipe on the same fold.

Choosing among 2,000 candidates or factorising a text column takes longer than a small model; its result depends on
recipe, rows and seed alone.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kubeautoml_trainer.features.base import Encoded

if TYPE_CHECKING:
    from kubeautoml_trainer.features.fitted import Features

_LEAST_SECONDS = 0.05  # what is made faster is not worth its memory


class FeatureCache:
    """The most recently used results whose arrays take at most `most_bytes` together."""

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_bytes, self._clock = most_bytes, clock
        self._kept: OrderedDict[Any, tuple[Features, Encoded]] = OrderedDict()
        self._lock = threading.Lock()

    def of(
        self, key: tuple[str | None, Any, Any, int], make: Callable[[], tuple[Features, Encoded]]
    ) -> tuple[Features, Encoded]:
        """The result under the key, made if need be; the key's first part names the rows, None for rows without a
        name, which are never kept. Nobody may write into what comes back.
        """
        if key[0] is None:
            return make()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        began = self._clock()
        made = make()
        if self._clock() - began >= _LEAST_SECONDS:
            self._keep(key, made)
        return made

    def _keep(self, key: Any, made: tuple[Features, Encoded]) -> None:
        if encoded_bytes(made[1]) > self._most_bytes // 2:
            return
        with self._lock:
            self._kept[key] = made
            while sum(encoded_bytes(encoded) for _, encoded in self._kept.values()) > self._most_bytes:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


def encoded_bytes(encoded: Encoded) -> int:
    """Size of the arrays; strings by their pointers."""
    sparse = encoded.sparse
    words = 0 if sparse is None else sparse.data.nbytes + sparse.indices.nbytes + sparse.indptr.nbytes
    strings = 0 if encoded.strings is None else encoded.strings.nbytes
    pixels = 0 if encoded.images is None else encoded.images.nbytes  # views into a file
    return int(encoded.numbers.nbytes + encoded.codes.nbytes + strings + words + pixels)


CACHE = FeatureCache(most_bytes=192 * 2**20)
"""This process's."""
