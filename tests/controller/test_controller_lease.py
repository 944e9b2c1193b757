"""Leader election: the rule as a table, one contender turn by turn, and two of them over the same lease."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeautoml.api.errors import ClusterError, Conflict
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.controller.lease import Decision, LeaderElection, Record, Seen, Terms, decide, new_identity

LEASE = Ref("Lease", "kubeautoml-system", "kubeautoml-operator")
ME, OTHER = "operator-a_1", "operator-b_2"
TERMS = Terms()
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def held_by(holder: str, since: float = 0.0, lease_seconds: int = 15) -> Seen:
    return Seen(Record(holder=holder, lease_seconds=lease_seconds, renewed="x"), since)


@pytest.mark.parametrize(
    ("seen", "renewed_at", "now", "decision"),
    [
        # Nobody holds it.
        (Seen(None, 0), None, 0, Decision.ACQUIRE),
        (held_by(""), None, 0, Decision.ACQUIRE),
        # Somebody else does: until it was silent for as long as it said, from when we saw it.
        (held_by(OTHER), None, 14.9, Decision.WAIT),
        (held_by(OTHER), None, 15, Decision.ACQUIRE),
        (held_by(OTHER, since=10), None, 24.9, Decision.WAIT),
        (held_by(OTHER, lease_seconds=60), None, 59, Decision.WAIT),
        (held_by(OTHER, lease_seconds=1), None, 1, Decision.ACQUIRE),
        # A lease without a duration, written by hand, counts as one of ours.
        (held_by(OTHER, lease_seconds=0), None, 14, Decision.WAIT),
        (held_by(OTHER, lease_seconds=-5), None, 15, Decision.ACQUIRE),
        # The answer that said we had it was lost.
        (held_by(ME), None, 0, Decision.ACQUIRE),
        # We lead.
        (held_by(ME), 0, 2, Decision.RENEW),
        (held_by(ME), 0, 9.9, Decision.RENEW),
        (held_by(ME), 0, 10, Decision.LOST),
        (held_by(OTHER), 0, 2, Decision.LOST),
        (held_by(""), 0, 2, Decision.RENEW),
        (Seen(None, 0), 0, 2, Decision.RENEW),
    ],
)
def test_the_rule(seen: Seen, renewed_at: float | None, now: float, decision: Decision) -> None:
    """What a contender does, by what it saw and its own clock."""
    assert decide(ME, seen, renewed_at, now, TERMS) == decision


def test_a_leader_takes_itself_for_dead_before_others_do() -> None:
    """The margin is what makes two leaders at once impossible."""
    assert TERMS.retry_seconds < TERMS.renew_deadline_seconds < TERMS.lease_seconds


def test_what_somebody_else_wrote_into_the_lease_stays() -> None:
    """Labels, annotations, and fields of newer Kubernetes versions."""
    lease: Manifest = {"metadata": {"labels": {"a": "b"}}, "spec": {"strategy": "OldestEmulationVersion"}}

    written = Record(holder=ME, lease_seconds=15, renewed="now").into(lease)

    assert written["metadata"] == lease["metadata"]
    assert written["spec"]["strategy"] == "OldestEmulationVersion"
    assert Record.of(written) == Record(holder=ME, lease_seconds=15, renewed="now")


def test_a_lease_written_by_hand_can_be_read() -> None:
    """Fields may be missing or null."""
    assert Record.of({"metadata": {}}) == Record()
    assert Record.of({"spec": {"holderIdentity": None, "leaseDurationSeconds": None}}) == Record()


def test_identities_differ_between_two_lives_of_a_pod() -> None:
    """A restarted container has the name of its predecessor, and must not take its lease for its own."""
    assert new_identity("pod") != new_identity("pod")
    assert new_identity("pod").startswith("pod_")


class FakeLeases:
    """A server that keeps one Lease."""

    def __init__(self) -> None:
        self.lease: Manifest | None = None
        self.is_away = False
        self._lock = threading.Lock()

    def read_lease(self, ref: Ref) -> Manifest | None:
        self._answer()
        return self.lease

    def write_lease(self, lease: Manifest) -> Manifest:
        self._answer()
        with self._lock:
            version = self.lease["metadata"]["resourceVersion"] if self.lease else None
            if lease["metadata"].get("resourceVersion") != version:
                raise Conflict("the object has been modified")
            metadata = {**lease["metadata"], "resourceVersion": str(int(version or 0) + 1)}
            self.lease = {**lease, "metadata": metadata}
            return self.lease

    def _answer(self) -> None:
        if self.is_away:
            raise ClusterError("the API server does not answer")

    def edit(self, **spec: object) -> None:
        """As somebody with kubectl."""
        assert self.lease is not None
        self.write_lease({**self.lease, "spec": {**self.lease["spec"], **spec}})

    @property
    def record(self) -> Record:
        assert self.lease is not None
        return Record.of(self.lease)


class Contender:
    """A contender without threads, on clocks that the test moves."""

    def __init__(self, leases: FakeLeases, identity: str) -> None:
        self.now, self.wall = 1000.0, NOON
        self.acquired, self.lost = 0, list[str]()
        self.election = LeaderElection(
            leases,
            LEASE,
            identity,
            on_acquired=self._acquire,
            on_lost=self.lost.append,
            clock=lambda: self.now,
            wall_clock=lambda: self.wall,
        )

    def _acquire(self) -> None:
        self.acquired += 1

    def turn(self, after_seconds: float = 0.0) -> float:
        self.now += after_seconds
        return self.election.turn()

    @property
    def leads(self) -> bool:
        return self.election.is_held()


def test_the_first_one_leads_and_renews() -> None:
    """A new lease, then the same one with a newer time; acquired is said once."""
    leases = FakeLeases()
    a = Contender(leases, ME)

    pause = a.turn()
    first = leases.record
    a.wall += timedelta(seconds=2)
    a.turn(after_seconds=2)

    assert (pause, a.leads, a.acquired) == (2.0, True, 1)
    assert (first.holder, first.lease_seconds, first.transitions) == (ME, 15, 0)
    assert first.acquired == "2026-01-01T12:00:00.000000Z"
    assert leases.record == replace(first, renewed="2026-01-01T12:00:02.000000Z")


def test_the_other_takes_over_after_fifteen_silent_seconds() -> None:
    """It looks again exactly when the time is up."""
    leases = FakeLeases()
    a, b = Contender(leases, ME), Contender(leases, OTHER)
    a.turn()

    pauses = [b.turn(), b.turn(after_seconds=14)]
    waited = b.leads
    b.turn(after_seconds=1)

    assert pauses == [2.0, 1.0]
    assert (waited, b.leads, leases.record.holder, leases.record.transitions) == (False, True, OTHER, 1)


def test_a_renewal_starts_the_wait_anew() -> None:
    """Fourteen seconds here and there never add up."""
    leases = FakeLeases()
    a, b = Contender(leases, ME), Contender(leases, OTHER)
    a.turn()
    b.turn()
    for _ in range(3):
        a.wall += timedelta(seconds=8)
        a.turn(after_seconds=8)
        b.turn(after_seconds=8)

    assert (a.leads, b.leads, a.lost) == (True, False, [])


def test_a_released_lease_is_taken_at_once() -> None:
    """SIGTERM need not cost the others fifteen seconds."""
    leases = FakeLeases()
    a, b = Contender(leases, ME), Contender(leases, OTHER)
    a.election.start()
    wait_until_held(a)
    b.turn()

    a.election.release()
    released = leases.record
    b.turn(after_seconds=2)

    assert (released.holder, released.lease_seconds) == ("", 1)
    assert (a.leads, b.leads, a.lost) == (False, True, [])


def wait_until_held(contender: Contender) -> None:
    ready = threading.Event()
    for _ in range(1000):
        if contender.leads:
            return
        ready.wait(0.01)
    raise AssertionError("never held")


def test_who_finds_another_holder_has_lost() -> None:
    """A lease edited by hand: the next renewal conflicts, the look after it says who holds it."""
    leases = FakeLeases()
    a = Contender(leases, ME)
    a.turn()
    leases.edit(holderIdentity=OTHER)

    pause = a.turn(after_seconds=2)
    a.turn()

    assert (pause, a.leads, a.lost) == (0.0, False, [f"{OTHER} holds the lease"])


def test_a_label_set_on_the_lease_costs_nothing() -> None:
    """The renewal conflicts, but the holder is still the same."""
    leases = FakeLeases()
    a = Contender(leases, ME)
    a.turn()
    leases.edit(leaseTransitions=7)

    a.turn(after_seconds=2)
    a.turn()

    assert (a.leads, a.lost, leases.record.transitions) == (True, [], 7)


def test_a_deleted_lease_is_made_anew_by_its_holder() -> None:
    """Whoever deletes it by hand ends nothing."""
    leases = FakeLeases()
    a = Contender(leases, ME)
    a.turn()
    leases.lease = None

    a.turn(after_seconds=2)
    a.turn()

    assert (a.leads, a.lost, leases.record.holder) == (True, [], ME)


def test_ten_seconds_without_a_renewal_are_the_end() -> None:
    """Also when the thread that renews hangs in a call: the guard looks at the clock alone."""
    leases = FakeLeases()
    a = Contender(leases, ME)
    a.turn()
    leases.is_away = True
    a.turn(after_seconds=9.9)
    a.election.check()
    before = (a.leads, list(a.lost))

    a.now += 0.1
    a.election.check()

    assert before == (True, [])
    assert (a.leads, a.lost) == (False, ["no renewal was confirmed for 10 s"])


def test_a_server_that_was_away_shortly_costs_nothing() -> None:
    """The next renewal counts."""
    leases = FakeLeases()
    a = Contender(leases, ME)
    a.turn()
    leases.is_away = True
    a.turn(after_seconds=6)
    leases.is_away = False
    a.turn(after_seconds=2)
    a.now += 9
    a.election.check()

    assert (a.leads, a.lost) == (True, [])


def test_a_standby_that_was_cut_off_counts_anew() -> None:
    """It saw no renewal for a minute because it saw nothing at all; that says nothing about the holder."""
    leases = FakeLeases()
    a, b = Contender(leases, ME), Contender(leases, OTHER)
    a.turn()
    b.turn()
    leases.is_away = True
    b.turn(after_seconds=60)
    leases.is_away = False
    a.wall += timedelta(seconds=2)
    a.turn(after_seconds=2)

    b.turn(after_seconds=2)

    assert (a.leads, b.leads) == (True, False)


@pytest.mark.parametrize("jump", [timedelta(days=400), -timedelta(days=400), timedelta(0)])
def test_a_wall_clock_that_jumps_changes_nothing(jump: timedelta) -> None:
    """Neither the leader's nor the standby's: both count on clocks that nobody sets."""
    leases = FakeLeases()
    a, b = Contender(leases, ME), Contender(leases, OTHER)
    a.turn()
    b.turn()
    a.wall += jump + timedelta(seconds=2)
    a.turn(after_seconds=2)
    b.wall -= jump
    b.turn(after_seconds=2)
    a.wall -= jump - timedelta(seconds=2)
    a.turn(after_seconds=2)

    assert (b.turn(after_seconds=13), b.leads, a.leads, a.lost) == (2.0, False, True, [])


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "away", "back", "jump"]),
            st.floats(0.1, 6.0),
        ),
        max_size=60,
    )
)
def test_two_never_lead_at_the_same_time(steps: list[tuple[str, float]]) -> None:
    """Whatever is slow, away, or set to another time: one forward clock, two contenders, never two leaders."""
    leases = FakeLeases()
    a, b = Contender(leases, ME), Contender(leases, OTHER)
    for what, seconds in steps:
        a.now += seconds
        b.now += seconds
        a.wall += timedelta(seconds=seconds)
        b.wall += timedelta(seconds=seconds)
        for one in (a, b):
            one.election.check()
        if what in ("away", "back"):
            leases.is_away = what == "away"
        elif what == "jump":
            a.wall, b.wall = b.wall - timedelta(hours=seconds), a.wall + timedelta(hours=seconds)
        else:
            one = a if what == "a" else b
            if not one.lost:
                one.turn()
        assert not (a.leads and b.leads)


def test_the_threads_renew_by_themselves() -> None:
    """The shell around the rule, on real threads and clocks, with short terms."""
    leases, lost = FakeLeases(), threading.Event()
    acquired = threading.Event()
    terms = Terms(lease_seconds=2, renew_deadline_seconds=1, retry_seconds=0.05)
    election = LeaderElection(leases, LEASE, ME, acquired.set, lambda _: lost.set(), terms)
    election.start()
    assert acquired.wait(30)
    version = int(leases.lease["metadata"]["resourceVersion"]) if leases.lease else 0
    renewed = threading.Event()
    for _ in range(3000):
        if leases.lease and int(leases.lease["metadata"]["resourceVersion"]) > version + 3:
            renewed.set()
            break
        renewed.wait(0.01)
    assert renewed.is_set()
    assert election.is_alive()

    leases.is_away = True

    assert lost.wait(30)
    assert not election.is_held()
