"""What is to be reconciled, and when: each object once, never two passes over one at the same time, failures later.

`WorkQueue` decides and has no clock; `work` drives it with asyncio.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from kubeautoml.api.errors import KubeAutoMLError, Throttled
from kubeautoml.api.objects import Ref

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 300.0
"""Back-off after failures; a guess that spares a server in trouble."""


@dataclass(frozen=True)
class Done:
    """How a pass ended: `wake_after` seconds until the next look, or `failed` with the server's wish to wait."""

    wake_after: float | None = None
    failed: bool = False
    retry_after: float = 0.0


class WorkQueue:
    """Objects with the time they are due. All times are seconds of one forward clock, given by the caller.

    Args:
        jitter: draws a factor for each back-off, so that many failures do not come back at once.
    """

    def __init__(self, jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0)) -> None:
        self._jitter = jitter
        self._due: dict[Ref, float] = {}
        self._at_work: set[Ref] = set()
        self._failures: dict[Ref, int] = {}

    def __len__(self) -> int:
        """Objects that wait for a pass, also those that are due later."""
        return len(self._due)

    def add(self, ref: Ref, due: float) -> None:
        """Ask for a pass; several asks become one, the earliest. During a pass it asks for another one after it."""
        self._due[ref] = min(due, self._due.get(ref, due))

    def take(self, now: float) -> Ref | None:
        """The object that is due longest, now at work; None when there is none. `done` must follow."""
        ready = [(due, ref) for ref, due in self._due.items() if due <= now and ref not in self._at_work]
        if not ready:
            return None
        _, ref = min(ready)
        del self._due[ref]
        self._at_work.add(ref)
        return ref

    def done(self, ref: Ref, result: Done, now: float) -> None:
        """Say how the pass over an object ended, and plan the next one."""
        self._at_work.discard(ref)
        if result.failed:
            self._failures[ref] = self._failures.get(ref, 0) + 1
            self._due[ref] = now + max(result.retry_after, self._backoff(self._failures[ref]))
            return
        self._failures.pop(ref, None)
        if result.wake_after is not None:
            self.add(ref, now + result.wake_after)

    def next_due(self) -> float | None:
        """When `take` can give the next object, as far as is known."""
        return min((due for ref, due in self._due.items() if ref not in self._at_work), default=None)

    def _backoff(self, failures: int) -> float:
        return min(FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 30), MAX_DELAY_SECONDS) * self._jitter()


class Worker:
    """Runs passes over what is in a queue, several objects at a time.

    Args:
        handle: one pass over one object; returns when to look again.
        concurrency: passes at the same time.
    """

    def __init__(self, handle: Callable[[Ref], Awaitable[timedelta | None]], concurrency: int) -> None:
        self.queue = WorkQueue()
        self._handle = handle
        self._concurrency = concurrency
        self._changed = asyncio.Event()
        self._passes: set[asyncio.Task[None]] = set()

    def add(self, ref: Ref, delay_seconds: float = 0.0) -> None:
        """Ask for a pass over an object."""
        self.queue.add(ref, asyncio.get_running_loop().time() + delay_seconds)
        self._changed.set()

    async def run(self) -> None:
        """Work until cancelled; passes that have begun are then cancelled, too, at whatever they wait for."""
        try:
            while True:
                self._changed.clear()
                self._start_passes()
                await self._wait()
        finally:
            for task in self._passes:
                task.cancel()
            if self._passes:
                await asyncio.wait(self._passes)

    def _start_passes(self) -> None:
        now = asyncio.get_running_loop().time()
        while len(self._passes) < self._concurrency and (ref := self.queue.take(now)) is not None:
            task = asyncio.create_task(self._pass(ref), name=f"reconcile {ref}")
            self._passes.add(task)
            task.add_done_callback(self._ended)

    async def _wait(self) -> None:
        """Until something was added, a pass ended, or the next object is due."""
        due = self.queue.next_due() if len(self._passes) < self._concurrency else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(due if due is None else max(due, loop.time())):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _pass(self, ref: Ref) -> None:
        result = Done(failed=True)
        try:
            wake = await self._handle(ref)
            result = Done(wake_after=wake.total_seconds() if wake is not None else None)
        except Throttled as error:
            log.info("the API server asks to wait", extra={"object": str(ref), "seconds": error.retry_after_seconds})
            result = Done(failed=True, retry_after=error.retry_after_seconds)
        except KubeAutoMLError as error:
            log.warning("pass failed", extra={"object": str(ref), "reason": error.reason, "error": str(error)})
        except Exception:
            # A bug in one job's pass must not end the operator for all others.
            log.exception("pass failed unexpectedly", extra={"object": str(ref)})
        finally:
            self.queue.done(ref, result, asyncio.get_running_loop().time())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._passes.discard(task)
        self._changed.set()
