"""The worker that drives the queue: how many passes run, how they end, and what is done about those that do not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import pytest

from kubeautoml.api.errors import ClusterError, Throttled
from kubeautoml.api.objects import Ref
from kubeautoml.controller.passes import Worker
from kubeautoml.controller.queue import Lane, WorkQueue

pytestmark = pytest.mark.anyio

A, B, C = (Ref("AutoMLJob", "team-a", name) for name in "abc")


def make_queue(jitter: float = 1.0, timed_per_second: float = 1000.0) -> WorkQueue:
    return WorkQueue(jitter=lambda: jitter, timed_per_second=timed_per_second)


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


async def test_a_hung_pass_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that even its cancellation does not end; the probe then says which job it is about."""
    monkeypatch.setattr("kubeautoml.controller.passes.STUCK_SECONDS", 0.05)
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
