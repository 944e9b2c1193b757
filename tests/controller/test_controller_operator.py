"""`kubeautoml operator`: what it says when it cannot work, and the process itself against a real API server."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.life import UID, make_churn
from kubeautoml.api.errors import ClusterError, UsageError
from kubeautoml.api.job_status import AutoMLJobStatus
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cluster.memory import MemoryCluster
from kubeautoml.controller import metrics
from kubeautoml.controller.main import Operator, _log_format, resync
from kubeautoml.controller.queue import Lane
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.plan.base import Settings
from real.operator_process import OperatorProcess, running_operator

if TYPE_CHECKING:
    from real.controlplane import ControlPlane

JOBS = "/apis/kubeautoml.dev/v1alpha1/namespaces/{}/automljobs"


def test_the_log_format_is_checked() -> None:
    """The flag comes before the environment."""
    assert _log_format(None, {}) == "json"
    assert _log_format(None, {"KUBEAUTOML_LOG_FORMAT": "text"}) == "text"
    assert _log_format("json", {"KUBEAUTOML_LOG_FORMAT": "text"}) == "json"
    with pytest.raises(UsageError, match="KUBEAUTOML_LOG_FORMAT must be json or text, got 'xml'"):
        _log_format(None, {"KUBEAUTOML_LOG_FORMAT": "xml"})


@pytest.mark.anyio
async def test_now_and_then_all_jobs_are_listed() -> None:
    """Also when nothing happens, and going on after the server was away."""
    cluster = MemoryCluster()
    for name in ("a", "b"):
        manifest = make_churn()
        manifest["metadata"] = {"name": name, "namespace": "team-a"}
        await cluster.put(manifest)
    cluster.fail_next(ClusterError("down"), verb="list")
    listed: list[list[str]] = []

    def on_listed(jobs: list[Manifest], at: float, within_seconds: float) -> None:
        assert at <= asyncio.get_running_loop().time() and within_seconds == 0.005
        listed.append([job["metadata"]["name"] for job in jobs])

    task = asyncio.create_task(resync(cluster.list, lambda: (), on_listed, 0.01))
    async with asyncio.timeout(20):
        while not listed:
            await asyncio.sleep(0.005)
    task.cancel()

    assert listed[0] == ["a", "b"]


@pytest.mark.anyio
async def test_the_resync_asks_for_every_job_and_forgets_those_that_are_gone() -> None:
    """Passes are spread over time and timed; a job made after the list stays. A standby has no other way to forget."""
    settings = OperatorSettings(plan=Settings(study_url="grpc://study:13000"), elects_leader=False)
    operator = Operator(MemoryCluster(), settings)  # type: ignore[arg-type]
    now = asyncio.get_running_loop().time()
    a, gone, new = (Ref("AutoMLJob", "team-a", name) for name in ("a", "gone", "new"))
    listed: Manifest = {"kind": "AutoMLJob", "metadata": {"namespace": "team-a", "name": "a", "uid": "u-a"}}
    for ref, due in ((a, now - 60), (gone, now - 60), (new, now + 1)):
        operator._worker.queue.add(ref, due)
        operator._metrics.census.show(ref, AutoMLJobStatus())
    operator._wakes.job("ADDED", {"metadata": {"namespace": "team-a", "name": "new", "uid": "u-new"}})
    operator._worker.queue.add(new, now - 1)

    operator._resynced([listed], listed_at=now - 0.5, within_seconds=10)
    queue = operator._worker.queue
    taken = [found.ref for _ in range(3) if (found := queue.take(now + 0.1))]

    assert taken == [a, new]
    assert len(operator._metrics.census) == 2
    assert (queue.depth(Lane.EVENT), queue.depth(Lane.TIMED)) == (0, 0)


def wait_for(holds: Callable[[], bool], what: str, log: Path | None = None) -> float:
    """Wait until it holds; returns the seconds that took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < 60, f"not within 60 s: {what}; {log.read_text() if log else ''}"
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.fixture
def operator(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[OperatorProcess]:
    """The operator as a process with its service account's rights, in one namespace."""
    with running_operator(
        control_plane, tmp_path / "operator.log", "-n", namespace, lease_namespace=namespace
    ) as process:
        yield process


@pytest.mark.controlplane
def test_the_operator_works_on_a_real_server_and_leaves_when_told(
    operator: OperatorProcess, control_plane: ControlPlane, namespace: str
) -> None:
    """A new job has its workers' Job; kopf writes nothing into it; SIGTERM ends the process at once; every line is JSON."""
    operator.wait_said("leading")
    manifest = make_churn()
    manifest["metadata"] = {"name": "churn", "namespace": namespace}
    api, path = control_plane.admin, JOBS.format(namespace)

    api.post(path, manifest)
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    wait_for(lambda: bool(api.items(jobs)), "the workers' Job is there", operator.log)

    def found() -> Manifest:
        return api.get(f"{path}/churn")

    wait_for(lambda: bool(found().get("status", {}).get("conditions")), "the status is written", operator.log)
    metadata = found()["metadata"]
    operator.process.terminate()
    code = operator.process.wait(20)

    assert "annotations" not in metadata and "finalizers" not in metadata
    assert code == 0, operator.log.read_text()
    assert operator.said("operator stopped") and "Traceback" not in operator.log.read_text()
    assert all("level" in line and "time" in line for line in operator.lines()), operator.log.read_text()
    assert UID not in operator.log.read_text()


@pytest.mark.controlplane
def test_a_study_server_that_hangs_does_not_keep_an_operator_from_leaving(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """It accepts connections and never answers; SIGTERM still ends the process in order, with its lease released."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
        with running_operator(
            control_plane,
            tmp_path / "operator.log",
            "-n",
            namespace,
            lease_namespace=namespace,
            study_url=url,
        ) as operator:
            operator.wait_said("leading")
            manifest = make_churn()
            manifest["metadata"] = {"name": "churn", "namespace": namespace}
            control_plane.admin.post(JOBS.format(namespace), manifest)
            wait_for(
                lambda: operator.metric("kubeautoml_passes_running") > 0, "a pass waits for the study", operator.log
            )
            healthy = operator.ask("/healthz")
            operator.process.terminate()
            code = operator.process.wait(30)

    assert healthy == (200, "ok\n")
    assert code == 0, operator.log.read_text()
    assert operator.said("lease released") and "Traceback" not in operator.log.read_text()


@pytest.mark.controlplane
def test_health_readiness_and_metrics_are_served(operator: OperatorProcess) -> None:
    """The log names the ports; all endpoints answer, and the metrics show what the operator does."""
    for path in ("/healthz", "/readyz", "/metrics"):
        wait_for(lambda path=path: operator.ask(path)[0] == 200, f"{path} answers", operator.log)  # type: ignore[misc]
    wait_for(lambda: operator.metric("kubeautoml_leader") == 1, "it leads", operator.log)

    assert set(re.findall(r"# HELP (kubeautoml_\w+)", operator.ask("/metrics")[1])) == set(
        re.findall(r"^\| (kubeautoml_\w+)", metrics.__doc__ or "", re.MULTILINE)
    )
    assert operator.metric("kubeautoml_watch_synced") == 1
    assert operator.metric("kubeautoml_api_requests_total", verb="replace", kind="Lease", outcome="Ok") >= 1
    assert operator.metric("kubeautoml_lease_silence_seconds") < 30
