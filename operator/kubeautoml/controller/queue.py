"""What is to be reconciled, and when: each object once, never two passes over one at the same time, failures later.

What a person has edited comes first, then what other events ask for, then what is due by time alone, of which only so much
is done a second: a thousand running jobs make the status slower, never the reaction to a change. Namespaces take turns: a
thousand new jobs of one team are not in the way of another's. `WorkQueue` decides and has no clock; `Worker` drives it.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from math import inf
from typing import Protocol

from kubeautoml.api.errors import KubeAutoMLError, Throttled
from kubeautoml.api.logs import log_context
from kubeautoml.api.objects import Ref

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 300.0
"""Back-off after failures; a guess that spares a server in trouble."""

TIMED_PER_SECOND = 40.0
"""Passes a second that only the time asks for; a guess: half of what one core can do, and below the limit of writes."""

PASS_SECONDS = 120.0
"""A pass that takes longer is given up and counts as failed; a guess."""

STUCK_SECONDS = 180.0
"""A pass that takes so long hangs, since it was given up before; and so long no object waits beside a free worker. A guess."""

GRACE_SECONDS = 0.5
"""Passes that have begun may take so long to end when the operator stops; a guess, since others wait for our lease."""

_TIMED_SHARE = 5
"""Of so many passes at least one is a timed one, however many events there are: deadlines are due by time, too."""

_CATCH_UP_SECONDS = 0.5
"""Timed passes that could not begin in time, since the loop was busy, may follow faster for so long."""


class Lane(StrEnum):
    """Why an object is due."""

    EDIT = "Edit"
    """Somebody changed its spec or deleted it, and waits to see it happen."""
    EVENT = "Event"
    """Something else happened: it is new, a child changed, or its last pass failed."""
    TIMED = "Timed"
    """Its last pass asked for it, or the resync."""


@dataclass(frozen=True)
class Done:
    """How a pass ended: `wake_after` seconds until the next look, or `failed` with the server's wish to wait."""

    wake_after: float | None = None
    failed: bool = False
    retry_after: float = 0.0


@dataclass(frozen=True)
class Taken:
    """An object whose pass is to begin, and for how long it has been due."""

    ref: Ref
    lane: Lane
    waited_seconds: float


class WorkQueue:
    """Objects with the time they are due. All times are seconds of one forward clock, given by the caller.

    One loop owns it; `depth` and `overdue_seconds` may be asked from other threads.

    Args:
        jitter: draws the share of a back-off that is waited, from 0 to 1, so that many failures do not come back at once.
        timed_per_second: how many passes a second may begin that only the time asks for.
    """

    def __init__(self, jitter: Callable[[], float] = random.random, timed_per_second: float = TIMED_PER_SECOND) -> None:
        self._jitter = jitter
        self._seconds_between_timed = 1.0 / timed_per_second
        self._timed_from = 0.0
        self._paused_until = 0.0
        self._events_in_a_row = 0
        self._at_work: set[Ref] = set()
        self._failures: dict[Ref, _Failures] = {}
        self._lanes = {lane: _Lane(self._at_work) for lane in Lane}

    def __len__(self) -> int:
        """Objects that wait for a pass, also those that are due later."""
        return len({ref for lane in self._lanes.values() for ref in lane.due})

    def depth(self, lane: Lane) -> int:
        """Objects in a lane, due or not."""
        return len(self._lanes[lane].due)

    def overdue_seconds(self, lane: Lane, now: float) -> float:
        """How long the object waits that has been due longest; neither those at work nor a pause count."""
        waiting = [due for ref, due in list(self._lanes[lane].due.items()) if ref not in self._at_work]
        return max(0.0, now - max(min(waiting, default=inf), self._paused_until))

    def add(self, ref: Ref, due: float, lane: Lane = Lane.EVENT) -> None:
        """Ask for a pass; several asks become one, the earliest. During a pass it asks for another one after it.

        After a failure an event brings the next attempt forward, since it may be the cure, but not below the first
        delay: what fails must not fail faster because it makes events itself.
        """
        failures = self._failures.get(ref)
        self._lanes[lane].add(ref, max(due, failures.not_before) if failures else due)

    def take(self, now: float, *, may_be_timed: bool = True) -> Taken | None:
        """The object to look at next, now at work; None when there is none. `done` must follow."""
        if now < self._paused_until:
            return None
        for lane in self._order(may_be_timed and now >= self._timed_from):
            found = self._lanes[lane].next(now)
            if found is not None:
                due, ref = found
                self._begin(ref, lane, now)
                return Taken(ref, lane, now - max(due, self._paused_until))
        return None

    def done(self, ref: Ref, result: Done, now: float) -> None:
        """Say how the pass over an object ended, and plan the next one."""
        self._at_work.discard(ref)
        if result.failed:
            self._fail(ref, result, now)
            return
        self._failures.pop(ref, None)
        for lane in self._lanes.values():
            lane.give_back(ref)
        if result.wake_after is not None:
            self.add(ref, now + result.wake_after, Lane.TIMED)

    def next_due(self, *, may_be_timed: bool = True) -> float | None:
        """When `take` can give the next object, as far as is known."""
        timed = max(self._lanes[Lane.TIMED].first_due(), self._timed_from) if may_be_timed else inf
        first = min(timed, self._lanes[Lane.EDIT].first_due(), self._lanes[Lane.EVENT].first_due())
        return max(first, self._paused_until) if first < inf else None

    def keep_only(self, refs: set[Ref], since: float) -> None:
        """Forget what was due before `since` and is not among these: a standby, which has no passes, collects names."""
        for lane in self._lanes.values():
            for ref in [ref for ref, due in lane.due.items() if due < since and ref not in refs]:
                lane.drop(ref)

    def _order(self, may_be_timed: bool) -> Iterator[Lane]:
        yield Lane.EDIT
        if may_be_timed and self._events_in_a_row >= _TIMED_SHARE - 1:
            yield Lane.TIMED
        yield Lane.EVENT
        if may_be_timed:
            yield Lane.TIMED

    def _begin(self, ref: Ref, lane: Lane, now: float) -> None:
        """The pass answers whatever asked for it, in either lane."""
        for each in self._lanes.values():
            each.drop(ref)
        self._at_work.add(ref)
        if lane is Lane.TIMED:
            self._events_in_a_row = 0
            self._timed_from = max(self._timed_from, now - _CATCH_UP_SECONDS) + self._seconds_between_timed
        else:
            self._events_in_a_row += 1

    def _fail(self, ref: Ref, result: Done, now: float) -> None:
        """Plan the next attempt. A server that asks to wait is left alone by all objects, not just by this one."""
        if result.retry_after > 0.0:
            self._paused_until = max(self._paused_until, now + result.retry_after)
        count = self._failures[ref].count + 1 if ref in self._failures else 1
        delay = min(FIRST_DELAY_SECONDS * 2.0 ** min(count - 1, 30), MAX_DELAY_SECONDS) * self._jitter()
        least = min(delay, FIRST_DELAY_SECONDS)
        self._failures[ref] = _Failures(count, now + max(least, result.retry_after))
        asked = {lane: due for lane, waiting in self._lanes.items() if (due := waiting.drop(ref)) is not None}
        lane = Lane.EDIT if Lane.EDIT in asked else Lane.EVENT
        self.add(ref, min([now + delay, *asked.values()]), lane)


@dataclass(frozen=True)
class _Failures:
    """Passes over one object that failed in a row, and when the next may begin at the earliest."""

    count: int
    not_before: float


class _Lane:
    """Objects by due time: what is true in `due`, and heaps beside it, a namespace each, that also have stale entries."""

    def __init__(self, at_work: set[Ref]) -> None:
        self.due: dict[Ref, float] = {}
        self._at_work = at_work
        self._heaps: dict[str, list[tuple[float, Ref]]] = {}
        self._served: dict[str, int] = {}
        self._turn = 0

    def add(self, ref: Ref, due: float) -> None:
        """Note it, unless it is noted for earlier."""
        if due < self.due.get(ref, inf):
            self.due[ref] = due
            self._push(ref)

    def give_back(self, ref: Ref) -> None:
        """It is at work no more: what was asked meanwhile counts from now on."""
        if ref in self.due:
            self._push(ref)

    def drop(self, ref: Ref) -> float | None:
        """Forget it; returns when it was due."""
        return self.due.pop(ref, None)

    def next(self, now: float) -> tuple[float, Ref] | None:
        """What has been due longest in the namespace whose turn it is: the one that was served least recently."""
        waiting = [(self._served.get(ns, 0), first, ns) for ns, first in self._firsts() if first[0] <= now]
        if not waiting:
            return None
        _, first, namespace = min(waiting)
        self._turn += 1
        self._served[namespace] = self._turn
        return first

    def first_due(self) -> float:
        """When something is due that is not at work; infinity for never."""
        return min((first[0] for _, first in self._firsts()), default=inf)

    def _firsts(self) -> list[tuple[str, tuple[float, Ref]]]:
        """The first of each namespace. Namespaces in which nothing waits are forgotten."""
        for namespace in [ns for ns, heap in self._heaps.items() if not self._tidied(heap)]:
            del self._heaps[namespace]
            self._served.pop(namespace, None)
        return [(namespace, heap[0]) for namespace, heap in self._heaps.items()]

    def _tidied(self, heap: list[tuple[float, Ref]]) -> list[tuple[float, Ref]]:
        """The heap without the stale entries at its top."""
        while heap and (self.due.get(heap[0][1]) != heap[0][0] or heap[0][1] in self._at_work):
            heapq.heappop(heap)
        return heap

    def _push(self, ref: Ref) -> None:
        if ref in self._at_work:
            return
        heap = self._heaps.setdefault(ref.namespace, [])
        heapq.heappush(heap, (self.due[ref], ref))
        if len(heap) > 2 * len(self.due) + 64:
            heap[:] = sorted({entry for entry in heap if self.due.get(entry[1]) == entry[0]})


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
