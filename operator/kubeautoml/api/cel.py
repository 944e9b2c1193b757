"""What the API server refuses by itself beyond types and ranges: rules in CEL, by model. `structural` puts them into the schemas.

What cannot be said in few words of CEL (decimal strings, other objects) is left to `check.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from kubeautoml.api.dataset import Split
from kubeautoml.api.job import AutoMLJobSpec, Autoscaling, Gate, Output, Task, Workers
from kubeautoml.api.objective import Objective
from kubeautoml.api.placement import LabelRequirement, NodeRequirement, Toleration
from kubeautoml.api.profile import DIGEST, Images, NetworkPeer
from kubeautoml.api.search import IntRange, Parameter, Sampler, Search


@dataclass(frozen=True)
class Rule:
    """One CEL rule over the object it stands at. `field` is what a violation points to."""

    rule: str
    message: str
    field: str = ""

    def to_schema(self) -> dict[str, Any]:
        path = {"fieldPath": f".{self.field}"} if self.field else {}
        return {"rule": self.rule, "message": self.message, **path}


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
