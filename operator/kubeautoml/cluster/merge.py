"""Server-side apply in small: what an object becomes when one field manager sends its manifest again.

Pure functions over JSON. Maps merge key by key, lists that Kubernetes merges by a key merge by that key, everything
else is replaced whole.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from kubeautoml.api.objects import Manifest

# Lists with x-kubernetes-list-type=map in the built-in kinds and ours, by field name (k8s.io/api, types.go markers).
_LIST_KEYS: dict[str, tuple[str, ...]] = {
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
}

_ABSENT: Any = object()


def apply_fields(current: Any, owned: Any, sent: Any, field: str = "") -> Any:
    """The value after an apply.

    Args:
        current: the value as it is stored.
        owned: what the same manager sent before; parts of it that are not sent again disappear.
        sent: what the manager sends now; it wins over everybody (force).
        field: name of the field that holds the value; it decides how a list merges.
    """
    if isinstance(sent, dict) and isinstance(current, dict):
        return _merge_maps(current, owned if isinstance(owned, dict) else {}, sent)
    keys = _LIST_KEYS.get(field)
    if keys and isinstance(sent, list) and isinstance(current, list):
        before = _by_key(owned, keys) if isinstance(owned, list) else {}
        return list(_merge_maps(_by_key(current, keys), before, _by_key(sent, keys)).values())
    return deepcopy(sent)


def still_owned(owned: Any, current: Any) -> Any:
    """The part of what a manager sent that nobody else has changed since; the rest now belongs to others."""
    if isinstance(owned, dict) and isinstance(current, dict):
        parts = {k: still_owned(v, current[k]) for k, v in owned.items() if k in current}
        return {k: v for k, v in parts.items() if v is not _ABSENT}
    return owned if owned == current else _ABSENT


def leftovers(found: Manifest, sent: Manifest) -> Manifest:
    """A merge patch that takes out of `found` the members of maps that were not sent: what others have left there."""
    patch: Manifest = {}
    for key, value in found.items():
        if key not in sent:
            patch[key] = None
        elif isinstance(value, dict) and isinstance(sent[key], dict):
            inner = leftovers(value, sent[key])
            patch |= {key: inner} if inner else {}
    return patch


def merge_patch(current: Any, patch: Any) -> Any:
    """RFC 7386: null removes, maps merge, everything else replaces."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    result = dict(current) if isinstance(current, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def _merge_maps(current: dict[Any, Any], owned: dict[Any, Any], sent: dict[Any, Any]) -> dict[Any, Any]:
    result = {}
    for key, value in sent.items():
        result[key] = apply_fields(current.get(key, _ABSENT), owned.get(key), value, str(key))
    for key, value in current.items():
        if key in sent:
            continue
        left = _without(value, owned[key], str(key)) if key in owned else value
        if left is not _ABSENT:
            result[key] = left
    return result


def _without(current: Any, owned: Any, field: str) -> Any:
    """What others put into a value that its manager no longer sends."""
    if isinstance(current, dict) and isinstance(owned, dict):
        return _merge_maps(current, owned, {}) or _ABSENT
    if field in _LIST_KEYS and isinstance(current, list) and isinstance(owned, list):
        return apply_fields(current, owned, [], field) or _ABSENT
    return _ABSENT


def _by_key(items: list[Any], keys: tuple[str, ...]) -> dict[Any, Any]:
    return {tuple(item.get(k) for k in keys): item for item in items if isinstance(item, dict)}
