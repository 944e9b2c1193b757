"""All objects of a kind, page by page, and what changes among them from then on. These block: each runs in a thread."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kubeautoml.api.errors import ClusterError, Throttled
from kubeautoml.api.objects import Manifest
from kubeautoml.cluster.answers import Expired, NotFound, outline, tidy, unknown_to_server
from kubeautoml.cluster.base import Change, Heard
from kubeautoml.cluster.connection import JSON, Request
from kubeautoml.cluster.kube_calls import Calls
from kubeautoml.cluster.kube_wire import selector_of
from kubeautoml.cluster.resources import resource_of
from kubeautoml.cluster.stream import Stream
from kubeautoml.cluster.told import Told

log = logging.getLogger(__name__)

Manifests = list[Manifest]

PAGE_SIZE = 250
"""Objects a page: what the interpreter parses in one go, in which the event loop stands still for some 10 ms."""

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

_METADATA_ONLY = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


@dataclass(frozen=True)
class Page:
    """Part of a list, as the server wrote it; `is_first` again when the list had to begin anew."""

    items: Manifests
    version: str
    is_first: bool


class Lists:
    """Lists and watches of one client."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def all(self, kind: str, namespace: str | None, labels: dict[str, str] | str | None) -> Manifests:
        """Objects of a kind, whole."""
        found: Manifests = []
        for page in self.pages(kind, namespace, labels):
            if page.is_first:
                found.clear()
            found += [tidy(kind, item) for item in page.items]
        return found

    def metadata(self, kind: str, namespace: str | None) -> Manifests:
        """Objects of a kind without spec and status."""
        found: Manifests = []
        known = {"apiVersion": resource_of(kind).api_version, "kind": kind}
        for page in self.pages(kind, namespace, None, accept=_METADATA_ONLY):
            if page.is_first:
                found.clear()
            found += [outline({**known, "metadata": item["metadata"]}) for item in page.items]
        return found

    def pages(
        self,
        kind: str,
        namespace: str | None,
        labels: dict[str, str] | str | None,
        sleep: Callable[[float], object] | None = None,
        accept: str = JSON,
    ) -> Iterator[Page]:
        """A list page by page. Its first request's turn has come; the others' turn is waited for here."""
        path, selector = resource_of(kind).path(namespace), selector_of(labels)
        query: dict[str, Any] = {"labelSelector": selector, "limit": PAGE_SIZE}
        is_first = True
        while True:
            try:
                page = self._calls.json(Request("list", kind, "GET", path, query, accept=accept))
            except NotFound as error:
                raise unknown_to_server(kind, error) from error
            except Expired:
                # The snapshot of the first page is gone: read the rest in one go, from the beginning.
                query, is_first = {"labelSelector": selector}, True
            else:
                metadata = page["metadata"]
                yield Page(page.get("items") or [], metadata["resourceVersion"], is_first)
                if not metadata.get("continue"):
                    return
                query, is_first = {**query, "continue": metadata["continue"]}, False
            self._calls.wait_to_read(sleep)

    def watch(
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
        self._calls.wait_to_read(stream.wait)
        version = ""
        for page in self.pages(kind, namespace, labels, stream.wait):
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
            "labelSelector": selector_of(labels),
            "resourceVersion": told.version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": random.randint(WATCH_SECONDS, WATCH_SECONDS * 6 // 5),
        }
        request = Request("watch", kind, "GET", resource_of(kind).path(namespace), query)
        self._calls.wait_to_read(stream.wait)
        response = self._calls.open(request, read_seconds=WATCH_SILENCE_SECONDS, retries=False)
        yield Heard()
        for line in stream.lines(response):
            yield told.line(line)
