"""A cluster whose children are read from memory: one watch a kind instead of lists at every pass.

An operator of a thousand jobs looks at each again and again; asking the server each time would cost it several lists a pass.
What is kept is small (compact JSON of what the planner reads) and parsed at every read, so that what comes out is a copy.
What this process writes is seen at once; `Shelf` says which of two stories about an object is believed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Protocol

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.names import LABEL_JOB_UID
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.cluster.base import Change, Cluster, Heard
from kubeautoml.cluster.shelf import Shelf

log = logging.getLogger(__name__)

CHILD_KINDS = (
    "Job",
    "Pod",
    "AutoMLModel",
    "Deployment",
    "Service",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "NetworkPolicy",
)
"""Watched by the label that all children carry, so that the server sends no other objects."""

PROFILE = "AutoMLProfile"

UNKNOWN_KIND_SECONDS = 300.0
"""A kind that the server does not know, or that we may not see, is asked for again after this long; a guess."""

PAUSE_SECONDS = 5.0
"""Before a watch that ended is begun anew, and between two looks at the clock."""

Manifests = list[Manifest]  # aliases, since `list` is a method below
Watch = tuple[str, str | None]
Watches = list[Watch]

_REFUSALS = ("Unauthorized", "Forbidden", "NotFound", "Invalid", "BadRequest")
_EMPTY = {"Forbidden": "may not be seen", "NotFound": "is unknown to the server"}


class FollowedCluster(Cluster, Protocol):
    """A cluster whose watches also say that they live."""

    def follow(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change | Heard]:
        """A watch that also says that the server lives, and when everything there is has been told."""
        ...


class CachedCluster:
    """`cluster.base.Cluster` over another one. Use it in one event loop, and let `run` run.

    Args:
        namespaces: to watch; empty for all.
        on_change: told every change of a child or a profile, in the event loop.
        optional: kinds that may be missing or forbidden: they then count as empty.
        clock: seconds of a clock that only goes forward.
    """

    def __init__(
        self,
        cluster: FollowedCluster,
        namespaces: tuple[str, ...] = (),
        on_change: Callable[[Change], None] = lambda _: None,
        optional: frozenset[str] = frozenset({"HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"}),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._namespaces = namespaces
        self._on_change = on_change
        self._optional = optional
        self._clock = clock
        self._shelves = {kind: Shelf(clock) for kind in (*CHILD_KINDS, PROFILE)}
        self._heard: dict[Watch, float | None] = dict.fromkeys(self._watches())
        self._tasks: dict[Watch, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    @property
    def is_synced(self) -> bool:
        """Whether every kind has been listed once; before, lists ask the server."""
        return all(heard is not None for heard in self._heard.values())

    def silence_seconds(self) -> float:
        """The longest time for which a watch has heard nothing, not even that there is nothing new."""
        now = self._clock()
        return max((now - heard for heard in self._heard.values() if heard is not None), default=0.0)

    async def run(self) -> None:
        """Watch until cancelled.

        Raises:
            ClusterError: a kind that is needed is not there, or may not be seen by who works in the whole cluster. Whether there
                are rights in a namespace is for the caller to find out, who calls `serve`.
        """
        try:
            async with asyncio.TaskGroup() as self._group:
                for watch in self._watches():
                    self._begin(self._group, watch)
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error
        finally:
            self._group = None

    def serve(self, namespaces: tuple[str, ...]) -> None:
        """Watch these namespaces from now on, of some that are watched."""
        self._namespaces = namespaces
        wanted = self._watches()
        for watch in self._heard.keys() - set(wanted):
            del self._heard[watch]
            if watch in self._tasks:
                self._tasks.pop(watch).cancel()
        for watch in wanted:
            if watch not in self._heard:
                self._heard[watch] = None
                if self._group is not None:
                    self._begin(self._group, watch)

    # Cluster protocol: reads

    async def get(self, ref: Ref) -> Manifest | None:
        if ref.kind == PROFILE and self._heard[PROFILE, None] is not None:
            return self._shelves[PROFILE].get(ref)
        return await self._cluster.get(ref)

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        labels: dict[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> list[Manifest]:
        job_uid = (labels or {}).get(LABEL_JOB_UID)
        if fresh or not job_uid or kind not in CHILD_KINDS or not self._covers(kind, namespace):
            return await self._cluster.list(kind, namespace, labels, fresh=fresh)
        found = self._shelves[kind].of_job(job_uid)
        return [m for m in found if _matches(m, namespace, labels or {})]

    def watch(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change]:
        return self._cluster.watch(kind, namespace, labels)

    # Cluster protocol: writes

    async def apply(self, manifest: Manifest) -> Manifest:
        stored = await self._cluster.apply(manifest)
        self._keep(stored)
        return stored

    async def delete(self, ref: Ref, *, uid: str | None = None) -> bool:
        was_there = await self._cluster.delete(ref, uid=uid)
        if ref.kind in self._shelves:
            with suppress(ClusterError):  # it is done; the watch will tell the rest
                await self._see_what_is_left(ref, uid)
        return was_there

    async def patch_status(self, ref: Ref, status: Manifest) -> None:
        await self._cluster.patch_status(ref, status)
        if ref.kind in self._shelves:
            with suppress(ClusterError):
                written = await self._cluster.get(ref)
                if written is not None:
                    self._keep(written)

    async def emit(self, ref: Ref, uid: str, event: EventOrder) -> None:
        await self._cluster.emit(ref, uid, event)

    # Watching

    def _begin(self, group: asyncio.TaskGroup, watch: Watch) -> None:
        self._tasks[watch] = group.create_task(self._watch(*watch), name=f"watch {watch[0]}")

    def _watches(self) -> Watches:
        children = [(kind, namespace) for kind in CHILD_KINDS for namespace in self._namespaces or (None,)]
        return [*children, (PROFILE, None)]

    def _covers(self, kind: str, namespace: str | None) -> bool:
        """Whether memory knows all objects of a kind in a namespace."""
        return self._heard.get((kind, namespace if self._namespaces else None)) is not None

    async def _watch(self, kind: str, namespace: str | None) -> None:
        while True:
            try:
                await self._follow(kind, namespace)
            except ClusterError as error:
                if error.reason in _EMPTY and self._may_be_missing(kind):
                    log.info("kind counts as empty", extra={"kind": kind, "why": _EMPTY[error.reason]})
                    await self._count_as_empty(kind, namespace)
                elif error.reason in _REFUSALS and not (namespace and error.reason == "Forbidden"):
                    raise
                else:
                    log.warning("watch begins anew", extra={"kind": kind, "error": str(error)})
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _follow(self, kind: str, namespace: str | None) -> None:
        """One watch, until it fails. What it does not list, but was known before, is gone."""
        labels = None if kind == PROFILE else {LABEL_JOB_UID: ""}
        unseen = self._shelves[kind].uids(namespace)
        is_listed = False
        async for item in self._cluster.follow(kind, namespace, labels):
            if isinstance(item, Change):
                unseen.pop(Ref.of(item.manifest), None)
                self._take(item)
            elif item.is_listed and not is_listed:
                is_listed = True
                self._drop(kind, unseen)
            if is_listed:
                self._heard[kind, namespace] = self._clock()

    def _may_be_missing(self, kind: str) -> bool:
        """An operator with rights in some namespaces only has none to profiles, and does with its own settings."""
        return kind in self._optional or (kind == PROFILE and bool(self._namespaces))

    async def _count_as_empty(self, kind: str, namespace: str | None) -> None:
        self._drop(kind, self._shelves[kind].uids(namespace))
        until = self._clock() + UNKNOWN_KIND_SECONDS
        while self._clock() < until:
            self._heard[kind, namespace] = self._clock()
            await asyncio.sleep(PAUSE_SECONDS)

    def _take(self, change: Change) -> None:
        shelf = self._shelves[change.manifest["kind"]]
        if change.type == "DELETED":
            shelf.forget_as_told(change.manifest)
        elif not shelf.put(change.manifest):
            return
        self._on_change(change)

    def _keep(self, manifest: Manifest) -> None:
        if manifest["kind"] in self._shelves:
            self._shelves[manifest["kind"]].put(manifest)

    def _drop(self, kind: str, unseen: dict[Ref, str]) -> None:
        """Objects of which only our memory knows any more."""
        shelf = self._shelves[kind]
        for ref, uid in unseen.items():
            known = shelf.get(ref)
            if known is not None and known["metadata"]["uid"] == uid:
                shelf.forget(ref, uid)
                self._on_change(Change("DELETED", known))

    async def _see_what_is_left(self, ref: Ref, uid: str | None) -> None:
        """After a deletion of ours: nothing, or an object that says that it is going."""
        shelf = self._shelves[ref.kind]
        left = await self._cluster.get(ref) if shelf.may_linger(ref) else None
        if left is None or uid not in (None, left["metadata"]["uid"]):
            shelf.forget(ref, uid)
        else:
            shelf.put(left)


def _matches(manifest: Manifest, namespace: str | None, labels: dict[str, str]) -> bool:
    found = manifest["metadata"].get("labels", {})
    in_namespace = namespace is None or manifest["metadata"].get("namespace") == namespace
    return in_namespace and all(name in found and value in ("", found[name]) for name, value in labels.items())
