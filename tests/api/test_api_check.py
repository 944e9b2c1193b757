"""What the author of a manifest of wrong form reads: where, the rule, the value, what to do."""

from __future__ import annotations

from typing import Any

import pytest

from factories import make_manifest, make_profile
from kubeautoml.api.check import check_job
from kubeautoml.api.errors import ManifestError
from kubeautoml.api.form import parse_job, problems
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.objects import Manifest


def renamed(manifest: Manifest, path: str, new: str) -> Manifest:
    """The manifest with one field under another name."""
    holder: Any = manifest
    *parents, old = path.split(".")
    for name in parents:
        holder = holder[name]
    holder[new] = holder.pop(old)
    return manifest


def edited(manifest: Manifest, field: str, value: Any) -> Manifest:
    return {**manifest, field: value}


def node_terms(operator: str, *values: str) -> dict[str, Any]:
    """Nodes whose size compares so."""
    term = {"matchExpressions": [{"key": "size", "operator": operator, "values": list(values)}]}
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}


FORM = [
    (
        renamed(make_manifest(), "spec.task", "taks"),
        "spec.taks is not a field of AutoMLJob; did you mean spec.task?",
    ),
    (
        renamed(make_manifest(), "metadata", "metdata"),
        "metdata is not a field of AutoMLJob; did you mean metadata?",
    ),
    (
        make_manifest(budget={"maxTrails": 5}),
        "spec.budget.maxTrails is not a field of AutoMLJob; did you mean spec.budget.maxTrials?",
    ),
    (
        make_manifest(task={"type": "TabularRegression", "target": "y", "zzz": 1}),
        "spec.task.zzz is not a field of AutoMLJob; known here: type, target, positiveClass, quantiles",
    ),
    (
        make_manifest(dataset={"train": {"uri": "s3://a"}, "split": {"testFraction": 0.2}}),
        'spec.dataset.split.testFraction must be a decimal string such as "0.2", got 0.2 (put it in quotes: "0.2")',
    ),
    (
        make_manifest(budget={"targetValue": "high"}),
        "spec.budget.targetValue must be a decimal string such as \"0.2\", got 'high'",
    ),
    (
        make_manifest(task={"type": "TabularClassification", "target": "y", "positiveClass": 1}),
        'spec.task.positiveClass must be text, got 1 (put it in quotes: "1")',
    ),
    (
        make_manifest(task={"type": "Classification", "target": "y"}),
        f"spec.task.type must be one of {', '.join(TaskType)}, got 'Classification'; "
        "did you mean TabularClassification?",
    ),
    (
        make_manifest(search={"preset": "balanced"}),
        "spec.search.preset must be one of Fast, Balanced, Best, Interpretable, got 'balanced'; did you mean Balanced?",
    ),
    (
        make_manifest(objective={"metric": "rocauc"}),
        "spec.objective.metric must be one word in CamelCase, got 'rocauc'; did you mean RocAuc?",
    ),
    (make_manifest(dataset={}), "spec.dataset.train is required; add it to spec.dataset"),
    (
        make_manifest(output={"uri": "gs://models"}),
        "spec.output.uri must be a URI such as s3://bucket/key or file:///path, got 'gs://models'",
    ),
    (
        make_manifest(search={"pretrained": [{"family": "Big", "uri": "s3://b/w/", "sha256": "abc"}]}),
        "spec.search.pretrained[0].sha256 must be a SHA-256 digest: 64 digits and letters a to f, in lower case, got 'abc'",
    ),
    (make_manifest(budget={"maxTrials": 0}), "spec.budget.maxTrials must be at least 1, got 0"),
    (
        make_manifest(budget={"maxTrials": "10"}),
        "spec.budget.maxTrials must be a whole number, got '10' (write it without quotes)",
    ),
    (make_manifest(budget={"maxTrials": 1.5}), "spec.budget.maxTrials must be a whole number, got 1.5"),
    (make_manifest(search={"seed": True}), "spec.search.seed must be a whole number, got true"),
    (make_manifest(suspend="yes"), "spec.suspend must be true or false, got 'yes'"),
    (make_manifest(task=None), "spec.task must be an object, got nothing"),
    (make_manifest(constraints={}), "spec.constraints must be a list, got an object"),
    (
        make_manifest(workers={"resources": {"limits": {"memory": "4GB"}}}),
        'spec.workers.resources.limits.memory must be a Kubernetes quantity such as "500m", "2" or "4Gi", got \'4GB\'',
    ),
    (
        make_manifest(serving={"gate": {"metric": "RocAuc"}}),
        "spec.serving.gate: exactly one of min and max must be set, got {metric: 'RocAuc'}",
    ),
    (
        make_manifest(profileRef={"name": "My Profile"}),
        "spec.profileRef.name must be lower-case letters, digits and hyphens, with a letter or digit at both ends, "
        "got 'My Profile'",
    ),
    (
        edited(make_manifest(), "apiVersion", "kubeautoml.dev/v1"),
        "apiVersion must be kubeautoml.dev/v1alpha1, got 'kubeautoml.dev/v1'; did you mean kubeautoml.dev/v1alpha1?",
    ),
    (edited(make_manifest(), "spec", None), "spec must be an object, got nothing"),
    (
        make_manifest(**{"budget\n": {"maxTrials": 3}}),
        "spec: 'budget\\n' is not a field of AutoMLJob; did you mean spec.budget?",
    ),
    (
        make_manifest(budget={"maxTrials": "\u202e5"}),
        "spec.budget.maxTrials must be a whole number, got '\\u202e5'",
    ),
    (
        make_manifest(workers={"placement": {"tolerations": [{"value": "ml"}]}}),
        "spec.workers.placement.tolerations[0]: key is required unless operator is Exists, got {value: 'ml'}",
    ),
    (
        make_manifest(workers={"placement": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}}),
        "spec.workers.placement.tolerations[0]: value must be left out when operator is Exists, "
        "got {key: 'a', operator: 'Exists', value: 'b'}",
    ),
    (
        make_manifest(workers={"placement": {"tolerations": [{"key": "a", "tolerationSeconds": 5}]}}),
        "spec.workers.placement.tolerations[0]: effect must be NoExecute when tolerationSeconds is set, "
        "got {key: 'a', tolerationSeconds: 5}",
    ),
    (
        make_manifest(workers={"placement": {"nodeSelector": {"pool": "my pool"}}}),
        "spec.workers.placement.nodeSelector.pool must be the value of a label: letters, digits, '-', '_' and '.', at most 63, "
        "got 'my pool'",
    ),
    (
        make_manifest(workers={"placement": {"affinity": {"nodeAffinity": node_terms("In")}}}),
        "spec.workers.placement.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]"
        ".matchExpressions[0]: values must have one or more entries when operator is In, got {key: 'size', operator: 'In', values: a list}",
    ),
    (
        make_manifest(workers={"placement": {"affinity": {"nodeAffinity": node_terms("Gt", "a")}}}),
        "spec.workers.placement.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]"
        ".matchExpressions[0]: values must be one whole number in quotes when operator is Gt, got {key: 'size', operator: 'Gt', values: a list}",
    ),
    (
        make_manifest(workers={"placement": {"affinity": {"podAffinity": {}}}}),
        "spec.workers.placement.affinity.podAffinity is not a field of AutoMLJob; did you mean "
        "spec.workers.placement.affinity.nodeAffinity?",
    ),
    (
        make_manifest(workers={"placement": {"hostNetwork": True}}),
        "spec.workers.placement.hostNetwork is not a field of AutoMLJob; known here: nodeSelector, tolerations, affinity, "
        "topologySpreadConstraints, priorityClassName, runtimeClassName",
    ),
    (["a", "list"], "the manifest must be an object, got a list"),
]


@pytest.mark.parametrize(("manifest", "message"), FORM, ids=[m.split(" ")[0] for _, m in FORM])
def test_a_manifest_of_wrong_form_is_refused_in_one_sentence(manifest: Manifest, message: str) -> None:
    with pytest.raises(ManifestError) as error:
        parse_job(manifest)

    assert str(error.value) == message
    assert error.value.reason == "InvalidSpec"


def test_of_several_problems_the_first_is_told_with_their_number() -> None:
    """Misspelt fields come first: what is missing is often only misspelt."""
    manifest = renamed(make_manifest(budget={"maxTrials": 0}), "spec.output", "outptu")

    with pytest.raises(ManifestError) as error:
        parse_job(manifest)

    assert str(error.value) == "spec.outptu is not a field of AutoMLJob; did you mean spec.output? (and 1 more)"
    assert [(p.path, p.rule, p.value) for p in problems(manifest)] == [
        ("spec.outptu", "is not a field", {"uri": "s3://models"}),
        ("spec.budget.maxTrials", "must be at least 1", 0),
    ]


def test_a_good_manifest_has_no_problems() -> None:
    assert problems(make_manifest()) == []
    assert list(check_job(parse_job(make_manifest()), make_profile())) == []
