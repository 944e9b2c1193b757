"""SIGTERM: at once while a trial computes, only afterwards while its result is being stored; and never later than soon."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

LAST_WORDS_SECONDS = 3.0
"""How long the process has to leave by itself before the watching thread says its last words for it."""
LEAVE_SECONDS = 8.0
"""After SIGTERM the process ends by then at the latest, before the pod's grace period (10 s) does. Python sees a signal only
between two of its own steps, and a fit inside of a library may not return for minutes; the operator repairs what is left."""

EXIT_CODE = 143
"""128 + SIGTERM, as a shell has it."""


class Terminated(BaseException):
    """SIGTERM came. Not an Exception, so that no library's handler swallows it."""


class TerminationGuard:
    """Turns SIGTERM into `Terminated`, where that does no harm."""

    def __init__(self) -> None:
        self._requested = False
        self._protections = 0
        self.last_words: Callable[[], None] = lambda: None
        """Called by another thread when SIGTERM came and a library computes on without returning to Python."""

    def install(self) -> None:
        """Take over SIGTERM for this process."""
        signal.signal(signal.SIGTERM, self.on_signal)
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        # written by the signal itself, whatever Python is doing
        signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
        threading.Thread(target=self._leave_in_time, args=(ours,), name="leave-in-time", daemon=True).start()

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

    def _leave_in_time(self, wakes: socket.socket) -> None:
        """What the watching thread does: end the process when it has not left by itself."""
        while signal.SIGTERM not in wakes.recv(16):
            pass
        time.sleep(LAST_WORDS_SECONDS)
        if not self._protections:  # else what must not be done by half is being done just now
            threading.Thread(target=self.last_words, name="last-words", daemon=True).start()
        time.sleep(LEAVE_SECONDS - LAST_WORDS_SECONDS)
        os._exit(EXIT_CODE)
