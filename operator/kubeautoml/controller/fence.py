"""Lets writes pass while we lead, and waits for those under way when we stop: two leaders never write at the same time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.cluster.base import Change, Cluster

log = logging.getLogger(__name__)
T = TypeVar("T")


class Fence:
    """Around everything that writes. Use it in one event loop.

    Args:
        is_held: whether we lead for certain, by our own clock. A process that was stopped for a minute finds out here,
            before its next write, and not when its other threads have had their turn.
    """

    def __init__(self, is_held: Callable[[], bool] = lambda: True) -> None:
        self._is_held = is_held
        self._is_closed = False
        self._under_way: set[asyncio.Future[Any]] = set()

    async def pass_(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write, unless somebody else may be leading. A write that has begun goes on when its caller is cancelled.

        Raises:
            ClusterError: reason NotLeading.
        """
        if self._is_closed or not self._is_held():
            raise ClusterError("this operator does not lead any more, so it writes nothing", reason="NotLeading")
        task = asyncio.ensure_future(write())
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def close(self, seconds: float) -> None:
        """Let nothing more pass, and wait for what is under way, at most so long."""
        self._is_closed = True
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=seconds)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may be gone; then nobody else would look


class FencedCluster:
    """`cluster.base.Cluster` whose writes pass a fence. What was done to children is in the log, with the job it was for."""

    def __init__(self, cluster: Cluster, fence: Fence) -> None:
        self._cluster = cluster
        self._fence = fence

    async def get(self, ref: Ref) -> Manifest | None:
        return await self._cluster.get(ref)

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        labels: dict[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> list[Manifest]:
        return await self._cluster.list(kind, namespace, labels, fresh=fresh)

    def watch(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change]:
        return self._cluster.watch(kind, namespace, labels)

    async def apply(self, manifest: Manifest) -> Manifest:
        stored = await self._fence.pass_(lambda: self._cluster.apply(manifest))
        log.info("object applied", extra={"kind": manifest["kind"], "object": manifest["metadata"]["name"]})
        return stored

    async def delete(self, ref: Ref, *, uid: str | None = None) -> bool:
        was_there = await self._fence.pass_(lambda: self._cluster.delete(ref, uid=uid))
        log.info("object deleted", extra={"kind": ref.kind, "object": ref.name, "was_there": was_there})
        return was_there

    async def patch_status(self, ref: Ref, status: Manifest) -> None:
        await self._fence.pass_(lambda: self._cluster.patch_status(ref, status))

    async def emit(self, ref: Ref, uid: str, event: EventOrder) -> None:
        await self._fence.pass_(lambda: self._cluster.emit(ref, uid, event))
