"""What an old API server does not know, taken out of manifests before they are sent. For tests only.

The product is written for Kubernetes >= 1.29. The control plane at hand may be 1.20, whose server-side apply answers 500
to a field it does not know. On a new server every function here returns what it was given.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

Json = dict[str, Any]
Version = tuple[int, ...]

_JOB_FIELDS: dict[str, Version] = {
    "suspend": (1, 21),
    "completionMode": (1, 21),
    "podFailurePolicy": (1, 25),
    "successPolicy": (1, 30),
    "podReplacementPolicy": (1, 28),
    "backoffLimitPerIndex": (1, 28),
    "maxFailedIndexes": (1, 28),
    "managedBy": (1, 30),
    # alpha and off in 1.20
    "ttlSecondsAfterFinished": (1, 21),
}
_GROUPS: dict[str, Version] = {"policy/v1": (1, 21), "autoscaling/v2": (1, 23)}


def is_served(api_version: str, version: Version) -> bool:
    """Whether the server has this group and version at all; if not, a test leaves the object out."""
    return version >= _GROUPS.get(api_version, (0,))


def is_known(manifest: Json, version: Version) -> bool:
    """Whether the server can store this object."""
    return is_served(manifest["apiVersion"], version)


def strip_status(status: Json, version: Version) -> Json:
    """A status without empty strings: before 1.22, server-side apply turned those in list items into null."""
    return status if version >= (1, 22) else {name: _without_empty_strings(value) for name, value in status.items()}


def _without_empty_strings(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_empty_strings(v) for name, v in value.items() if v != ""}
    return [_without_empty_strings(v) for v in value] if isinstance(value, list) else value


def strip(manifest: Json, version: Version) -> Json:
    """A copy of a manifest without the fields that the server does not know."""
    result = deepcopy(manifest)
    if version >= (1, 30):
        return result
    spec = result.get("spec", {})
    if result["kind"] == "CustomResourceDefinition":
        _strip_schema(spec, version)
    if result["kind"] == "Job":
        _drop(spec, _JOB_FIELDS, version)
    pod_spec = _pod_spec(result)
    if pod_spec:
        _strip_pod(pod_spec, version)
    if result["kind"] == "Service":
        _drop(spec, {"trafficDistribution": (1, 30), "internalTrafficPolicy": (1, 21)}, version)
    return result


def _pod_spec(manifest: Json) -> Json | None:
    if manifest["kind"] == "Pod":
        return dict(manifest).get("spec")
    template = manifest.get("spec", {}).get("template")
    return template.get("spec") if isinstance(template, dict) else None


def _strip_pod(spec: Json, version: Version) -> None:
    _drop(spec, {"os": (1, 23), "schedulingGates": (1, 26), "resourceClaims": (1, 26), "hostUsers": (1, 25)}, version)
    for container in [*spec.get("initContainers", []), *spec.get("containers", [])]:
        _drop(container, {"resizePolicy": (1, 27), "restartPolicy": (1, 28)}, version)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            _drop(container.get(probe, {}), {"grpc": (1, 23), "terminationGracePeriodSeconds": (1, 21)}, version)
        if version < (1, 23):
            _drop_probe_without_action(container)
    for constraint in spec.get("topologySpreadConstraints", []):
        new = {"minDomains": (1, 24), "matchLabelKeys": (1, 25), "nodeAffinityPolicy": (1, 25)}
        _drop(constraint, {**new, "nodeTaintsPolicy": (1, 25)}, version)


def _drop_probe_without_action(container: Json) -> None:
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if probe in container and not {"httpGet", "tcpSocket", "exec"} & container[probe].keys():
            del container[probe]


def _strip_schema(node: Any, version: Version) -> None:
    """CEL rules, and keywords of schemas and printer columns that came later, anywhere in a CRD."""
    if isinstance(node, list):
        for item in node:
            _strip_schema(item, version)
    if isinstance(node, dict):
        _drop(node, {"x-kubernetes-validations": (1, 25), "selectableFields": (1, 30)}, version)
        for value in node.values():
            _strip_schema(value, version)


def _drop(node: Json, since: dict[str, Version], version: Version) -> None:
    for name, first in since.items():
        if version < first:
            node.pop(name, None)
