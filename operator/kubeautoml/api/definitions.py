"""Is a CustomResourceDefinition in the cluster good enough for this version? Asked by the operator and by `kubeautoml crds --apply`.

Each of ours carries the version that it was made by and the digest of what it says. The same digest is the same definition,
whatever the version; else the newer version has the newer one. Newer ones are compatible: fields are only ever added.
"""

from __future__ import annotations

import hashlib
import json
import re
from enum import Enum

from kubeautoml import __version__
from kubeautoml.api.kinds import GROUP
from kubeautoml.api.objects import Manifest

ANNOTATION_VERSION = f"{GROUP}/version"
ANNOTATION_SCHEMA = f"{GROUP}/schema"

HOW_TO_MEND = (
    "run `kubeautoml crds --apply` (its image does, too), or `kubectl apply --server-side --force-conflicts -f crds/` of "
    f"version {__version__}"
)


class Standing(Enum):
    """How a definition in the cluster compares with ours."""

    SAME = "the same"
    NEWER = "newer"
    OLDER = "older"
    MISSING = "missing"
    UNFINISHED = "not served yet"


def marks(spec: Manifest) -> dict[str, str]:
    """The annotations of a definition with that spec."""
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
    return {ANNOTATION_VERSION: __version__, ANNOTATION_SCHEMA: digest}


def standing(ours: Manifest, found: Manifest | None) -> Standing:
    """Where the definition stands that was found; one without our annotations is older than them."""
    if found is None:
        return Standing.MISSING
    own = ours["metadata"]["annotations"]
    seen = found["metadata"].get("annotations") or {}
    if seen.get(ANNOTATION_SCHEMA) != own[ANNOTATION_SCHEMA]:
        is_newer = _order(seen.get(ANNOTATION_VERSION, "0")) > _order(own[ANNOTATION_VERSION])
        return Standing.NEWER if is_newer else Standing.OLDER
    return Standing.SAME if is_established(found) else Standing.UNFINISHED


def is_established(definition: Manifest) -> bool:
    """Whether the API server serves it."""
    conditions = (definition.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def complaint(ours: Manifest, found: Manifest | None) -> str | None:
    """Why an operator of this version cannot work with it, in one line that says what to do; None when it can."""
    name = ours["metadata"]["name"]
    match standing(ours, found):
        case Standing.MISSING:
            return f"CustomResourceDefinition {name} is missing; {HOW_TO_MEND}"
        case Standing.OLDER:
            version = ((found or {})["metadata"].get("annotations") or {}).get(ANNOTATION_VERSION, "unknown")
            return (
                f"CustomResourceDefinition {name} is older than this operator: it is of version {version} and must be of "
                f"{__version__}; {HOW_TO_MEND}"
            )
        case Standing.UNFINISHED:
            return f"CustomResourceDefinition {name} is not served yet; see its conditions: kubectl describe crd {name}"
    return None


def _order(version: str) -> tuple[tuple[int, ...], bool, str]:
    """Sorts versions: 0.9 < 0.10rc1 < 0.10. What is no version comes first."""
    numbers, rest = re.fullmatch(r"v?((?:\d+\.)*\d+)?(.*)", version.strip(), re.DOTALL).groups()  # type: ignore[union-attr]
    parts = tuple(int(n) for n in numbers.split(".")) if numbers else ()
    while parts and parts[-1] == 0:
        parts = parts[:-1]
    return parts, not rest, rest
