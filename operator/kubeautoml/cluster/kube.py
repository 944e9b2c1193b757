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
import json
import logging
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException

from kubeautoml import __version__
from kubeautoml.api.errors import ClusterError, Conflict, Throttled
from kubeautoml.api.kinds import API_VERSION
from kubeautoml.api.names import FIELD_MANAGER
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.cluster.base import Change, Heard
from kubeautoml.cluster.requests import RateLimit, RequestCounts
from kubeautoml.cluster.resources import RESOURCES, resource_of
from kubeautoml.cluster.stream import Stream

log = logging.getLogger(__name__)
T = TypeVar("T")
Manifests = list[Manifest]  # an alias, since `list` is a method below

THREADS = 16
PAGE_SIZE = 500
CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0
WATCH_SECONDS = 240
"""The server ends a watch after this long; then it goes on from the same resourceVersion. A guess, below usual proxies' 300."""
LONGEST_PAUSE_SECONDS = 10.0
WATCH_SILENCE_SECONDS = 120.0
"""A watch that says nothing for so long is taken for dead: servers send a bookmark about every minute."""

WRITES_PER_SECOND, WRITES_AT_ONCE = 40.0, 20
READS_PER_SECOND, READS_AT_ONCE = 200.0, 200
"""The client's own limit, so that one operator is never what an API server suffers from."""

LEASE_SECONDS = 3.0
"""Longest wait for an answer about a Lease, which is renewed every two seconds."""
EVENT_MESSAGE_LENGTH = 1024
_IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KubeCluster:
    """`cluster.base.Cluster` over an API server, and the few verbs more that the commands need."""

    def __init__(self, api: ApiClient, *, default_namespace: str = "default") -> None:
        self._reads = RateLimit(READS_PER_SECOND, READS_AT_ONCE)
        self._writes = RateLimit(WRITES_PER_SECOND, WRITES_AT_ONCE)
        self.default_namespace = default_namespace
        """The namespace of the kubeconfig's context, or of this pod."""
        self.requests = RequestCounts()
        api.user_agent = f"kubeautoml/{__version__}"
        self._api = api
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kube")
        self._streams: set[Stream] = set()

    @classmethod
    def from_kubeconfig(cls, path: str | Path | None = None, context: str | None = None) -> KubeCluster:
        """As kubectl finds its cluster: the file, else KUBECONFIG, else ~/.kube/config, else the cluster around this pod.

        Raises:
            ClusterError: there is none, or it is damaged; says which file.
        """
        file = str(path or os.environ.get("KUBECONFIG") or Path("~/.kube/config").expanduser())
        if (
            path is None
            and context is None
            and _is_in_cluster()
            and not any(map(os.path.exists, file.split(os.pathsep)))
        ):
            return cls.in_cluster()
        settings = _configuration()
        try:
            config.load_kube_config(file, context, settings, persist_config=False)
            contexts, active = config.list_kube_config_contexts(file)
        except (config.ConfigException, OSError, ValueError) as error:
            raise ClusterError(
                f"kubeconfig {file} cannot be used: {error}; name another with --kubeconfig or KUBECONFIG",
                reason="InvalidKubeconfig",
            ) from error
        chosen = next((c for c in contexts if c["name"] == context), active) or {}
        return cls(ApiClient(settings), default_namespace=chosen.get("context", {}).get("namespace") or "default")

    @classmethod
    def in_cluster(cls) -> KubeCluster:
        """As the service account of this pod.

        Raises:
            ClusterError: this process runs in no pod, or its token is not mounted.
        """
        settings = _configuration()
        try:
            config.load_incluster_config(settings)
            namespace = (_IN_CLUSTER / "namespace").read_text().strip()
        except (config.ConfigException, OSError) as error:
            raise ClusterError(
                f"no API server is known to this process: {error}; run it in a pod with a service account token, "
                "or name a kubeconfig",
                reason="InvalidKubeconfig",
            ) from error
        return cls(ApiClient(settings), default_namespace=namespace)

    def close(self) -> None:
        """End every watch and connection."""
        for stream in list(self._streams):
            stream.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._api.close()

    # Cluster protocol

    async def get(self, ref: Ref) -> Manifest | None:
        return await self._in_thread(self._get, ref)

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        labels: dict[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> list[Manifest]:
        found, _ = await self._in_thread(self._list, kind, namespace, labels)
        return found

    async def watch(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change]:
        async for item in self.follow(kind, namespace, labels):
            if isinstance(item, Change):
                yield item

    async def follow(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change | Heard]:
        """A watch that also says that the server lives, and when everything there is has been told."""
        resource_of(kind)
        async for item in self._stream(functools.partial(self._watch, kind, namespace, labels)):
            yield item
        raise ClusterError(f"the watch of {kind} objects ended because the connection was closed here")

    async def apply(self, manifest: Manifest) -> Manifest:
        return await self._in_thread(self._apply, manifest)

    async def delete(self, ref: Ref, *, uid: str | None = None) -> bool:
        return await self._in_thread(self._delete, ref, uid)

    async def patch_status(self, ref: Ref, status: Manifest) -> None:
        await self._in_thread(self._patch_status, ref, status)

    async def emit(self, ref: Ref, uid: str, event: EventOrder) -> None:
        await self._in_thread(self._emit, ref, uid, event)

    # For leader election: blocking, since it lives in a thread of its own; no rate limit, no repetition

    def read_lease(self, ref: Ref) -> Manifest | None:
        """The Lease with its resourceVersion, or None."""
        try:
            return self._lease("get", "GET", _path(ref))
        except _NotFound:
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
        response = self._exchange(
            verb, "Lease", method, path, {}, body, "application/json", (LEASE_SECONDS, LEASE_SECONDS)
        )
        return self._answer(response)

    # For the commands

    async def merge_patch(self, ref: Ref, patch: Manifest) -> Manifest:
        """Change some fields of an object as a person would (RFC 7386).

        Raises:
            ClusterError: there is no such object, or the change is refused.
        """
        return await self._in_thread(self._merge_patch, ref, patch)

    async def service_post(self, namespace: str, service: str, port: str, path: str, body: Manifest) -> Manifest:
        """POST to a Service through the API server's proxy, so that a laptop needs no way into the cluster's network."""
        url = f"/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy/{path}"
        return await self._in_thread(self._json, "post", "Service", "POST", url, None, body)

    async def pod_log(
        self, pod: Ref, *, follow: bool = False, tail_lines: int | None = None, container: str | None = None
    ) -> AsyncIterator[str]:
        """Lines of a pod's log; with `follow` until the pod ends."""
        query = {"follow": "true" if follow else None, "tailLines": tail_lines, "container": container}
        path = _path(pod, "log")

        def read(stream: Stream) -> Iterator[str]:
            for line in stream.lines(
                self._open("log", "Pod", path, query, read_seconds=None if follow else READ_SECONDS)
            ):
                yield line.decode(errors="replace")

        async for line in self._stream(read):
            yield line

    # Blocking verbs

    def _get(self, ref: Ref) -> Manifest | None:
        try:
            return _tidy(ref.kind, self._json("get", ref.kind, "GET", _path(ref)))
        except _NotFound:
            return None

    def _list(self, kind: str, namespace: str | None, labels: dict[str, str] | None = None) -> tuple[Manifests, str]:
        """Every object, page by page, and the resourceVersion from which to watch on."""
        path = resource_of(kind).path(namespace)
        selector = _selector(labels)
        query: dict[str, Any] = {"labelSelector": selector, "limit": PAGE_SIZE}
        found: Manifests = []
        while True:
            try:
                page = self._json("list", kind, "GET", path, query)
            except _NotFound as error:
                raise _unknown_to_server(kind, error) from error
            except _Expired:
                # The snapshot of the first page is gone: read the rest in one go, from the beginning.
                found, query = [], {"labelSelector": selector}
                continue
            found += [_tidy(kind, item) for item in page.get("items") or []]
            if not page["metadata"].get("continue"):
                return found, page["metadata"]["resourceVersion"]
            query = {**query, "continue": page["metadata"]["continue"]}

    def _apply(self, manifest: Manifest) -> Manifest:
        ref = _named(manifest)
        body = {name: value for name, value in manifest.items() if name != "status"}
        return _tidy(ref.kind, self._server_side_apply("apply", ref, _path(ref), body))

    def _patch_status(self, ref: Ref, status: Manifest) -> None:
        body = {
            "apiVersion": resource_of(ref.kind).api_version,
            "kind": ref.kind,
            "metadata": {"name": ref.name, **({"namespace": ref.namespace} if ref.namespace else {})},
            "status": status,
        }
        self._server_side_apply("patch_status", ref, _path(ref, "status"), body)

    def _server_side_apply(self, verb: str, ref: Ref, path: str, body: Manifest) -> Manifest:
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return self._json(verb, ref.kind, "PATCH", path, query, body, "application/apply-patch+yaml")

    def _merge_patch(self, ref: Ref, patch: Manifest) -> Manifest:
        content_type = "application/merge-patch+json"
        return _tidy(ref.kind, self._json("patch", ref.kind, "PATCH", _path(ref), {}, patch, content_type))

    def _delete(self, ref: Ref, uid: str | None) -> bool:
        options: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            self._json("delete", ref.kind, "DELETE", _path(ref), {}, options)
        except _NotFound:
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
            self._json("emit", "Event", "POST", RESOURCES["Event"].path(mine.namespace), {}, body)
        except Conflict:
            before = self._get(mine) or {}
            again = {"count": int(before.get("count") or 1) + 1, "lastTimestamp": body["lastTimestamp"]}
            self._merge_patch(mine, again)

    # Watching

    def _watch(
        self, kind: str, namespace: str | None, labels: dict[str, str] | None, stream: Stream
    ) -> Iterator[Change | Heard]:
        """List, tell the difference to what was told before, follow; for ever."""
        told: dict[Ref, Manifest] = {}
        pause = 0.2
        while not stream.is_stopped:
            try:
                listed, version = self._list(kind, namespace, labels)
                yield from _differences(told, listed)
                yield Heard(is_listed=True)
                del listed
                pause = 0.2
                yield from self._follow(kind, namespace, labels, version, told, stream)
            except ClusterError as error:
                if not told and not isinstance(error, Throttled) and error.reason != ClusterError.default_reason:
                    raise  # refused from the beginning: waiting will not help
                log.warning("watch interrupted", extra={"kind": kind, "error": str(error)})
                asked = error.retry_after_seconds if isinstance(error, Throttled) else 0.0
                stream.wait(max(pause, asked))
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _follow(
        self,
        kind: str,
        namespace: str | None,
        labels: dict[str, str] | None,
        version: str,
        told: dict[Ref, Manifest],
        stream: Stream,
    ) -> Iterator[Change | Heard]:
        """Watch on from a version until the server has forgotten it; a watch that merely ended goes on."""
        path = resource_of(kind).path(namespace)
        while not stream.is_stopped:
            query = {
                "watch": "true",
                "labelSelector": _selector(labels),
                "resourceVersion": version,
                "allowWatchBookmarks": "true",
                "timeoutSeconds": WATCH_SECONDS,
            }
            try:
                response = self._open("watch", kind, path, query, read_seconds=WATCH_SILENCE_SECONDS)
                yield Heard()
                for line in stream.lines(response):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _error(event["object"].get("code", 500), event["object"], {})
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] == "BOOKMARK":
                        yield Heard()
                    else:
                        yield _remember(told, Change(event["type"], _tidy(kind, event["object"])))
            except _Expired:
                return

    # Requests

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(call, *args))

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

    def _json(
        self,
        verb: str,
        kind: str,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        body: Manifest | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        return self._answer(self._send(verb, kind, method, path, query or {}, body, content_type, READ_SECONDS))

    def _answer(self, response: urllib3.BaseHTTPResponse) -> Manifest:
        try:
            data = response.data
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from error
        answer = _decoded(data)
        if response.status >= 400:
            raise _error(response.status, answer, response.headers)
        return answer

    def _open(
        self, verb: str, kind: str, path: str, query: dict[str, Any], *, read_seconds: float | None
    ) -> urllib3.BaseHTTPResponse:
        """Begin to read a stream."""
        response = self._send(verb, kind, "GET", path, query, None, "application/json", read_seconds)
        if response.status >= 400:
            raise _error(response.status, _decoded(response.data), response.headers)
        return response

    def _send(
        self,
        verb: str,
        kind: str,
        method: str,
        path: str,
        query: dict[str, Any],
        body: Manifest | None,
        content_type: str,
        read_seconds: float | None,
    ) -> urllib3.BaseHTTPResponse:
        """A request when its turn has come. A server that asks to wait is spared by all others, too."""
        limit = self._reads if method == "GET" else self._writes
        self.requests.add_wait(limit.wait())
        response = self._exchange(verb, kind, method, path, query, body, content_type, (CONNECT_SECONDS, read_seconds))
        if response.status == 429:
            seconds = _seconds(response.headers.get("Retry-After")) * random.uniform(1.0, 1.2)
            self._reads.pause(seconds)
            self._writes.pause(seconds)
        return response

    def _exchange(
        self,
        verb: str,
        kind: str,
        method: str,
        path: str,
        query: dict[str, Any],
        body: Manifest | None,
        content_type: str,
        timeouts: tuple[float, float | None],
    ) -> urllib3.BaseHTTPResponse:
        self.requests.add(verb, kind)
        given = {name: value for name, value in query.items() if value is not None}
        url = f"{self._api.configuration.host}{path}" + (f"?{urlencode(given)}" if given else "")
        headers = {"Accept": "application/json", "Content-Type": content_type}
        try:
            _, _, headers, _, _ = self._api.param_serialize(
                method, path, header_params=headers, query_params=[], auth_settings=["BearerToken"]
            )
            answer = self._api.call_api(method, url, headers, body, _request_timeout=timeouts)
        except (urllib3.exceptions.HTTPError, ApiException, config.ConfigException, OSError) as error:
            raise self._unreachable(error) from error
        response: urllib3.BaseHTTPResponse = answer.response
        return response

    def _unreachable(self, error: Exception) -> ClusterError:
        cause = getattr(error, "reason", None) or error
        return ClusterError(
            f"the API server at {self._api.configuration.host} does not answer: {cause}; check its address, "
            "certificate and the network"
        )


class _NotFound(ClusterError):
    """404."""

    default_reason = "NotFound"


class _Expired(ClusterError):
    """410: a resourceVersion or continue token that the server has forgotten."""

    default_reason = "Expired"


def _configuration() -> Configuration:
    """Retries only where the request certainly did nothing, or may be repeated; a 429 is the caller's to wait for."""
    settings = Configuration()
    settings.keep_alive = True
    settings.connection_pool_maxsize = THREADS
    settings.retries = urllib3.Retry(
        total=3,
        connect=2,
        read=1,
        status=0,
        redirect=0,
        other=0,
        backoff_factor=0.1,
        allowed_methods=frozenset({"GET", "PATCH", "DELETE"}),
        respect_retry_after_header=False,
    )
    return settings


def _is_in_cluster() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (_IN_CLUSTER / "token").exists()


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


def _selector(labels: dict[str, str] | None) -> str | None:
    """An empty value asks only that the label be there."""
    return ",".join(f"{name}={value}" if value else name for name, value in (labels or {}).items()) or None


def _tidy(kind: str, manifest: Manifest) -> Manifest:
    """With kind and version, which items of a list lack, and without the record of field managers, which is long."""
    metadata = {name: value for name, value in manifest["metadata"].items() if name != "managedFields"}
    return {"apiVersion": RESOURCES[kind].api_version, "kind": kind, **manifest, "metadata": metadata}


def _remember(told: dict[Ref, Manifest], change: Change) -> Change:
    ref = Ref.of(change.manifest)
    if change.type == "DELETED":
        told.pop(ref, None)
    else:
        told[ref] = _outline(change.manifest)
    return change


def _outline(manifest: Manifest) -> Manifest:
    """What a reader must know of an object that it missed the end of; all of it would fill the memory."""
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "ownerReferences")
    metadata = {name: value for name, value in manifest["metadata"].items() if name in kept}
    return {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": metadata}


def _differences(told: dict[Ref, Manifest], listed: list[Manifest]) -> Iterator[Change]:
    """What a reader missed between two lists; everything, at first. A recreated object is one gone and one added."""
    now = {Ref.of(manifest): manifest for manifest in listed}
    for ref, before in list(told.items()):
        if ref not in now or now[ref]["metadata"]["uid"] != before["metadata"]["uid"]:
            yield _remember(told, Change("DELETED", before))
    for ref, manifest in now.items():
        if ref not in told:
            yield _remember(told, Change("ADDED", manifest))
        elif told[ref]["metadata"]["resourceVersion"] != manifest["metadata"]["resourceVersion"]:
            yield _remember(told, Change("MODIFIED", manifest))


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


def _decoded(data: bytes) -> Manifest:
    """A JSON object; what is none (a proxy's error page, say) becomes its message."""
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"message": data[:200].decode(errors="replace")}


def _error(status: int, answer: Manifest, headers: Any) -> ClusterError:
    """The API server's refusal as one of ours."""
    message = str(answer.get("message") or f"HTTP status {status}")
    if status == 401:
        message = f"the API server does not accept these credentials ({message}); log in again or renew the token"
    reason = str(answer.get("reason") or "")
    match status:
        case 404:
            return _NotFound(message)
        case 409:
            return Conflict(message)
        case 422 if _is_about_uid(answer):
            return Conflict(message)
        case 410:
            return _Expired(message)
        case 429:
            return Throttled(message, retry_after_seconds=_seconds(headers.get("Retry-After")))
        case _ if status < 500:
            return ClusterError(message, reason=reason or "BadRequest")
    return ClusterError(f"the API server failed: {message}")


def _is_about_uid(answer: Manifest) -> bool:
    """Another incarnation, which some kinds report as an invalid change of an immutable field."""
    causes = (answer.get("details") or {}).get("causes") or []
    return any(cause.get("field") == "metadata.uid" for cause in causes)


def _unknown_to_server(kind: str, error: ClusterError) -> ClusterError:
    hint = "; install the CRDs: kubectl apply -f crds/" if RESOURCES[kind].api_version == API_VERSION else ""
    what = f"the API server does not know {kind} in {RESOURCES[kind].api_version}"
    return ClusterError(f"{what} ({error}){hint}", reason="NotFound")


def _seconds(retry_after: str | None) -> float:
    try:
        return max(0.0, float(retry_after or 1))
    except ValueError:  # an HTTP date, which API servers do not send
        return 1.0
