"""The CRDs: generated, structural, small enough, and refusing what they say they refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.cel_rules import schema_of, violations, with_defaults
from factories import make_job, make_manifest, make_profile, make_result
from kubeautoml.api.crd import KINDS, Kind, definition, main, render_crds
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.objects import Manifest
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.plan.model import model_object

FOLDER = Path(__file__).resolve().parents[2] / "crds"
KNOWN = {
    *("type", "format", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems"),
    *("minProperties", "maxProperties", "description", "default", "required", "properties", "items"),
    *("additionalProperties", "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
}
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in a schema, with its path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if word in schema:
            yield from nodes(schema[word], f"{path}[]")


def make_full_manifest(**spec: Any) -> Manifest:
    """A job that says something about everything."""
    return make_manifest(
        **{
            "serving": {"replicas": 2, "gate": {"metric": "RocAuc", "min": "0.8"}, "autoscaling": {"maxReplicas": 3}},
            "search": {
                "parameters": [
                    {"name": "lr", "when": {"family": "LightGBM"}, "float": {"min": "0.01", "max": "0.3", "log": True}},
                    {"name": "depth", "when": {"family": "LightGBM"}, "int": {"min": 1, "max": 9}},
                    {"name": "kind", "when": {"family": "Linear"}, "categorical": {"choices": ["l1", "l2"]}},
                ]
            },
            "dataset": {
                "train": {"uri": "s3://lake/churn.csv"},
                "split": {"type": "Group", "groupColumn": "customer"},
                "columns": {"types": {"zip": "Category"}},
            },
            "workers": {"parallelism": 4, "minParallelism": 2},
            "constraints": [{"metric": "ModelSizeMegabytes", "max": "100"}],
            **spec,
        }
    )


def test_the_committed_files_are_the_generated_ones() -> None:
    """A change of the models without `kubeautoml crds --output crds` does not get through."""
    committed = {path.name: path.read_text() for path in FOLDER.glob("*.yaml")}

    assert committed == render_crds()


def test_the_module_writes_the_files(tmp_path: Path) -> None:
    """`python -m kubeautoml.api.crd DIR` is the way to renew them."""
    assert main([str(tmp_path)]) == 0

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == render_crds()


@each_kind
def test_kubectl_apply_can_take_it(kind: Kind) -> None:
    """Below 200,000 bytes of JSON it fits into the annotation of a plain `kubectl apply`."""
    assert len(json.dumps(definition(kind))) <= 200_000


@each_kind
def test_the_schema_is_structural(kind: Kind) -> None:
    """A type everywhere, no references or unions, no word that an API server would refuse."""
    for path, schema in nodes(schema_of(kind.name)):
        assert schema["type"] in ("object", "array", "string", "integer", "boolean"), path
        assert set(schema) <= KNOWN, path
        assert not ("properties" in schema and "additionalProperties" in schema), path
        if schema["type"] == "array":
            assert "items" in schema, path
        re.compile(schema.get("pattern", ""))


@each_kind
def test_every_field_is_explained(kind: Kind) -> None:
    """`kubectl explain` has a sentence for every field, on one line."""
    for path, schema in nodes(schema_of(kind.name)):
        is_ours = path and not path.endswith("[]") and not path.startswith(".metadata")
        assert not is_ours or schema.get("description"), path
        assert "\n" not in schema.get("description", ""), path


@each_kind
def test_rules_have_a_message_and_point_to_a_field(kind: Kind) -> None:
    """A field path that does not exist would make the API server refuse the whole definition."""
    for path, schema in nodes(schema_of(kind.name)):
        for rule in schema.get("x-kubernetes-validations", ()):
            assert rule["message"] and "\n" not in rule["message"], path
            assert rule.get("fieldPath", "").lstrip(".") in {"", *schema.get("properties", ())}, path


@each_kind
def test_rules_stand_only_where_their_cost_is_bounded(kind: Kind) -> None:
    """Every list and map around or below a rule has a largest size."""
    for path, schema in nodes(schema_of(kind.name)):
        holds_rules = any("x-kubernetes-validations" in inner for _, inner in nodes(schema))
        if schema["type"] == "array" and holds_rules:
            assert "maxItems" in schema, path
        if "additionalProperties" in schema and holds_rules:
            assert "maxProperties" in schema, path


@each_kind
def test_a_status_says_only_that_nobody_has_looked(kind: Kind) -> None:
    """What nobody observed is not in the status; a new object counts as unseen, not as finished."""
    status = dict(schema_of(kind.name)["properties"].get("status", {}))

    assert status.pop("default", None) == (None if kind.name == "AutoMLProfile" else {"observedGeneration": -1})
    assert not status or not [path for path, schema in nodes(status) if "default" in schema]


def test_the_server_fills_in_the_same_defaults_as_the_models() -> None:
    """A job read from a file and the same job read from the API server are equal."""
    manifest = make_manifest(serving={})

    served = with_defaults(manifest, schema_of("AutoMLJob"))

    assert AutoMLJob.model_validate({**served, "status": {}}) == make_job(serving={})
    assert served["spec"]["budget"] == {"maxTrials": 100, "maxFailedTrials": 10}
    assert served["spec"]["profileRef"] == {"name": "default"}


@each_kind
def test_items_of_lists_get_no_defaults(kind: Kind) -> None:
    """Argo CD and `kubectl apply` compare lists as a whole: one with a default filled in differs from its manifest for ever."""
    lists = [schema for _, schema in nodes(schema_of(kind.name)) if schema["type"] == "array"]

    assert lists or kind.name == "AutoMLModel"
    assert [path for schema in lists for path, inner in nodes(schema["items"]) if "default" in inner] == []


def test_names_categories_and_columns() -> None:
    """What people type and what `kubectl get` shows."""
    spec = definition(KINDS[0])["spec"]
    columns = spec["versions"][0]["additionalPrinterColumns"]

    assert (spec["names"]["shortNames"], spec["names"]["categories"], spec["scope"]) == (
        ["amj"],
        ["automl"],
        "Namespaced",
    )
    narrow = [c["name"] for c in columns if "priority" not in c]
    assert narrow == ["Task", "Trials", "Best", "Progress", "Succeeded", "Ready", "URL", "Age"]
    assert [(k.short, k.scope) for k in KINDS] == [("amj", "Namespaced"), ("amm", "Namespaced"), ("amp", "Cluster")]


@pytest.mark.parametrize("kind", KINDS[:2], ids=lambda k: k.name)
def test_status_is_a_subresource(kind: Kind) -> None:
    assert definition(kind)["spec"]["versions"][0]["subresources"] == {"status": {}}


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_columns_point_to_fields_that_exist(kind: Kind) -> None:
    known = {path for path, _ in nodes(schema_of(kind.name))} | {".metadata.creationTimestamp"}

    for column in kind.columns:
        assert column.path.split("[?")[0] in known, column.name


GOOD = {
    "smallest": make_manifest(),
    "full": make_full_manifest(),
    "gate with a maximum": make_full_manifest(serving={"gate": {"metric": "LogLoss", "max": "0.4"}}),
    "placed": make_manifest(
        workers={
            "placement": {
                "tolerations": [{"operator": "Exists"}, {"key": "a", "tolerationSeconds": 1, "effect": "NoExecute"}],
                "affinity": {
                    "nodeAffinity": {
                        "preferredDuringSchedulingIgnoredDuringExecution": [
                            {
                                "weight": 1,
                                "preference": {
                                    "matchExpressions": [
                                        {"key": "a", "operator": "Exists"},
                                        {"key": "b", "operator": "Lt", "values": ["3"]},
                                        {"key": "c", "operator": "NotIn", "values": ["x", "y"]},
                                    ]
                                },
                            }
                        ]
                    }
                },
            }
        }
    ),
    "regression": make_manifest(task={"type": "TabularRegression", "target": "price"}),
    "two classes": make_manifest(task={"type": "TabularClassification", "target": "y", "positiveClass": "yes"}),
}


@pytest.mark.parametrize("manifest", GOOD.values(), ids=GOOD)
def test_good_jobs_pass_the_rules(manifest: Manifest) -> None:
    """New, and applied again unchanged."""
    assert violations(manifest) == []
    assert violations(manifest, old=manifest) == []


def parameter(**fields: Any) -> dict[str, Any]:
    return {"search": {"parameters": [{"name": "lr", "when": {"family": "Linear"}, **fields}]}}


NODES = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0]"


def placed(**placement: Any) -> dict[str, Any]:
    return {"workers": {"placement": placement}}


def node_affinity(**expression: Any) -> dict[str, Any]:
    term = {"matchExpressions": [expression]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


BAD = {
    "spec.task.positiveClass: positiveClass must be left out unless type is a classification": {
        "task": {"type": "TabularRegression", "target": "y", "positiveClass": "yes"}
    },
    "spec.search.sampler.generations: generations must be left out unless type is Evolutionary": {
        "search": {"sampler": {"type": "Tpe", "generations": 5}}
    },
    "spec.search.pretrained: pretrained must not name a family twice": {
        "search": {"pretrained": 2 * [{"family": "TabularFoundation", "uri": "s3://b/w/", "sha256": 64 * "0"}]}
    },
    "spec.output.variants: variants must not name a variant twice": {
        "output": {"uri": "s3://b/out", "variants": ["Fast", "Fast"]}
    },
    "spec.serving: serving.variant must be one of output.variants": {
        "output": {"uri": "s3://b/out", "variants": ["Quality", "Fast"]},
        "serving": {"variant": "Balanced"},
    },
    "spec.dataset.split: groupColumn is required when type is Group": {
        "dataset": {"train": {"uri": "s3://a"}, "split": {"type": "Group"}}
    },
    "spec.dataset.split: timeColumn is required when type is Time": {
        "dataset": {"train": {"uri": "s3://a"}, "split": {"type": "Time"}}
    },
    "spec.workers.minParallelism: minParallelism must be at most parallelism": {
        "workers": {"parallelism": 1, "minParallelism": 2}
    },
    "spec.serving.gate: exactly one of min and max must be set": {"serving": {"gate": {"metric": "RocAuc"}}},
    "spec.workers.placement.tolerations[0].key: key is required unless operator is Exists": placed(
        tolerations=[{"value": "ml"}]
    ),
    "spec.workers.placement.tolerations[0].value: value must be left out when operator is Exists": placed(
        tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]
    ),
    "spec.workers.placement.tolerations[0].effect: effect must be NoExecute when tolerationSeconds is set": placed(
        tolerations=[{"key": "a", "tolerationSeconds": 5, "effect": "NoSchedule"}]
    ),
    f"spec.workers.placement.{NODES}.values: values must have one or more entries when operator is In or NotIn": placed(
        affinity=node_affinity(key="a", operator="In")
    ),
    f"spec.workers.placement.{NODES}.values: values must be left out when operator is Exists or DoesNotExist": placed(
        affinity=node_affinity(key="a", operator="Exists", values=["b"])
    ),
    f"spec.workers.placement.{NODES}.values: values must be one whole number in quotes when operator is Gt or Lt": placed(
        affinity=node_affinity(key="a", operator="Gt", values=["1", "2"])
    ),
    "spec.serving.autoscaling.minReplicas: minReplicas must be at most maxReplicas": {
        "serving": {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}
    },
    "spec.search.parameters[0]: exactly one of float, int and categorical must be set": parameter(
        float={"min": "0", "max": "1"}, int={"min": 0, "max": 1}
    ),
    "spec.search.parameters[0].when: when must name the family, such as {family: LightGBM}": parameter(
        when={"booster": "dart"}, int={"min": 0, "max": 1}
    ),
    "spec.search.parameters[0].int.min: min must be at most max": parameter(int={"min": 2, "max": 1}),
    "spec.search.parameters[0].int.min: min must be at least 1 when log is true": parameter(
        int={"min": 0, "max": 1, "log": True}
    ),
}


@pytest.mark.parametrize(("message", "spec"), BAD.items(), ids=[m.split(":")[0] for m in BAD])
def test_bad_jobs_are_refused_with_a_path_and_a_rule(message: str, spec: dict[str, Any]) -> None:
    assert violations(make_manifest(**spec)) == [message]


EDITS = {
    "task": {"type": "TabularClassification", "target": "left"},
    "dataset": {"train": {"uri": "s3://lake/other.csv"}},
    "objective": {"metric": "F1"},
    "constraints": [{"metric": "PredictLatencyP99Ms", "max": "20"}],
    "search": {"seed": 7},
    "output": {"uri": "s3://elsewhere"},
}


@pytest.mark.parametrize("field", EDITS)
def test_what_the_search_is_about_cannot_change(field: str) -> None:
    """Also when the field was not given at first."""
    refused = violations(make_manifest(**{field: EDITS[field]}), old=make_manifest())

    assert refused == [f"spec.{field}: {field} is immutable; create another AutoMLJob"]


def test_what_may_be_edited_can_change() -> None:
    """suspend, budget, workers, serving, retention."""
    edited = make_manifest(
        suspend=True,
        budget={"maxTrials": 7},
        workers={"parallelism": 9},
        serving={"replicas": 2},
        retention={"ttlSecondsAfterFinished": 60},
    )

    assert violations(edited, old=make_manifest()) == []


def test_a_model_cannot_change() -> None:
    """One version of a model is one model."""
    model = model_object(make_job(), make_result())
    other = model_object(make_job(), make_result(sha256="c" * 64))

    assert violations(model, old=model) == []
    assert violations(other, old=model) == ["spec: spec is immutable; create another AutoMLModel"]


def test_a_stored_profile_does_not_pin_images() -> None:
    """Else an upgraded operator would go on with the old images."""
    served = with_defaults({"metadata": {"name": "default"}}, schema_of("AutoMLProfile"))

    assert served["spec"]["images"] == {"pullPolicy": "IfNotPresent", "requireDigest": False}
    assert AutoMLProfile.model_validate(served) == make_profile()


PROFILES: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    ("", {"images": {"requireDigest": True, "trainer": "t@sha256:1", "server": "s@sha256:2"}}),
    (
        "spec.images: trainer and server must be named by digest (image@sha256:...) when requireDigest is true",
        {"images": {"requireDigest": True, "trainer": "t@sha256:1", "server": "s:1"}},
    ),
    ("", {"network": {"serverIngress": [{"cidr": "10.0.0.0/8"}, {"podLabels": {"a": "b"}}]}}),
    (
        "spec.network.serverIngress[0]: exactly one of cidr and labels (namespaceLabels, podLabels) must be set",
        {"network": {"serverIngress": [{}]}},
    ),
    (
        "spec.network.egress[0].to[0]: exactly one of cidr and labels (namespaceLabels, podLabels) must be set",
        {"network": {"egress": [{"to": [{"cidr": "10.0.0.0/8", "podLabels": {"a": "b"}}]}]}},
    ),
]


@pytest.mark.parametrize(("message", "spec"), PROFILES)
def test_a_profile_that_contradicts_itself_is_refused(message: str, spec: dict[str, Any]) -> None:
    manifest = {"kind": "AutoMLProfile", "metadata": {"name": "default"}, "spec": spec}

    assert violations(manifest) == ([message] if message else [])
