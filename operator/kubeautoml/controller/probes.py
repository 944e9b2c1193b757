"""What the probes tell: why the process should be restarted, and why the operator does not work.

An API server that is away makes an operator unready but never unhealthy, since a restart would not bring it back; who led
ends by itself then. A standby is ready when it could take over at once: else a Deployment of two would never be available.
Everything here is asked in other threads than those that do the work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

HEARTBEAT_SECONDS = 1.0

MAX_LOOP_SILENCE_SECONDS = 60.0
"""A loop that was silent this long is stuck, and the pod is better restarted; a guess."""

MAX_WATCH_SILENCE_SECONDS = 180.0
"""A healthy watch is opened anew about every minute, and one that hangs is cut after a minute and a half."""

MAX_LEASE_SILENCE_SECONDS = 30.0
"""The Lease is read or written every two seconds."""

MAX_STALL_SECONDS = 60.0
"""While an event asks for a pass some pass ends within this time, or the queue does not move; a guess."""


class Heart:
    """Shows other threads that the event loop turns, and how late it was."""

    def __init__(self) -> None:
        self._beat = time.monotonic()
        self.lag_seconds = 0.0
        """How much later than planned the last beat came."""

    def silence_seconds(self) -> float:
        """Since when it has not beaten."""
        return time.monotonic() - self._beat

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            planned = time.monotonic() + HEARTBEAT_SECONDS
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self._beat = time.monotonic()
            self.lag_seconds = max(0.0, self._beat - planned)


class Beats(Protocol):
    """What the probes ask of a heart."""

    def silence_seconds(self) -> float: ...


class Moves(Protocol):
    """What they ask of the worker."""

    def why_stuck(self) -> str | None: ...

    def stalled_seconds(self) -> float: ...


class WatchesJobs(Protocol):
    """What they ask of the watch of AutoMLJobs."""

    @property
    def is_ready(self) -> bool: ...


class WatchesChildren(Protocol):
    """What they ask of the watches of children and profiles."""

    @property
    def is_synced(self) -> bool: ...

    def silence_seconds(self) -> float: ...


class Contends(Protocol):
    """What they ask of the election."""

    def is_alive(self) -> bool: ...

    def silence_seconds(self) -> float: ...


class Probes:
    """Both answers, from what the parts say.

    Args:
        election: None for an operator that needs none.
        why_waiting: what is missing in the cluster, so that none of the parts has begun; None once nothing is.
    """

    def __init__(
        self,
        heart: Beats,
        worker: Moves,
        jobs: WatchesJobs,
        children: WatchesChildren,
        election: Contends | None,
        why_waiting: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._why_waiting = why_waiting
        self._heart, self._worker, self._election = heart, worker, election
        self._jobs, self._children = jobs, children

    def why_unhealthy(self) -> str | None:
        """Why the process should be restarted; None while it should live on."""
        silence = self._heart.silence_seconds()
        if silence > MAX_LOOP_SILENCE_SECONDS:
            return f"the event loop has not turned for {silence:.0f} s"
        if self._why_waiting():
            return None  # a restart would not bring what is missing
        if self._election is not None and not self._election.is_alive():
            return "the threads that renew the lease have ended"
        return self._worker.why_stuck()

    def why_unready(self) -> str | None:
        """Why this operator does not work, or as a standby could not take over; None when all is well."""
        return (
            self.why_unhealthy()
            or self._why_waiting()
            or self._why_blind()
            or self._why_no_lease()
            or self._why_stalled()
        )

    def _why_blind(self) -> str | None:
        if not self._jobs.is_ready:
            return "the watch of AutoMLJobs has not begun"
        if not self._children.is_synced:
            return "the children of AutoMLJobs have not been listed yet"
        silence = self._children.silence_seconds()
        if silence > MAX_WATCH_SILENCE_SECONDS:
            return f"a watch has heard nothing for {silence:.0f} s; check the connection to the API server"
        return None

    def _why_no_lease(self) -> str | None:
        silence = self._election.silence_seconds() if self._election is not None else 0.0
        if silence > MAX_LEASE_SILENCE_SECONDS:
            return f"the lease could not be read for {silence:.0f} s; check the API server and the rights on leases"
        return None

    def _why_stalled(self) -> str | None:
        """Not that passes are late: after a thousand new jobs they are, and all is well as long as they end."""
        stalled = self._worker.stalled_seconds()
        if stalled > MAX_STALL_SECONDS:
            return f"jobs wait for their passes, and none has ended for {stalled:.0f} s"
        return None
