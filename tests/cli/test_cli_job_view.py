"""`kubectl automl status`, drawn: what stands where, at the widths of real terminals."""

from __future__ import annotations

import io
from datetime import datetime, timedelta
from typing import Any

import pytest
from rich.console import Console, RenderableType

from cli.test_cli_view import condition, make_searching
from factories import NOON
from kubeautoml.api.names import ANNOTATION_RETRY
from kubeautoml.cli.job_view import (
    Seen,
    activity,
    budget_words,
    full_screen,
    has_ended,
    has_failed,
    live_screen,
    what_next,
)

LATER = NOON + timedelta(minutes=15)


def make_pod(name: str, phase: str = "Running", **status: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "uid": name,
            "creationTimestamp": NOON.isoformat(),
            "labels": {"kubeautoml.dev/component": "worker"},
        },
        "spec": {"nodeName": "node-1"},
        "status": {"phase": phase, **status},
    }


def drawn(shown: RenderableType | list[RenderableType], width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True, color_system=None, markup=False)
    for part in shown if isinstance(shown, list) else [shown]:
        console.print(part)
    return [line.rstrip() for line in console.export_text().splitlines()]


def make_seen(message: str = "10 trials completed, 2 running, of at most 500; trial 3: epoch 4 of 12") -> Seen:
    said = {**condition("Succeeded", "Unknown", "Searching"), "message": message}
    job = make_searching(
        conditions=[condition("Accepted", "True", "SpecValid"), said],
        budgetUsed={"trials": 14, "durationSeconds": 880},
    )
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    pods = (make_pod("w-1"), make_pod("w-2", "Pending", containerStatuses=[{"state": waiting}]))
    return Seen(job, pods)


def test_the_live_screen_at_eighty_columns():
    """Head, trials, best, budget with what is left, activity, leaderboard, conditions and pods; a line is cut, never wrapped."""
    assert drawn(live_screen(make_seen(), LATER), 80) == [
        "team-a/churn Searching ━━━━━                 25%",
        "Trials:    10 completed, 2 running, 1 pruned, 1 failed",
        "Best:      RocAuc 0.91234 (NeuralNetwork, trial 7)",
        "Budget:    14 of 500 trials, 15m 0s of 1h 0m (45m 0s left)",
        "Activity:  trial 3: epoch 4 of 12",
        "",
        "RANK  TRIAL  FAMILY          ROCAUC    TIME  PARAMETERS",
        "   1      7  NeuralNetwork  0.91234  1m 15s  learning_rate=0.0001235 width=256 …",
        "   2    121  ExtraTrees         0.9      3s",
        "",
        "CONDITION  STATUS   REASON     MESSAGE",
        "Accepted   True     SpecValid",
        "Succeeded  Unknown  Searching  10 trials completed, 2 running, of at most 500; …",
        "",
        "POD  ROLE    STATUS            AGE  MESSAGE",
        "w-1  worker  Running           15m",
        "w-2  worker  ImagePullBackOff  15m  Back-off pulling image",
    ]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_live_screen_keeps_its_height_at_any_width(width: int):
    """Long words are cut: a line that wrapped would leave traces when it is drawn again."""
    long = make_seen("making the model: " + "words " * 60)

    shown = drawn(live_screen(Seen(long.job, long.pods, note="this is not new: " + "x" * 300), LATER), width)

    assert len(shown) == 19
    assert max(map(len, shown)) <= width


def test_what_is_printed_once_is_whole():
    """Messages are not cut, wide shows nodes, the note comes last."""
    seen = make_seen("making the model: " + "word " * 40)

    shown = drawn(full_screen(Seen(seen.job, seen.pods, note="pods are not all"), LATER, wide=True), 500)

    assert any("word " * 39 in line for line in shown)
    assert any(line.startswith("POD  ROLE    STATUS            AGE  NODE    IP") for line in shown)
    assert shown[-1] == "pods are not all"


def test_hundreds_of_pods_are_twelve_lines_and_a_number():
    """The view must fit a screen."""
    seen = make_seen()
    many = Seen(seen.job, tuple(make_pod(f"w-{n}") for n in range(300)))

    assert drawn(live_screen(many, LATER), 80)[-1] == "and 288 more"


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        (
            [("DataReady", "Unknown", "ReadingData", "caching images"), ("Succeeded", "Unknown", "Searching", "x")],
            "caching images",
        ),
        ([("Succeeded", "Unknown", "Searching", "1 trials completed, 2 running, of at most 500")], ""),
        ([("Succeeded", "Unknown", "Finalizing", "making the model: explaining")], "making the model: explaining"),
        ([("Succeeded", "True", "ModelTrained", "it is there")], ""),
        ([], ""),
    ],
)
def test_the_activity_is_what_is_being_done_now(conditions: list[tuple[str, str, str, str]], said: str):
    """Without the counts, which have a line of their own."""
    made = [{**condition(*c[:3]), "message": c[3]} for c in conditions]

    assert activity(make_searching(conditions=made)) == said


@pytest.mark.parametrize(
    ("conditions", "ended", "failed"),
    [
        ([("Accepted", "True", "SpecValid"), ("Succeeded", "Unknown", "Searching")], False, False),
        ([("Succeeded", "True", "ModelTrained"), ("Ready", "Unknown", "Deploying")], False, False),
        ([("Succeeded", "True", "ModelTrained"), ("Ready", "True", "Serving")], True, False),
        ([("Succeeded", "True", "ModelTrained"), ("Ready", "False", "GateNotPassed")], True, True),
        ([("Accepted", "True", "SpecValid"), ("Succeeded", "False", "WorkersFailed")], True, True),
    ],
)
def test_watching_ends_when_nothing_more_will_come(conditions: list[tuple[str, str, str]], ended: bool, failed: bool):
    """With the endpoint, if there is to be one."""
    job = make_searching(conditions=[condition(*c) for c in conditions])

    assert (has_ended(job), has_failed(job)) == (ended, failed)


def test_a_job_that_is_to_be_tried_again_has_not_ended():
    """`kubectl automl retry x && kubectl automl status x` must not end before the operator has looked."""
    failed = make_searching(conditions=[condition("Succeeded", "False", "WorkersFailed")])
    asked = failed.metadata.model_copy(update={"annotations": {ANNOTATION_RETRY: "now"}})

    assert has_ended(failed)
    assert not has_ended(failed.model_copy(update={"metadata": asked}))


def test_of_a_failed_job_the_last_line_says_what_to_do():
    """Of others it says nothing, also when it is to be tried again already."""
    failed = make_searching(conditions=[condition("Succeeded", "False", "WorkersFailed")])
    asked = failed.metadata.model_copy(update={"annotations": {ANNOTATION_RETRY: "now"}})

    assert drawn(full_screen(Seen(failed), LATER), 200)[-1] == (
        "Next: mend what Succeeded says (kubectl automl logs churn -n team-a), then: kubectl automl retry churn -n team-a"
    )
    assert what_next(failed.model_copy(update={"metadata": asked})) == ""
    assert what_next(make_searching()) == ""


def test_a_job_that_failed_shows_how_far_it_came():
    """Not a full bar."""
    failed = [condition("Succeeded", "False", "WorkersFailed")]
    job = make_searching(conditions=failed, completionTime=NOON.isoformat(), progressPercentage=25)

    assert drawn(live_screen(Seen(job), LATER), 80)[0] == "team-a/churn Pending ━━━━━                 25%"


def test_a_refused_job_that_never_ran_has_ended():
    """One that runs by its last good spec has not."""
    refused = [condition("Accepted", "False", "UnfittingMetric")]

    assert has_failed(make_searching(conditions=refused, startTime=None))
    assert not has_ended(make_searching(conditions=refused))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({}, "15m 0s of 1h 0m (45m 0s left)"),
        ({"suspendedSeconds": 300}, "10m 0s of 1h 0m (50m 0s left)"),
        ({"suspendedSeconds": 0, "suspendedSince": NOON.isoformat(), "budgetUsed": {"durationSeconds": 60}}, "1m 0s of 1h 0m (59m 0s left)"),
        ({"completionTime": NOON.isoformat(), "budgetUsed": {"durationSeconds": 60}}, "1m 0s of 1h 0m"),
    ],
)  # fmt: skip
def test_the_clock_of_the_budget_runs_while_time_counts(status: dict[str, Any], words: str):
    """Not in a pause, and not after the end."""
    assert list(budget_words(make_searching(**status), LATER))[1] == words


def test_now_may_be_before_the_start():
    """Clocks of two machines differ."""
    assert list(budget_words(make_searching(), datetime.fromisoformat("2020-01-01T00:00:00Z")))[1].startswith(
        "0s of 1h"
    )
