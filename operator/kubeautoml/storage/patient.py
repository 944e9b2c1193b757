"""A store that waits while the one behind it is away: what an outage of minutes needs, and what an outage of hours must not have."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kubeautoml.api.errors import StorageUnavailable
from kubeautoml.storage.base import ObjectStore, StoredObject

log = logging.getLogger("kubeautoml.storage")

T = TypeVar("T")

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 10.0
"""Doubled each time, with up to half of it left out at random, so that a hundred pods do not come back in step."""


class PatientStore:
    """Tries again what failed only for now (`StorageUnavailable`); everything else is passed on at once.

    Every call of a store may be repeated: objects are written whole, and deleting twice is deleting.

    Args:
        seconds: how long a call may be tried altogether; then the last error is raised.
    """

    def __init__(
        self,
        store: ObjectStore,
        seconds: float,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._seconds = store, seconds
        self._sleep, self._clock = sleep, clock

    def find(self, uri: str, hidden: bool = False) -> list[StoredObject]:
        return self._patiently(lambda: self._store.find(uri, hidden))

    def read(self, uri: str) -> bytes:
        return self._patiently(lambda: self._store.read(uri))

    def write(self, uri: str, data: bytes) -> None:
        self._patiently(lambda: self._store.write(uri, data))

    def exists(self, uri: str) -> bool:
        return self._patiently(lambda: self._store.exists(uri))

    def download(self, uri: str, path: Path) -> None:
        self._patiently(lambda: self._store.download(uri, path))

    def upload(self, path: Path, uri: str) -> None:
        self._patiently(lambda: self._store.upload(path, uri))

    def delete(self, uri: str) -> int:
        return self._patiently(lambda: self._store.delete(uri))

    def _patiently(self, act: Callable[[], T]) -> T:
        until, wait = self._clock() + self._seconds, FIRST_WAIT_SECONDS
        while True:
            try:
                return act()
            except StorageUnavailable as error:
                pause = wait * random.uniform(0.5, 1.0)
                if self._clock() + pause > until:
                    raise
                log.warning("object storage is away; trying again", extra={"error": str(error), "seconds": pause})
                self._sleep(pause)
                wait = min(LONGEST_WAIT_SECONDS, wait * 2)
