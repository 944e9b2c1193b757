"""Every field of the three kinds, from the very schemas that the API server gets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from scripts.reference.markdown import MADE_OF, cell, code, link, table

from kubeautoml.api import crd, dataset, names, placement, profile, search, values
from kubeautoml.api.kinds import GROUP, VERSION

Schema = dict[str, Any]

PATTERNS = {
    values.DECIMAL_PATTERN: "decimal number in quotes",
    values.QUANTITY_PATTERN: "quantity",
    values.DNS_LABEL_PATTERN: "name of an object",
    values.CAMEL_PATTERN: "name in CamelCase",
    dataset.URI_PATTERN: "URI, `s3://` or `file://`",
    profile.PREFIX_PATTERN: "URI of a folder, `s3://` or `file://`",
    profile.CIDR_PATTERN: "CIDR block",
    profile.HTTP_PATTERN: "URL, `http://` or `https://`",
    profile.STUDY_URL_PATTERN: "URL, `grpc://`, `grpcs://`, `postgresql://` or `journal://`",
    names.JOB_NAME_PATTERN: "name of a job",
    placement.LABEL_KEY_PATTERN: "key of a label",
    placement.LABEL_VALUE_PATTERN: "value of a label",
    placement.CLASS_NAME_PATTERN: "name of a class",
    search.SHA256_PATTERN: "64 hexadecimal digits",
}
"""What a text of that form is called. A pattern that is not here is shown as it is."""

ABOUT = {
    "AutoMLJob": "What a user writes: data in, the best model out. Only `task`, `dataset` (`train`) and `output` must be there.",
    "AutoMLModel": "What the operator writes when a job has its model, one object a version. Nobody needs to write one.",
    "AutoMLProfile": "What the platform team writes, one for the whole cluster or one a group of users. What the fields together do: "
    "[platform.md](platform.md).",
}


def job_page() -> str:
    """docs/reference/automljob.md."""
    return _page("AutoMLJob")


def model_page() -> str:
    """docs/reference/automlmodel.md."""
    return _page("AutoMLModel")


def profile_page() -> str:
    """docs/reference/automlprofile.md."""
    return _page("AutoMLProfile")


def _page(name: str) -> str:
    kind = next(k for k in crd.KINDS if k.name == name)
    definition = crd.definition(kind)
    schema: Schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    scope = "of the cluster" if kind.scope == "Cluster" else "of a namespace"
    head = (
        f"# {name}\n\n{MADE_OF.format(source='`kubeautoml.api`')} `kubectl explain {kind.plural} --recursive` says the same.\n\n"
        f"{ABOUT[name]}\n\n"
        f"`apiVersion: {GROUP}/{VERSION}`, `kind: {name}`; `{kind.plural}`, short `{kind.short}`, {scope}. Times are in seconds,"
        " fractions are decimal numbers in quotes, and a field that is not listed is refused.\n"
    )
    return head + "".join(_Sections(schema).all())


class _Sections:
    """A section for every object in a schema, and one only for objects that are alike."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._first: dict[str, str] = {}

    def all(self) -> Iterator[str]:
        for name in ("spec", "status"):
            if name in self._root["properties"]:
                yield from self._section(name, self._root["properties"][name])

    def _section(self, path: str, schema: Schema) -> Iterator[str]:
        inner: list[tuple[str, Schema]] = []
        rows = []
        required = schema.get("required", [])
        for name, field in schema["properties"].items():
            child = f"{path}.{name}"
            kept = _object_in(field)
            shown = f"`{name}`"
            if kept is not None and set(kept["properties"]) != {"name"}:
                form = json.dumps(kept["properties"], sort_keys=True)
                home = self._first.setdefault(form, child)
                shown = link(f"`{name}`", home)
                if home == child:
                    inner.append((child, kept))
            rows.append((shown, _type(field), _default(field, name in required), _rule(field), cell(_text(field))))
        yield f"\n## {path}\n\n{_text(schema)}\n\n"
        yield table(("field", "type", "default", "rule", "what it is"), rows)
        rules = [_sentence(v) for v in schema.get("x-kubernetes-validations", []) if "is immutable" not in v["message"]]
        if rules:
            yield "\n" + "".join(f"- {r}\n" for r in dict.fromkeys(rules))
        for child, below in inner:
            yield from self._section(child, below)


def _object_in(field: Schema) -> Schema | None:
    """The object that a field is, or is a list or map of."""
    if "properties" in field:
        return field
    below = field.get("items") or field.get("additionalProperties")
    return _object_in(below) if isinstance(below, dict) else None


def _type(field: Schema) -> str:
    if field["type"] == "array":
        return f"list of {_plural(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {_plural(field['additionalProperties'])}"
    if field["type"] == "object":
        return "`{name: ...}`" if set(field["properties"]) == {"name"} else "object"
    if "enum" in field:
        return " or ".join(f"`{v}`" for v in field["enum"])
    if field.get("format") == "date-time":
        return "time"
    if choices := re.fullmatch(r"\^\((\w+(?:\|\w+)*)\)\$", field.get("pattern", "")):
        return " or ".join(f"`{c}`" for c in choices[1].split("|"))
    if "pattern" in field:
        return PATTERNS.get(field["pattern"], code(field["pattern"]))
    return {"integer": "whole number", "boolean": "`true` or `false`", "string": "text"}[field["type"]]


def _plural(item: Schema) -> str:
    """What a list or a map holds."""
    if _object_in(item) is not None and item["type"] == "object":
        return "objects" if set(item["properties"]) != {"name"} else "`{name: ...}`"
    if "enum" in item:
        return _type(item)
    plain = _type(item)
    return {
        "text": "texts",
        "whole number": "whole numbers",
        "quantity": "quantities",
        "name of an object": "names of objects",
        "name in CamelCase": "names in CamelCase",
        "decimal number in quotes": "decimal numbers in quotes",
        "CIDR block": "CIDR blocks",
        "key of a label": "keys of labels",
        "value of a label": "values of labels",
        "name of a class": "names of classes",
        "URI of a folder, `s3://` or `file://`": "URIs of folders, `s3://` or `file://`",
    }.get(plain, plain)


def _default(field: Schema, is_required: bool) -> str:
    if is_required:
        return "**required**"
    value = field.get("default")
    if value in (None, {}, []):
        return ""
    return code(value if isinstance(value, str) else json.dumps(value))


def _rule(field: Schema) -> str:
    """What a value must keep, in a few words."""
    words = [_between(field.get("minimum"), field.get("maximum"), "")]
    words += [_between(_not_one(field.get("minLength")), field.get("maxLength"), " characters")]
    words += [_between(field.get("minItems"), field.get("maxItems"), " entries")]
    words += [_between(field.get("minProperties"), field.get("maxProperties"), " entries")]
    if any("is immutable" in v["message"] for v in field.get("x-kubernetes-validations", [])):
        words.append("immutable")
    return ", ".join(w for w in words if w)


def _not_one(least: int | None) -> int | None:
    """A text of at least one character is one that is there."""
    return None if least == 1 else least


def _between(least: int | None, most: int | None, unit: str) -> str:
    if least is None and most is None:
        return ""
    if most is None:
        return f"at least {least:,}{unit}"
    if least is None:
        return f"at most {most:,}{unit}"
    return f"{least:,} to {most:,}{unit}"


def _sentence(validation: Schema) -> str:
    text: str = validation["message"]
    return f"{cell(text)}."


def _text(field: Schema) -> str:
    return str(field.get("description", ""))
