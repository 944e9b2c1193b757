"""What is to be reconciled, and when: each object once, never two passes over one at the same time, failures later.

What a person has edited comes first, then what other events ask for, then what is due by time alone, of which only so much
is done a second: a thousand running jobs make the status slower, never the reaction to a change. Namespaces take turns: a
thousand new jobs of one team are not in the way of another's. `WorkQueue` decides and has no clock; `passes.Worker` drives it.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from kubeautoml.api.objects import Ref

FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 300.0
"""Back-off after failures; a guess that spares a server in trouble."""

TIMED_PER_SECOND = 40.0
"""Passes a second that only the time asks for; a guess: half of what one core can do, and below the limit of writes."""

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
