"""A cluster in this process's memory: what an API server and its garbage collector do, and nothing more.

Tests use it as it is; `local.LocalCluster` adds controllers and pods. It is not thread-safe: one event loop owns it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kubeautoml.api.errors import ClusterError, Conflict
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.cluster.base import Change, Heard
from kubeautoml.cluster.merge import apply_fields, leftovers, merge_patch, still_owned

CLUSTER_SCOPED = frozenset({"AutoMLProfile", "CustomResourceDefinition", "Namespace"})
_SERVER_FIELDS = ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "managedFields")


@dataclass
class _Stored:
    """One object, and what our field manager sent for it last."""

    manifest: Manifest
    owned: Manifest = field(default_factory=dict)
    owned_status: Manifest = field(default_factory=dict)


@dataclass(frozen=True)
class EmittedEvent:
    """An event as `emit` got it."""

    ref: Ref
    uid: str
    event: EventOrder


class MemoryCluster:
    """`cluster.base.Cluster` without a server, plus what other clients do (`put`, `edit`) and faults for tests.

    Args:
        new_uid: makes the uid of a new object; give a counter for repeatable tests.
        clock: the time of creation and deletion stamps.
    """

    def __init__(
        self, *, new_uid: Callable[[], str] | None = None, clock: Callable[[], datetime] | None = None
    ) -> None:
        self._new_uid = new_uid or (lambda: str(uuid.uuid4()))
        self._clock = clock or (lambda: datetime.now(UTC))
        self._objects: dict[Ref, _Stored] = {}
        self._version = 0
        self._watchers: list[tuple[str, str | None, asyncio.Queue[Change | Heard]]] = []
        self._faults: list[tuple[str | None, Exception]] = []
        self._collecting = False
        self.events: list[EmittedEvent] = []
        """Every event emitted, oldest first."""
        self.calls: list[tuple[str, str]] = []
        """Every call of the Cluster protocol, as (verb, kind), oldest first."""

    # Cluster protocol

    async def get(self, ref: Ref) -> Manifest | None:
        self._count("get", ref.kind)
        stored = self._objects.get(ref)
        return deepcopy(stored.manifest) if stored else None

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        labels: dict[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> list[Manifest]:
        self._count("list", kind)
        found = [self._objects[ref].manifest for ref in sorted(self._objects) if _is_in(ref, kind, namespace)]
        return [deepcopy(m) for m in found if _has_labels(m, labels or {})]

    async def watch(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change]:
        async for item in self.follow(kind, namespace, labels):
            if isinstance(item, Change):
                yield item

    async def follow(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change | Heard]:
        """As the real one's: also tells when everything there is has been told."""
        self._count("watch", kind)
        queue: asyncio.Queue[Change | Heard] = asyncio.Queue()
        for ref in sorted(self._objects):
            if _is_in(ref, kind, namespace):
                queue.put_nowait(Change("ADDED", deepcopy(self._objects[ref].manifest)))
        queue.put_nowait(Heard(is_listed=True))
        entry = (kind, namespace, queue)
        self._watchers.append(entry)
        told: set[Ref] = set()
        try:
            while True:
                item = await queue.get()
                seen = item if isinstance(item, Heard) else _as_selected(item, labels or {}, told)
                if seen is not None:
                    yield seen
        finally:
            self._watchers.remove(entry)

    async def apply(self, manifest: Manifest) -> Manifest:
        ref = _named(manifest)
        self._count("apply", ref.kind)
        sent = _without_server_fields(manifest)
        stored = self._objects.get(ref)
        self._check_uid(manifest, stored)
        owned, current = (stored.owned, stored.manifest) if stored else ({}, {})
        spec_part = {k: v for k, v in current.items() if k != "status"}
        result = apply_fields(_without_server_fields(spec_part), owned, sent)
        return deepcopy(self._store(ref, result, owned=sent))

    async def delete(self, ref: Ref, *, uid: str | None = None) -> bool:
        self._count("delete", ref.kind)
        stored = self._objects.get(ref)
        if stored is None or (uid is not None and stored.manifest["metadata"]["uid"] != uid):
            return False
        self._begin_delete(ref)
        return True

    async def patch_status(self, ref: Ref, status: Manifest) -> None:
        self._count("patch_status", ref.kind)
        stored = self._existing(ref)
        found = stored.manifest.get("status", {})
        result = apply_fields(found, stored.owned_status, status)
        result = merge_patch(result, leftovers(result, status))
        stored.owned_status = deepcopy(status)
        self._write_status(ref, result)

    async def emit(self, ref: Ref, uid: str, event: EventOrder) -> None:
        self._count("emit", "Event")
        self.events.append(EmittedEvent(ref, uid, event))

    # What other clients do

    async def put(self, manifest: Manifest) -> Manifest:
        """Create or replace a whole object, status included, as another client; a given uid is kept.

        Raises:
            Conflict: the object exists with another uid.
        """
        ref = _named(manifest)
        stored = self._objects.get(ref)
        self._check_uid(manifest, stored)
        body = {k: deepcopy(v) for k, v in _without_server_fields(manifest).items() if k != "status"}
        self._store(ref, body, uid=manifest["metadata"].get("uid"))
        if "status" in manifest:
            self._write_status(ref, deepcopy(manifest["status"]))
        return deepcopy(self._objects[ref].manifest)

    async def edit(self, ref: Ref, patch: Manifest) -> Manifest:
        """Merge-patch an object, status included, as another client: fields it changes become its own."""
        self._edit(ref, patch)
        return deepcopy(self._existing(ref).manifest) if ref in self._objects else {}

    def _edit(self, ref: Ref, patch: Manifest) -> None:
        stored = self._existing(ref)
        changed = merge_patch({k: v for k, v in stored.manifest.items() if k != "status"}, patch)
        status = changed.pop("status", None)
        if changed != {k: v for k, v in stored.manifest.items() if k != "status"}:
            self._store(ref, _without_server_fields(changed))
        if status is not None and ref in self._objects:
            self._write_status(ref, merge_patch(stored.manifest.get("status", {}), patch["status"]))

    def fail_next(self, *errors: Exception, verb: str | None = None) -> None:
        """Make the next calls raise these, one each; with `verb` only calls of that method."""
        self._faults.extend((verb, error) for error in errors)

    # Storing

    def _store(self, ref: Ref, body: Manifest, *, owned: Manifest | None = None, uid: str | None = None) -> Manifest:
        """Keep everything but the status; a body that changes nothing leaves the resourceVersion."""
        stored = self._objects.get(ref)
        if stored is None:
            return self._create(ref, body, owned or {}, uid)
        old = stored.manifest
        stored.owned = deepcopy(owned) if owned is not None else still_owned(stored.owned, body)
        if _without_server_fields({k: v for k, v in old.items() if k != "status"}) == body:
            return old
        meta = {**body["metadata"], **{k: old["metadata"][k] for k in _SERVER_FIELDS if k in old["metadata"]}}
        if _spec_of(body) != _spec_of(old):
            meta["generation"] += 1
        new = {**deepcopy(body), "metadata": deepcopy(meta)}
        if "status" in old:
            new["status"] = old["status"]
        return self._replace(ref, new)

    def _create(self, ref: Ref, body: Manifest, owned: Manifest, uid: str | None) -> Manifest:
        manifest = deepcopy(body)
        manifest["metadata"] |= {
            "uid": uid or self._new_uid(),
            "generation": 1,
            "creationTimestamp": _stamp(self._clock()),
            "resourceVersion": self._next(),
        }
        self._objects[ref] = _Stored(manifest, owned=deepcopy(owned))
        self._notify(Change("ADDED", manifest))
        self._collect_soon()
        return manifest

    def _write_status(self, ref: Ref, status: Manifest) -> None:
        stored = self._existing(ref)
        if stored.manifest.get("status", {}) != status:
            self._replace(ref, {**stored.manifest, "metadata": {**stored.manifest["metadata"]}, "status": status})

    def _replace(self, ref: Ref, manifest: Manifest) -> Manifest:
        manifest["metadata"]["resourceVersion"] = self._next()
        self._objects[ref].manifest = manifest
        if manifest["metadata"].get("deletionTimestamp") and not self._is_held(manifest):
            self._remove(ref)
        else:
            self._notify(Change("MODIFIED", manifest))
        return manifest

    def _begin_delete(self, ref: Ref) -> None:
        """Stamp an object as deleted, or remove it when nothing holds it."""
        manifest = self._objects[ref].manifest
        if not self._is_held(manifest):
            self._remove(ref)
        elif "deletionTimestamp" not in manifest["metadata"]:
            stamped = {**manifest["metadata"], "deletionTimestamp": _stamp(self._clock())}
            self._replace(ref, {**manifest, "metadata": stamped})

    def _is_held(self, manifest: Manifest) -> bool:
        """Whether a deleted object must stay for now."""
        return bool(manifest["metadata"].get("finalizers"))

    def _remove(self, ref: Ref) -> None:
        manifest = self._objects.pop(ref).manifest
        manifest["metadata"]["resourceVersion"] = self._next()
        self._notify(Change("DELETED", manifest))
        self._collect_soon()

    def _notify(self, change: Change) -> None:
        """Tell the watchers; called once for every change, after it."""
        ref = Ref.of(change.manifest)
        for kind, namespace, queue in self._watchers:
            if _is_in(ref, kind, namespace):
                queue.put_nowait(Change(change.type, deepcopy(change.manifest)))

    # Garbage collection

    def _collect_soon(self) -> None:
        if not self._collecting:
            self._collecting = True
            asyncio.get_running_loop().call_soon(self._collect)

    def _collect(self) -> None:
        """Delete every object whose owners are all gone."""
        self._collecting = False
        uids = {s.manifest["metadata"]["uid"] for s in self._objects.values()}
        for ref, stored in list(self._objects.items()):
            owners = stored.manifest["metadata"].get("ownerReferences", [])
            if owners and not any(o["uid"] in uids for o in owners) and ref in self._objects:
                self._begin_delete(ref)

    # Small parts

    def _count(self, verb: str, kind: str) -> None:
        self.calls.append((verb, kind))
        for i, (only, error) in enumerate(self._faults):
            if only in (None, verb):
                del self._faults[i]
                raise error

    def _existing(self, ref: Ref) -> _Stored:
        stored = self._objects.get(ref)
        if stored is None:
            raise ClusterError(f"{ref} does not exist", reason="NotFound")
        return stored

    def _check_uid(self, manifest: Manifest, stored: _Stored | None) -> None:
        uid = manifest["metadata"].get("uid")
        if uid and stored and stored.manifest["metadata"]["uid"] != uid:
            raise Conflict(f"{_named(manifest)} has another uid than the {uid} of the manifest")

    def _next(self) -> str:
        self._version += 1
        return str(self._version)


def _named(manifest: Manifest) -> Ref:
    for name in ("apiVersion", "kind"):
        if not manifest.get(name):
            raise ClusterError(f"a manifest must have {name}, got {manifest.get('metadata')}", reason="Invalid")
    if not manifest.get("metadata", {}).get("name"):
        raise ClusterError(f"metadata.name of a {manifest['kind']} must be set", reason="Invalid")
    ref = Ref.of(manifest)
    if (ref.kind in CLUSTER_SCOPED) == bool(ref.namespace):
        rule = "must be empty" if ref.kind in CLUSTER_SCOPED else "must be set"
        raise ClusterError(f"metadata.namespace of {ref.kind} {ref.name} {rule}", reason="Invalid")
    return ref


def _is_in(ref: Ref, kind: str, namespace: str | None) -> bool:
    return ref.kind == kind and namespace in (None, ref.namespace)


def _as_selected(change: Change, labels: dict[str, str], told: set[Ref]) -> Change | None:
    """A change as a watch of these labels tells it: what loses them is gone, and what gets them is new."""
    ref = Ref.of(change.manifest)
    was_told, fits = ref in told, _has_labels(change.manifest, labels) and change.type != "DELETED"
    if fits:
        told.add(ref)
        return change if was_told or change.type == "ADDED" else Change("ADDED", change.manifest)
    told.discard(ref)
    return Change("DELETED", change.manifest) if was_told else None


def _has_labels(manifest: Manifest, labels: dict[str, str]) -> bool:
    found: dict[str, str] = manifest["metadata"].get("labels", {})
    return all(name in found and value in ("", found[name]) for name, value in labels.items())


def _without_server_fields(manifest: Manifest) -> Manifest:
    """What a client can decide: no status, none of the stamps the server sets."""
    if not manifest:
        return {}
    meta = {k: v for k, v in manifest["metadata"].items() if k not in _SERVER_FIELDS}
    return {**{k: v for k, v in manifest.items() if k != "status"}, "metadata": meta}


def _spec_of(manifest: Manifest) -> dict[str, Any]:
    """What counts for metadata.generation."""
    return {k: v for k, v in manifest.items() if k not in ("metadata", "status")}


def _stamp(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
