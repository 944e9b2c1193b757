"""What tests of the client behind a failing network share: services to watch, and caches over them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from cluster.contract import make_service
from kubeautoml.api.names import LABEL_JOB_UID
from kubeautoml.cluster.base import Change
from kubeautoml.cluster.cached import CachedCluster
from kubeautoml.cluster.kube import KubeCluster

OF_JOB = {LABEL_JOB_UID: "job-1"}


class Told:
    """What a cache told its owner, of the objects of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.changes: list[tuple[str, str]] = []

    def __call__(self, change: Change) -> None:
        metadata = change.manifest["metadata"]
        if metadata.get("namespace") == self.namespace:
            self.changes.append((change.type, metadata["name"]))


@asynccontextmanager
async def synced(cluster: KubeCluster, told: Callable[[Change], None] = lambda _: None) -> AsyncIterator[CachedCluster]:
    """A cache over a cluster, once it has listed."""
    cached = CachedCluster(cluster, on_change=told)
    task = asyncio.create_task(cached.run())
    try:
        await eventually(lambda: cached.is_synced or task.done())
        yield cached
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.02)


async def heard_since(cached: CachedCluster, moment: float) -> None:
    """Wait until every watch has heard something after a moment of the monotonic clock.

    Each comes back in its own time, seconds apart, and may then hear nothing for a minute: so no bound on the longest silence
    holds for all of them at once.
    """
    await eventually(lambda: cached.silence_seconds() < time.monotonic() - moment)


def service(namespace: str, name: str, port: int = 80) -> dict[str, Any]:
    return make_service(namespace, name, labels=OF_JOB, ports=(port,))
