"""A real cluster: the API server, spoken to in JSON through the official client's connection and credentials.

Manifests go in and out as they are on the wire: no model classes, so a field that this version of the client does not
know passes unharmed. Calls block, so they run in a few threads of their own; a watch or a followed log has a thread each.

Server-side apply is always forced. A manifest of ours holds exactly the fields that we mean to own, so somebody who took
one of them over loses it again; fields that we leave out (replicas under an autoscaler, say) are never touched. What is
left as a conflict is a uid or resourceVersion that is no longer true.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import urllib3

from kubeautoml.api.errors import ClusterError, Conflict, PredictionError, Throttled
from kubeautoml.api.names import FIELD_MANAGER
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.cluster.answers import (
    Expired,
    NotFound,
    decoded,
    error_of,
    outline,
    retry_after_seconds,
    tidy,
    unknown_to_server,
)
from kubeautoml.cluster.base import Change, Heard
from kubeautoml.cluster.connection import JSON, Connection, Request
from kubeautoml.cluster.merge import leftovers
from kubeautoml.cluster.requests import Limits, RateLimit, RequestCounts
from kubeautoml.cluster.resources import RESOURCES, resource_of
from kubeautoml.cluster.stream import Stream
from kubeautoml.cluster.told import Told

log = logging.getLogger(__name__)
T = TypeVar("T")
Manifests = list[Manifest]  # an alias, since `list` is a method below

THREADS = 16
PAGE_SIZE = 250
"""Objects a page: what the interpreter parses in one go, in which the event loop stands still for some 10 ms."""

CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0

PROXY_SECONDS = 120.0
"""Longest wait for what a service answers through the proxy: a thousand rows, explained, may take a while."""

WATCH_SECONDS = 60
"""The server ends a watch after this long and up to a fifth more; then it goes on where it was. So a watch of which nothing
has been heard for longer hangs, also where a server has nothing to tell and sends no bookmark. A guess: client-go takes
minutes, but for many more watches."""

WATCH_SILENCE_SECONDS = 90.0
"""A watch that says nothing for so long is taken for dead, and opened again."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0
"""Before a watch that failed is tried again."""

SHORT_WATCH_SECONDS = 1.0
"""A watch that ended sooner counts as failed, so that one that ends at once is not opened all the time."""

LEASE_SECONDS = 3.0
"""Longest wait for an answer about a Lease, which is renewed every two seconds."""
EVENT_MESSAGE_LENGTH = 1024
_METADATA_ONLY = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class KubeCluster:
    """`cluster.base.Cluster` over an API server, and the few verbs more that the commands need."""

    def __init__(self, connection: Connection, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self._connection = connection
        self._reads = RateLimit(limits.reads_per_second, limits.reads_at_once)
        self._writes = RateLimit(limits.writes_per_second, limits.writes_at_once)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kube")
        self._streams: set[Stream] = set()
        self._closed = threading.Event()
        self._writes_nothing = False

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
        return self._connection.default_namespace

    @property
    def requests(self) -> RequestCounts:
        """What was asked of the server so far."""
        return self._connection.requests

    def close(self) -> None:
        """End every watch and connection."""
        self.stop_writing()
        self._closed.set()
        for stream in list(self._streams):
            stream.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._connection.close()

    def stop_writing(self) -> None:
        """Send no write any more, neither one that waits for its turn now; what is on its way goes on."""
        self._writes_nothing = True

    # Cluster protocol

    async def get(self, ref: Ref) -> Manifest | None:
        return await self._read(self._get, ref)

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        labels: dict[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> list[Manifest]:
        return await self._read(self._list, kind, namespace, labels)

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
        async for item in self._stream(functools.partial(self._watch, kind, namespace, labels)):
            yield item
        raise ClusterError(f"the watch of {kind} objects ended because the connection was closed here")

    async def apply(self, manifest: Manifest, *, manager: str = FIELD_MANAGER) -> Manifest:
        """As `Cluster.apply`; as another field manager where somebody else applies the object, too."""
        return await self._write(self._apply, manifest, manager)

    async def delete(self, ref: Ref, *, uid: str | None = None) -> bool:
        return await self._write(self._delete, ref, uid)

    async def patch_status(self, ref: Ref, status: Manifest) -> None:
        await self._write(self._patch_status, ref, status)

    async def emit(self, ref: Ref, uid: str, event: EventOrder) -> None:
        await self._write(self._emit, ref, uid, event)

    async def list_metadata(self, kind: str, namespace: str | None = None) -> Manifests:
        """Objects of a kind without spec and status: who is there, for little memory however many there are."""
        return await self._read(self._list_metadata, kind, namespace)

    async def select(self, kind: str, namespace: str | None, selector: str | None) -> Manifests:
        """Objects of a kind by a label selector as kubectl takes it, such as `team=risk,stage notin (test)`.

        Raises:
            ClusterError: reason BadRequest; it is none.
        """
        return await self._read(self._list, kind, namespace, selector)

    # For leader election: blocking, since it lives in a thread of its own; no rate limit, no repetition

    def read_lease(self, ref: Ref) -> Manifest | None:
        """The Lease with its resourceVersion, or None."""
        try:
            return self._lease("get", "GET", _path(ref))
        except NotFound:
            return None

    def write_lease(self, lease: Manifest) -> Manifest:
        """Create it, or replace it if it is still what its resourceVersion says.

        Raises:
            Conflict: somebody else was faster.
        """
        ref = _named(lease)
        if "resourceVersion" in lease["metadata"]:
            return self._lease("replace", "PUT", _path(ref), lease)
        return self._lease("create", "POST", resource_of("Lease").path(ref.namespace), lease)

    def _lease(self, verb: str, method: str, path: str, body: Manifest | None = None) -> Manifest:
        request = Request(verb, "Lease", method, path, body=body)
        return self._answer(self._connection.send(request, (LEASE_SECONDS, LEASE_SECONDS), retries=False))

    # For the commands

    async def merge_patch(self, ref: Ref, patch: Manifest) -> Manifest:
        """Change some fields of an object as a person would (RFC 7386).

        Raises:
            ClusterError: there is no such object, or the change is refused.
        """
        return await self._write(self._merge_patch, ref, patch)

    async def dry_run(
        self, manifest: Manifest, *, manager: str | None = None, patch: Manifest | None = None
    ) -> Manifest:
        """What an object would be, and nothing is stored: after its creation, after a merge patch of it, or, with a field
        manager, after a server-side apply that takes over whatever it sets.

        Raises:
            ClusterError: it would be refused.
        """
        return await self._write(self._dry_run, manifest, manager, patch)

    async def service_post(self, namespace: str, service: str, port: str, path: str, body: Manifest) -> Manifest:
        """POST to a Service through the API server's proxy, so that a laptop needs no way into the cluster's network.

        Raises:
            PredictionError: the service itself refused it, in its own words.
            ClusterError: the API server did, or nobody answers behind it.
        """
        url = f"/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy/{path}"
        return await self._write(self._proxied, Request("post", "Service", "POST", url, body=body))

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
        request = Request("log", "Pod", "GET", _path(pod, "log"), query)

        def read(stream: Stream) -> Iterator[str]:
            self._reads.wait(stream.wait)
            for line in stream.lines(self._open(request, read_seconds=None if follow else READ_SECONDS)):
                yield line.decode(errors="replace")

        async for line in self._stream(read):
            yield line

    # Blocking verbs

    def _get(self, ref: Ref) -> Manifest | None:
        try:
            return tidy(ref.kind, self._json(Request("get", ref.kind, "GET", _path(ref))))
        except NotFound:
            return None

    def _list(self, kind: str, namespace: str | None, labels: dict[str, str] | str | None) -> Manifests:
        found: Manifests = []
        for page in self._pages(kind, namespace, labels):
            if page.is_first:
                found.clear()
            found += [tidy(kind, item) for item in page.items]
        return found

    def _list_metadata(self, kind: str, namespace: str | None) -> Manifests:
        found: Manifests = []
        known = {"apiVersion": resource_of(kind).api_version, "kind": kind}
        for page in self._pages(kind, namespace, None, accept=_METADATA_ONLY):
            if page.is_first:
                found.clear()
            found += [outline({**known, "metadata": item["metadata"]}) for item in page.items]
        return found

    def _pages(
        self,
        kind: str,
        namespace: str | None,
        labels: dict[str, str] | str | None,
        sleep: Callable[[float], object] | None = None,
        accept: str = JSON,
    ) -> Iterator[_Page]:
        """A list page by page. Its first request's turn has come; the others' turn is waited for here."""
        path, selector = resource_of(kind).path(namespace), _selector(labels)
        query: dict[str, Any] = {"labelSelector": selector, "limit": PAGE_SIZE}
        is_first = True
        while True:
            try:
                page = self._json(Request("list", kind, "GET", path, query, accept=accept))
            except NotFound as error:
                raise unknown_to_server(kind, error) from error
            except Expired:
                # The snapshot of the first page is gone: read the rest in one go, from the beginning.
                query, is_first = {"labelSelector": selector}, True
            else:
                metadata = page["metadata"]
                yield _Page(page.get("items") or [], metadata["resourceVersion"], is_first)
                if not metadata.get("continue"):
                    return
                query, is_first = {**query, "continue": metadata["continue"]}, False
            self._wait_to_read(sleep or self._closed.wait)

    def _apply(self, manifest: Manifest, manager: str) -> Manifest:
        ref = _named(manifest)
        body = {name: value for name, value in manifest.items() if name != "status"}
        return tidy(ref.kind, self._server_side_apply("apply", ref, _path(ref), body, manager))

    def _patch_status(self, ref: Ref, status: Manifest) -> None:
        body = {
            "apiVersion": resource_of(ref.kind).api_version,
            "kind": ref.kind,
            "metadata": {"name": ref.name, **({"namespace": ref.namespace} if ref.namespace else {})},
            "status": status,
        }
        path = _path(ref, "status")
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
            self._json(
                Request("patch_status", ref.kind, "PATCH", path, body={"status": more}, content_type=content_type)
            )
        return bool(more)

    def _server_side_apply(
        self, verb: str, ref: Ref, path: str, body: Manifest, manager: str = FIELD_MANAGER
    ) -> Manifest:
        query = {"fieldManager": manager, "force": "true"}
        return self._json(Request(verb, ref.kind, "PATCH", path, query, body, "application/apply-patch+yaml"))

    def _merge_patch(self, ref: Ref, patch: Manifest) -> Manifest:
        content_type = "application/merge-patch+json"
        request = Request("patch", ref.kind, "PATCH", _path(ref), body=patch, content_type=content_type)
        return tidy(ref.kind, self._json(request))

    def _proxied(self, request: Request) -> Manifest:
        response = self._send(request, PROXY_SECONDS)
        answer = decoded(response.data)
        if response.status >= 400 and "error" in answer and answer.get("kind") != "Status":
            raise PredictionError(str(answer["error"]))
        if response.status >= 400:
            raise error_of(response.status, answer, {})
        return answer

    def _dry_run(self, manifest: Manifest, manager: str | None, patch: Manifest | None) -> Manifest:
        ref, query = _named(manifest), {"dryRun": "All"}
        method, path, body, content_type = "PATCH", _path(ref), patch, "application/merge-patch+json"
        if manager is not None:
            query |= {"fieldManager": manager, "force": "true"}
            body, content_type = manifest, "application/apply-patch+yaml"
        elif patch is None:
            method, path = "POST", resource_of(ref.kind).path(ref.namespace)
            body, content_type = manifest, JSON
        return tidy(ref.kind, self._json(Request("dry_run", ref.kind, method, path, query, body, content_type)))

    def _delete(self, ref: Ref, uid: str | None) -> bool:
        options: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            self._json(Request("delete", ref.kind, "DELETE", _path(ref), body=options))
        except NotFound:
            return False
        except Conflict:
            if uid is None:
                raise
            return False
        return True

    def _emit(self, ref: Ref, uid: str, event: EventOrder) -> None:
        """Create the event, or count it up when it was emitted before: its name follows from what it says."""
        body = _event(ref, uid, event, datetime.now(UTC))
        mine = Ref.of(body)
        try:
            self._json(Request("emit", "Event", "POST", RESOURCES["Event"].path(mine.namespace), body=body))
        except Conflict:
            self._wait_to_read(self._closed.wait)
            before = self._get(mine) or {}
            again = {"count": int(before.get("count") or 1) + 1, "lastTimestamp": body["lastTimestamp"]}
            self.requests.add_wait(self._writes.wait(self._closed.wait))
            self._merge_patch(mine, again)

    # Watching

    def _watch(
        self, kind: str, namespace: str | None, labels: dict[str, str] | None, stream: Stream
    ) -> Iterator[Change | Heard]:
        """List, tell the difference to what was told before, follow; for ever."""
        told, has_listed, pause = Told(kind), False, FIRST_PAUSE_SECONDS
        while not stream.is_stopped:
            asked, is_well = 0.0, False
            try:
                if not told.version:
                    yield from self._catch_up(kind, namespace, labels, told, stream)
                    has_listed = True
                    yield Heard(is_listed=True)
                began = time.monotonic()
                yield from self._follow(kind, namespace, labels, told, stream)
                is_well = time.monotonic() - began >= SHORT_WATCH_SECONDS
            except Expired:
                told.version = ""
            except ClusterError as error:
                if not has_listed and not isinstance(error, Throttled) and error.reason != ClusterError.default_reason:
                    raise  # refused from the beginning: waiting will not help
                log.warning("watch interrupted", extra={"kind": kind, "reason": error.reason, "error": str(error)})
                asked = error.retry_after_seconds if isinstance(error, Throttled) else 0.0
            pause = FIRST_PAUSE_SECONDS if is_well else min(pause * 2, LONGEST_PAUSE_SECONDS)
            stream.wait(max(pause, asked) * random.uniform(1.0, 1.2))

    def _catch_up(
        self, kind: str, namespace: str | None, labels: dict[str, str] | None, told: Told, stream: Stream
    ) -> Iterator[Change]:
        """List, and tell what the reader does not know."""
        self._wait_to_read(stream.wait)
        version = ""
        for page in self._pages(kind, namespace, labels, stream.wait):
            if page.is_first:
                told.begin_list()
            yield from told.page((tidy(kind, item) for item in page.items), page.version)
            version = page.version
        yield from told.end_list(version)

    def _follow(
        self, kind: str, namespace: str | None, labels: dict[str, str] | None, told: Told, stream: Stream
    ) -> Iterator[Change | Heard]:
        """Watch on from where we are, until the server ends it or the connection breaks."""
        query = {
            "watch": "true",
            "labelSelector": _selector(labels),
            "resourceVersion": told.version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": random.randint(WATCH_SECONDS, WATCH_SECONDS * 6 // 5),
        }
        request = Request("watch", kind, "GET", resource_of(kind).path(namespace), query)
        self._wait_to_read(stream.wait)
        response = self._open(request, read_seconds=WATCH_SILENCE_SECONDS, retries=False)
        yield Heard()
        for line in stream.lines(response):
            yield told.line(line)

    # Requests

    async def _read(self, call: Callable[..., T], *args: Any) -> T:
        self.requests.add_wait(await self._reads.turn())
        return await self._in_thread(call, *args)

    async def _write(self, call: Callable[..., T], *args: Any) -> T:
        self.requests.add_wait(await self._writes.turn())
        if self._writes_nothing:
            raise ClusterError("this client was told to write nothing any more", reason="NotLeading")
        return await self._in_thread(call, *args)

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        # with the caller's context, so that what is logged in the thread names the job, too
        return await asyncio.get_running_loop().run_in_executor(self._threads, copy_context().run, call, *args)

    def _wait_to_read(self, sleep: Callable[[float], object]) -> None:
        self.requests.add_wait(self._reads.wait(sleep))

    async def _stream(self, produce: Callable[[Stream], Iterator[T]]) -> AsyncIterator[T]:
        """What a thread of its own produces, until it ends or the caller leaves."""
        stream = Stream()
        self._streams.add(stream)
        try:
            async for item in stream.run(produce):
                yield item
        finally:
            self._streams.discard(stream)
            stream.stop()

    def _json(self, request: Request) -> Manifest:
        return self._answer(self._send(request, READ_SECONDS))

    def _answer(self, response: urllib3.BaseHTTPResponse) -> Manifest:
        try:
            data = response.data
        except urllib3.exceptions.HTTPError as error:
            raise self._connection.unreachable(error) from error
        answer = decoded(data)
        if response.status >= 400:
            raise error_of(response.status, answer, response.headers)
        return answer

    def _open(
        self, request: Request, *, read_seconds: float | None, retries: Literal[False] | None = None
    ) -> urllib3.BaseHTTPResponse:
        """Begin to read a stream."""
        response = self._send(request, read_seconds, retries)
        if response.status >= 400:
            self._answer(response)
        return response

    def _send(
        self, request: Request, read_seconds: float | None, retries: Literal[False] | None = None
    ) -> urllib3.BaseHTTPResponse:
        """A request whose turn has come. A server that asks to wait is spared by all others, too."""
        response = self._connection.send(request, (CONNECT_SECONDS, read_seconds), retries=retries)
        wish = retry_after_seconds(response.status, response.headers)
        if wish is not None:
            self.requests.add_throttled()
            seconds = wish * random.uniform(1.0, 1.2)
            self._reads.pause(seconds)
            self._writes.pause(seconds)
        return response


@dataclass(frozen=True)
class _Page:
    """Part of a list, as the server wrote it; `is_first` again when the list had to begin anew."""

    items: Manifests
    version: str
    is_first: bool


def _named(manifest: Manifest) -> Ref:
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


def _path(ref: Ref, subresource: str = "") -> str:
    resource = resource_of(ref.kind)
    if resource.is_namespaced != bool(ref.namespace):
        rule = "must be set" if resource.is_namespaced else "must be empty"
        raise ClusterError(f"metadata.namespace of {ref.kind} {ref.name} {rule}", reason="Invalid")
    return resource.path(ref.namespace, ref.name, subresource)


def _selector(labels: dict[str, str] | str | None) -> str | None:
    """An empty value asks only that the label be there."""
    if isinstance(labels, str):
        return labels
    return ",".join(f"{name}={value}" if value else name for name, value in (labels or {}).items()) or None


def _event(ref: Ref, uid: str, event: EventOrder, now: datetime) -> Manifest:
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
