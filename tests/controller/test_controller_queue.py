"""The work queue: decisions with a clock in hand, and the worker that drives it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from kubeautoml.api.errors import ClusterError, Throttled
from kubeautoml.api.objects import Ref
from kubeautoml.controller.queue import MAX_DELAY_SECONDS, Done, Worker, WorkQueue

A, B, C = (Ref("AutoMLJob", "team-a", name) for name in "abc")


def make_queue(jitter: float = 1.0) -> WorkQueue:
    return WorkQueue(jitter=lambda: jitter)


def test_several_asks_become_one_pass_at_the_earliest_time() -> None:
    """An object waits once, for the earliest of what was asked."""
    queue = make_queue()
    queue.add(A, due=30)
    queue.add(A, due=10)
    queue.add(A, due=20)

    assert (len(queue), queue.next_due(), queue.take(now=9)) == (1, 10, None)
    assert (queue.take(now=10), queue.take(now=10), len(queue)) == (A, None, 0)


def test_the_longest_due_comes_first() -> None:
    """Order is by due time, not by order of asking."""
    queue = make_queue()
    for ref, due in ((A, 3), (B, 1), (C, 2)):
        queue.add(ref, due)

    assert [queue.take(now=5) for _ in range(3)] == [B, C, A]


def test_an_object_at_work_is_not_given_again_until_its_pass_is_done() -> None:
    """What is asked during a pass is kept for after it."""
    queue = make_queue()
    queue.add(A, due=0)
    assert queue.take(now=0) == A
    queue.add(A, due=1)

    during, due_during = queue.take(now=5), queue.next_due()
    queue.done(A, Done(), now=5)

    assert (during, due_during) == (None, None)
    assert queue.take(now=5) == A


def test_a_pass_plans_the_next_one_unless_something_asks_earlier() -> None:
    """wake_after counts from the end of the pass."""
    queue = make_queue()
    queue.add(A, due=0)
    queue.take(now=0)
    queue.done(A, Done(wake_after=30), now=2)
    assert queue.next_due() == 32

    queue.add(A, due=10)

    assert queue.next_due() == 10


def test_without_a_wish_a_done_object_is_forgotten() -> None:
    """Only an event brings it back."""
    queue = make_queue()
    queue.add(A, due=0)
    queue.take(now=0)

    queue.done(A, Done(), now=1)

    assert (len(queue), queue.next_due()) == (0, None)


def test_failures_wait_longer_every_time_and_success_forgets_them() -> None:
    """1, 2, 4 ... seconds up to the limit; after a success it begins anew."""
    queue, waits, now = make_queue(), [], 0.0
    queue.add(A, due=0)
    for _ in range(11):
        assert queue.take(now) == A
        queue.done(A, Done(failed=True), now)
        due = queue.next_due()
        assert due is not None
        waits.append(due - now)
        now = due
    queue.take(now)
    queue.done(A, Done(), now)
    queue.add(A, due=now)
    queue.take(now)
    queue.done(A, Done(failed=True), now)

    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, MAX_DELAY_SECONDS, MAX_DELAY_SECONDS]
    assert queue.next_due() == now + 1


def test_events_do_not_cut_a_back_off_short_but_jitter_spreads_it() -> None:
    """The wait is multiplied by the jitter."""
    queue = make_queue(jitter=0.5)
    queue.add(A, due=0)
    queue.take(now=0)

    queue.done(A, Done(failed=True), now=0)

    assert queue.next_due() == 0.5


def test_a_server_that_asks_to_wait_gets_its_wish() -> None:
    """retry_after is the least wait."""
    queue = make_queue()
    queue.add(A, due=0)
    queue.take(now=0)

    queue.done(A, Done(failed=True, retry_after=17), now=1)

    assert queue.next_due() == 18


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

    worker = Worker(handle, concurrency=1)
    worker.queue = make_queue(jitter=0.02)
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
