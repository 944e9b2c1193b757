"""The kinds as CustomResourceDefinitions: pydantic models in, `crds/*.yaml` out. Called by `kubeautoml crds`.

The schemas come from `structural.py`, the rules in them from `cel.py`; here is what a kind has beside its schema.

    python -m kubeautoml.api.crd crds     # writes one file a kind into that folder
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from kubeautoml.api.definitions import marks
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.kinds import GROUP, VERSION
from kubeautoml.api.model import AutoMLModel
from kubeautoml.api.names import JOB_NAME_PATTERN
from kubeautoml.api.objects import Manifest
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.api.structural import Builder, Schema


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
    schema = Builder(kind.model).object(kind.model)
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


def main(argv: list[str]) -> int:
    """Write the files into the folder given, `crds` by default."""
    folder = Path(argv[0] if argv else "crds")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in render_crds().items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
