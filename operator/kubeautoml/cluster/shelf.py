"""The objects of one kind in memory, found by name or by job: what is kept of them, and which of two stories is believed.

Three tell about an object, in any order: the watch, answers to our own writes, and deletions of ours. The resourceVersions of
a kind only grow (a promise of Kubernetes since 1.35, and true before), so the newer story is believed, whoever tells it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from kubeautoml.api.names import LABEL_JOB_UID
from kubeautoml.api.objects import Manifest, Ref

GONE_SECONDS = 60.0
"""Stories that are still on their way about an object that is gone arrive within this time."""

_POD_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "labels",
    "ownerReferences",
    "finalizers",
)
_POD_SPEC = ("nodeName", "schedulingGates", "priority")
_POD_CONTAINER = ("name", "resources")
_POD_STATUS = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses", "startTime")


@dataclass(frozen=True, slots=True)
class _Kept:
    """One object: what tells incarnations and versions apart, whose it is, and itself as JSON."""

    uid: str
    version: float
    job_uid: str
    data: bytes


class Shelf:
    """What is known of one kind.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: dict[Ref, _Kept] = {}
        self._of_job: dict[str, set[Ref]] = {}
        self._gone: dict[str, tuple[float, float]] = {}
        """uid -> since when (oldest first), and the version from which a story about it is newer than its end."""

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        """Of the objects as they are kept, without what finds them."""
        return sum(len(kept.data) for kept in self._kept.values())

    def get(self, ref: Ref) -> Manifest | None:
        """A copy."""
        kept = self._kept.get(ref)
        return json.loads(kept.data) if kept else None

    def of_job(self, job_uid: str) -> list[Manifest]:
        """Copies, by name."""
        return [json.loads(self._kept[ref].data) for ref in sorted(self._of_job.get(job_uid, ()))]

    def uids(self, namespace: str | None) -> dict[Ref, str]:
        """Every object, in a namespace or in all, with its incarnation."""
        return {ref: kept.uid for ref, kept in self._kept.items() if namespace in (None, ref.namespace)}

    def put(self, manifest: Manifest) -> bool:
        """Keep it unless something newer is known; whether it was news."""
        ref, metadata = Ref.of(manifest), manifest["metadata"]
        uid, version = metadata["uid"], _version(metadata)
        before = self._kept.get(ref)
        if before is not None and before.version >= version:
            return False
        if uid in self._gone and version <= self._gone[uid][1] and "deletionTimestamp" not in metadata:
            return False
        self._discard(ref)
        job_uid = metadata.get("labels", {}).get(LABEL_JOB_UID, "")
        data = json.dumps(_trimmed(manifest), separators=(",", ":")).encode()
        self._kept[ref] = _Kept(uid, version, job_uid, data)
        self._of_job.setdefault(job_uid, set()).add(ref)
        return True

    def forget(self, ref: Ref, uid: str | None = None) -> None:
        """It is deleted: nothing brings it back, in this incarnation."""
        kept = self._kept.get(ref)
        gone = uid or (kept.uid if kept else None)
        if gone is not None:
            self._end(ref, gone, inf)

    def forget_as_told(self, manifest: Manifest) -> None:
        """It is gone as a watch tells it: deleted, or without our label, with which it may come back."""
        self._end(Ref.of(manifest), manifest["metadata"]["uid"], _version(manifest["metadata"]))

    def may_linger(self, ref: Ref) -> bool:
        """Whether a deletion may leave it there for a while: pods have time to end, finalizers to do their work."""
        return ref.kind == "Pod" or bool((self.get(ref) or {"metadata": {}})["metadata"].get("finalizers"))

    def _end(self, ref: Ref, uid: str, version: float) -> None:
        now = self._clock()
        while self._gone and now - next(iter(self._gone.values()))[0] >= GONE_SECONDS:
            del self._gone[next(iter(self._gone))]
        before = self._gone.pop(uid, (now, version))[1]
        self._gone[uid] = (now, max(before, version))
        kept = self._kept.get(ref)
        if kept is not None and kept.uid == uid and kept.version <= version:
            self._discard(ref)

    def _discard(self, ref: Ref) -> None:
        kept = self._kept.pop(ref, None)
        if kept is None:
            return
        refs = self._of_job[kept.job_uid]
        refs.discard(ref)
        if not refs:
            del self._of_job[kept.job_uid]


def _version(metadata: Manifest) -> float:
    """A resourceVersion as a number; one that is none is always news."""
    text = metadata.get("resourceVersion", "")
    return int(text) if text.isdecimal() else inf


def _trimmed(manifest: Manifest) -> Manifest:
    """Without what nobody reads: of a pod, the planner wants its state and what it holds, not what it runs."""
    if manifest["kind"] != "Pod":
        return manifest
    spec = manifest.get("spec", {})
    containers = [_only(container, _POD_CONTAINER) for container in spec.get("containers", ())]
    return {
        "apiVersion": manifest["apiVersion"],
        "kind": "Pod",
        "metadata": _only(manifest["metadata"], _POD_METADATA),
        "spec": {**_only(spec, _POD_SPEC), "containers": containers},
        "status": _only(manifest.get("status", {}), _POD_STATUS),
    }


def _only(manifest: Manifest, names: tuple[str, ...]) -> Manifest:
    return {name: manifest[name] for name in names if name in manifest}
