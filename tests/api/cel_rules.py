"""What an API server does with an object, as far as CRDs say it: fill in defaults, then evaluate the CEL rules."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import celpy

from kubeautoml.api.crd import KINDS, definition
from kubeautoml.api.objects import Manifest
from kubeautoml.api.structural import Schema


@cache
def schema_of(kind: str) -> Schema:
    crd = definition(next(k for k in KINDS if k.name == kind))
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def with_defaults(value: Any, schema: Schema) -> Any:
    """The value with the defaults of its schema, from the outside in; a null counts as absent."""
    if schema["type"] == "array":
        return [with_defaults(v, schema["items"]) for v in value]
    if schema["type"] != "object" or "properties" not in schema:
        return value
    filled = {k: v for k, v in value.items() if v is not None}
    for name, inner in schema["properties"].items():
        if name not in filled and "default" in inner:
            filled[name] = deepcopy(inner["default"])
        if name in filled:
            filled[name] = with_defaults(filled[name], inner)
    return filled


def violations(new: Manifest, old: Manifest | None = None) -> list[str]:
    """Messages of the rules that an object, or its update, breaks, each with its path."""
    schema = schema_of(new["kind"])
    before = with_defaults(old, schema) if old is not None else None
    return _violations(schema, with_defaults(new, schema), before, "")


def _violations(schema: Schema, new: Any, old: Any, path: str) -> list[str]:
    found = []
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" in rule["rule"] and old is None:
            continue
        if not _holds(rule["rule"], new, old):
            found.append(f"{path}{rule.get('fieldPath', '')}: {rule['message']}")
    if schema["type"] == "array":
        for i, item in enumerate(new):
            found += _violations(schema["items"], item, None, f"{path}[{i}]")
    for name, inner in schema.get("properties", {}).items():
        if name in new and name not in ("metadata", "status"):
            before = old.get(name) if old is not None else None
            found += _violations(inner, new[name], before, f"{path}.{name}".lstrip("."))
    return found


def _holds(rule: str, new: Any, old: Any) -> bool:
    given = {"self": celpy.json_to_cel(new), **({"oldSelf": celpy.json_to_cel(old)} if old is not None else {})}
    return bool(_program(rule).evaluate(given))


@cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
