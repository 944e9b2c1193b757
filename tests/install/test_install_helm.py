"""The chart on a real API server with real Helm: installed, tested, upgraded, rolled back, removed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from install.conftest import HOME, RELEASE, Cluster

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(300)]


def wait_until(holds: Callable[[], Any], cluster: Cluster, what: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := holds()):
        assert time.monotonic() < deadline, f"{what} did not happen\n{cluster.logs()}"
        time.sleep(0.2)
    return result


def is_available(cluster: Cluster, name: str) -> bool:
    deployment = cluster.deployment(name)
    status = deployment.get("status", {})
    return bool(
        status.get("observedGeneration") == deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == status.get("availableReplicas", 0) == deployment["spec"]["replicas"]
    )


def test_one_command_installs_an_operator_that_works(cluster: Cluster, chart: Path, values: dict[str, Any]) -> None:
    began = time.monotonic()
    cluster.helm.install(chart, RELEASE, values, namespace=HOME, create_namespace=True, wait="watcher", timeout=120)
    wait_until(lambda: is_available(cluster, "kubeautoml-operator"), cluster, "a ready operator")
    wait_until(lambda: is_available(cluster, "kubeautoml-study"), cluster, "a ready study server")
    print(f"helm install to a Ready operator: {time.monotonic() - began:.1f} s")


def test_helm_test_passes(cluster: Cluster) -> None:
    """The operator is ready, and the study server answers by its name over TLS, with its database behind it."""
    done = cluster.helm.test(RELEASE, timeout=120, logs=True)

    assert done["release"]["status"] == "deployed"
    assert done["logs"].count(": ok\n") == 2, done["logs"]
