"""What the probes say, and that they say why not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import pytest

from kubeautoml.api.objects import Ref
from kubeautoml.controller.passes import Worker
from kubeautoml.controller.probes import Heart, Probes

A = Ref("AutoMLJob", "team-a", "a")


@dataclass
class Jobs:
    is_ready: bool = True


@dataclass
class Children:
    is_synced: bool = True
    silence: float = 5.0

    def silence_seconds(self) -> float:
        return self.silence


@dataclass
class Election:
    alive: bool = True
    silence: float = 2.0

    def is_alive(self) -> bool:
        return self.alive

    def silence_seconds(self) -> float:
        return self.silence


@dataclass
class Beats:
    silence: float = 0.5

    def silence_seconds(self) -> float:
        return self.silence


@dataclass
class Work:
    stuck: str | None = None
    stalled: float = 0.0

    def why_stuck(self) -> str | None:
        return self.stuck

    def stalled_seconds(self) -> float:
        return self.stalled


def make_probes(
    heart: Beats | None = None,
    work: Work | None = None,
    jobs: Jobs | None = None,
    children: Children | None = None,
    election: Election | None = None,
) -> Probes:
    return Probes(
        heart or Beats(),
        work or Work(),
        jobs or Jobs(),
        children or Children(),
        election or Election(),
    )


def test_all_is_well() -> None:
    """For a leader and for a standby alike; that status is slow under load is no reason to be unready."""
    probes = make_probes()

    assert (probes.why_unhealthy(), probes.why_unready()) == (None, None)


@pytest.mark.parametrize(
    ("probes", "why"),
    [
        (make_probes(heart=Beats(silence=61)), "the event loop has not turned for 61 s"),
        (make_probes(election=Election(alive=False)), "the threads that renew the lease have ended"),
        (make_probes(work=Work(stuck="a pass hangs")), "a pass hangs"),
    ],
)
def test_what_only_a_restart_helps(probes: Probes, why: str) -> None:
    """Then the operator is unready, too, with the same words."""
    assert (probes.why_unhealthy(), probes.why_unready()) == (why, why)


@pytest.mark.parametrize(
    ("probes", "why"),
    [
        (make_probes(jobs=Jobs(is_ready=False)), "the watch of AutoMLJobs has not begun"),
        (make_probes(children=Children(is_synced=False)), "the children of AutoMLJobs have not been listed yet"),
        (
            make_probes(children=Children(silence=300)),
            "a watch has heard nothing for 300 s; check the connection to the API server",
        ),
        (
            make_probes(election=Election(silence=31)),
            "the lease could not be read for 31 s; check the API server and the rights on leases",
        ),
        (make_probes(work=Work(stalled=200)), "jobs wait for their passes, and none has ended for 200 s"),
    ],
)
def test_what_passes_by_itself_makes_it_unready_only(probes: Probes, why: str) -> None:
    """An API server that is away is not cured by a restart."""
    assert (probes.why_unhealthy(), probes.why_unready()) == (None, why)


@pytest.mark.anyio
async def test_a_blocked_loop_is_seen_from_outside() -> None:
    """The heart beats in the loop, and other threads look at its age, on a clock that nobody sets."""
    heart = Heart()
    task = asyncio.create_task(heart.run())
    await asyncio.sleep(0)

    def block() -> float:
        return heart.silence_seconds()

    age = await asyncio.to_thread(block)
    task.cancel()

    assert 0 <= age < 60


@pytest.mark.anyio
async def test_a_standby_without_passes_is_healthy() -> None:
    """Its queue is full of jobs that are due, which is how it should be."""

    async def handle(ref: Ref) -> timedelta | None:
        raise AssertionError(ref)

    worker = Worker(handle, 2)
    worker.add(A, -10_000)
    probes = Probes(Heart(), worker, Jobs(), Children(), Election())

    assert (probes.why_unhealthy(), probes.why_unready()) == (None, None)
