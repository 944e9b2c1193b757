"""Holds a YAML document of the documentation to what it claims to be. Returns what is wrong with it, or None."""

from __future__ import annotations

import copy
import re
from functools import cache
from typing import Any

import yaml
from kubernetes import client

from docs.markdown_files import ROOT
from kubeautoml.api.check import check_job
from kubeautoml.api.form import parse_job, problems
from kubeautoml.api.job import AutoMLJobSpec
from kubeautoml.api.model import AutoMLModel
from kubeautoml.api.names import QUEUE_LABEL, QUEUE_PRIORITY_LABEL
from kubeautoml.api.profile import AutoMLProfile, AutoMLProfileSpec

OUTPUT = {"output": {"uri": "s3://models"}}
BASES: tuple[dict[str, Any], ...] = (
    {"task": {"type": "TabularClassification", "target": "churned"}, "dataset": {"train": {"uri": "s3://lake/a.csv"}}},
    {"task": {"type": "TabularRegression", "target": "price"}, "dataset": {"train": {"uri": "s3://lake/a.csv"}}},
)
"""Jobs that a fragment may belong to."""

OTHERS: dict[str, tuple[str, ...]] = {
    "Experiment": ("objective", "algorithm", "parallelTrialCount", "maxTrialCount", "maxFailedTrialCount", "parameters",
                   "trialTemplate"),
    "Application": ("project", "source", "sources", "destination", "syncPolicy", "ignoreDifferences"),
    "AppProject": ("sourceRepos", "destinations", "clusterResourceWhitelist", "namespaceResourceWhitelist"),
    "HelmRelease": ("chart", "chartRef", "interval", "values", "valuesFrom", "install", "upgrade", "releaseName",
                    "targetNamespace", "dependsOn", "timeout", "test"),
    "HelmRepository": ("type", "url", "interval"),
    "OCIRepository": ("url", "interval", "ref", "layerSelector", "verify"),
    "Kustomization": ("interval", "path", "prune", "sourceRef", "targetNamespace", "healthChecks", "healthCheckExprs", "wait",
                      "timeout", "dependsOn", "kubeConfig"),
    "GitRepository": ("url", "interval", "ref"),
    "ClusterQueue": ("namespaceSelector", "resourceGroups", "preemption", "queueingStrategy", "cohort"),
    "LocalQueue": ("clusterQueue",),
    "ResourceFlavor": ("nodeLabels", "nodeTaints", "tolerations"),
    "ServiceMonitor": ("selector", "endpoints", "namespaceSelector"),
    "PodMonitor": ("selector", "podMetricsEndpoints", "namespaceSelector"),
    "Certificate": ("secretName", "dnsNames", "issuerRef", "duration", "renewBefore"),
    "Bundle": ("sources", "target"),
    "InferenceService": ("predictor",),
    "CiliumNetworkPolicy": ("endpointSelector", "egress", "ingress"),
}  # fmt: skip
"""Kinds of other projects that the documentation may show, with the fields of their spec."""


def trouble(document: Any) -> str | None:
    """What is wrong with a document."""
    if not isinstance(document, dict):
        return "must be an object"
    match document.get("kind"):
        case None:
            return _of_fragment(document)
        case "AutoMLJob":
            return _of_job(document)
        case "AutoMLProfile":
            found = problems(document, AutoMLProfile)
            return found[0].message if found else None
        case "AutoMLModel":
            found = problems({k: v for k, v in document.items() if k != "status"}, AutoMLModel)
            return found[0].message if found else None
        case kind if kind in OTHERS:
            return _of_other(document)
        case _:
            return _of_kubernetes(document)


def _of_job(manifest: dict[str, Any]) -> str | None:
    manifest = copy.deepcopy(manifest)
    manifest.setdefault("metadata", {}).setdefault("namespace", "default")
    found = problems(manifest) or list(check_job(parse_job(manifest), None))
    return found[0].message if found else None


def _of_fragment(fragment: dict[str, Any]) -> str | None:
    """A part of a job's or a profile's spec, labels of a job, or values of the chart."""
    if set(fragment) == {"spec"} and isinstance(fragment["spec"], dict):
        fragment = fragment["spec"]
    if set(fragment) == {"metadata"}:
        labels = set(fragment["metadata"].get("labels", {}))
        return None if labels <= {QUEUE_LABEL, QUEUE_PRIORITY_LABEL} else f"labels {labels} are not ours"
    keys = set(fragment)
    if keys <= _fields(AutoMLJobSpec):
        said = [_of_job(_job_with(base, fragment)) for base in BASES]
        return None if None in said else said[0]
    if keys <= _fields(AutoMLProfileSpec):
        profile = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLProfile", "metadata": {"name": "default"}}
        return trouble({**profile, "spec": fragment})
    if keys <= set(chart_values()):
        return values_trouble(fragment)
    return f"is no part of a job, a profile or the chart's values: {', '.join(sorted(keys))}"


def _job_with(base: dict[str, Any], fragment: dict[str, Any]) -> dict[str, Any]:
    spec = {**base, **OUTPUT, **fragment}
    for whole in ("task", "dataset", "output"):
        spec[whole] = {**({**base, **OUTPUT}[whole]), **fragment.get(whole, {})}
    return {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLJob", "metadata": {"name": "a"}, "spec": spec}


def _fields(model: type[Any]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


@cache
def chart_values() -> dict[str, Any]:
    """The chart's default values; {} where there is no chart."""
    file = ROOT / "helm" / "kubeautoml" / "values.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}


def values_trouble(given: Any, known: Any = None, path: str = "") -> str | None:
    """The first key that the chart's values do not have. What is {} or null there may hold anything."""
    known = chart_values() if known is None else known
    if not known:
        return None  # there is no chart in this checkout
    for key, value in given.items() if isinstance(given, dict) else ():
        if key not in known:
            return f"the chart has no value {path}{key}"
        below = known[key]
        if isinstance(below, dict) and below and (said := values_trouble(value, below, f"{path}{key}.")):
            return said
    return None


def _of_other(document: dict[str, Any]) -> str | None:
    known = OTHERS[document["kind"]]
    unknown = set(document.get("spec", {})) - set(known)
    if "/" not in document.get("apiVersion", "") or not document.get("metadata", {}).get("name"):
        return "must have apiVersion and metadata.name"
    return f"spec has no field {', '.join(sorted(unknown))}" if unknown else None


def _of_kubernetes(document: dict[str, Any]) -> str | None:
    """An object of Kubernetes' own, by the fields that its client knows."""
    group, _, number = document.get("apiVersion", "").rpartition("/")
    group = group.split(".")[0]
    names = (f"{number.capitalize()}{document['kind']}", f"{group.capitalize()}{number.capitalize()}{document['kind']}")
    for name in names:
        model = getattr(client, name, None)
        if model is not None:
            return _unknown_field(document, name, document["kind"])
    return f"{document.get('apiVersion')} {document['kind']} is no kind that this test knows; add it to OTHERS"


def _unknown_field(value: Any, type_name: str, path: str) -> str | None:
    if inner := re.fullmatch(r"list\[(.+)\]", type_name):
        items = value if isinstance(value, list) else []
        return next((s for i, v in enumerate(items) if (s := _unknown_field(v, inner[1], f"{path}[{i}]"))), None)
    model = getattr(client, type_name, None)
    if not hasattr(model, "attribute_map") or not isinstance(value, dict):
        return None
    types = {model.attribute_map[k]: t for k, t in model.openapi_types.items()}
    for key, below in value.items():
        if key not in types:
            return f"{path} has no field {key}"
        if said := _unknown_field(below, types[key], f"{path}.{key}"):
            return said
    return None
