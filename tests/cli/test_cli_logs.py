"""`kubectl automl logs`: lines made readable, in order, from all pods there are and come; and the many ways to have none."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cli.clusters import JOBS, Cluster, conditions, searching
from kubeautoml.cli import logs
from kubeautoml.cli.log_lines import LogLine, in_order, seconds_of
from real.kubelet import Kubelet


def made(message: str, when: str = "2026-01-05T12:00:00.123+00:00", **fields: Any) -> str:
    """A line as pods write them."""
    return json.dumps(
        {"time": when, "level": "info", "logger": "l", "message": message, "job": "a/b", "pod": "p", **fields}
    )


@pytest.mark.parametrize(
    ("raw", "source", "text"),
    [
        ("plain words", "[w]", ["plain words"]),
        ("{not json", "[w]", ["{not json"]),
        ('{"a": 1}', "[w]", ['{"a": 1}']),
        ("12", "[w]", ["12"]),
        ("bell\x07 \x1b[2Jand\ttab", "[w]", ["bell [2Jand\ttab"]),
        (made("trial begins", trial=3), "[w trial 3]", ["2026-01-05T12:00:00Z INFO trial begins"]),
        (
            made("trial cut", trial=0, why="too slow", value=0.5),
            "[w trial 0]",
            ['2026-01-05T12:00:00Z INFO trial cut why="too slow" value=0.5'],
        ),
        (
            made("trial failed", traceback="Traceback:\n  boom"),
            "[w]",
            ["2026-01-05T12:00:00Z INFO trial failed", "    Traceback:", "      boom"],
        ),
    ],
)
def test_a_line_is_made_readable(raw: str, source: str, text: list[str]):
    """JSON of ours becomes time, level, words and name=value; all else stays, but for what would move the cursor."""
    line = LogLine.of("w", raw)

    assert (line.source, line.text()) == (source, text)


def test_lines_of_several_pods_are_in_the_order_of_time():
    """A line that does not say when stands behind the one before it in its pod."""
    one = [LogLine.of("1", made("a", "2026-01-05T12:00:01+00:00")), LogLine.of("1", "after a")]
    one += [LogLine.of("1", made("d", "2026-01-05T12:00:04+00:00"))]
    two = [LogLine.of("2", "before c"), LogLine.of("2", made("c", "2026-01-05T12:00:03+00:00"))]

    shown = [line.fields.get("message", line.raw) for line in in_order([one, two])]

    assert shown == ["a", "after a", "before c", "c", "d"]


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("10ms", 1)])
def test_durations_are_kubectl_s(text: str, seconds: int):
    """Numbers with units."""
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "-5m", "0s", "1d"])
def test_what_is_no_duration_is_refused(text: str):
    """As kubectl refuses it."""
    with pytest.raises(ValueError):
        seconds_of(text)


def make_pod(cluster: Cluster, job: dict[str, Any], component: str, *lines: str, number: int = 0) -> None:
    """A pod of the job that prints these lines and ends."""
    labels = {"kubeautoml.dev/job-uid": job["metadata"]["uid"], "kubeautoml.dev/component": component}
    program = f"for line in {list(lines)!r}: print(line, flush=True)"
    name = {"worker": "worker", "finalizer": "finalize", "server": "serve"}[component]
    sidecar = {"name": "a-mesh", "image": "none", "command": [sys.executable, "-c", "print('mesh')"]}
    ours = {"name": name, "image": "none", "command": [sys.executable, "-c", program]}
    spec = {"restartPolicy": "Never", "containers": [sidecar, ours] if component == "finalizer" else [ours]}
    metadata = {"name": f"churn-{component}-{number}", "labels": labels}
    cluster.admin.post(f"/api/v1/namespaces/{cluster.namespace}/pods", {"metadata": metadata, "spec": spec})


def end(cluster: Cluster) -> None:
    ended = searching() | {"conditions": conditions(Accepted="True SpecValid", Succeeded="False WorkersFailed")}
    cluster.admin.patch(f"{JOBS.format(cluster.namespace)}/churn/status", {"status": ended})


@pytest.mark.controlplane
def test_logs_come_from_all_pods_with_their_trials(cluster: Cluster, kubelet: Kubelet):
    """Each line carries its pod and trial, in order; flags choose pods, trials, times and the form."""
    now = datetime.now(UTC)
    job = cluster.create("churn", searching())
    old, new = ((now - timedelta(minutes=m)).isoformat(timespec="milliseconds") for m in (30, 1))
    make_pod(cluster, job, "worker", made("first", old, trial=1), made("third", new, trial=3))
    make_pod(cluster, job, "worker", made("second", (now - timedelta(minutes=20)).isoformat(), trial=2), number=1)
    make_pod(cluster, job, "finalizer", "made the model")
    wait_for_logs(cluster, 4)

    shown = cluster.out("logs", "churn", "-c", "worker").splitlines()

    assert [line.split("] ")[0] + " " + line.split()[-1] for line in shown] == [
        "[churn-worker-0 trial 1 first",
        "[churn-worker-1 trial 2 second",
        "[churn-worker-0 trial 3 third",
    ]
    assert cluster.out("logs", "churn", "-c", "finalizer") == "[churn-finalizer-0] made the model\n"
    assert [line.split()[-1] for line in cluster.out("logs", "churn", "--trial", "2").splitlines()] == ["second"]
    since = cluster.out("logs", "churn", "--since", "25m", "-c", "worker").splitlines()
    assert [line.split()[-1] for line in since] == ["second", "third"]
    tail = cluster.out("logs", "churn", "--tail", "1", "-c", "worker").splitlines()
    assert [line.split()[-1] for line in tail] == ["second", "third"]
    objects = [json.loads(line) for line in cluster.out("logs", "churn", "-o", "json").splitlines()]
    assert {o["pod"] for o in objects} == {"churn-worker-0", "churn-worker-1", "churn-finalizer-0"}
    raw = cluster.out("logs", "churn", "-o", "raw", "--trial=3")
    assert raw == f"[churn-worker-0 trial 3] {made('third', new, trial=3)}\n"


def wait_for_logs(cluster: Cluster, lines: int) -> None:
    """Until all pods have printed."""
    deadline = time.monotonic() + 60
    while len(cluster.call("logs", "churn")[1].splitlines()) < lines:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.controlplane
def test_following_goes_on_with_new_pods_until_the_job_has_ended(
    cluster: Cluster, kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch
):
    """A finalizer comes when the workers have gone: its lines come too, and then it ends by itself."""
    monkeypatch.setattr(logs, "LOOK_SECONDS", 0.05)
    job = cluster.create("churn", searching())
    pods, steps = logs._pods, []

    async def step(*about: Any) -> Any:
        found = await pods(*about)
        phases = [p["status"].get("phase") for p in found]
        if not steps:
            steps.append("worker")
            make_pod(cluster, job, "worker", "one", "two")
        elif steps == ["worker"] and phases == ["Succeeded"]:
            steps.append("finalizer")
            make_pod(cluster, job, "finalizer", "three")
        elif steps == ["worker", "finalizer"] and phases == ["Succeeded"] * 2:
            steps.append("end")
            end(cluster)
        return found

    monkeypatch.setattr(logs, "_pods", step)

    followed = cluster.out("logs", "churn", "--follow").splitlines()

    assert followed == ["[churn-worker-0] one", "[churn-worker-0] two", "[churn-finalizer-0] three"]


@pytest.mark.controlplane
def test_no_pods_are_explained(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    """Not yet, or not any more; exit 1."""
    cluster.create("churn", searching())
    assert cluster.call("logs", "churn", "-c", "worker") == (
        1,
        "",
        "error: AutoMLJob 'churn' has no worker pods yet; wait for them with: kubectl automl logs churn --follow\n",
    )
    end(cluster)
    for words in (["churn"], ["churn", "-f"]):
        code, out, err = cluster.call("logs", *words)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "has no pods any more: they go some time after the end" in err


@pytest.mark.controlplane
def test_a_log_that_cannot_be_had_is_one_line_a_pod(cluster: Cluster, kubelet: Kubelet):
    """A pod that waits, or whose node is gone, does not hide the others'; when there is none at all it is exit 1."""
    job = cluster.create("churn", searching())
    waiting = {
        "metadata": {"name": "churn-late", "labels": {"kubeautoml.dev/job-uid": job["metadata"]["uid"]}},
        "spec": {"containers": [{"name": "worker", "image": "none"}], "nodeName": "gone"},
    }
    cluster.admin.post(f"/api/v1/namespaces/{cluster.namespace}/pods", waiting)

    code, out, err = cluster.call("logs", "churn")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("[churn-late] no log: ")

    make_pod(cluster, job, "worker", "one")
    wait_for_logs(cluster, 1)
    code, out, err = cluster.call("logs", "churn")
    assert (code, out) == (0, "[churn-worker-0] one\n")
    assert err.startswith("[churn-late] no log: ")
