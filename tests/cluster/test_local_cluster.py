"""LocalCluster: the contract, and its own life."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.contract import ClusterContract, eventually
from cluster.local_factories import (
    is_alive,
    make_workers,
    pods_of,
    until_phases,
)
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cluster.local import LocalCluster

pytestmark = pytest.mark.anyio


class TestLocalCluster(ClusterContract):
    async def edit(self, cluster: Any, ref: Ref, patch: Manifest) -> None:
        await cluster.edit(ref, patch)

    async def messages(self, cluster: Any, namespace: str, uid: str) -> list[str]:
        return [e.event.message for e in cluster.events if e.uid == uid]


async def test_leaving_ends_every_process(tmp_path: Path) -> None:
    """close() ends what runs, what just starts, and may be called again."""
    cluster = LocalCluster(tmp_path)
    await cluster.apply(make_workers("import time; time.sleep(60)", parallelism=3))
    await until_phases(cluster, "Running", "Running", "Running")
    pids = [cluster.pid_of(p["metadata"]["name"]) for p in await pods_of(cluster)]
    await cluster.apply(make_workers("import time; time.sleep(60)", parallelism=5))
    await asyncio.sleep(0)

    await cluster.close()
    await cluster.close()

    assert not any(is_alive(pid) for pid in pids)
    assert not (tmp_path / "pods").exists()


async def test_an_idle_cluster_uses_no_cpu(cluster: LocalCluster) -> None:
    """While processes sleep, this one does, too: under 2 % of a core."""
    await cluster.apply(make_workers("import time; time.sleep(60)", parallelism=2))
    await until_phases(cluster, "Running", "Running")
    await asyncio.sleep(0.2)

    before, began = time.process_time(), time.monotonic()
    await asyncio.sleep(1)

    assert (time.process_time() - before) / (time.monotonic() - began) < 0.02


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
async def test_processes_die_with_a_killed_parent(tmp_path: Path) -> None:
    """SIGKILL to the process that owns the cluster leaves no worker."""
    code = """
        import asyncio, pathlib, sys
        from kubeautoml.cluster.local import LocalCluster

        async def main():
            async with LocalCluster(pathlib.Path(sys.argv[1])) as cluster:
                job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "w", "namespace": "a"}, "spec": {
                    "parallelism": 2, "template": {"spec": {"restartPolicy": "Never", "containers": [
                        {"name": "main", "command": [sys.executable, "-S", "-c",
                         "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]}]}}}}
                await cluster.apply(job)
                await asyncio.sleep(60)

        asyncio.run(main())
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)])

    def pids() -> list[int]:
        return [int(f.read_text()) for f in (tmp_path / "logs").glob("*.log") if f.read_text().endswith("\n")]

    async def both_run() -> bool:
        return len(pids()) == 2

    async def none_runs() -> bool:
        return not any(is_alive(pid) for pid in pids())

    try:
        await eventually(both_run, "two workers run")
        parent.kill()
        parent.wait()
        await eventually(none_runs, "no worker is left")
        assert [is_alive(pid) for pid in pids()] == [False, False]
    finally:
        parent.kill()
