"""What a watch has told its reader, so that after a gap it can tell what the reader missed, and nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cluster.answers import error_of, outline, tidy
from kubeautoml.cluster.base import Change, Heard


@dataclass(frozen=True, slots=True)
class _Entry:
    """One object as it was told last; its outline as JSON, which is a tenth of the same in objects."""

    uid: str
    version: str
    outline: bytes


class Told:
    """What the reader of one watch knows.

    A list is compared page by page (`begin_list`, `page`, `end_list`), so that no more than a page is ever in memory.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._entries: dict[Ref, _Entry] = {}
        self._listed: set[Ref] = set()
        self.version = ""
        """From which resourceVersion to watch on; empty: list first."""

    def begin_list(self) -> None:
        """A list begins, perhaps for the second time because its snapshot was gone half-way."""
        self._listed = set()

    def page(self, manifests: Iterable[Manifest], version: str) -> Iterator[Change]:
        """What is new in a page of a list of this resourceVersion. A recreated object is one gone and one added."""
        for manifest in manifests:
            ref, metadata = Ref.of(manifest), manifest["metadata"]
            self._listed.add(ref)
            before = self._entries.get(ref)
            if before is not None and before.uid != metadata["uid"]:
                yield self._gone(ref, version)
                before = None
            if before is None:
                yield self.remember(Change("ADDED", manifest))
            elif before.version != metadata["resourceVersion"]:
                yield self.remember(Change("MODIFIED", manifest))

    def end_list(self, version: str) -> Iterator[Change]:
        """What is gone: all that was told and is in no page."""
        for ref in [ref for ref in self._entries if ref not in self._listed]:
            yield self._gone(ref, version)
        self._listed = set()
        self.version = version

    def line(self, line: bytes) -> Change | Heard:
        """One line of a watch.

        Raises:
            ClusterError: it is an error, such as Expired, or none that a watch may send.
        """
        try:
            event = json.loads(line)
            type_, manifest = event["type"], event["object"]
            if type_ == "ERROR":
                raise error_of(manifest.get("code", 500), manifest, {})
            self.version = manifest["metadata"]["resourceVersion"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ClusterError(f"a watch sent what is no event: {line[:200]!r}") from error
        return Heard() if type_ == "BOOKMARK" else self.remember(Change(type_, tidy(self._kind, manifest)))

    def remember(self, change: Change) -> Change:
        """Note what is told, and tell it."""
        ref, metadata = Ref.of(change.manifest), change.manifest["metadata"]
        if change.type == "DELETED":
            self._entries.pop(ref, None)
        else:
            short = json.dumps(outline(change.manifest), separators=(",", ":")).encode()
            self._entries[ref] = _Entry(metadata["uid"], metadata["resourceVersion"], short)
        return change

    def _gone(self, ref: Ref, version: str) -> Change:
        """As a watch would tell it: with a version at which it was gone."""
        last = json.loads(self._entries[ref].outline)
        return self.remember(Change("DELETED", {**last, "metadata": {**last["metadata"], "resourceVersion": version}}))
