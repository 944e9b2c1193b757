"""How any Kubernetes object is named and spoken of, between planner, controller and cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True, order=True)
class Ref:
    """Names one object. `kind` is unique among the kinds we touch; `namespace` is empty for cluster-scoped ones."""

    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, manifest: Manifest) -> Ref:
        """The name of a manifest."""
        meta = manifest["metadata"]
        return cls(manifest["kind"], meta.get("namespace", ""), meta["name"])

    @property
    def full_name(self) -> str:
        """namespace/name, as people write it; the name alone of a cluster-scoped object."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    def __str__(self) -> str:
        return f"{self.kind} {self.full_name}"


@dataclass(frozen=True)
class EventOrder:
    """One Kubernetes Event to emit on the job."""

    type: str
    """Normal or Warning."""
    reason: str
    message: str
