"""Is this manifest well formed: its fields, types and ranges? As strict as the API server, in words for its author.

What well-formed fields mean together is looked at in `check.py`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kubeautoml.api.conditions import Reason
from kubeautoml.api.dataset import URI_PATTERN
from kubeautoml.api.errors import ManifestError
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.metrics import METRICS
from kubeautoml.api.objects import Manifest
from kubeautoml.api.placement import CLASS_NAME_PATTERN, LABEL_KEY_PATTERN, LABEL_VALUE_PATTERN
from kubeautoml.api.problems import REQUIRED, Problem, nearest, printable, shown
from kubeautoml.api.profile import CIDR_PATTERN, HTTP_PATTERN, PREFIX_PATTERN, STUDY_URL_PATTERN, AutoMLProfile
from kubeautoml.api.search import SHA256_PATTERN
from kubeautoml.api.values import CAMEL_PATTERN, DECIMAL_PATTERN, DNS_LABEL_PATTERN, QUANTITY_PATTERN

UNKNOWN = "is not a field"

RULE_OF_PATTERN = {
    DECIMAL_PATTERN: 'must be a decimal string such as "0.2"',
    QUANTITY_PATTERN: 'must be a Kubernetes quantity such as "500m", "2" or "4Gi"',
    DNS_LABEL_PATTERN: "must be lower-case letters, digits and hyphens, with a letter or digit at both ends",
    CAMEL_PATTERN: "must be one word in CamelCase",
    URI_PATTERN: "must be a URI such as s3://bucket/key or file:///path",
    SHA256_PATTERN: "must be a SHA-256 digest: 64 digits and letters a to f, in lower case",
    LABEL_KEY_PATTERN: "must be the key of a label, such as pool or example.com/pool",
    LABEL_VALUE_PATTERN: "must be the value of a label: letters, digits, '-', '_' and '.', at most 63",
    PREFIX_PATTERN: "must be a folder such as s3://bucket/ or s3://bucket/folder/, without wildcards",
    CIDR_PATTERN: "must be a range of addresses such as 10.0.0.0/8",
    HTTP_PATTERN: "must be a URL such as https://s3.example.com",
    STUDY_URL_PATTERN: "must be a study URL: grpc://host:port, grpcs://host:port or postgresql://...",
    CLASS_NAME_PATTERN: "must be the name of an object: lower-case letters, digits, '-' and '.'",
}
RULE_OF_TYPE = {
    "string_type": "must be text",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have at most {max_length} entries",
}
"""Pydantic's kinds of error in this project's words."""


def parse_job(manifest: Manifest) -> AutoMLJob:
    """The job in a manifest.

    Raises:
        ManifestError: it breaks a rule of form; names the first one and how many more there are.
    """
    found = problems(manifest)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ManifestError(found[0].message + more, reason=found[0].reason)
    return AutoMLJob.model_validate_json(json.dumps(manifest, default=str))


def parse_profile(manifest: Manifest) -> AutoMLProfile:
    """The profile in a manifest.

    Raises:
        ManifestError: it breaks a rule of form; names the profile and the first rule, and how many more there are.
    """
    found = problems(manifest, AutoMLProfile)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        name = manifest.get("metadata", {}).get("name", "")
        message = f"AutoMLProfile {name}: {found[0].message}{more}; ask the platform team"
        raise ManifestError(message, reason=Reason.PROFILE_INVALID)
    return AutoMLProfile.model_validate_json(json.dumps(manifest, default=str))


def problems(manifest: Manifest, kind: type[BaseModel] = AutoMLJob) -> list[Problem]:
    """Every broken rule of form, misspelt fields first, then in the order of the fields.

    As strict as the API server: "10" is not a number and "yes" is not a boolean.
    """
    try:
        kind.model_validate_json(json.dumps(manifest, default=str), strict=True)
    except ValidationError as error:
        found = [_problem(e, kind) for e in error.errors()]
        meant = {p.near for p in found if p.near}
        found = [p for p in found if not (p.rule == REQUIRED and p.path in meant)]
        return sorted(found, key=lambda p: p.rule != UNKNOWN)
    return []


def _problem(error: ErrorDetails, root: type[BaseModel]) -> Problem:
    path, loc = _path(error["loc"]) or "the manifest", error["loc"]
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        return _unknown_field(path, loc, value, root)
    if kind == "missing":
        holder = _path(loc[:-1]) or "the manifest"
        return Problem(path, REQUIRED, None, f"{path} is required; add it to {holder}")
    if kind == "value_error":
        rule = str(error["ctx"]["error"])
        got = "" if " got " in rule else f", got {_members(value)}"
        colon = "" if rule.startswith("must ") else ":"
        return Problem(path, rule, value, f"{path}{colon} {rule}{got}")
    rule = _rule(error, root)
    return Problem(path, rule, value, f"{path} {rule}, got {shown(value)}{_advice(error)}")


def _path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        name = f"[{part}]" if isinstance(part, int) else printable(part[:80])
        path += name if isinstance(part, int) or not path else f".{name}"
    return path


def _members(value: Any) -> str:
    """What an object says, member by member, and not for ever."""
    if not isinstance(value, dict) or not value:
        return shown(value or None)
    told = ", ".join(f"{printable(str(k)[:80])}: {shown(v)}" for k, v in list(value.items())[:8])
    return f"{{{told}}}" if len(told) <= 200 else f"{{{told[:200]}...}}"


def _unknown_field(path: str, loc: tuple[int | str, ...], value: Any, root: type[BaseModel]) -> Problem:
    known = _fields_at(loc[:-1], root)
    near = nearest(str(loc[-1]), known)
    holder = _path(loc[:-1])
    meant = f"{holder}.{near}" if holder and near else near
    hint = f"; did you mean {meant}?" if meant else f"; known here: {', '.join(known)}"
    where = path
    if not str(loc[-1]).isprintable():
        path = holder or "the manifest"
        where = f"{path}: {shown(loc[-1])}"
    return Problem(path, UNKNOWN, value, f"{where} is not a field of {root.__name__}{hint}", near=meant)


def _fields_at(loc: tuple[int | str, ...], root: type[BaseModel]) -> list[str]:
    """Names that may stand at a place in an object."""
    model = root if not loc else _model_in(_annotation_at(loc, root))
    return [f.alias or n for n, f in model.model_fields.items()] if model is not None else []


def _annotation_at(loc: tuple[int | str, ...], root: type[BaseModel]) -> Any:
    """The type of what stands at a place in an object, with its constraints; None when that is not a field."""
    model: type[BaseModel] | None = root
    annotation: Any = None
    for part in loc:
        if isinstance(part, int):
            continue
        field = next((f for n, f in model.model_fields.items() if part in (f.alias, n)), None) if model else None
        if field is None:
            return None
        annotation = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        model = _model_in(field.annotation)
    return annotation


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for m in map(_model_in, get_args(annotation)) if m is not None), None)


def _rule(error: ErrorDetails, root: type[BaseModel]) -> str:
    """The rule as the end of a sentence that begins with the field."""
    context = error.get("ctx", {})
    if error["type"] == "string_type" and repr(DECIMAL_PATTERN) in repr(_annotation_at(error["loc"], root)):
        return RULE_OF_PATTERN[DECIMAL_PATTERN]
    if error["type"] == "string_pattern_mismatch":
        return RULE_OF_PATTERN.get(str(context["pattern"]), f"must match {context['pattern']}")
    if error["type"] in ("enum", "literal_error"):
        choices = _choices(error)
        return f"must be one of {', '.join(choices)}" if len(choices) > 1 else f"must be {choices[0]}"
    words = RULE_OF_TYPE.get(error["type"])
    if words is not None:
        return words.format(**context)
    message = error["msg"].replace("Input should", "must").replace("String should", "must").replace("should", "must")
    return message[:1].lower() + message[1:]


def _choices(error: ErrorDetails) -> list[str]:
    return [c.strip().strip("'") for c in str(error["ctx"]["expected"]).replace(" or ", ", ").split(",")]


def _advice(error: ErrorDetails) -> str:
    value = error["input"]
    if error["type"] == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
        return f' (put it in quotes: "{value}")'
    if not isinstance(value, str):
        return ""
    near = None
    if error["type"] in ("enum", "literal_error"):
        near = nearest(value, _choices(error))
    if error["type"] == "string_pattern_mismatch" and error["loc"][-1] == "metric":
        near = nearest(value, METRICS)
    if error["type"] == "int_type" and value.isdecimal():
        return " (write it without quotes)"
    return f"; did you mean {near}?" if near else ""
