"""Jobs of Python code on a local cluster, and waiting for what becomes of them."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

from cluster.contract import eventually
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cluster.local import LocalCluster
from kubeautoml.cluster.local_job import is_finished

WORKERS = Ref("Job", "team-a", "w")
SERVER = Ref("Deployment", "team-a", "server")


def make_workers(
    code: str, *, parallelism: int = 1, container: Manifest | None = None, pod: Manifest | None = None, **spec: Any
) -> Manifest:
    """A batch Job whose pods run Python code."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "w", "namespace": "team-a"},
        "spec": {
            "parallelism": parallelism,
            "backoffLimit": 3,
            **spec,
            "template": {
                "metadata": {"labels": {"app": "w"}},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [
                        {
                            "name": "main",
                            "image": "none",
                            "command": [sys.executable, "-S", "-c", textwrap.dedent(code)],
                            **(container or {}),
                        }
                    ],
                    **(pod or {}),
                },
            },
        },
    }


async def pods_of(cluster: LocalCluster) -> list[Manifest]:
    return await cluster.list("Pod", "team-a", {"app": "w"})


async def phases(cluster: LocalCluster) -> list[str]:
    return sorted(p["status"]["phase"] for p in await pods_of(cluster))


async def until_finished(cluster: LocalCluster) -> Manifest:
    """The Job, once it is Complete or Failed."""

    async def finished() -> bool:
        job = await cluster.get(WORKERS)
        return job is not None and is_finished(job)

    await eventually(finished, "the Job is finished")
    job = await cluster.get(WORKERS)
    assert job is not None
    return job


async def until_phases(cluster: LocalCluster, *expected: str) -> None:
    async def reached() -> bool:
        return await phases(cluster) == sorted(expected)

    await eventually(reached, f"pods are {expected}")


def condition(manifest: Manifest, kind: str) -> Manifest:
    return next(c for c in manifest["status"]["conditions"] if c["type"] == kind)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def logged(cluster: LocalCluster, pod: Manifest, text: str) -> None:
    """Wait until a pod has printed something."""
    log = cluster.log_file(pod["metadata"]["name"])

    async def printed() -> bool:
        return log.exists() and text in log.read_text()

    await eventually(printed, f"{text!r} is in {log}")
