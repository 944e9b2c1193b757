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
        self._protections = 0

    def install(self) -> None:
        """Take over SIGTERM for this process."""
        signal.signal(signal.SIGTERM, self.on_signal)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        self._requested = True
        if not self._protections:
            raise Terminated

    @property
    def is_requested(self) -> bool:
        """Whether SIGTERM came."""
        return self._requested

    @contextmanager
    def protected(self) -> Iterator[None]:
        """A stretch that SIGTERM does not break; the next `check` raises what came meanwhile."""
        self._protections += 1
        try:
            yield
        finally:
            self._protections -= 1

    def check(self) -> None:
        """Raise what came in a protected stretch, or what a library's handler swallowed."""
        if self._requested:
            raise Terminated
