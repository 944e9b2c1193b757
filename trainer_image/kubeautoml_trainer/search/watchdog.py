"""Ends a trial whose fit does not return: a library that computes on cannot be interrupted from inside, only left behind.

A thread looks at the clock. When a fit is too far over its deadline, the trial is given up in the study and the process makes place
for a new one of itself (`restart`), which takes up the search; once the search is over it only leaves. What a family could not do
once it is not asked for again (`search.budget.overran`).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

GRACE_SECONDS = 10.0
"""How far a fit may be over its deadline at least; as much again as it was given, if that is more. A guess: rounds are long on large
data, and predicting belongs to it."""
END_GRACE_SECONDS = 3.0
"""The same once the search is over, for then the finalizer waits. A guess."""
LOOK_SECONDS = 0.25


def restart() -> None:
    """Put a new process with the same arguments and environment in the place of this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def leave() -> None:
    """End this process as one that has nothing more to do."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@dataclass
class Watchdog:
    """give_up: called by the watching thread when a fit has overrun; tells the study. It returns False when the fit came back
    just then. After it `restart` is called, or `leave` if the search is over.
    """

    give_up: Callable[[], bool]
    restart: Callable[[], None] = restart
    leave: Callable[[], None] = leave
    clock: Callable[[], float] = time.monotonic
    _due: float | None = field(default=None, init=False)
    _search_end: float | None = field(default=None, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def watch(self, deadline: float, search_end: float | None) -> None:
        """A fit begins that must return by `deadline`; both in seconds of the clock. `search_end` is when the search is over."""
        now = self.clock()
        self._due = due_at(now, deadline, search_end)
        self._search_end = search_end
        if self._thread is None and self._due is not None:
            self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
            self._thread.start()

    def rest(self) -> None:
        """The fit is over."""
        self._due = None

    def check(self) -> bool:
        """Act if the fit has overrun; whether it had."""
        due, now = self._due, self.clock()
        if due is None or now < due or not self.give_up():
            return False
        self._due = None
        is_over = self._search_end is not None and now >= self._search_end
        (self.leave if is_over else self.restart)()
        return True

    def _look(self) -> None:
        while not self.check():
            time.sleep(LOOK_SECONDS)


def due_at(now: float, deadline: float, search_end: float | None) -> float | None:
    """When a fit is given up; None for never.

    >>> due_at(100.0, 105.0, None), due_at(100.0, 130.0, None), due_at(100.0, 130.0, 140.0)
    (115.0, 160.0, 143.0)
    """
    if deadline == float("inf"):
        return None
    due = deadline + max(GRACE_SECONDS, deadline - now)
    return due if search_end is None else min(due, max(deadline, search_end) + END_GRACE_SECONDS)
