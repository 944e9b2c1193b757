"""Which of the wanted objects must be applied: those that are missing, were made from another wish, or were edited.

Every object carries the digest of the wish it was made from, since an API server adds defaults and an old one drops what it
does not know, so that what is there never equals what was asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from kubeautoml.api.names import ANNOTATION_DIGEST
from kubeautoml.api.objects import Manifest, Ref

UNCOMPARED = frozenset({"resources", "annotations"})
"""Quantities come back in another spelling (1000m as 1); what else changes there changes the digest."""


def changed(wanted: Iterable[Manifest], children: Mapping[Ref, Manifest]) -> tuple[Manifest, ...]:
    """The objects to apply, each with its digest."""
    return tuple(m for m in map(with_digest, wanted) if _must_apply(m, children.get(Ref.of(m))))


def with_digest(manifest: Manifest) -> Manifest:
    """The manifest with the digest of itself as an annotation."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), ANNOTATION_DIGEST: digest}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _must_apply(wanted: Manifest, found: Manifest | None) -> bool:
    if found is None or _digest(found) != _digest(wanted):
        return True
    edited = was_edited({k: v for k, v in wanted.items() if k == "spec"}, found)
    return edited or _lost_its_ties(wanted["metadata"], found["metadata"]) or _opened(wanted, found)


def _lost_its_ties(wanted: Manifest, found: Manifest) -> bool:
    """Whether labels or the owner were changed or taken away, by which children are found and go with their job."""
    labels, owners = found.get("labels") or {}, found.get("ownerReferences") or []
    gone = {owner["uid"] for owner in wanted.get("ownerReferences", ())} - {owner.get("uid") for owner in owners}
    return bool(gone) or not wanted.get("labels", {}).items() <= labels.items()


def _opened(wanted: Manifest, found: Manifest) -> bool:
    """Whether something was taken out of a network policy, where what is missing is allowed. Every server knows all of it."""
    return wanted["kind"] == "NetworkPolicy" and _lacks(wanted["spec"], found.get("spec"))


def _lacks(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, dict) and isinstance(found, dict):
        return any((v and k not in found) or _lacks(v, found.get(k)) for k, v in wanted.items())
    if isinstance(wanted, list) and isinstance(found, list):
        return any(_lacks(w, f) for w, f in zip(wanted, found, strict=False))
    return False


def _digest(manifest: Manifest) -> str | None:
    found: str | None = manifest["metadata"].get("annotations", {}).get(ANNOTATION_DIGEST)
    return found


def was_edited(wanted: Any, found: Any) -> bool:
    """Whether a value we asked for is there with another value. What is missing was not known to the server."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return any(was_edited(v, found[k]) for k, v in wanted.items() if k in found and k not in UNCOMPARED)
    if isinstance(wanted, list) and isinstance(found, list):
        pairs = zip(wanted, found, strict=False)
        return len(wanted) != len(found) or any(was_edited(w, f) for w, f in pairs)
    return bool(wanted != found)
