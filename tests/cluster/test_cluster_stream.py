"""What a thread reads for a task: in order, whole, without holding the event loop up or filling the memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from kubeautoml.api.errors import ClusterError
from kubeautoml.cluster.stream import MOST_WAITING, Stream

pytestmark = pytest.mark.anyio


async def test_everything_arrives_in_order() -> None:
    """However the thread and the reader interleave."""

    def produce(_: Stream) -> Iterator[int]:
        yield from range(20_000)

    assert [item async for item in Stream().run(produce)] == list(range(20_000))


async def test_the_last_words_of_a_failure_are_heard() -> None:
    """What was yielded before comes first, then the error."""

    def produce(_: Stream) -> Iterator[int]:
        yield 1
        raise ClusterError("gone")

    heard = []
    with pytest.raises(ClusterError, match="gone"):
        async for item in Stream().run(produce):
            heard.append(item)

    assert heard == [1]


async def test_a_flood_leaves_the_loop_its_turn() -> None:
    """While a reader has more to read than it can, other tasks still run often."""
    turns, is_over = 0, False

    async def other() -> None:
        nonlocal turns
        while not is_over:
            turns += 1
            await asyncio.sleep(0)

    def produce(_: Stream) -> Iterator[int]:
        yield from range(300)

    task = asyncio.create_task(other())
    async for _ in Stream().run(produce):
        time.sleep(0.001)  # what a reader does with each
    is_over = True
    await task

    assert turns >= 20


async def test_a_slow_reader_slows_the_thread() -> None:
    """Only so much waits in memory."""
    made = 0

    def produce(_: Stream) -> Iterator[int]:
        nonlocal made
        while made < 10 * MOST_WAITING:
            made += 1
            yield made

    stream = Stream()
    reader = stream.run(produce)
    first = await anext(reader)
    deadline = time.monotonic() + 10
    while made < MOST_WAITING and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)

    assert first == 1
    assert MOST_WAITING <= made <= MOST_WAITING + 2
    stream.stop()
    await reader.aclose()
