"""The kinds as CustomResourceDefinitions: pydantic models in, `crds/*.yaml` out. Called by `kubeautoml crds`.

A CRD needs a *structural* schema: no references, no unions, a type everywhere. Absent stands for null: the API server
drops a null before it fills in defaults, so no field is nullable. What a schema cannot say is said in CEL below; what CEL
cannot say in few words (decimal strings, other objects) is left to `check.py`.

    python -m kubeautoml.api.crd crds     # writes one file a kind into that folder
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kubeautoml.api.dataset import Split
from kubeautoml.api.definitions import marks
from kubeautoml.api.job import AutoMLJob, AutoMLJobSpec, Autoscaling, Gate, Output, Task, Workers
from kubeautoml.api.kinds import GROUP, VERSION
from kubeautoml.api.model import AutoMLModel
from kubeautoml.api.names import JOB_NAME_PATTERN
from kubeautoml.api.objective import Objective
from kubeautoml.api.objects import Manifest
from kubeautoml.api.placement import LabelRequirement, NodeRequirement, Toleration
from kubeautoml.api.profile import DIGEST, AutoMLProfile, Images, NetworkPeer
from kubeautoml.api.search import IntRange, Parameter, Sampler, Search

Schema = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """One CEL rule over the object it stands at. `field` is what a violation points to."""

    rule: str
    message: str
    field: str = ""

    def to_schema(self) -> Schema:
        path = {"fieldPath": f".{self.field}"} if self.field else {}
        return {"rule": self.rule, "message": self.message, **path}


@dataclass(frozen=True)
class Column:
    """One column of `kubectl get`; wide ones only with -o wide."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False

    def to_schema(self) -> Schema:
        wide = {"priority": 1} if self.wide else {}
        return {"name": self.name, "type": self.type, "jsonPath": self.path, **wide}


@dataclass(frozen=True)
class Kind:
    """One kind, and what the API server must know of it beside its schema."""

    model: type[BaseModel]
    plural: str
    short: str
    scope: str
    columns: tuple[Column, ...]
    name_pattern: str | None = None
    has_status: bool = True

    @property
    def name(self) -> str:
        return self.model.__name__


def _condition(kind: str, field: str = "status") -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


AGE = Column("Age", ".metadata.creationTimestamp", "date")

KINDS = (
    Kind(
        AutoMLJob,
        "automljobs",
        "amj",
        "Namespaced",
        (
            Column("Task", ".spec.task.type"),
            Column("Trials", ".status.trials.total", "integer"),
            Column("Best", ".status.best.value"),
            Column("Progress", ".status.progressPercentage", "integer"),
            Column("Succeeded", _condition("Succeeded")),
            Column("Ready", _condition("Ready")),
            Column("URL", ".status.serving.url"),
            AGE,
            Column("Metric", ".spec.objective.metric", wide=True),
            Column("Family", ".status.best.family", wide=True),
            Column("Model", ".status.model.name", wide=True),
            Column("Message", _condition("Succeeded", "message"), wide=True),
        ),
        JOB_NAME_PATTERN,
    ),
    Kind(
        AutoMLModel,
        "automlmodels",
        "amm",
        "Namespaced",
        (
            Column("Version", ".spec.version"),
            Column("Task", ".spec.taskType"),
            Column("Target", ".spec.target"),
            Column("Job", ".spec.lineage.jobName"),
            AGE,
            Column("URI", ".spec.uri", wide=True),
        ),
    ),
    Kind(
        AutoMLProfile,
        "automlprofiles",
        "amp",
        "Cluster",
        (
            Column("Max-Workers", ".spec.limits.maxParallelism", "integer"),
            Column("Max-Trials", ".spec.limits.maxTrials", "integer"),
            AGE,
            Column("Trainer", ".spec.images.trainer", wide=True),
        ),
        has_status=False,
    ),
)

IMMUTABLE: dict[str, tuple[str, ...]] = {
    "AutoMLJobSpec": ("task", "dataset", "objective", "constraints", "search", "output"),
    "AutoMLModel": ("spec",),
}
"""Fields that cannot change, by model. They always have a default or are required, so that the rule can compare them."""

_VALUES = (
    Rule(
        "!(self.operator in ['In', 'NotIn']) || (has(self.values) && size(self.values) > 0)",
        "values must have one or more entries when operator is In or NotIn",
        "values",
    ),
    Rule(
        "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || size(self.values) == 0",
        "values must be left out when operator is Exists or DoesNotExist",
        "values",
    ),
)
_ONE_OF_THREE = "(has(self.float) ? 1 : 0) + (has(self.int) ? 1 : 0) + (has(self.categorical) ? 1 : 0) == 1"

RULES: dict[type[BaseModel], tuple[Rule, ...]] = {
    Task: (
        Rule(
            "self.type.endsWith('Classification') || !has(self.positiveClass)",
            "positiveClass must be left out unless type is a classification",
            "positiveClass",
        ),
        Rule(
            "self.type.endsWith('Regression') || !has(self.quantiles) || size(self.quantiles) == 0",
            "quantiles must be left out unless type is a regression",
            "quantiles",
        ),
    ),
    Objective: (
        Rule(
            "!has(self.metric) || self.metric != 'ExpectedCost' || (has(self.costs) && size(self.costs) > 0)",
            "costs is required when metric is ExpectedCost",
        ),
    ),
    Split: (
        Rule(
            "!has(self.type) || self.type != 'Group' || has(self.groupColumn)",
            "groupColumn is required when type is Group",
        ),
        Rule(
            "!has(self.type) || self.type != 'Time' || has(self.timeColumn)",
            "timeColumn is required when type is Time",
        ),
    ),
    IntRange: (
        Rule("self.min <= self.max", "min must be at most max", "min"),
        Rule("!has(self.log) || !self.log || self.min >= 1", "min must be at least 1 when log is true", "min"),
    ),
    Parameter: (
        Rule(_ONE_OF_THREE, "exactly one of float, int and categorical must be set"),
        Rule("'family' in self.when", "when must name the family, such as {family: LightGBM}", "when"),
    ),
    Sampler: (
        Rule(
            "!has(self.generations) || (has(self.type) && self.type == 'Evolutionary')",
            "generations must be left out unless type is Evolutionary",
            "generations",
        ),
    ),
    Search: (
        Rule(
            "!has(self.pretrained) || self.pretrained.all(p, self.pretrained.exists_one(q, q.family == p.family))",
            "pretrained must not name a family twice",
            "pretrained",
        ),
    ),
    Workers: (
        Rule(
            "!has(self.minParallelism) || !has(self.parallelism) || self.minParallelism <= self.parallelism",
            "minParallelism must be at most parallelism",
            "minParallelism",
        ),
    ),
    Output: (
        Rule(
            "!has(self.variants) || self.variants.all(v, self.variants.exists_one(w, w == v))",
            "variants must not name a variant twice",
            "variants",
        ),
    ),
    AutoMLJobSpec: (
        Rule(
            "!has(self.serving) || !has(self.serving.variant) || (has(self.output.variants)"
            " ? self.serving.variant in self.output.variants : self.serving.variant == 'Quality')",
            "serving.variant must be one of output.variants",
            "serving",
        ),
    ),
    Gate: (Rule("has(self.min) != has(self.max)", "exactly one of min and max must be set"),),
    Toleration: (
        Rule(
            "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
            "key is required unless operator is Exists",
            "key",
        ),
        Rule(
            "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
            "value must be left out when operator is Exists",
            "value",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "effect must be NoExecute when tolerationSeconds is set",
            "effect",
        ),
    ),
    NodeRequirement: (
        *_VALUES,
        Rule(
            "!(self.operator in ['Gt', 'Lt']) || (has(self.values) && size(self.values) == 1)",
            "values must be one whole number in quotes when operator is Gt or Lt",
            "values",
        ),
    ),
    LabelRequirement: _VALUES,
    Images: (
        Rule(
            f"!has(self.requireDigest) || !self.requireDigest || (has(self.trainer) && self.trainer.contains('{DIGEST}')"
            f" && has(self.server) && self.server.contains('{DIGEST}'))",
            "trainer and server must be named by digest (image@sha256:...) when requireDigest is true",
        ),
    ),
    NetworkPeer: (
        Rule(
            "has(self.cidr) != ((has(self.namespaceLabels) && size(self.namespaceLabels) > 0)"
            " || (has(self.podLabels) && size(self.podLabels) > 0))",
            "exactly one of cidr and labels (namespaceLabels, podLabels) must be set",
        ),
    ),
    Autoscaling: (
        Rule("self.minReplicas <= self.maxReplicas", "minReplicas must be at most maxReplicas", "minReplicas"),
    ),
}
"""CEL rules by model. Fields with a default are always there when a rule is evaluated, except in the items of lists, which
get none, and once more: the server checks an object's own default, such as {}, before it has filled in the defaults inside."""

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


def render_crds() -> dict[str, str]:
    """YAML by file name, one file a kind."""
    import yaml

    head = "# Made by `kubeautoml crds` from operator/kubeautoml/api; change it there.\n"
    return {
        f"{GROUP}_{kind.plural}.yaml": head + yaml.safe_dump(definition(kind), sort_keys=False, width=120)
        for kind in KINDS
    }


def make_crds() -> list[Manifest]:
    """The CustomResourceDefinitions of all kinds."""
    return [definition(kind) for kind in KINDS]


def definition(kind: Kind) -> Manifest:
    """The CustomResourceDefinition of one kind."""
    spec = _spec(kind)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}", "annotations": marks(spec)},
        "spec": spec,
    }


def _spec(kind: Kind) -> Manifest:
    name = kind.name
    return {
        "group": GROUP,
        "names": {
            "kind": name,
            "listKind": f"{name}List",
            "plural": kind.plural,
            "singular": name.lower(),
            "shortNames": [kind.short],
            "categories": ["automl"],
        },
        "scope": kind.scope,
        "versions": [
            {
                "name": VERSION,
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": _root(kind)},
                **({"subresources": {"status": {}}} if kind.has_status else {}),
                "additionalPrinterColumns": [c.to_schema() for c in kind.columns],
            }
        ],
    }


def _root(kind: Kind) -> Schema:
    builder = _Builder(kind.model)
    schema = builder.object(kind.model)
    properties = schema["properties"]
    if kind.has_status:
        # an object that nobody has looked at yet must not count as current (kstatus takes one without a status for finished)
        properties["status"]["default"] = {"observedGeneration": -1}
    named = {"type": "string", "pattern": kind.name_pattern, "maxLength": 63}
    metadata = {"type": "object", **({"properties": {"name": named}} if kind.name_pattern else {})}
    own = {k: v for k, v in properties.items() if k in ("spec", "status")}
    required = ["spec"] if "spec" in schema.get("required", []) else []
    return {
        "type": "object",
        "description": schema["description"],
        **({"required": required} if required else {}),
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of this representation: kubeautoml.dev/v1alpha1."},
            "kind": {"type": "string", "description": f"Kind of this object: {kind.name}."},
            "metadata": metadata,
            **own,
        },
    }


class _Builder:
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


def main(argv: list[str]) -> int:
    """Write the files into the folder given, `crds` by default."""
    folder = Path(argv[0] if argv else "crds")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in render_crds().items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
