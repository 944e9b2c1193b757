"""What a person sees: the live view and the leaderboard, at the widths of real terminals."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from factories import NOON, make_job
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.job_status import AutoMLJobStatus
from kubeautoml.cli.screen import Screen
from kubeautoml.cli.view import age, counts, duration, leaderboard_table, live_view, short_number, state

NETWORK = {
    "trial": 7,
    "value": "0.912345",
    "family": "NeuralNetwork",
    "durationSeconds": 75,
    "parameters": {"NeuralNetwork.learning_rate": "0.000123456", "NeuralNetwork.width": "256", "depth": "3"},
}
TREES = {"trial": 121, "value": "0.9", "family": "ExtraTrees", "durationSeconds": 3, "parameters": {}}


def make_searching(**changes: Any) -> AutoMLJob:
    """A job two minutes into its hour, with two ranked trials."""
    status = {
        "startTime": NOON.isoformat(),
        "progressPercentage": 2,
        "trials": {"total": 14, "running": 2, "completed": 10, "pruned": 1, "failed": 1},
        "best": NETWORK,
        "leaderboard": [NETWORK, TREES],
        "conditions": [condition("Accepted", "True", "SpecValid"), condition("Succeeded", "Unknown", "Searching")],
        **changes,
    }
    return make_job(
        status=AutoMLJobStatus.model_validate(status), budget={"maxTrials": 500, "maxDurationSeconds": 3600}
    )


def condition(kind: str, status: str, reason: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": NOON.isoformat()}


def lines(shown: RenderableType, width: int) -> list[str]:
    """The text on a terminal of that width."""
    console = Console(width=width, file=io.StringIO(), record=True, color_system=None)
    console.print(shown)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_the_live_view_fits_into_eighty_columns():
    """Name, state, bar, percent, time left; counts and best; the leaderboard, whose parameters alone are cut."""
    shown = lines(live_view(make_searching(), NOON + timedelta(minutes=15)), 80)

    assert shown[0] == "team-a/churn Searching ━━━━━                 25% 45m 0s left"
    assert shown[1:] == [
        "10 completed, 2 running, 1 pruned, 1 failed; best RocAuc 0.91234 (NeuralNetwork)",
        "RANK  TRIAL  FAMILY          ROCAUC    TIME  PARAMETERS",
        "   1      7  NeuralNetwork  0.91234  1m 15s  learning_rate=0.0001235 width=256 …",
        "   2    121  ExtraTrees         0.9      3s",
    ]


@pytest.mark.parametrize("width", [50, 60, 80, 120])
def test_no_family_is_crushed_at_any_width(width: int):
    """Only the parameters give way."""
    shown = "\n".join(lines(leaderboard_table(make_searching()), width))

    assert "NeuralNetwork" in shown
    assert "ExtraTrees" in shown
    assert "0.91234" in shown
    assert max(len(line) for line in shown.splitlines()) <= width


def test_a_job_that_has_not_begun_is_shown_too():
    """No trial, no time, no leaderboard."""
    shown = lines(live_view(make_job(), NOON), 80)

    assert shown[0].startswith("team-a/churn Pending")
    assert shown[1] == "no trial yet"
    assert len(shown) == 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (61, "1m 1s"), (3599, "59m 59s"), (7322, "2h 2m"), (-3, "0s")]
)
def test_durations_are_short(seconds: float, text: str):
    """Two units at most, never negative."""
    assert duration(seconds) == text


@pytest.mark.parametrize(("minutes", "text"), [(0, "0s"), (1, "60s"), (2, "2m"), (150, "2h"), (60 * 49, "2d")])
def test_age_is_kubectl_s(minutes: int, text: str):
    """One unit, the largest that counts at least two."""
    job = make_job()
    stamped = job.metadata.model_copy(update={"creation_timestamp": NOON.isoformat()})

    assert age(job.model_copy(update={"metadata": stamped}), NOON + timedelta(minutes=minutes)) == text


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], "Pending"),
        ([("Accepted", "False", "UnfittingMetric")], "UnfittingMetric"),
        ([("Accepted", "True", "SpecValid")], "SpecValid"),
        ([("Accepted", "True", "SpecValid"), ("Succeeded", "Unknown", "Searching")], "Searching"),
        (
            [
                ("Accepted", "True", "SpecValid"),
                ("Admitted", "False", "Suspended"),
                ("Succeeded", "Unknown", "Suspended"),
            ],
            "Suspended",
        ),
        (
            [
                ("Accepted", "True", "SpecValid"),
                ("Admitted", "False", "Queued"),
                ("Succeeded", "Unknown", "Searching"),
            ],
            "Queued",
        ),
        (
            [
                ("Accepted", "True", "SpecValid"),
                ("Admitted", "False", "Queued"),
                ("Succeeded", "False", "WorkersFailed"),
            ],
            "WorkersFailed",
        ),
        ([("Accepted", "True", "SpecValid"), ("Succeeded", "False", "TargetNotFound")], "TargetNotFound"),
        (
            [
                ("Accepted", "True", "SpecValid"),
                ("Succeeded", "True", "ModelTrained"),
                ("Ready", "Unknown", "Deploying"),
            ],
            "Deploying",
        ),
    ],
)
def test_a_job_s_state_is_the_reason_that_says_most(conditions: list[tuple[str, str, str]], expected: str):
    """One word from the conditions."""
    assert state(make_searching(conditions=[condition(*c) for c in conditions])) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), ("0.912345", "0.91234"), ("352571.4", "352570"), ("8.17e11", "8.17e+11"), ("-1e-7", "-1e-07")],
)
def test_scores_are_short_and_plain(value: str | None, text: str):
    """Five digits; no exponent below a thousand million."""
    assert short_number(value) == text


def test_counts_leave_out_zeros():
    """What did not happen is not listed."""
    assert counts(make_searching(trials={"total": 1, "preempted": 1})) == "1 preempted"


def test_without_a_terminal_each_piece_of_news_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The same status twice is no news; nothing goes to stdout."""
    with Screen(tmp_path) as screen:
        screen.show(make_searching())
        screen.show(make_searching(trials={"total": 15, "completed": 11}))
        screen.show(make_searching(best=TREES))

    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "Searching, best RocAuc 0.91234 (NeuralNetwork); 10 completed, 2 running, 1 pruned, 1 failed",
        "Searching, best RocAuc 0.9 (ExtraTrees); 10 completed, 2 running, 1 pruned, 1 failed",
    ]


def test_the_reason_of_a_failed_job_is_the_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Logs first, then reason and message."""
    failed = condition("Succeeded", "False", "TargetNotFound") | {"message": "column 'x' is not in the data"}

    Screen(tmp_path).ended(make_searching(conditions=[condition("Accepted", "True", "SpecValid"), failed]))

    assert capsys.readouterr().err.splitlines() == [
        f"logs: {tmp_path}",
        "error: TargetNotFound: column 'x' is not in the data",
    ]


def test_places_below_this_folder_are_named_by_short_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A path from here is shorter than a URI, and the next command takes it; other URIs stay whole."""
    monkeypatch.chdir(tmp_path)
    model = {"name": "m", "version": "v1", "uri": f"file://{tmp_path}/a/model", "sha256": "0" * 64}
    model["metrics"] = {"Accuracy": "0.5", "RocAuc": "0.75"}
    ended = make_searching(
        conditions=[condition("Accepted", "True", "SpecValid"), condition("Succeeded", "True", "ModelTrained")],
        model=model,
        artifacts={"reportUri": "s3://models/report.html"},
    )

    Screen(tmp_path).ended(ended)

    assert capsys.readouterr().err.splitlines()[-4:] == [
        "hold-out: RocAuc 0.75, Accuracy 0.5",
        "model:    a/model",
        "report:   s3://models/report.html",
        "next:     kubeautoml serve --model a/model",
    ]

    bare = make_searching(
        conditions=[condition("Accepted", "True", "SpecValid"), condition("Succeeded", "True", "ModelTrained")],
        model={**model, "metrics": {}},
    )
    Screen(tmp_path).ended(bare)
    assert (
        capsys.readouterr()
        .err.splitlines()[-3]
        .startswith("hold-out: none was set aside; cross-validation says RocAuc 0.")
    )
