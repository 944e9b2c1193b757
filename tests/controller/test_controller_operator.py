"""`kubeautoml operator`: what it says when it cannot work, and the process itself against a real API server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.life import UID, make_churn
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.objects import Manifest
from kubeautoml.cluster.memory import MemoryCluster
from kubeautoml.controller.main import check_access, resync

if TYPE_CHECKING:
    from real.controlplane import ControlPlane

JOBS = "/apis/kubeautoml.dev/v1alpha1/namespaces/{}/automljobs"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("NotFound", "AutoMLJob objects cannot be listed: refused"),
        ("Forbidden", "refused; give the operator's service account the chart's ClusterRole, or a kubeconfig that may"),
    ],
)
async def test_what_is_missing_at_the_start_is_said_in_one_line(reason: str, said: str) -> None:
    """The server's own words (which name a missing definition), and what to do about missing rights."""
    cluster = MemoryCluster()
    cluster.fail_next(ClusterError("refused", reason=reason), verb="list")

    with pytest.raises(ClusterError) as error:
        await check_access(cluster, ())

    assert said in str(error.value)


@pytest.mark.anyio
async def test_every_job_is_looked_at_again_now_and_then() -> None:
    """Also when nothing happens; spread over half of the time, and going on after the server was away."""
    cluster = MemoryCluster()
    for name in ("a", "b"):
        manifest = make_churn()
        manifest["metadata"] = {"name": name, "namespace": "team-a"}
        await cluster.put(manifest)
    cluster.fail_next(ClusterError("down"), verb="list")
    asked: list[tuple[str, float]] = []
    task = asyncio.create_task(resync(cluster, (), lambda ref, delay: asked.append((ref.name, delay)), 0.01))

    async with asyncio.timeout(10):
        while len(asked) < 2:
            await asyncio.sleep(0.005)
    task.cancel()

    assert asked[:2] == [("a", 0.0), ("b", 0.0025)]


def make_environment(kubeconfig: Path, folder: Path) -> dict[str, str]:
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("KUBEAUTOML_")},
        "KUBECONFIG": str(kubeconfig),
        "KUBEAUTOML_STUDY_URL": f"journal://{folder}/study.log",
        "KUBEAUTOML_METRICS_PORT": "0",
        "KUBEAUTOML_HEALTH_PORT": "0",
    }


# The operator as it is, but for what the server at hand is too old to know (see real/strip.py).
OPERATOR = """
    import sys
    from real.strip import strip
    from kubeautoml.cluster.kube import KubeCluster
    from kubeautoml.controller.main import main

    version = tuple(map(int, sys.argv.pop(1).split(".")))
    apply = KubeCluster.apply

    async def apply_stripped(self, manifest):
        return await apply(self, strip(manifest, version))

    KubeCluster.apply = apply_stripped
    sys.exit(main(sys.argv[1:]))
"""
TESTS = Path(__file__).resolve().parents[1]


def wait_for(holds: Callable[[], bool], what: str, log: Path | None = None) -> float:
    """Wait until it holds; returns the seconds that took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < 30, f"not within 30 s: {what}; {log.read_text() if log else ''}"
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.fixture
def operator(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The operator as a process with its service account's rights, in one namespace."""
    environment = make_environment(control_plane.operator_kubeconfig(), tmp_path)
    with (tmp_path / "operator.log").open("wb") as log:
        version = ".".join(map(str, control_plane.version))
        command = [sys.executable, "-c", textwrap.dedent(OPERATOR), version, "-n", namespace]
        process = subprocess.Popen(command, env={**environment, "PYTHONPATH": str(TESTS)}, stdout=log, stderr=log)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


@pytest.mark.controlplane
def test_the_operator_works_on_a_real_server_and_leaves_when_told(
    operator: subprocess.Popen[bytes], control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """A new job has its workers' Job within seconds; kopf writes nothing into it; SIGTERM ends the process at once."""
    log = tmp_path / "operator.log"
    wait_for(lambda: "operator started" in log.read_text(), "the operator started")
    manifest = make_churn()
    manifest["metadata"] = {"name": "churn", "namespace": namespace}
    api, path = control_plane.admin, JOBS.format(namespace)

    api.post(path, manifest)
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    seconds = wait_for(lambda: bool(api.items(jobs)), "the workers' Job is there", log)

    def found() -> Manifest:
        return api.get(f"{path}/churn")

    wait_for(lambda: bool(found().get("status", {}).get("conditions")), "the status is written", log)
    metadata = found()["metadata"]
    operator.send_signal(signal.SIGTERM)
    code = operator.wait(10)

    assert seconds < 5
    assert "annotations" not in metadata and "finalizers" not in metadata
    assert code == 0, log.read_text()
    assert "operator stopped" in log.read_text() and "Traceback" not in log.read_text()
    assert UID not in log.read_text()


@pytest.mark.controlplane
def test_an_operator_without_rights_says_so_and_ends(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Exit code 1, one line, no traceback."""
    token = control_plane.token(namespace, "default")
    environment = make_environment(control_plane.kubeconfig_for("nobody", token, namespace), tmp_path)

    command = [sys.executable, "-m", "kubeautoml.cli.main", "operator"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 1
    assert "AutoMLJob objects cannot be listed" in done.stderr and "ClusterRole" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.controlplane
def test_health_and_readiness_are_served(operator: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """The log names the ports; all endpoints answer."""
    log = tmp_path / "operator.log"
    wait_for(lambda: "operator started" in log.read_text(), "the operator started")
    port = log.read_text().split("ports='")[1].split("'")[0].split(",")[0]

    def answers(path: str) -> bool:
        with suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).status == 200
        return False

    for path in ("/healthz", "/readyz", "/metrics"):
        wait_for(lambda path=path: answers(path), f"{path} answers")
