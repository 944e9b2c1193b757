"""Drives the work queue: passes over several objects at a time, each bounded, and what tells that they do not move any more."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from kubeautoml.api.errors import KubeAutoMLError, Throttled
from kubeautoml.api.logs import log_context
from kubeautoml.api.objects import Ref
from kubeautoml.controller.queue import Done, Lane, WorkQueue

log = logging.getLogger(__name__)

PASS_SECONDS = 120.0
"""A pass that takes longer is given up and counts as failed; a guess."""

STUCK_SECONDS = 180.0
"""A pass that takes so long hangs, since it was given up before; and so long no object waits beside a free worker. A guess."""

GRACE_SECONDS = 0.5
"""Passes that have begun may take so long to end when the operator stops; a guess, since others wait for our lease."""


class Observer(Protocol):
    """Told of every pass; `Metrics` is one."""

    def began_pass(self, lane: Lane, waited_seconds: float) -> None: ...

    def ended_pass(self, lane: Lane, result: str) -> None: ...


@dataclass(frozen=True)
class _Running:
    ref: Ref
    lane: Lane
    since: float


class Worker:
    """Runs passes over what is in a queue, several objects at a time.

    Args:
        handle: one pass over one object; returns when to look again.
        concurrency: passes at the same time; a quarter of them are never timed ones.
        pass_seconds: a pass that takes longer is cancelled.
    """

    def __init__(
        self,
        handle: Callable[[Ref], Awaitable[timedelta | None]],
        concurrency: int,
        queue: WorkQueue | None = None,
        observer: Observer | None = None,
        pass_seconds: float = PASS_SECONDS,
    ) -> None:
        self.queue = queue or WorkQueue()
        self._handle = handle
        self._concurrency = concurrency
        self._observer = observer
        self._pass_seconds = pass_seconds
        self._changed = asyncio.Event()
        self._passes: dict[asyncio.Task[None], _Running] = {}
        self._is_running = False
        self._moved_at = 0.0

    @property
    def running(self) -> int:
        """Passes that are going on."""
        return len(self._passes)

    def overdue_seconds(self, lane: Lane) -> float:
        """How long the object waits that has been due longest; any thread may ask."""
        return self.queue.overdue_seconds(lane, time.monotonic()) if self._is_running else 0.0

    def why_stuck(self) -> str | None:
        """Why passes do not move, if they do not; any thread may ask."""
        now = time.monotonic()
        for running in list(self._passes.values()):
            if now - running.since > self._pass_seconds + STUCK_SECONDS:
                return f"a pass over {running.ref} has been going on for {now - running.since:.0f} s"
        overdue = self._overdue_events()
        if overdue > STUCK_SECONDS and self.running < self._concurrency:
            return f"a job has been due for {overdue:.0f} s beside a free worker"
        return None

    def stalled_seconds(self) -> float:
        """For how long no pass has ended although an event asks for one; any thread may ask."""
        return min(self._overdue_events(), time.monotonic() - self._moved_at)

    def _overdue_events(self) -> float:
        return max(self.overdue_seconds(Lane.EDIT), self.overdue_seconds(Lane.EVENT))

    def add(self, ref: Ref, delay_seconds: float = 0.0, lane: Lane = Lane.EVENT) -> None:
        """Ask for a pass over an object. Before `run` asks are collected."""
        self.queue.add(ref, asyncio.get_running_loop().time() + delay_seconds, lane)
        self._changed.set()

    async def run(self) -> None:
        """Work until cancelled; passes that have begun then get a moment to end, and are cancelled, too."""
        self._is_running = True
        try:
            while True:
                self._changed.clear()
                self._start_passes()
                await self._wait()
        finally:
            self._is_running = False
            await self._end_passes()

    async def _end_passes(self) -> None:
        if self._passes:
            await asyncio.wait(set(self._passes), timeout=GRACE_SECONDS)
        for task in self._passes:
            task.cancel()
        if self._passes:
            await asyncio.wait(set(self._passes), timeout=GRACE_SECONDS)

    def _start_passes(self) -> None:
        now = asyncio.get_running_loop().time()
        while self.running < self._concurrency:
            taken = self.queue.take(now, may_be_timed=self._may_be_timed())
            if taken is None:
                return
            if self._observer:
                self._observer.began_pass(taken.lane, taken.waited_seconds)
            task = asyncio.create_task(self._pass(taken.ref, taken.lane), name=f"reconcile {taken.ref}")
            self._passes[task] = _Running(taken.ref, taken.lane, now)
            task.add_done_callback(self._ended)

    def _may_be_timed(self) -> bool:
        timed = sum(running.lane is Lane.TIMED for running in self._passes.values())
        return timed < max(1, self._concurrency - self._concurrency // 4)

    async def _wait(self) -> None:
        """Until something was added, a pass ended, or the next object is due."""
        has_room = self.running < self._concurrency
        due = self.queue.next_due(may_be_timed=self._may_be_timed()) if has_room else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(due if due is None else max(due, loop.time())):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _pass(self, ref: Ref, lane: Lane) -> None:
        done, result = Done(failed=True), "Cancelled"
        try:
            with log_context(job=ref.full_name):
                done, result = await self._tried(ref)
        finally:
            self.queue.done(ref, done, asyncio.get_running_loop().time())
            if self._observer:
                self._observer.ended_pass(lane, result)

    async def _tried(self, ref: Ref) -> tuple[Done, str]:
        """One pass, whatever becomes of it; a bug in one job's pass must not end the operator for all others."""
        try:
            async with asyncio.timeout(self._pass_seconds):
                wake = await self._handle(ref)
            return Done(wake_after=wake.total_seconds() if wake is not None else None), "Ok"
        except Throttled as error:
            log.info("the API server asks to wait", extra={"seconds": error.retry_after_seconds})
            return Done(failed=True, retry_after=error.retry_after_seconds), "Throttled"
        except KubeAutoMLError as error:
            log.warning("pass failed", extra={"reason": error.reason, "error": str(error)})
            return Done(failed=True), "Failed"
        except TimeoutError:
            log.warning("pass given up", extra={"seconds": self._pass_seconds})
            return Done(failed=True), "TimedOut"
        except Exception:
            log.exception("pass failed unexpectedly")
            return Done(failed=True), "Crashed"

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._moved_at = time.monotonic()
        del self._passes[task]
        self._changed.set()
