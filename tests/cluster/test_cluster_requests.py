"""The client's own rate limit: what passes when, and what a pause does to those that wait already."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
import yaml

from kubeautoml.cluster.connection import encoded
from kubeautoml.cluster.requests import Limits, RateLimit


class Clock:
    """A clock that moves when somebody sleeps on it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def passes(limit: RateLimit, clock: Clock, count: int) -> list[float]:
    """When requests pass that all come one after another, as fast as they may."""
    when = []
    for _ in range(count):
        limit.wait(clock.sleep)
        when.append(round(clock.now - 1000.0, 6))
    return when


def test_after_a_rest_so_many_pass_at_once_and_then_one_by_one() -> None:
    """Burst, then the rate."""
    clock = Clock()

    assert passes(RateLimit(10, 3, clock), clock, 6) == [0.0, 0.0, 0.0, 0.1, 0.2, 0.3]


def test_no_second_sees_more_writes_than_the_ceiling() -> None:
    """However the burst falls, by default at most 49 writes fall into any second; more than 40 do pass."""
    clock = Clock()
    limits = Limits()
    limit = RateLimit(limits.writes_per_second, limits.writes_at_once, clock)
    when = passes(limit, clock, 200)
    clock.sleep(0.3)
    when += passes(limit, clock, 200)

    most = max(sum(start <= other < start + 1.0 for other in when) for start in when)

    assert 40 <= most <= 49


def test_a_pause_holds_everything_up() -> None:
    """As a server asks with Retry-After; then the rate goes on, and not with a burst."""
    clock = Clock()
    limit = RateLimit(10, 3, clock)
    limit.wait(clock.sleep)
    limit.pause(2.0)

    assert passes(limit, clock, 3) == [2.0, 2.1, 2.2]


def test_a_pause_also_holds_those_up_that_wait_already() -> None:
    """A request whose turn falls into the pause waits for it, and still takes its turn, so that none come in a crowd."""
    clock = Clock()
    limit = RateLimit(10, 1, clock)
    limit.wait(clock.sleep)
    was_paused = []

    def sleep(seconds: float) -> None:
        if not was_paused:
            was_paused.append(True)
            limit.pause(5.0)
        clock.sleep(seconds)

    waited = limit.wait(sleep)

    assert waited == pytest.approx(5.0)
    assert passes(limit, clock, 1) == [pytest.approx(5.1)]


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    """The longest wish counts."""
    clock = Clock()
    limit = RateLimit(10, 3, clock)
    limit.pause(5.0)
    limit.pause(1.0)

    assert passes(limit, clock, 1) == [5.0]


async def _in_turn() -> tuple[list[int], float]:
    limit = RateLimit(100, 1)
    order: list[int] = []

    async def one(number: int) -> None:
        await limit.turn()
        order.append(number)

    began = time.monotonic()
    tasks = [asyncio.create_task(one(number)) for number in range(10)]
    longest = 0.0
    while not all(task.done() for task in tasks):
        before = time.monotonic()
        await asyncio.sleep(0.001)
        longest = max(longest, time.monotonic() - before)
    assert time.monotonic() - began >= 0.08
    return order, longest


def test_tasks_wait_in_turn_and_the_loop_goes_on() -> None:
    """Waiting is the task's, not the event loop's."""
    order, longest = asyncio.run(_in_turn())

    assert order == list(range(10))
    assert longest < 0.08


def test_what_is_sent_is_json_and_the_same_yaml() -> None:
    """Server-side apply is read as YAML, which knows no pairs of escapes and prints no control characters."""
    body = {"a": '\N{GRINNING FACE} \x00\x1f\x7f\x85\u2028\ufeff\uffff \\ud83d é\n"\\'}

    sent = encoded(body).decode()

    assert json.loads(sent) == body
    assert yaml.safe_load(sent) == body
