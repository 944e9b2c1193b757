"""What a cluster can do for the controller. Three ways: kube, memory, local; one contract suite for all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

from kubeautoml.api.objects import EventOrder, Manifest, Ref


@dataclass(frozen=True)
class Change:
    """One watch event. `manifest` is the object as it is now (DELETED: as it was last, its metadata at least)."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    manifest: Manifest


@dataclass(frozen=True)
class Heard:
    """A watch lives, though nothing has changed; `is_listed` once everything that there is has been told."""

    is_listed: bool = False


class Cluster(Protocol):
    """A Kubernetes API, as far as the controller needs one. Methods raise `ClusterError` and its subclasses.

    Manifests that come out are copies: changing them changes nothing.
    """

    async def get(self, ref: Ref) -> Manifest | None:
        """The object, or None."""
        ...

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        labels: dict[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> list[Manifest]:
        """Objects of a kind; None means all namespaces; labels must all match, an empty value any value.

        `fresh` asks the server even where a cache would do, for what must not be decided on an old picture.
        """
        ...

    def watch(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change]:
        """ADDED for every object with these labels, then what changes, for ever; survives expired and dropped watches."""
        ...

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply with our one field manager. Applying the same manifest again changes nothing."""
        ...

    async def delete(self, ref: Ref, *, uid: str | None = None) -> bool:
        """Delete, dependents in the background; with `uid` only that incarnation. False when there was none."""
        ...

    async def patch_status(self, ref: Ref, status: Manifest) -> None:
        """Own the whole status of an object by server-side apply on the status subresource."""
        ...

    async def emit(self, ref: Ref, uid: str, event: EventOrder) -> None:
        """Emit an Event about an object."""
        ...
