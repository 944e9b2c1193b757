"""Does Kubernetes know every field of a manifest? Asked of the official client's models, which are generated from its OpenAPI.

Finds a misspelt or misplaced key, a value of another type, a deprecated field, and a required one that is missing: what a new API
server would answer with a warning or a refusal, without having one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kubernetes import client

_SCALARS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bytes": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "datetime": (str,),
}


def problems(manifest: dict[str, Any]) -> list[str]:
    """What Kubernetes would not take, each as "<where>: <what>"; empty for a good object."""
    kind = manifest["kind"]
    group, _, version = manifest["apiVersion"].rpartition("/")
    model = _model(group, version, kind)
    if model is None:
        return [f"{manifest['apiVersion']} {kind}: no such kind in Kubernetes {client.__package__}"]
    return list(_object(kind, model, manifest))


def _model(group: str, version: str, kind: str) -> Any:
    """The client's class of a kind; it names classes by version and kind, and by group where that is not enough."""
    return getattr(client, f"{version.capitalize()}{kind}", None)


def _object(where: str, model: Any, value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: must be an object, got {value!r}"
        return
    fields = {wire: (name, model.openapi_types[name]) for name, wire in model.attribute_map.items()}
    for key, inner in value.items():
        if key not in fields:
            yield f"{where}: no field {key}"
        elif inner is None:
            yield f"{where}.{key}: is null"
        else:
            yield from _value(f"{where}.{key}", fields[key][1], inner)
    for name, field in model.model_fields.items():
        wire = field.serialization_alias or name
        if field.is_required() and wire not in value:
            yield f"{where}: {wire} is missing"
        if wire in value and re.match(r"(?i)deprecated|\w+ is (a )?deprecated", field.description or ""):
            yield f"{where}.{wire}: is deprecated"


def _value(where: str, expected: str, value: Any) -> Iterator[str]:
    if expected == "object":
        return
    if found := re.fullmatch(r"List\[(.*)\]", expected):
        if not isinstance(value, list):
            yield f"{where}: must be a list, got {value!r}"
            return
        for position, item in enumerate(value):
            yield from _value(f"{where}[{position}]", found[1], item)
    elif found := re.fullmatch(r"Dict\[str, (.*)\]", expected):
        if not isinstance(value, dict):
            yield f"{where}: must be a map, got {value!r}"
            return
        for key, item in value.items():
            yield from _value(f"{where}.{key}", found[1], item)
    elif expected in _SCALARS:
        is_bool = isinstance(value, bool)
        if not isinstance(value, _SCALARS[expected]) or (is_bool and expected != "bool"):
            yield f"{where}: must be a {expected}, got {value!r}"
    else:
        yield from _object(where, getattr(client, expected), value)
