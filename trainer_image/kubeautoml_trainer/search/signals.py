"""SIGTERM: at once while a trial computes, only afterwards while its result is being stored."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """SIGTERM came. Not an Exception, so that no library's handler swallows it."""


class TerminationGuard:
    """Turns SIGTERM into `Terminated`, where that does no harm."""

    def __init__(self) -> None:
        self._requested = False
        self._is_interruptible = True

    def install(self) -> None:
        """Take over SIGTERM for this process."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
        if self._is_interruptible:
            raise Terminated

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A stretch that SIGTERM may break; what follows it is safe until `check`."""
        self._is_interruptible = True
        if self._requested:
            raise Terminated
        try:
            yield
        finally:
            self._is_interruptible = False

    def check(self) -> None:
        """Raise what came while a result was being stored."""
        if self._requested:
            raise Terminated
