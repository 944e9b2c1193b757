"""What a client may ask of the API server, and what it has asked: a rate limit and counters. Threads share them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable


class RequestCounts:
    """Requests made so far, by verb and kind; for metrics and benchmarks. Threads may share it."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._waited_seconds = 0.0
        self._lock = threading.Lock()

    def add(self, verb: str, kind: str) -> None:
        """Count one request."""
        with self._lock:
            self._counts[verb, kind] += 1

    def add_wait(self, seconds: float) -> None:
        """Count time that a request waited for its turn."""
        if seconds:
            with self._lock:
                self._waited_seconds += seconds

    @property
    def waited_seconds(self) -> float:
        """Time that requests waited for the client's own rate limit, summed."""
        return self._waited_seconds

    def by_verb_and_kind(self) -> dict[tuple[str, str], int]:
        """A copy, such as {("apply", "Job"): 2}."""
        with self._lock:
            return dict(self._counts)

    @property
    def writes(self) -> int:
        """Requests that may change something; what an API server pays for most."""
        reads = ("get", "list", "watch", "log")
        return sum(n for (verb, _), n in self.by_verb_and_kind().items() if verb not in reads)


class RateLimit:
    """A token bucket: so many requests a second, and after a rest so many at once. Requests get their turn in order.

    Args:
        clock, sleep: of the time that tests give.
    """

    def __init__(
        self,
        per_second: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._seconds_each = 1.0 / per_second
        self._burst = burst
        self._clock, self._sleep = clock, sleep
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> float:
        """Until it is this request's turn; returns the seconds waited."""
        with self._lock:
            now = self._clock()
            turn = max(self._next, now - (self._burst - 1) * self._seconds_each)
            self._next = turn + self._seconds_each
        wait = max(0.0, turn - now)
        if wait > 0.0:
            self._sleep(wait)
        return wait

    def pause(self, seconds: float) -> None:
        """Let nothing pass for so long, as a server that answers 429 asks."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)
