"""What the operator's benchmarks share: jobs, waiting, and figures read from a process and its metrics."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from real.controlplane import ControlPlane
from real.operator_process import OperatorProcess

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
WRITES = ("apply", "delete", "patch_status", "emit", "replace", "create")


def make_job(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    """An AutoMLJob with one worker; nothing in it is read unless a worker runs."""
    return {
        "apiVersion": "kubeautoml.dev/v1alpha1",
        "kind": "AutoMLJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "task": {"type": "TabularClassification", "target": "churned"},
            "dataset": {"train": {"uri": "s3://lake/churn.csv"}},
            "budget": {"maxTrials": 1000},
            "workers": {"parallelism": 1},
            "output": {"uri": "s3://models/bench"},
            **spec,
        },
    }


def create_job(plane: ControlPlane, job: dict[str, Any]) -> None:
    path = f"/apis/kubeautoml.dev/v1alpha1/namespaces/{job['metadata']['namespace']}/automljobs"
    plane.admin.post(path, job)


def worker_jobs(plane: ControlPlane, namespace: str) -> set[str]:
    """Names of the AutoMLJobs that have a worker Job."""
    found = plane.admin.items(f"/apis/batch/v1/namespaces/{namespace}/jobs")
    return {job["metadata"]["labels"]["kubeautoml.dev/job"] for job in found}


def wait(holds: Callable[[], T], seconds: float, what: str) -> T:
    """What it returns as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)
    return found


def memory_mib(pid: int, what: str = "VmRSS") -> float:
    """Resident memory of a process now, or with VmHWM at its peak."""
    found = re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def writes(operator: OperatorProcess, *, with_lease: bool = True) -> float:
    """Requests to the API server that may change something. The Lease's, one every two seconds, are no job's."""
    return sum(
        value
        for name, labels, value in operator.metrics()
        if name == "kubeautoml_api_requests_total"
        and labels["verb"] in WRITES
        and (with_lease or labels["kind"] != "Lease")
    )


def buckets(operator: OperatorProcess, histogram: str, **only: str) -> dict[float, float]:
    """How many observations a histogram has up to each bound, so far."""
    sums: dict[float, float] = {}
    for name, labels, value in operator.metrics():
        if name == f"{histogram}_bucket" and only.items() <= labels.items():
            bound = float(labels["le"])
            sums[bound] = sums.get(bound, 0.0) + value
    return sums


def quantile(now: dict[float, float], share: float, before: dict[float, float] | None = None) -> float:
    """As Prometheus' histogram_quantile, of what was observed since `before`; in the last bucket its lower end."""
    sums = {bound: count - (before or {}).get(bound, 0.0) for bound, count in sorted(now.items())}
    wanted, below, under = share * max(sums.values(), default=0.0), 0.0, 0.0
    for bound, count in sums.items():
        if count >= wanted:
            if bound == float("inf"):
                return below
            return below + (bound - below) * (wanted - under) / max(count - under, 1e-12)
        below, under = bound, count
    return below
