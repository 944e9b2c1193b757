"""A pydantic model to the *structural* schema that a CRD needs: no references, no unions, a type everywhere.

Absent stands for null: the API server drops a null before it fills in defaults, so no field is nullable.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from enum import Enum
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kubeautoml.api.cel import IMMUTABLE, RULES, Rule

Schema = dict[str, Any]

_KEPT = (
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
)
"""JSON Schema words that mean the same in a CRD."""


class Builder:
    """Turns the models of one kind into structural schemas."""

    def __init__(self, root: type[BaseModel]) -> None:
        self._models = {m.__name__: m for m in _models_in(root)}
        self._defs: Schema = root.model_json_schema(by_alias=True).get("$defs", {})

    def object(self, model: type[BaseModel], *, with_defaults: bool = True) -> Schema:
        raw = model.model_json_schema(by_alias=True)
        immutable = IMMUTABLE.get(model.__name__, ())
        properties = {}
        for name, field in model.model_fields.items():
            alias = field.alias or name
            if alias in ("apiVersion", "kind", "metadata") and "apiVersion" in raw["properties"]:
                continue
            has_defaults = with_defaults and alias != "status"
            schema = self._value(raw["properties"][alias], with_defaults=has_defaults)
            if has_defaults:
                schema |= _default(field, schema, must=alias in immutable)
            if alias in immutable:
                schema["x-kubernetes-validations"] = [
                    *schema.get("x-kubernetes-validations", []),
                    Rule("self == oldSelf", f"{alias} is immutable; create another {_owner(model)}").to_schema(),
                ]
            properties[alias] = schema
        rules = [r.to_schema() for r in RULES.get(model, ())]
        required = raw.get("required", [])
        return {
            "type": "object",
            "description": _line(raw["description"]),
            **({"required": required} if required else {}),
            "properties": properties,
            **({"x-kubernetes-validations": rules} if rules else {}),
        }

    def _value(self, node: Schema, *, with_defaults: bool) -> Schema:
        """One field's schema: references put in place, "or null" left out."""
        if "anyOf" in node:
            inner = next(n for n in node["anyOf"] if n.get("type") != "null")
            return self._value({**inner, **_description(node)}, with_defaults=with_defaults)
        if "$ref" in node:
            return {**self._referenced(node["$ref"], with_defaults), **_description(node)}
        schema: Schema = {k: deepcopy(node[k]) for k in _KEPT if k in node}
        if "const" in node:
            schema["enum"] = [node["const"]]
        if node["type"] == "integer":
            schema["format"] = "int64"
        if node["type"] == "array":
            # a default filled into an item makes the whole list differ from the manifest, for Argo CD and `kubectl apply`
            schema["items"] = self._value(node["items"], with_defaults=False)
            if node["items"].get("$ref") == "#/$defs/Condition":
                schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
        if node["type"] == "object":
            # a CRD has no word for the form of keys; the planner checks them
            inner = node.get("additionalProperties") or next(iter(node["patternProperties"].values()))
            schema["additionalProperties"] = self._value(inner, with_defaults=with_defaults)
        return {**schema, **_description(node)}

    def _referenced(self, ref: str, with_defaults: bool) -> Schema:
        name = ref.rsplit("/", 1)[-1]
        if name in self._models:
            return self.object(self._models[name], with_defaults=with_defaults)
        return self._value(self._defs[name], with_defaults=with_defaults)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model that an annotation mentions, and those in its fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _models_in(field.annotation)
    for part in get_args(annotation):
        yield from _models_in(part)


def _default(field: FieldInfo, schema: Schema, *, must: bool) -> Schema:
    """{"default": ...}, or nothing where absent says the same in fewer words.

    An object whose own fields have defaults gets {}; the API server then fills in those.
    """
    if field.is_required():
        return {}
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        must = must or any("default" in p for p in schema["properties"].values())
    elif isinstance(value, Enum):
        value = value.value
    elif isinstance(value, list):
        value = [v.value if isinstance(v, Enum) else v for v in value]
    is_empty = value in ((), [], {})
    return {} if value is None or (is_empty and not must) else {"default": value}


def _description(node: Schema) -> Schema:
    return {"description": _line(node["description"])} if "description" in node else {}


def _line(text: str) -> str:
    return " ".join(text.split())


def _owner(model: type[BaseModel]) -> str:
    return model.__name__.removesuffix("Spec")
