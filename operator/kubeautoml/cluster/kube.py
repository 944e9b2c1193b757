"""A real cluster: the API server, spoken to in JSON through the official client's connection and credentials.

Manifests go in and out as they are on the wire: no model classes, so a field that this version of the client does not
know passes unharmed. Calls block, so they run in a few threads of their own; a watch or a followed log has a thread each.

Server-side apply is always forced. A manifest of ours holds exactly the fields that we mean to own, so somebody who took
one of them over loses it again; fields that we leave out (replicas under an autoscaler, say) are never touched. What is
left as a conflict is a uid or resourceVersion that is no longer true.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from kubeautoml.api.errors import ClusterError, Conflict, PredictionError
from kubeautoml.api.names import FIELD_MANAGER
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.cluster.answers import NotFound, decoded, error_of, tidy
from kubeautoml.cluster.base import Change, Heard
from kubeautoml.cluster.connection import JSON, Connection, Request
from kubeautoml.cluster.kube_calls import READ_SECONDS, Calls
from kubeautoml.cluster.kube_lists import Lists
from kubeautoml.cluster.kube_wire import event_of, named, path_of
from kubeautoml.cluster.merge import leftovers
from kubeautoml.cluster.requests import Limits, RequestCounts
from kubeautoml.cluster.resources import RESOURCES, resource_of
from kubeautoml.cluster.stream import Stream

Manifests = list[Manifest]  # an alias, since `list` is a method below

PROXY_SECONDS = 120.0
"""Longest wait for what a service answers through the proxy: a thousand rows, explained, may take a while."""

LEASE_SECONDS = 3.0
"""Longest wait for an answer about a Lease, which is renewed every two seconds."""


class KubeCluster:
    """`cluster.base.Cluster` over an API server, and the few verbs more that the commands need."""

    def __init__(self, connection: Connection, limits: Limits | None = None) -> None:
        self._calls = Calls(connection, limits or Limits())
        self._lists = Lists(self._calls)

    @classmethod
    def from_kubeconfig(
        cls, path: str | Path | None = None, context: str | None = None, *, limits: Limits | None = None
    ) -> Self:
        """As kubectl finds its cluster: the file, else KUBECONFIG, else ~/.kube/config, else the cluster around this pod.

        Raises:
            ClusterError: there is none, or it is damaged; says which file.
        """
        return cls(Connection.from_kubeconfig(path, context), limits)

    @property
    def default_namespace(self) -> str:
        """The namespace of the kubeconfig's context, or of this pod."""
        return self._calls.connection.default_namespace

    @property
    def requests(self) -> RequestCounts:
        """What was asked of the server so far."""
        return self._calls.requests

    def close(self) -> None:
        """End every watch and connection."""
        self._calls.close()

    def stop_writing(self) -> None:
        """Send no write any more, neither one that waits for its turn now; what is on its way goes on."""
        self._calls.stop_writing()

    # Cluster protocol

    async def get(self, ref: Ref) -> Manifest | None:
        return await self._calls.read(self._get, ref)

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        labels: dict[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> list[Manifest]:
        return await self._calls.read(self._lists.all, kind, namespace, labels)

    async def watch(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change]:
        async for item in self.follow(kind, namespace, labels):
            if isinstance(item, Change):
                yield item

    async def follow(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change | Heard]:
        """A watch that also says that the server lives, and when everything there is has been told.

        Raises:
            ClusterError: the server refused the first list. What fails later is tried again, for ever.
        """
        resource_of(kind)
        async for item in self._calls.stream(functools.partial(self._lists.watch, kind, namespace, labels)):
            yield item
        raise ClusterError(f"the watch of {kind} objects ended because the connection was closed here")

    async def apply(self, manifest: Manifest, *, manager: str = FIELD_MANAGER) -> Manifest:
        """As `Cluster.apply`; as another field manager where somebody else applies the object, too."""
        return await self._calls.write(self._apply, manifest, manager)

    async def delete(self, ref: Ref, *, uid: str | None = None) -> bool:
        return await self._calls.write(self._delete, ref, uid)

    async def patch_status(self, ref: Ref, status: Manifest) -> None:
        await self._calls.write(self._patch_status, ref, status)

    async def emit(self, ref: Ref, uid: str, event: EventOrder) -> None:
        await self._calls.write(self._emit, ref, uid, event)

    async def list_metadata(self, kind: str, namespace: str | None = None) -> Manifests:
        """Objects of a kind without spec and status: who is there, for little memory however many there are."""
        return await self._calls.read(self._lists.metadata, kind, namespace)

    async def select(self, kind: str, namespace: str | None, selector: str | None) -> Manifests:
        """Objects of a kind by a label selector as kubectl takes it, such as `team=risk,stage notin (test)`.

        Raises:
            ClusterError: reason BadRequest; it is none.
        """
        return await self._calls.read(self._lists.all, kind, namespace, selector)

    # For leader election: blocking, since it lives in a thread of its own; no rate limit, no repetition

    def read_lease(self, ref: Ref) -> Manifest | None:
        """The Lease with its resourceVersion, or None."""
        try:
            return self._lease("get", "GET", path_of(ref))
        except NotFound:
            return None

    def write_lease(self, lease: Manifest) -> Manifest:
        """Create it, or replace it if it is still what its resourceVersion says.

        Raises:
            Conflict: somebody else was faster.
        """
        ref = named(lease)
        if "resourceVersion" in lease["metadata"]:
            return self._lease("replace", "PUT", path_of(ref), lease)
        return self._lease("create", "POST", resource_of("Lease").path(ref.namespace), lease)

    def _lease(self, verb: str, method: str, path: str, body: Manifest | None = None) -> Manifest:
        request = Request(verb, "Lease", method, path, body=body)
        return self._calls.answer(self._calls.connection.send(request, (LEASE_SECONDS, LEASE_SECONDS), retries=False))

    # For the commands

    async def merge_patch(self, ref: Ref, patch: Manifest) -> Manifest:
        """Change some fields of an object as a person would (RFC 7386).

        Raises:
            ClusterError: there is no such object, or the change is refused.
        """
        return await self._calls.write(self._merge_patch, ref, patch)

    async def dry_run(
        self, manifest: Manifest, *, manager: str | None = None, patch: Manifest | None = None
    ) -> Manifest:
        """What an object would be, and nothing is stored: after its creation, after a merge patch of it, or, with a field
        manager, after a server-side apply that takes over whatever it sets.

        Raises:
            ClusterError: it would be refused.
        """
        return await self._calls.write(self._dry_run, manifest, manager, patch)

    async def service_post(self, namespace: str, service: str, port: str, path: str, body: Manifest) -> Manifest:
        """POST to a Service through the API server's proxy, so that a laptop needs no way into the cluster's network.

        Raises:
            PredictionError: the service itself refused it, in its own words.
            ClusterError: the API server did, or nobody answers behind it.
        """
        url = f"/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy/{path}"
        return await self._calls.write(self._proxied, Request("post", "Service", "POST", url, body=body))

    async def pod_log(
        self,
        pod: Ref,
        *,
        follow: bool = False,
        tail_lines: int | None = None,
        since_seconds: int | None = None,
        container: str | None = None,
        previous: bool = False,
    ) -> AsyncIterator[str]:
        """Lines of a pod's log; with `follow` until the pod ends.

        Raises:
            ClusterError: it has none: not yet, or not any more.
        """
        query = {
            "follow": "true" if follow else None,
            "tailLines": tail_lines,
            "sinceSeconds": since_seconds,
            "container": container,
            "previous": "true" if previous else None,
        }
        request = Request("log", "Pod", "GET", path_of(pod, "log"), query)

        def read(stream: Stream) -> Iterator[str]:
            self._calls.wait_to_read(stream.wait)
            for line in stream.lines(self._calls.open(request, read_seconds=None if follow else READ_SECONDS)):
                yield line.decode(errors="replace")

        async for line in self._calls.stream(read):
            yield line

    # Blocking verbs

    def _get(self, ref: Ref) -> Manifest | None:
        try:
            return tidy(ref.kind, self._calls.json(Request("get", ref.kind, "GET", path_of(ref))))
        except NotFound:
            return None

    def _apply(self, manifest: Manifest, manager: str) -> Manifest:
        ref = named(manifest)
        body = {name: value for name, value in manifest.items() if name != "status"}
        return tidy(ref.kind, self._server_side_apply("apply", ref, path_of(ref), body, manager))

    def _patch_status(self, ref: Ref, status: Manifest) -> None:
        body = {
            "apiVersion": resource_of(ref.kind).api_version,
            "kind": ref.kind,
            "metadata": {"name": ref.name, **({"namespace": ref.namespace} if ref.namespace else {})},
            "status": status,
        }
        path = path_of(ref, "status")
        try:
            stored = self._server_side_apply("patch_status", ref, path, body)
        except ClusterError as error:
            # some servers leave null where an apply empties a map, and refuse that; without the old members there is nothing to empty
            if error.reason != "Invalid" or not self._take_out(ref, path, self._get(ref) or {}, status):
                raise
            stored = self._server_side_apply("patch_status", ref, path, body)
        # what another manager has put there is no part of what was applied, and would stay
        self._take_out(ref, path, stored, status)

    def _take_out(self, ref: Ref, path: str, found: Manifest, status: Manifest) -> bool:
        """Remove members of the stored status that are not in this one; whether there were any."""
        more = leftovers(found.get("status", {}), status)
        if more:
            content_type = "application/merge-patch+json"
            self._calls.json(
                Request("patch_status", ref.kind, "PATCH", path, body={"status": more}, content_type=content_type)
            )
        return bool(more)

    def _server_side_apply(
        self, verb: str, ref: Ref, path: str, body: Manifest, manager: str = FIELD_MANAGER
    ) -> Manifest:
        query = {"fieldManager": manager, "force": "true"}
        return self._calls.json(Request(verb, ref.kind, "PATCH", path, query, body, "application/apply-patch+yaml"))

    def _merge_patch(self, ref: Ref, patch: Manifest) -> Manifest:
        content_type = "application/merge-patch+json"
        request = Request("patch", ref.kind, "PATCH", path_of(ref), body=patch, content_type=content_type)
        return tidy(ref.kind, self._calls.json(request))

    def _proxied(self, request: Request) -> Manifest:
        response = self._calls.send(request, PROXY_SECONDS)
        answer = decoded(response.data)
        if response.status >= 400 and "error" in answer and answer.get("kind") != "Status":
            raise PredictionError(str(answer["error"]))
        if response.status >= 400:
            raise error_of(response.status, answer, {})
        return answer

    def _dry_run(self, manifest: Manifest, manager: str | None, patch: Manifest | None) -> Manifest:
        ref, query = named(manifest), {"dryRun": "All"}
        method, path, body, content_type = "PATCH", path_of(ref), patch, "application/merge-patch+json"
        if manager is not None:
            query |= {"fieldManager": manager, "force": "true"}
            body, content_type = manifest, "application/apply-patch+yaml"
        elif patch is None:
            method, path = "POST", resource_of(ref.kind).path(ref.namespace)
            body, content_type = manifest, JSON
        return tidy(ref.kind, self._calls.json(Request("dry_run", ref.kind, method, path, query, body, content_type)))

    def _delete(self, ref: Ref, uid: str | None) -> bool:
        options: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            self._calls.json(Request("delete", ref.kind, "DELETE", path_of(ref), body=options))
        except NotFound:
            return False
        except Conflict:
            if uid is None:
                raise
            return False
        return True

    def _emit(self, ref: Ref, uid: str, event: EventOrder) -> None:
        """Create the event, or count it up when it was emitted before: its name follows from what it says."""
        body = event_of(ref, uid, event, datetime.now(UTC))
        mine = Ref.of(body)
        try:
            self._calls.json(Request("emit", "Event", "POST", RESOURCES["Event"].path(mine.namespace), body=body))
        except Conflict:
            self._calls.wait_to_read()
            before = self._get(mine) or {}
            again = {"count": int(before.get("count") or 1) + 1, "lastTimestamp": body["lastTimestamp"]}
            self._calls.wait_to_write()
            self._merge_patch(mine, again)
