"""A cluster whose children are read from memory: one watch a kind instead of lists at every pass.

An operator of a thousand jobs looks at each again and again; asking the server each time would cost it several lists a pass.
What is kept is small (compact JSON of what the planner reads) and parsed at every read, so that what comes out is a copy.
What this process writes is seen at once; a watch event that is older than an own write is passed over.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.names import LABEL_JOB_UID
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.cluster.base import Change, Cluster, Heard

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

GONE_SECONDS = 60.0
"""Events that are still on their way for an object that we have deleted arrive within this time."""

Manifests = list[Manifest]  # aliases, since `list` is a method below
Watches = list[tuple[str, str | None]]

_EMPTY = {"Forbidden": "may not be seen", "NotFound": "is unknown to the server"}


class FollowedCluster(Cluster, Protocol):
    """A cluster whose watches also say that they live."""

    def follow(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change | Heard]:
        """A watch that also says that the server lives, and when everything there is has been told."""
        ...


@dataclass(frozen=True)
class _Kept:
    """One object: what tells incarnations and versions apart, whose it is, and itself as JSON."""

    uid: str
    version: int | None
    job_uid: str
    data: bytes


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
        self._shelves = {kind: _Shelf(clock) for kind in (*CHILD_KINDS, PROFILE)}
        self._heard: dict[tuple[str, str | None], float | None] = dict.fromkeys(self._watches())

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
            ClusterError: a kind that is needed may not be seen or is not there.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for kind, namespace in self._watches():
                    group.create_task(self._watch(kind, namespace), name=f"watch {kind}")
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error

    # Cluster protocol: reads

    async def get(self, ref: Ref) -> Manifest | None:
        if ref.kind == PROFILE and self._is_listed(PROFILE):
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
        if fresh or not job_uid or kind not in CHILD_KINDS or not self._is_listed(kind):
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
            self._shelves[ref.kind].forget(ref, uid)
        return was_there

    async def patch_status(self, ref: Ref, status: Manifest) -> None:
        await self._cluster.patch_status(ref, status)

    async def emit(self, ref: Ref, uid: str, event: EventOrder) -> None:
        await self._cluster.emit(ref, uid, event)

    # Watching

    def _watches(self) -> Watches:
        children = [(kind, namespace) for kind in CHILD_KINDS for namespace in self._namespaces or (None,)]
        return [*children, (PROFILE, None)]

    def _is_listed(self, kind: str) -> bool:
        return all(heard is not None for (k, _), heard in self._heard.items() if k == kind)

    async def _watch(self, kind: str, namespace: str | None) -> None:
        labels = None if kind == PROFILE else {LABEL_JOB_UID: ""}
        while True:
            try:
                async for item in self._cluster.follow(kind, namespace, labels):
                    self._take(kind, namespace, item)
            except ClusterError as error:
                if error.reason not in _EMPTY or not self._may_be_missing(kind):
                    raise
                log.info("kind counts as empty", extra={"kind": kind, "why": _EMPTY[error.reason]})
                await self._count_as_empty(kind, namespace)

    def _may_be_missing(self, kind: str) -> bool:
        """An operator with rights in some namespaces only has none to profiles, and does with its own settings."""
        return kind in self._optional or (kind == PROFILE and bool(self._namespaces))

    async def _count_as_empty(self, kind: str, namespace: str | None) -> None:
        until = self._clock() + UNKNOWN_KIND_SECONDS
        while self._clock() < until:
            self._heard[kind, namespace] = self._clock()
            await asyncio.sleep(10.0)

    def _take(self, kind: str, namespace: str | None, item: Change | Heard) -> None:
        if isinstance(item, Change):
            is_news = self._remove(item.manifest) if item.type == "DELETED" else self._keep(item.manifest)
            if is_news:
                self._on_change(item)
        if self._heard[kind, namespace] is not None or (isinstance(item, Heard) and item.is_listed):
            self._heard[kind, namespace] = self._clock()

    def _keep(self, manifest: Manifest) -> bool:
        shelf = self._shelves.get(manifest["kind"])
        return shelf is not None and shelf.put(manifest)

    def _remove(self, manifest: Manifest) -> bool:
        self._shelves[manifest["kind"]].forget(Ref.of(manifest), manifest["metadata"]["uid"])
        return True


class _Shelf:
    """The objects of one kind, found by name or by job."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: dict[Ref, _Kept] = {}
        self._of_job: dict[str, set[Ref]] = {}
        self._gone: dict[str, float] = {}

    def get(self, ref: Ref) -> Manifest | None:
        kept = self._kept.get(ref)
        return json.loads(kept.data) if kept else None

    def of_job(self, job_uid: str) -> list[Manifest]:
        return [json.loads(self._kept[ref].data) for ref in sorted(self._of_job.get(job_uid, ()))]

    def put(self, manifest: Manifest) -> bool:
        """Keep it unless something newer is known; whether it was news."""
        ref, meta = Ref.of(manifest), manifest["metadata"]
        uid, version = meta["uid"], _version(meta["resourceVersion"])
        before = self._kept.get(ref)
        if before is not None and before.uid == uid and version is not None and (before.version or 0) >= version:
            return False
        if uid in self._gone and "deletionTimestamp" not in meta:
            return False
        self._discard(ref)
        job_uid = meta.get("labels", {}).get(LABEL_JOB_UID, "")
        data = json.dumps(_trimmed(manifest), separators=(",", ":")).encode()
        self._kept[ref] = _Kept(uid, version, job_uid, data)
        self._of_job.setdefault(job_uid, set()).add(ref)
        return True

    def forget(self, ref: Ref, uid: str | None) -> None:
        """Drop it, in this incarnation; events about it that are still on their way bring nothing back."""
        kept = self._kept.get(ref)
        gone = uid or (kept.uid if kept else None)
        if gone is not None:
            now = self._clock()
            self._gone = {u: since for u, since in self._gone.items() if now - since < GONE_SECONDS}
            self._gone[gone] = now
        if kept is not None and kept.uid == gone:
            self._discard(ref)

    def _discard(self, ref: Ref) -> None:
        kept = self._kept.pop(ref, None)
        if kept is None:
            return
        refs = self._of_job[kept.job_uid]
        refs.discard(ref)
        if not refs:
            del self._of_job[kept.job_uid]


def _version(text: str) -> int | None:
    """Versions of one kind grow (a promise of Kubernetes since 1.35, true before); one that is no number is always news."""
    return int(text) if text.isdecimal() else None


_POD_STATUS = ("phase", "reason", "message", "conditions", "containerStatuses", "startTime")
_POD_CONTAINER = ("name", "resources")


def _trimmed(manifest: Manifest) -> Manifest:
    """Without what nobody reads: of a pod, the planner wants its state and what it holds, not what it runs."""
    if manifest["kind"] != "Pod":
        return manifest
    spec, status = manifest.get("spec", {}), manifest.get("status", {})
    containers = [{k: c[k] for k in _POD_CONTAINER if k in c} for c in spec.get("containers", ())]
    return {
        **manifest,
        "spec": {"containers": containers, **{k: spec[k] for k in ("nodeName",) if k in spec}},
        "status": {k: status[k] for k in _POD_STATUS if k in status},
    }


def _matches(manifest: Manifest, namespace: str | None, labels: dict[str, str]) -> bool:
    found = manifest["metadata"].get("labels", {})
    in_namespace = namespace is None or manifest["metadata"].get("namespace") == namespace
    return in_namespace and all(name in found and value in ("", found[name]) for name, value in labels.items())
