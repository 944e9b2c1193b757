"""The work queue: decisions with a clock in hand. The worker that drives it is in `test_controller_passes`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kubeautoml.api.objects import Ref
from kubeautoml.controller.queue import MAX_DELAY_SECONDS, Done, Lane, WorkQueue

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
