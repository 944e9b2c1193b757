"""What manifests, names and labels are on the wire."""

from __future__ import annotations

import hashlib
from datetime import datetime

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.names import FIELD_MANAGER
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.cluster.resources import resource_of

EVENT_MESSAGE_LENGTH = 1024


def named(manifest: Manifest) -> Ref:
    """The name of a manifest that may be sent.

    Raises:
        ClusterError: its kind, version, name or namespace does not fit.
    """
    resource = resource_of(str(manifest.get("kind", "")))
    if manifest.get("apiVersion") != resource.api_version:
        raise ClusterError(
            f"apiVersion of a {manifest['kind']} must be {resource.api_version}, got {manifest.get('apiVersion')!r}",
            reason="Invalid",
        )
    if not manifest.get("metadata", {}).get("name"):
        raise ClusterError(f"metadata.name of a {manifest['kind']} must be set", reason="Invalid")
    return Ref.of(manifest)


def path_of(ref: Ref, subresource: str = "") -> str:
    """Where an object is.

    Raises:
        ClusterError: it has a namespace and may not, or the other way round.
    """
    resource = resource_of(ref.kind)
    if resource.is_namespaced != bool(ref.namespace):
        rule = "must be set" if resource.is_namespaced else "must be empty"
        raise ClusterError(f"metadata.namespace of {ref.kind} {ref.name} {rule}", reason="Invalid")
    return resource.path(ref.namespace, ref.name, subresource)


def selector_of(labels: dict[str, str] | str | None) -> str | None:
    """A label selector as the server takes it; an empty value asks only that the label be there."""
    if isinstance(labels, str):
        return labels
    return ",".join(f"{name}={value}" if value else name for name, value in (labels or {}).items()) or None


def event_of(ref: Ref, uid: str, event: EventOrder, now: datetime) -> Manifest:
    """An Event about an object; what says the same has the same name."""
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    namespace = ref.namespace or "default"
    said = "\n".join((ref.kind, uid, event.type, event.reason, event.message))
    involved = {
        "apiVersion": resource_of(ref.kind).api_version,
        "kind": ref.kind,
        "name": ref.name,
        "namespace": ref.namespace,
        "uid": uid,
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{ref.name}.{hashlib.sha256(said.encode()).hexdigest()[:16]}", "namespace": namespace},
        "involvedObject": {name: value for name, value in involved.items() if value},
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:EVENT_MESSAGE_LENGTH],
        "count": 1,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "source": {"component": FIELD_MANAGER},
    }
