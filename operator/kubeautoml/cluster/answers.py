"""What the API server answers, as manifests and as errors of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping

from kubeautoml.api.errors import ClusterError, Conflict, Throttled
from kubeautoml.api.kinds import API_VERSION
from kubeautoml.api.objects import Manifest
from kubeautoml.cluster.resources import RESOURCES

LONGEST_RETRY_AFTER_SECONDS = 60.0
"""A longer wish to wait is cut to this: an odd proxy must not stop an operator for an hour. A guess."""


class NotFound(ClusterError):
    """404."""

    default_reason = "NotFound"


class Expired(ClusterError):
    """410: a resourceVersion or continue token that the server has forgotten."""

    default_reason = "Expired"


def decoded(data: bytes) -> Manifest:
    """A JSON object; what is none (a proxy's error page, say) becomes its message."""
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"message": data[:200].decode(errors="replace")}


def error_of(status: int, answer: Manifest, headers: Mapping[str, str]) -> ClusterError:
    """The API server's refusal as one of ours."""
    message = str(answer.get("message") or f"HTTP status {status}")
    if status == 401:
        message = f"the API server does not accept these credentials ({message}); log in again or renew the token"
    reason = str(answer.get("reason") or "")
    wish = retry_after_seconds(status, headers)
    if wish is not None:
        return Throttled(message, retry_after_seconds=wish)
    match status:
        case 404:
            return NotFound(message)
        case 409:
            return Conflict(message)
        case 422 if _is_about_uid(answer):
            return Conflict(message)
        case 410:
            return Expired(message)
        case _ if status < 500:
            return ClusterError(message, reason=reason or "BadRequest")
    return ClusterError(f"the API server failed: {message}")


def retry_after_seconds(status: int, headers: Mapping[str, str]) -> float | None:
    """How long the server asks to be left alone: always with 429, and with an error of its own that says so."""
    wish = headers.get("Retry-After")
    if status != 429 and (status < 500 or wish is None):
        return None
    try:
        seconds = float(wish or 1)
    except ValueError:  # an HTTP date, which API servers do not send
        seconds = 1.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def unknown_to_server(kind: str, error: ClusterError) -> ClusterError:
    """A list that was answered with 404: it is not that there are none, there is no such kind."""
    hint = "; install the CRDs: kubectl apply -f crds/" if RESOURCES[kind].api_version == API_VERSION else ""
    what = f"the API server does not know {kind} in {RESOURCES[kind].api_version}"
    return ClusterError(f"{what} ({error}){hint}", reason="NotFound")


def tidy(kind: str, manifest: Manifest) -> Manifest:
    """With kind and version, which items of a list lack, and without the record of field managers, which is long."""
    metadata = {name: value for name, value in manifest["metadata"].items() if name != "managedFields"}
    return {"apiVersion": RESOURCES[kind].api_version, "kind": kind, **manifest, "metadata": metadata}


def outline(manifest: Manifest) -> Manifest:
    """What tells an object from others and from its namesakes; all of it would fill the memory."""
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "ownerReferences")
    metadata = {name: value for name, value in manifest["metadata"].items() if name in kept}
    return {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": metadata}


def _is_about_uid(answer: Manifest) -> bool:
    """Another incarnation, which some kinds report as an invalid change of an immutable field."""
    causes = (answer.get("details") or {}).get("causes") or []
    return any(cause.get("field") == "metadata.uid" for cause in causes)
