"""Leader election: of several operators one works, and which one a Lease says.

`decide` is the whole rule, and pure. `LeaderElection` asks and acts on it in two threads of its own, so that neither a busy
event loop nor a slow API server delays a renewal, or hides that one was missed. No clock of another machine is trusted:
how long a lease still holds is counted from when *we* saw it change last, on a clock that only goes forward.

Who loses the lease ends the process at once. What it had begun may be half done, and whoever leads now finishes it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Protocol

from kubeautoml.api.errors import ClusterError, Conflict
from kubeautoml.api.objects import Manifest, Ref

log = logging.getLogger(__name__)

EXIT_CODE = 3
"""Of an operator that lost the lease: neither a crash nor a mistake in its settings."""

_GUARD_SECONDS = 0.25
_JOIN_SECONDS = 3.0


@dataclass(frozen=True)
class Terms:
    """The durations that Kubernetes' own controllers use."""

    lease_seconds: float = 15.0
    """A leader that was silent this long is dead to the others."""
    renew_deadline_seconds: float = 10.0
    """A leader whose last renewal is this old takes itself for dead, before the others do."""
    retry_seconds: float = 2.0
    """Between two renewals, or two looks at somebody else's lease."""


@dataclass(frozen=True)
class Record:
    """What a Lease says. Times are for people: nothing is decided on them but whether they changed."""

    holder: str = ""
    lease_seconds: int = 0
    acquired: str = ""
    renewed: str = ""
    transitions: int = 0

    @classmethod
    def of(cls, manifest: Manifest) -> Record:
        """The record in a Lease, whatever somebody wrote into it."""
        spec = manifest.get("spec") or {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            lease_seconds=spec.get("leaseDurationSeconds") or 0,
            acquired=spec.get("acquireTime") or "",
            renewed=spec.get("renewTime") or "",
            transitions=spec.get("leaseTransitions") or 0,
        )

    def into(self, manifest: Manifest) -> Manifest:
        """A Lease that says this; what else the manifest holds stays."""
        spec = {
            **(manifest.get("spec") or {}),
            "holderIdentity": self.holder,
            "leaseDurationSeconds": self.lease_seconds,
            "acquireTime": self.acquired or None,
            "renewTime": self.renewed or None,
            "leaseTransitions": self.transitions,
        }
        return {**manifest, "spec": spec}


@dataclass(frozen=True)
class Seen:
    """A record, and since when (seconds of our own clock) it is what we see. None: there is no Lease."""

    record: Record | None
    since: float

    def then(self, record: Record | None, now: float) -> Seen:
        """What is seen now."""
        return self if record == self.record else Seen(record, now)


class Decision(Enum):
    """What a contender does next."""

    ACQUIRE = auto()
    RENEW = auto()
    WAIT = auto()
    LOST = auto()


def decide(me: str, seen: Seen, renewed_at: float | None, now: float, terms: Terms) -> Decision:
    """What to do about a lease.

    Args:
        me: our identity, which no other process ever had.
        renewed_at: when we asked for the renewal that was confirmed last; None while we do not lead. It counts from the
            question and not from the answer, since others may have seen it no earlier.
        now: seconds of the same clock.
    """
    holder = seen.record.holder if seen.record else ""
    if renewed_at is not None:
        is_over = now - renewed_at >= terms.renew_deadline_seconds
        return Decision.LOST if is_over or holder not in ("", me) else Decision.RENEW
    is_free = holder in ("", me) or now - seen.since >= held_seconds(seen, terms)
    return Decision.ACQUIRE if is_free else Decision.WAIT


def held_seconds(seen: Seen, terms: Terms) -> float:
    """How long a silent holder keeps the lease: what it wrote itself, since its version may have other terms."""
    written = seen.record.lease_seconds if seen.record else 0
    return float(written) if written > 0 else terms.lease_seconds


class Leases(Protocol):
    """Where leases are kept. Calls block for a few seconds at most, and raise ClusterError."""

    def read_lease(self, ref: Ref) -> Manifest | None: ...

    def write_lease(self, lease: Manifest) -> Manifest:
        """Create it, or replace it if it is still what its resourceVersion says; otherwise Conflict."""
        ...


def new_identity(pod: str) -> str:
    """A pod's name and something that no other process of that name ever had, such as its own last incarnation."""
    return f"{pod}_{uuid.uuid4().hex[:12]}"


def steady_clock() -> float:
    """Seconds of a clock that nobody sets, and that also runs while the machine sleeps."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def end_process(why: str) -> None:
    """End at once: no handler, no clean-up, nothing that could still write. A log that nobody reads does not stop it."""
    last_resort = threading.Timer(1.0, os._exit, (EXIT_CODE,))
    last_resort.daemon = True
    last_resort.start()
    log.error("leadership lost, so this process ends", extra={"why": why})
    for stream in (sys.stderr, sys.stdout):
        stream.flush()
    os._exit(EXIT_CODE)


class LeaderElection:
    """One contender.

    Args:
        on_acquired: called once, in a thread of ours, when we lead.
        on_lost: called at most once, in a thread of ours, with the reason; must not return if the process is to be safe.
        clock: seconds that only go forward.
        wall_clock: written into the Lease, for people.
    """

    def __init__(
        self,
        leases: Leases,
        ref: Ref,
        identity: str,
        on_acquired: Callable[[], None],
        on_lost: Callable[[str], None] = end_process,
        terms: Terms | None = None,
        clock: Callable[[], float] = steady_clock,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.identity = identity
        self.terms = terms or Terms()
        self._leases, self._ref = leases, ref
        self._on_acquired, self._on_lost = on_acquired, on_lost
        self._clock, self._wall_clock = clock, wall_clock
        self._manifest: Manifest | None = None
        self._is_current = False
        self._seen = Seen(None, clock())
        self._heard_at = clock()
        self._renewed_at: float | None = None
        self._has_ended = False
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._contend, name="lease", daemon=True),
            threading.Thread(target=self._guard, name="lease-guard", daemon=True),
        ]

    # Asked from any thread

    def is_held(self) -> bool:
        """Whether we lead for certain: nobody else can have taken over by now."""
        renewed_at = self._renewed_at
        return renewed_at is not None and self._clock() - renewed_at < self.terms.renew_deadline_seconds

    @property
    def holder(self) -> str:
        """Who leads, as far as we know; empty when nobody does."""
        return self._seen.record.holder if self._seen.record else ""

    def silence_seconds(self) -> float:
        """Since when the Lease could not be read or written."""
        return max(0.0, self._clock() - self._heard_at)

    def is_alive(self) -> bool:
        """Whether both threads run."""
        return all(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        """Begin to contend."""
        for thread in self._threads:
            thread.start()

    def release(self) -> None:
        """Leave, and if we lead, say so, so that another need not wait until the lease runs out. Blocks shortly."""
        self._stop.set()
        self._threads[0].join(_JOIN_SECONDS)
        if not self.is_held():
            return
        self._renewed_at = None
        record = replace(Record.of(self._manifest or {}), holder="", lease_seconds=1, renewed=self._stamp())
        try:
            self._leases.write_lease(record.into(self._manifest or self._new_manifest()))
            log.info("lease released", extra={"lease": str(self._ref)})
        except ClusterError as error:
            log.warning("lease not released; it runs out", extra={"lease": str(self._ref), "error": str(error)})

    # What the threads do

    def turn(self) -> float:
        """Look at the lease once and do what is due; returns the seconds until the next turn."""
        try:
            if self._renewed_at is None or not self._is_current:
                self._saw(self._leases.read_lease(self._ref))
            self._act()
        except Conflict:
            # Somebody was faster, or an answer to us was lost: look who it was, at once if we believe to lead.
            self._is_current = False
            return 0.0 if self._renewed_at is not None else self.terms.retry_seconds
        except ClusterError as error:
            self._is_current = False
            log.warning("the lease cannot be used", extra={"lease": str(self._ref), "error": str(error)})
        return self._pause()

    def check(self) -> None:
        """End if the last confirmed renewal is too old, whatever the other thread waits for."""
        renewed_at = self._renewed_at
        if renewed_at is not None and self._clock() - renewed_at >= self.terms.renew_deadline_seconds:
            self._lose(f"no renewal was confirmed for {self.terms.renew_deadline_seconds:g} s")

    def _act(self) -> None:
        now = self._clock()
        match decide(self.identity, self._seen, self._renewed_at, now, self.terms):
            case Decision.LOST:
                taken = self.holder not in ("", self.identity)
                self._lose(f"{self.holder} holds the lease" if taken else "no renewal was confirmed in time")
            case Decision.ACQUIRE | Decision.RENEW:
                self._saw(self._leases.write_lease(self._record().into(self._manifest or self._new_manifest())))
                self._led_since(now)
            case Decision.WAIT:
                pass

    def _record(self) -> Record:
        """The lease as ours, from now on."""
        now, before = self._stamp(), self._seen.record or Record()
        is_mine = before.holder == self.identity
        return Record(
            holder=self.identity,
            lease_seconds=int(self.terms.lease_seconds),
            acquired=before.acquired if is_mine else now,
            renewed=now,
            transitions=before.transitions + (0 if is_mine or self._manifest is None else 1),
        )

    def _led_since(self, asked_at: float) -> None:
        if self._has_ended:
            return
        is_new = self._renewed_at is None
        self._renewed_at = asked_at
        if is_new:
            log.info("leading", extra={"lease": str(self._ref), "identity": self.identity})
            self._on_acquired()

    def _saw(self, manifest: Manifest | None) -> None:
        now = self._clock()
        before = self.holder
        self._manifest, self._is_current, self._heard_at = manifest, True, now
        self._seen = self._seen.then(Record.of(manifest) if manifest else None, now)
        if self.holder != before and self.holder not in ("", self.identity):
            log.info("another operator leads", extra={"lease": str(self._ref), "holder": self.holder})

    def _pause(self) -> float:
        """Until the next turn: sooner where a silent holder's time is up before."""
        if self._renewed_at is not None or not self.holder:
            return self.terms.retry_seconds
        left = self._seen.since + held_seconds(self._seen, self.terms) - self._clock()
        return min(self.terms.retry_seconds, max(left, 0.05))

    def _lose(self, why: str) -> None:
        self._renewed_at = None
        self._stop.set()
        if not self._has_ended:
            self._has_ended = True
            self._on_lost(why)

    def _contend(self) -> None:
        while not self._stop.wait(self.turn()):
            pass

    def _guard(self) -> None:
        while not self._stop.wait(_GUARD_SECONDS):
            self.check()

    def _stamp(self) -> str:
        return self._wall_clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def _new_manifest(self) -> Manifest:
        metadata = {
            "name": self._ref.name,
            "namespace": self._ref.namespace,
            "labels": {"app.kubernetes.io/name": "kubeautoml", "app.kubernetes.io/component": "operator"},
        }
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
