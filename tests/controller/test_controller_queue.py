"""The work queue: decisions with a clock in hand, and the worker that drives it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeautoml.api.errors import ClusterError, Throttled
from kubeautoml.api.objects import Ref
from kubeautoml.controller.queue import MAX_DELAY_SECONDS, Done, Lane, Worker, WorkQueue

A, B, C = (Ref("AutoMLJob", "team-a", name) for name in "abc")


def make_queue(jitter: float = 1.0, timed_per_second: float = 1000.0) -> WorkQueue:
    return WorkQueue(jitter=lambda: jitter, timed_per_second=timed_per_second)


def take(queue: WorkQueue, now: float, *, may_be_timed: bool = True) -> Ref | None:
    taken = queue.take(now, may_be_timed=may_be_timed)
    return taken.ref if taken else None


def test_several_asks_become_one_pass_at_the_earliest_time() -> None:
    """An object waits once, for the earliest of what was asked."""
    queue = make_queue()
    queue.add(A, due=30)
    queue.add(A, due=10)
    queue.add(A, due=20)

    assert (len(queue), queue.next_due(), take(queue, now=9)) == (1, 10, None)
    assert (take(queue, now=10), take(queue, now=10), len(queue)) == (A, None, 0)


def test_the_longest_due_comes_first() -> None:
    """Order is by due time, not by order of asking."""
    queue = make_queue()
    for ref, due in ((A, 3), (B, 1), (C, 2)):
        queue.add(ref, due)

    assert [take(queue, now=5) for _ in range(3)] == [B, C, A]


def test_an_object_at_work_is_not_given_again_until_its_pass_is_done() -> None:
    """What is asked during a pass is kept for after it."""
    queue = make_queue()
    queue.add(A, due=0)
    assert take(queue, now=0) == A
    queue.add(A, due=1)

    during, due_during = take(queue, now=5), queue.next_due()
    queue.done(A, Done(), now=5)

    assert (during, due_during) == (None, None)
    assert take(queue, now=5) == A


def test_a_pass_plans_the_next_one_unless_something_asks_earlier() -> None:
    """wake_after counts from the end of the pass."""
    queue = make_queue()
    queue.add(A, due=0)
    take(queue, now=0)
    queue.done(A, Done(wake_after=30), now=2)
    assert queue.next_due() == 32

    queue.add(A, due=10)

    assert queue.next_due() == 10


def test_without_a_wish_a_done_object_is_forgotten() -> None:
    """Only an event brings it back."""
    queue = make_queue()
    queue.add(A, due=0)
    take(queue, now=0)

    queue.done(A, Done(), now=1)

    assert (len(queue), queue.next_due()) == (0, None)


def test_failures_wait_longer_every_time_and_success_forgets_them() -> None:
    """1, 2, 4 ... seconds up to the limit; after a success it begins anew."""
    queue, waits, now = make_queue(), [], 0.0
    queue.add(A, due=0)
    for _ in range(11):
        assert take(queue, now) == A
        queue.done(A, Done(failed=True), now)
        due = queue.next_due()
        assert due is not None
        waits.append(due - now)
        now = due
    take(queue, now)
    queue.done(A, Done(), now)
    queue.add(A, due=now)
    take(queue, now)
    queue.done(A, Done(failed=True), now)

    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, MAX_DELAY_SECONDS, MAX_DELAY_SECONDS]
    assert queue.next_due() == now + 1


def test_jitter_spreads_a_back_off() -> None:
    """The wait is multiplied by the jitter."""
    queue = make_queue(jitter=0.5)
    queue.add(A, due=0)
    take(queue, now=0)

    queue.done(A, Done(failed=True), now=0)

    assert queue.next_due() == 0.5


def test_a_server_that_asks_to_wait_gets_its_wish() -> None:
    """retry_after is the least wait."""
    queue = make_queue()
    queue.add(A, due=0)
    take(queue, now=0)

    queue.done(A, Done(failed=True, retry_after=17), now=1)

    assert queue.next_due() == 18


def test_events_come_before_what_is_due_by_time() -> None:
    """However long a timed one has been due."""
    queue = make_queue()
    queue.add(A, due=0, lane=Lane.TIMED)
    queue.add(B, due=9)

    assert [take(queue, now=10), take(queue, now=10)] == [B, A]


def test_what_somebody_edited_comes_first() -> None:
    """Who suspends a job does not wait behind a thousand new ones, nor behind the share of timed passes."""
    queue = make_queue()
    for number in range(10):
        queue.add(Ref("AutoMLJob", "team-a", f"new-{number}"), due=0)
        queue.add(Ref("AutoMLJob", "team-a", f"timed-{number}"), due=0, lane=Lane.TIMED)
    for _ in range(4):
        queue.take(now=1)

    queue.add(A, due=1, lane=Lane.EDIT)

    assert take(queue, now=1) == A


def test_namespaces_take_turns() -> None:
    """A thousand new jobs of one team are not in the way of another's; within a namespace the longest due comes first."""
    queue = make_queue()
    for number in range(100):
        queue.add(Ref("AutoMLJob", "many", f"job-{number:03}"), due=number / 1000)
    queue.add(Ref("AutoMLJob", "few", "one"), due=0.5)
    queue.add(Ref("AutoMLJob", "few", "two"), due=0.6)

    taken = [take(queue, now=1) for _ in range(5)]

    assert [ref.name for ref in taken if ref] == ["job-000", "one", "job-001", "two", "job-002"]


def test_an_edit_during_a_pass_that_fails_stays_one() -> None:
    """The person still waits."""
    queue = make_queue()
    queue.add(A, due=0)
    take(queue, now=0)
    queue.add(A, due=1, lane=Lane.EDIT)

    queue.done(A, Done(failed=True), now=2)

    assert [queue.depth(lane) for lane in Lane] == [1, 0, 0]
    assert queue.next_due() == 3


def test_an_event_answers_what_was_due_by_time() -> None:
    """One pass looks at everything; the timed entry is gone with it."""
    queue = make_queue()
    queue.add(A, due=0, lane=Lane.TIMED)
    queue.add(A, due=0)

    assert (len(queue), take(queue, now=1), take(queue, now=1), len(queue)) == (1, A, None, 0)


def test_under_a_storm_of_events_every_fifth_pass_is_a_timed_one() -> None:
    """Deadlines fall due by time, and must not starve."""
    queue = make_queue()
    for number in range(20):
        queue.add(Ref("AutoMLJob", "team-a", f"event-{number:02}"), due=0)
        queue.add(Ref("AutoMLJob", "team-a", f"timed-{number:02}"), due=0, lane=Lane.TIMED)

    lanes = [taken.lane for _ in range(20) if (taken := queue.take(now=1))]

    assert [i for i, lane in enumerate(lanes) if lane is Lane.TIMED] == [4, 9, 14, 19]


def test_only_so_many_timed_passes_begin_in_a_second() -> None:
    """A thousand running jobs cost what the setting says, and what the loop missed may be caught up for a moment."""
    queue = make_queue(timed_per_second=10)
    for number in range(1000):
        queue.add(Ref("AutoMLJob", "team-a", f"job-{number:04}"), due=0, lane=Lane.TIMED)
    taken, now = 0, 0.0
    while now < 20:
        while take(queue, now) is not None:
            taken += 1
        due = queue.next_due()
        assert due is not None and due > now
        now = due

    assert 195 <= taken <= 210


def test_when_no_timed_pass_may_begin_the_queue_waits_for_events_only() -> None:
    """The workers that timed passes leave free; the next due time must not be one that cannot be taken."""
    queue = make_queue()
    queue.add(A, due=0, lane=Lane.TIMED)
    queue.add(B, due=7)

    assert (take(queue, now=1, may_be_timed=False), queue.next_due(may_be_timed=False)) == (None, 7)
    assert take(queue, now=1) == A


def test_an_event_brings_a_back_off_forward_to_the_first_delay() -> None:
    """It may be the cure; but what fails must not fail faster because it makes events itself."""
    queue, now = make_queue(), 0.0
    queue.add(A, due=0)
    for _ in range(6):
        assert take(queue, now) == A
        queue.done(A, Done(failed=True), now)
        now = queue.next_due() or 0.0
    take(queue, now)
    queue.done(A, Done(failed=True), now)
    before = queue.next_due()

    queue.add(A, due=now + 0.1)

    assert (before, queue.next_due()) == (now + 64, now + 1)


def test_an_event_during_a_pass_that_fails_counts_likewise() -> None:
    """The pass may have looked before it."""
    queue = make_queue()
    queue.add(A, due=0)
    take(queue, now=0)
    queue.add(A, due=1)

    queue.done(A, Done(failed=True), now=2)

    assert (queue.next_due(), len(queue)) == (3, 1)


def test_a_server_that_asks_to_wait_is_left_alone_by_all() -> None:
    """429 is about the server, not about one job; who is due meanwhile is not overdue."""
    queue = make_queue()
    queue.add(A, due=0)
    take(queue, now=0)
    queue.done(A, Done(failed=True, retry_after=30), now=0)
    queue.add(B, due=1)

    assert (take(queue, now=29.9), queue.next_due(), queue.overdue_seconds(Lane.EVENT, 29.9)) == (None, 30, 0)
    assert take(queue, now=30) is not None


def test_depth_and_overdue_are_told_by_lane() -> None:
    """What the metrics show; an object at work does not wait."""
    queue = make_queue()
    queue.add(A, due=5)
    queue.add(B, due=2, lane=Lane.TIMED)
    queue.add(C, due=90, lane=Lane.TIMED)
    shown = [(queue.depth(lane), queue.overdue_seconds(lane, 10)) for lane in Lane]
    take(queue, now=10)
    queue.add(A, due=6)

    assert shown == [(0, 0), (1, 5), (2, 8)]
    assert (queue.depth(Lane.EVENT), queue.overdue_seconds(Lane.EVENT, 20)) == (1, 0)


def test_nothing_of_a_job_that_is_gone_stays_behind() -> None:
    """Ten thousand jobs come, fail now and then, and go: the queue is as small as before."""
    queue = make_queue()
    for number in range(10_000):
        ref = Ref("AutoMLJob", f"team-{number % 100}", f"job-{number}")
        queue.add(ref, due=number)
        queue.add(ref, due=number + 5, lane=Lane.TIMED)
        assert take(queue, now=number) == ref
        queue.done(ref, Done(failed=number % 3 == 0), now=number)
        if number % 3 == 0:
            assert take(queue, now=number + 1) == ref
            queue.done(ref, Done(), now=number + 1)

    assert (len(queue), take(queue, now=1e9), queue.next_due()) == (0, None, None)
    assert sum(len(lane.due) + len(lane._heaps) + len(lane._served) for lane in queue._lanes.values()) < 10
    assert not queue._failures and not queue._at_work


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ABCD"), st.sampled_from(["edit", "event", "timed", "take", "ok", "fail"])),
        max_size=80,
    )
)
def test_whatever_happens_nothing_is_lost_and_nothing_runs_twice(steps: list[tuple[str, str]]) -> None:
    """Every ask is followed by a pass that begins after it, and no object is given out while it is at work."""
    queue, at_work, asked, now = make_queue(jitter=0.7, timed_per_second=3), set[Ref](), set[Ref](), 0.0
    for name, what in steps:
        ref, now = Ref("AutoMLJob", f"team-{name < 'C'}", name), now + 0.25
        if what in ("edit", "event", "timed"):
            queue.add(ref, now, Lane(what.capitalize()))
            asked.add(ref)
        elif what == "take" and (taken := queue.take(now)):
            assert taken.ref not in at_work and taken.waited_seconds >= 0
            at_work.add(taken.ref)
            asked.discard(taken.ref)
        elif what in ("ok", "fail") and ref in at_work:
            at_work.discard(ref)
            queue.done(ref, Done(failed=what == "fail"), now)
    for ref in at_work:
        queue.done(ref, Done(), now)
    while (due := queue.next_due()) is not None:
        now = max(now, due)
        taken = queue.take(now)
        assert taken is not None
        asked.discard(taken.ref)
        queue.done(taken.ref, Done(), now)

    assert not asked and len(queue) == 0


@pytest.mark.anyio
async def test_a_pass_that_takes_too_long_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """It counts as failed, is tried again, and its line names the job."""
    calls: list[Ref] = []
    again = asyncio.Event()

    async def handle(ref: Ref) -> timedelta | None:
        calls.append(ref)
        if len(calls) > 1:
            again.set()
            return None
        await asyncio.sleep(3600)
        return None

    ends = Ends()
    worker = Worker(handle, 1, make_queue(jitter=0.02), ends, pass_seconds=0.05)
    task = asyncio.create_task(worker.run())
    worker.add(A)
    await asyncio.wait_for(again.wait(), 20)
    await ends.wait_for(2)
    task.cancel()

    assert ends.results == [(Lane.EVENT, "TimedOut"), (Lane.EVENT, "Ok")]
    assert "pass given up" in caplog.text


class Ends:
    """An observer that remembers how passes ended."""

    def __init__(self) -> None:
        self.results: list[tuple[Lane, str]] = []
        self._changed = asyncio.Event()

    def began_pass(self, lane: Lane, waited_seconds: float) -> None:
        assert waited_seconds >= 0

    def ended_pass(self, lane: Lane, result: str) -> None:
        self.results.append((lane, result))
        self._changed.set()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.results) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.mark.anyio
async def test_timed_passes_leave_workers_free_for_events() -> None:
    """Slow timed passes everywhere, and an event is still looked at, at once."""
    begun: list[Ref] = []
    reacted, release = asyncio.Event(), asyncio.Event()

    async def handle(ref: Ref) -> timedelta | None:
        begun.append(ref)
        if ref == A:
            reacted.set()
        else:
            await release.wait()
        return None

    worker = Worker(handle, 4, make_queue())
    for number in range(10):
        worker.add(Ref("AutoMLJob", "team-a", f"timed-{number}"), lane=Lane.TIMED)
    task = asyncio.create_task(worker.run())
    async with asyncio.timeout(20):
        while len(begun) < 3:
            await asyncio.sleep(0)
        worker.add(A)
        await reacted.wait()
    running = worker.running
    release.set()
    task.cancel()

    assert begun[3] == A and running <= 4


@pytest.mark.anyio
async def test_before_it_runs_a_worker_only_collects() -> None:
    """A standby's queue is warm: when it leads, everything gets its pass."""
    seen: list[Ref] = []
    worker = Worker(_note(seen), 2, make_queue())
    worker.add(A)
    worker.add(B)
    await asyncio.sleep(0.02)
    before = list(seen)
    task = asyncio.create_task(worker.run())
    async with asyncio.timeout(20):
        while len(seen) < 2:
            await asyncio.sleep(0)
    task.cancel()

    assert (before, sorted(seen), worker.why_stuck()) == ([], [A, B], None)


def _note(seen: list[Ref]) -> Callable[[Ref], Awaitable[timedelta | None]]:
    async def handle(ref: Ref) -> timedelta | None:
        seen.append(ref)
        return None

    return handle


@pytest.mark.anyio
async def test_a_hung_pass_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that even its cancellation does not end; the probe then says which job it is about."""
    monkeypatch.setattr("kubeautoml.controller.queue.STUCK_SECONDS", 0.05)
    hanging, release = asyncio.Event(), asyncio.Event()

    async def handle(ref: Ref) -> timedelta | None:
        while not release.is_set():
            hanging.set()
            with suppress(asyncio.CancelledError):
                await release.wait()
        return None

    worker = Worker(handle, 1, make_queue(), pass_seconds=0.02)
    task = asyncio.create_task(worker.run())
    worker.add(A)
    await asyncio.wait_for(hanging.wait(), 20)
    async with asyncio.timeout(20):
        while worker.why_stuck() is None:
            await asyncio.sleep(0.01)
    why = worker.why_stuck()
    release.set()
    task.cancel()

    assert why is not None and why.startswith("a pass over AutoMLJob team-a/a has been going on for")


@pytest.mark.anyio
async def test_the_worker_bounds_what_runs_at_the_same_time() -> None:
    """Never more passes than allowed, never two over one object, and everything gets its turn."""
    running: list[Ref] = []
    most, seen = 0, []
    finished = asyncio.Event()

    async def handle(ref: Ref) -> timedelta | None:
        nonlocal most
        assert ref not in running
        running.append(ref)
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.remove(ref)
        seen.append(ref)
        if len(seen) == 4:
            finished.set()
        return None

    worker = Worker(handle, concurrency=2)
    task = asyncio.create_task(worker.run())
    for ref in (A, B, C):
        worker.add(ref)
    await asyncio.sleep(0)
    worker.add(A)
    await asyncio.wait_for(finished.wait(), 5)
    task.cancel()

    assert (most, sorted(seen)) == (2, [A, A, B, C])


@pytest.mark.anyio
@pytest.mark.parametrize(
    "error", [ClusterError("down"), Throttled("slow", retry_after_seconds=0.01), ValueError("bug")]
)
async def test_the_worker_survives_a_failed_pass(error: Exception) -> None:
    """Whatever a pass raises, the object comes again later and others are not disturbed."""
    calls: list[Ref] = []
    again = asyncio.Event()

    async def handle(ref: Ref) -> timedelta | None:
        calls.append(ref)
        if calls.count(A) == 1 and ref == A:
            raise error
        if calls.count(A) == 2:
            again.set()
        return None

    worker = Worker(handle, concurrency=1, queue=make_queue(jitter=0.02))
    task = asyncio.create_task(worker.run())
    worker.add(A)
    worker.add(B)
    await asyncio.wait_for(again.wait(), 5)
    task.cancel()

    assert calls == [A, B, A]


@pytest.mark.anyio
async def test_the_worker_wakes_at_the_time_a_pass_asked_for() -> None:
    """A delayed pass comes by itself."""
    calls = 0
    twice = asyncio.Event()

    async def handle(ref: Ref) -> timedelta | None:
        nonlocal calls
        calls += 1
        if calls == 2:
            twice.set()
        return timedelta(seconds=0.02)

    worker = Worker(handle, concurrency=1)
    task = asyncio.create_task(worker.run())
    worker.add(A)
    await asyncio.wait_for(twice.wait(), 5)
    task.cancel()

    assert calls >= 2


@pytest.mark.anyio
async def test_cancelling_the_worker_ends_its_passes() -> None:
    """Nothing runs on after `run`."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def handle(ref: Ref) -> timedelta | None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return None

    worker = Worker(handle, concurrency=1)
    task = asyncio.create_task(worker.run())
    worker.add(A)
    await asyncio.wait_for(began.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert ended.is_set()
