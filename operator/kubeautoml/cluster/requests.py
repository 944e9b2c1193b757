"""What a client may ask of the API server, and what it has asked: a rate limit and counters. Threads share them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The client's own limits, so that one operator is never what an API server suffers from.

    In no second there are more writes than `writes_per_second + writes_at_once`: 49 by default, and the Lease's.
    """

    writes_per_second: float = 45.0
    writes_at_once: int = 4
    reads_per_second: float = 200.0
    reads_at_once: int = 200


class RequestCounts:
    """Requests made so far, by verb and kind; for metrics and benchmarks. Threads may share it."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._waited_seconds = 0.0
        self._throttled = 0
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

    def add_throttled(self) -> None:
        """Count an answer that asked to wait."""
        with self._lock:
            self._throttled += 1

    @property
    def waited_seconds(self) -> float:
        """Time that requests waited for the client's own rate limit, summed."""
        return self._waited_seconds

    @property
    def throttled(self) -> int:
        """Answers that asked to wait, such as 429."""
        return self._throttled

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
        clock: seconds that only go forward.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_each = 1.0 / per_second
        self._burst = burst
        self._clock = clock
        self._next = 0.0
        self._paused_until = 0.0
        self._lock = threading.Lock()

    def wait(self, sleep: Callable[[float], object] = time.sleep) -> float:
        """Block until it is this request's turn; returns the seconds waited."""
        waited = 0.0
        for seconds in self._waits():
            sleep(seconds)
            waited += seconds
        return waited

    async def turn(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> float:
        """As `wait`, for one task of an event loop. Who is cancelled meanwhile has sent nothing."""
        waited = 0.0
        for seconds in self._waits():
            await sleep(seconds)
            waited += seconds
        return waited

    def pause(self, seconds: float) -> None:
        """Let nothing pass for so long, as a server that answers 429 asks; neither those that wait already."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)
            self._next = max(self._next, self._paused_until)

    def _waits(self) -> Iterator[float]:
        """How long to sleep, until it is our turn: once, or again when a pause came meanwhile."""
        while (seconds := self._reserve()) > 0.0:
            yield seconds
            if self._clock() >= self._paused_until:
                return

    def _reserve(self) -> float:
        with self._lock:
            now = self._clock()
            turn = max(self._next, now - (self._burst - 1) * self._seconds_each)
            self._next = turn + self._seconds_each
        return max(0.0, turn - now)
