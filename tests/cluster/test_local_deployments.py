"""LocalCluster: Deployments as processes on this machine."""

from __future__ import annotations

import asyncio
import sys
import textwrap
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.contract import eventually, make_service
from cluster.local_factories import (
    SERVER,
    condition,
)
from kubeautoml.api.names import Env
from kubeautoml.api.objects import Manifest
from kubeautoml.cluster.local import LocalCluster

pytestmark = pytest.mark.anyio


HTTP_SERVER = """
    import http.server, os, sys

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in ("/ready", "/") else 404)
            self.end_headers()
            self.wfile.write(b"{version}")
        def log_message(self, *args):
            pass

    address = (os.environ["KUBEAUTOML_BIND_HOST"], int(os.environ["KUBEAUTOML_PORT"]))
    http.server.HTTPServer(address, Handler).serve_forever()
"""


def make_server(version: str, *, code: str = HTTP_SERVER, path: str = "/ready", replicas: int = 1) -> Manifest:
    """A Deployment of a tiny HTTP server."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "server", "namespace": "team-a"},
        "spec": {
            "replicas": replicas,
            "progressDeadlineSeconds": 1,
            "selector": {"matchLabels": {"app": "server"}},
            "template": {
                "metadata": {"labels": {"app": "server"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [
                        {
                            "name": "server",
                            "image": "none",
                            "command": [sys.executable, "-c", textwrap.dedent(code).replace("{version}", version)],
                            "ports": [{"name": "http", "containerPort": 8080}],
                            "env": [{"name": Env.PORT.value, "value": "8080"}],
                            "readinessProbe": {"httpGet": {"path": path, "port": "http"}, "periodSeconds": 1},
                        }
                    ],
                },
            },
        },
    }


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path, serve=True) as cluster:
        yield cluster


async def fetched(cluster: LocalCluster) -> str:
    """What the endpoint answers; empty while there is none."""
    url = cluster.endpoint(SERVER)
    if url is None:
        return ""

    def read() -> str:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(read)


async def until_answered(cluster: LocalCluster, version: str) -> None:
    async def answers() -> bool:
        return await fetched(cluster) == version

    await eventually(answers, f"the endpoint answers {version}")


async def test_a_deployment_is_available_once_its_server_is_ready(serving: LocalCluster) -> None:
    """The endpoint answers on this machine; the status counts as a real Deployment's does."""
    await serving.apply(make_server("one"))

    await until_answered(serving, "one")

    deployment = await serving.get(SERVER)
    assert deployment is not None
    status = deployment["status"]
    assert (status["observedGeneration"], status["replicas"], status["availableReplicas"]) == (1, 1, 1)
    assert condition(deployment, "Available")["status"] == "True"
    assert condition(deployment, "Progressing")["reason"] == "NewReplicaSetAvailable"


async def test_the_old_server_stays_until_the_new_one_answers(serving: LocalCluster) -> None:
    """A new template starts beside the old server; a version that never gets ready replaces nothing and says so."""
    await serving.apply(make_server("one"))
    await until_answered(serving, "one")

    await serving.apply(make_server("bad", path="/never"))

    async def stuck() -> bool:
        deployment = await serving.get(SERVER)
        return deployment is not None and condition(deployment, "Progressing")["status"] == "False"

    await eventually(stuck, "the roll-out missed its deadline")
    still = await fetched(serving)
    await serving.apply(make_server("two"))
    await until_answered(serving, "two")

    async def alone() -> bool:
        return len(await serving.list("Pod", "team-a")) == 1

    await eventually(alone, "only the new server is left")
    assert still == "one"


async def test_a_crashing_server_is_started_again(serving: LocalCluster) -> None:
    """The pod stays, counts restarts, and says CrashLoopBackOff while it waits."""
    await serving.apply(make_server("x", code="raise SystemExit('no model')"))

    seen: list[Manifest] = []

    async def waits_after_two_starts() -> bool:
        pods = await serving.list("Pod", "team-a")
        seen[:] = [c for p in pods for c in p["status"].get("containerStatuses", [])]
        return any(c["restartCount"] >= 2 and "waiting" in c["state"] for c in seen)

    await eventually(waits_after_two_starts, "the server was started again twice")
    assert [(c["state"]["waiting"]["reason"], c["ready"]) for c in seen] == [("CrashLoopBackOff", False)]


async def test_without_serving_a_deployment_is_only_stored(cluster: LocalCluster) -> None:
    """No process, no status, no endpoint."""
    await cluster.apply(make_server("one"))
    await cluster.apply(make_service("team-a", "server"))
    await asyncio.sleep(0.05)

    assert await cluster.list("Pod") == []
    assert cluster.endpoint(SERVER) is None
