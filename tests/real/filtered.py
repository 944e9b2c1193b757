"""The product's client, less what an old test server does not know. On a new server it changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from kubeautoml.api.names import FIELD_MANAGER
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cluster.base import Change, Heard
from kubeautoml.cluster.kube import KubeCluster
from kubeautoml.cluster.resources import resource_of
from real.strip import is_served, strip, strip_status


def filtered(version: tuple[int, ...]) -> type[KubeCluster]:
    """A client for that server: objects of kinds that it does not have are never there."""

    def has(kind: str) -> bool:
        return is_served(resource_of(kind).api_version, version)

    class FilteredCluster(KubeCluster):
        async def get(self, ref: Ref) -> Manifest | None:
            return await super().get(ref) if has(ref.kind) else None

        async def list(
            self,
            kind: str,
            namespace: str | None = None,
            labels: dict[str, str] | None = None,
            *,
            fresh: bool = False,
        ) -> list[Manifest]:
            return await super().list(kind, namespace, labels, fresh=fresh) if has(kind) else []

        async def follow(
            self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
        ) -> AsyncIterator[Change | Heard]:
            if has(kind):
                async for item in super().follow(kind, namespace, labels):
                    yield item
            while True:
                yield Heard(is_listed=True)
                await asyncio.sleep(0.2)

        async def apply(self, manifest: Manifest, *, manager: str = FIELD_MANAGER) -> Manifest:
            return await super().apply(strip(manifest, version), manager=manager) if has(manifest["kind"]) else manifest

        async def delete(self, ref: Ref, *, uid: str | None = None) -> bool:
            return await super().delete(ref, uid=uid) if has(ref.kind) else False

        async def patch_status(self, ref: Ref, status: Manifest) -> None:
            await super().patch_status(ref, strip_status(status, version))

    return FilteredCluster
