"""What the author of a manifest reads when it is wrong: where, the rule, the value, what to do."""

from __future__ import annotations

from typing import Any

import pytest

from factories import make_job, make_manifest, make_profile
from kubeautoml.api.check import Problem, check_job, parse_job, parse_profile, problems
from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import ManifestError
from kubeautoml.api.metrics import metrics_of
from kubeautoml.api.objects import Manifest
from kubeautoml.api.profile import AutoMLProfile, AutoMLProfileSpec, Locations


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
        "spec.task.type must be one of TabularClassification, TabularRegression, got 'Classification'; "
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


FITTING = ", ".join(metrics_of(make_job().spec.task.type))
NUMBER = {"type": "TabularRegression", "target": "churned"}
DECISIONS = "Accuracy, BalancedAccuracy, F1, F1Macro, Precision, Recall, MatthewsCorrelation, ExpectedCost"
COST = {"actual": "yes", "predicted": "no", "cost": "5"}
MEANING = [
    (
        {"objective": {"metric": "ExpectedCost"}},
        Reason.INVALID_SPEC,
        "spec.objective.costs is required when objective.metric is ExpectedCost; list what wrong decisions cost",
    ),
    (
        {"objective": {"decisionMetric": "ExpectedCost"}},
        Reason.INVALID_SPEC,
        "spec.objective.costs is required when objective.decisionMetric is ExpectedCost",
    ),
    (
        {"objective": {"decisionMetric": "RocAuc"}},
        Reason.UNFITTING_METRIC,
        f"spec.objective.decisionMetric must be a metric of decisions: {DECISIONS}, got 'RocAuc'",
    ),
    (
        {"objective": {"costs": [COST, COST]}},
        Reason.INVALID_SPEC,
        "spec.objective.costs[1] must be a pair of classes not listed before, got 'yes as no'",
    ),
    (
        {"objective": {"minPrecision": "0"}},
        Reason.INVALID_SPEC,
        'spec.objective.minPrecision must be above "0" and at most "1", got \'0\'',
    ),
    (
        {"objective": {"intervals": {"coverage": "0.5"}}},
        Reason.INVALID_SPEC,
        'spec.objective.intervals.coverage must be between "0.5" and "1", both excluded, got \'0.5\'',
    ),
    (
        {"task": NUMBER, "objective": {"classWeight": "Balanced"}},
        Reason.INVALID_SPEC,
        "spec.objective.classWeight must be left out for TabularRegression, which has no classes, got 'Balanced'",
    ),
    (
        {"task": NUMBER, "objective": {"costs": [COST]}},
        Reason.INVALID_SPEC,
        "spec.objective.costs must be left out for TabularRegression, which has no classes, got 1",
    ),
    (
        {"task": NUMBER, "objective": {"decisionMetric": "F1"}},
        Reason.INVALID_SPEC,
        "spec.objective.decisionMetric must be left out for TabularRegression, which has no classes, got 'F1'",
    ),
    (
        {"task": {"type": "TabularClassification", "target": "churned", "quantiles": ["0.5"]}},
        Reason.INVALID_SPEC,
        "spec.task.quantiles must be left out for TabularClassification, which predicts no numbers, got 1",
    ),
    (
        {"task": {**NUMBER, "quantiles": ["0.5", "1"]}},
        Reason.INVALID_SPEC,
        'spec.task.quantiles must be between "0" and "1", both excluded, got \'1\'',
    ),
    (
        {"task": {**NUMBER, "quantiles": ["0.5", "0.1"]}},
        Reason.INVALID_SPEC,
        "spec.task.quantiles must rise, got '0.1'",
    ),
    (
        {"task": NUMBER, "objective": {"metric": "PinballLoss"}},
        Reason.INVALID_SPEC,
        "spec.task.quantiles is required when objective.metric is PinballLoss; name the quantiles, such as 0.1, 0.5 and 0.9",
    ),
    (
        {"task": {**NUMBER, "quantiles": ["0.5"]}, "objective": {"metric": "Rmse"}},
        Reason.UNFITTING_METRIC,
        "spec.objective.metric must be PinballLoss, or be left out, when task.quantiles is set, got 'Rmse'",
    ),
    (
        {"objective": {"metric": "RocAUC"}},
        Reason.UNFITTING_METRIC,
        f"spec.objective.metric must be a metric that fits TabularClassification: {FITTING}, got 'RocAUC'; "
        "did you mean RocAuc?",
    ),
    (
        {"objective": {"metric": "Rmse"}},
        Reason.UNFITTING_METRIC,
        f"spec.objective.metric must be a metric that fits TabularClassification: {FITTING}, got 'Rmse'",
    ),
    (
        {"serving": {"gate": {"metric": "R2", "min": "0.5"}}},
        Reason.UNFITTING_METRIC,
        f"spec.serving.gate.metric must be a metric that fits TabularClassification: {FITTING}, got 'R2'",
    ),
    (
        {"task": {"type": "TabularRegression", "target": "y", "positiveClass": "yes"}},
        Reason.INVALID_SPEC,
        "spec.task.positiveClass must be left out for TabularRegression, which has no classes, got 'yes'",
    ),
    (
        {"dataset": {"train": {"uri": "s3://a"}, "columns": {"weight": "churned"}}},
        Reason.INVALID_SPEC,
        "spec.dataset.columns.weight must be another column than spec.task.target, got 'churned'",
    ),
    (
        {"dataset": {"train": {"uri": "s3://a"}, "columns": {"ignore": ["churned"]}}},
        Reason.INVALID_SPEC,
        "spec.dataset.columns.ignore must not hold the target, got 'churned'",
    ),
    (
        {"dataset": {"train": {"uri": "s3://a"}, "split": {"type": "Time"}}},
        Reason.INVALID_SPEC,
        "spec.dataset.split.timeColumn is required when split.type is Time",
    ),
    (
        {"dataset": {"train": {"uri": "s3://a"}, "split": {"testFraction": "0.9"}}},
        Reason.INVALID_SPEC,
        'spec.dataset.split.testFraction must be between "0.05" and "0.5", got \'0.9\'',
    ),
    (
        {"search": {"families": {"include": ["Linear"], "exclude": ["Linear"]}}},
        Reason.INVALID_SPEC,
        "spec.search.families must not include and exclude the same family, got 'Linear'",
    ),
    (
        {"output": {"uri": "s3://b/out", "variants": ["Fast", "Fast"]}},
        Reason.INVALID_SPEC,
        "spec.output.variants must not name a variant twice, got 'Fast, Fast'",
    ),
    (
        {"output": {"uri": "s3://b/out", "variants": ["Quality", "Fast"]}, "serving": {"variant": "Balanced"}},
        Reason.INVALID_SPEC,
        "spec.serving.variant must be one of spec.output.variants (Quality, Fast), got 'Balanced'",
    ),
    (
        {"search": {"sampler": {"generations": 5}}},
        Reason.INVALID_SPEC,
        "spec.search.sampler.generations must be left out unless sampler.type is Evolutionary, got 5",
    ),
    (
        {"search": {"pretrained": 2 * [{"family": "Big", "uri": "s3://b/w/", "sha256": 64 * "0"}]}},
        Reason.INVALID_SPEC,
        "spec.search.pretrained[1].family must not name a family twice, got 'Big'",
    ),
    (
        {
            "search": {
                "families": {"exclude": ["Big"]},
                "pretrained": [{"family": "Big", "uri": "s3://b/w/", "sha256": 64 * "0"}],
            }
        },
        Reason.INVALID_SPEC,
        "spec.search.pretrained[0].family must not be one of spec.search.families.exclude, got 'Big'",
    ),
    (
        {"search": {"pretrained": [{"family": "Big", "uri": "s3://b/*.bin", "sha256": 64 * "0"}]}},
        Reason.INVALID_SPEC,
        "spec.search.pretrained[0].uri must be one file, or a folder that ends in /, without wildcards, got 's3://b/*.bin'",
    ),
    (
        {"search": {"parameters": [{"name": "c", "when": {"family": "Linear"}, "float": {"min": "2", "max": "1"}}]}},
        Reason.INVALID_SPEC,
        "spec.search.parameters[0].float.min must be at most max (1), got '2'",
    ),
    (
        {
            "search": {
                "parameters": [
                    {"name": "c", "when": {"family": "Linear"}, "float": {"min": "0", "max": "1", "log": True}}
                ]
            }
        },
        Reason.INVALID_SPEC,
        "spec.search.parameters[0].float.min must be above 0 when log is true, got '0'",
    ),
    (
        {"budget": {"maxDurationSeconds": 5}},
        Reason.NO_TRIAL_POSSIBLE,
        "spec.budget.maxDurationSeconds must be at least 10, or no trial can be run, got 5",
    ),
    (
        {"workers": {"parallelism": 1, "minParallelism": 2}},
        Reason.INVALID_SPEC,
        "spec.workers.minParallelism must be at most parallelism (1), got 2",
    ),
    (
        {"serving": {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}},
        Reason.INVALID_SPEC,
        "spec.serving.autoscaling.minReplicas must be at most maxReplicas (2), got 3",
    ),
]


@pytest.mark.parametrize(("spec", "reason", "message"), MEANING, ids=[m.split(" ")[0] for *_, m in MEANING])
def test_what_makes_no_sense_is_refused_with_a_reason(spec: dict[str, Any], reason: Reason, message: str) -> None:
    found = list(check_job(make_job(**spec), None))

    assert [(p.reason, p.message) for p in found] == [(reason, message)]


GPU = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}
LIMITS = [
    (
        {"limits": {"maxTrials": 50}},
        {},
        "spec.budget.maxTrials must be at most 50, got 100 (AutoMLProfile default, limits.maxTrials)",
    ),
    (
        {"limits": {"maxDurationSeconds": 60}},
        {},
        "spec.budget.maxDurationSeconds must be set and at most 60, got nothing "
        "(AutoMLProfile default, limits.maxDurationSeconds)",
    ),
    (
        {"limits": {"maxParallelism": 2}},
        {"workers": {"parallelism": 3}},
        "spec.workers.parallelism must be at most 2, got 3 (AutoMLProfile default, limits.maxParallelism)",
    ),
    (
        {"limits": {"maxReplicas": 2}},
        {"serving": {"autoscaling": {"maxReplicas": 3}}},
        "spec.serving.replicas must be at most 2, got 3 (AutoMLProfile default, limits.maxReplicas)",
    ),
    (
        {"limits": {"maxResources": {"memory": "1Gi"}}},
        {"workers": {"resources": {"limits": {"memory": "2000Mi", "cpu": "8"}}}},
        "spec.workers.resources.limits.memory must be at most 1Gi, got '2000Mi' "
        "(AutoMLProfile default, limits.maxResources.memory)",
    ),
    (
        {"limits": {"maxResources": {"cpu": "2"}}},
        {"serving": {"resources": {"requests": {"cpu": "2500m"}}}},
        "spec.serving.resources.requests.cpu must be at most 2, got '2500m' "
        "(AutoMLProfile default, limits.maxResources.cpu)",
    ),
    (
        {"limits": {"maxAccelerators": 4}},
        {"workers": {"parallelism": 3, **GPU}},
        "spec.workers.parallelism must be so that all workers together hold at most 4 accelerators (2 each), got 3 "
        "(AutoMLProfile default, limits.maxAccelerators)",
    ),
    (
        {"limits": {"maxAcceleratorSeconds": 600}},
        {"workers": GPU},
        "spec.budget.maxAcceleratorSeconds must be set and at most 600, got nothing "
        "(AutoMLProfile default, limits.maxAcceleratorSeconds)",
    ),
    (
        {"limits": {"maxTtlSecondsAfterFinished": 60}},
        {"retention": {"ttlSecondsAfterFinished": 61}},
        "spec.retention.ttlSecondsAfterFinished must be at most 60, got 61 "
        "(AutoMLProfile default, limits.maxTtlSecondsAfterFinished)",
    ),
    (
        {"allowedServiceAccountNames": ["trainer", "reader"]},
        {"workers": {"serviceAccountName": "admin"}},
        "spec.workers.serviceAccountName must be one of trainer, reader, got 'admin' "
        "(AutoMLProfile default, allowedServiceAccountNames)",
    ),
    (
        {"allowedPriorityClassNames": ["batch"]},
        {"workers": {"placement": {"priorityClassName": "system-node-critical"}}},
        "spec.workers.placement.priorityClassName must be one of batch, got 'system-node-critical' "
        "(AutoMLProfile default, allowedPriorityClassNames)",
    ),
    (
        {"allowedPriorityClassNames": ["batch"]},
        {"serving": {"placement": {"priorityClassName": "high"}}},
        "spec.serving.placement.priorityClassName must be one of batch, got 'high' "
        "(AutoMLProfile default, allowedPriorityClassNames)",
    ),
]


@pytest.mark.parametrize(("profile", "spec", "message"), LIMITS, ids=[m.split(" ")[0] for *_, m in LIMITS])
def test_the_profile_s_limits_hold(profile: dict[str, Any], spec: dict[str, Any], message: str) -> None:
    """The message names field, rule, value, the limit, whose it is, and what to do."""
    (found,) = check_job(make_job(**spec), make_profile(**profile))

    more = "; ask for less, or ask the platform team"
    assert (found.message, found.reason) == (message + more, Reason.LIMIT_EXCEEDED)


def test_what_the_profile_gives_by_default_is_within_its_limits() -> None:
    """A job that asks for nothing is not refused for what it was given."""
    profile = make_profile(
        defaults={"parallelism": 2, "minParallelism": 5},
        workerResources=GPU["resources"],
        limits={"maxAccelerators": 4, "maxParallelism": 2, "maxResources": {"memory": "1Gi"}},
    )

    assert list(check_job(make_job(), profile)) == []


LOCATIONS = [
    # prefixes, URI, allowed
    (["s3://lake"], "s3://lake/churn.csv", True),
    (["s3://lake/"], "s3://lake/churn.csv", True),
    (["s3://lake/"], "s3://lake", True),
    (["s3://lake"], "s3://lake/a/*.parquet", True),
    (["s3://lake/team-a"], "s3://lake/team-a/", True),
    (["s3://other", "s3://lake"], "s3://lake/a", True),
    (["S3://lake/"], "s3://lake/a", True),
    (["file:///mnt/data"], "file:///mnt/data/a.csv", True),
    (["s3:///"], "s3://anywhere/a", True),
    (["file:///"], "file:///anywhere/a", True),
    (["s3:///"], "file:///etc/passwd", False),
    (["file:///"], "s3://anywhere/a", False),
    (["s3:///"], "s3://anywhere/../a", False),
    ([], "s3://anywhere/a", True),
    ([], "file:///etc/passwd", False),
    (["s3://lake"], "s3://lake-evil/a", False),
    (["s3://lake"], "s3://lakes/a", False),
    (["s3://lake"], "s3://lak", False),
    (["s3://lake"], "s3://lake*/a", False),
    (["s3://lake"], "s3://lake.evil.example/a", False),
    (["s3://lake/team-a/"], "s3://lake/team-a-secret/a", False),
    (["s3://lake/team-a/"], "s3://lake/team-*/a", False),
    (["s3://lake/team-a/"], "s3://lake/*/a", False),
    (["s3://lake/team-a/"], "s3://lake/team-a/../team-b/a", False),
    (["s3://lake/team-a/"], "s3://lake/team-b/a", False),
    (["s3://lake/team-a/"], "s3://lake", False),
    (["s3://lake"], "file:///lake/a", False),
    (["s3://mnt"], "file:///mnt/a", False),
    (["file:///mnt/data"], "file:///mnt/data/../secret", False),
    (["file:///mnt/data"], "file:///mnt/data/%2e%2e/secret", False),
    (["file:///mnt/data"], "file:///mnt/database", False),
]


@pytest.mark.parametrize(("prefixes", "uri", "is_allowed"), LOCATIONS, ids=[u for _, u, _ in LOCATIONS])
def test_locations_are_whole_folders(prefixes: list[str], uri: str, is_allowed: bool) -> None:
    """A prefix ends at a slash, nothing leads out of it, and file:// must be listed. For data, weights and output alike."""
    spec = AutoMLProfile.model_construct(metadata=make_profile().metadata, spec=_locations(prefixes))
    weights = [{"family": "Big", "uri": uri, "sha256": 64 * "0"}]
    data = {"train": {"uri": uri}, "test": {"uri": uri}}
    job = make_job(dataset=data, search={"pretrained": weights}, output={"uri": uri})

    found = [p for p in check_job(job, spec) if p.reason != Reason.INVALID_SPEC]  # the patterns of the last cases

    all_of_them = [
        "spec.dataset.train.uri",
        "spec.dataset.test.uri",
        "spec.search.pretrained[0].uri",
        "spec.output.uri",
    ]
    wrong = [] if is_allowed else all_of_them
    assert [p.path for p in found] == wrong
    assert {p.reason for p in found} <= {Reason.LOCATION_NOT_ALLOWED}


def _locations(prefixes: list[str]) -> AutoMLProfileSpec:
    """With prefixes that the schema would refuse, too."""
    locations = Locations.model_construct(data_prefixes=prefixes, output_prefixes=prefixes)
    return AutoMLProfileSpec().model_copy(update={"locations": locations})


def test_a_location_that_is_not_allowed_is_told_with_those_that_are() -> None:
    profile = make_profile(locations={"dataPrefixes": ["s3://shop/", "s3://web/"]})

    (found,) = check_job(make_job(), profile)

    assert found.message == (
        "spec.dataset.train.uri must lie in one of s3://shop/, s3://web/, got 's3://lake/churn.csv' "
        "(AutoMLProfile default, locations.dataPrefixes); choose another place, or ask the platform team"
    )


RESOURCES = [
    (
        {"limits": {"nvidia.com/gpu": "500m"}},
        "spec.workers.resources.limits.nvidia.com/gpu must be a whole number, got '500m'",
    ),
    (
        {"requests": {"nvidia.com/gpu": "1"}},
        "spec.workers.resources.limits.nvidia.com/gpu is required, since accelerators and the like are limits; "
        "move it there from requests",
    ),
    (
        {"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "2"}},
        "spec.workers.resources.requests.nvidia.com/gpu must be the same as the limit (2), got '1'",
    ),
    (
        {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}},
        "spec.workers.resources.requests.memory must be at most the limit (1Gi), got '2Gi'",
    ),
    (
        {"limits": {"gpu": "1"}},
        "spec.workers.resources.limits.gpu: a resource must be one of cpu, memory, ephemeral-storage, or a name with a "
        "domain such as nvidia.com/gpu, got 'gpu'",
    ),
]


@pytest.mark.parametrize(("resources", "message"), RESOURCES, ids=[m.split(" ")[0] for _, m in RESOURCES])
def test_resources_that_no_pod_could_have_are_refused(resources: dict[str, Any], message: str) -> None:
    """What the API server would say of the pods, after they were asked for, is said of the job."""
    assert [p.message for p in check_job(make_job(workers={"resources": resources}), None)] == [message]


def test_few_workers_are_fewer_than_all_of_them() -> None:
    """Also when their number is the profile's."""
    job = make_job(workers={"minParallelism": 3})

    (found,) = check_job(job, make_profile(defaults={"parallelism": 2}))

    assert found.message == "spec.workers.minParallelism must be at most parallelism (2), got 3"
    assert list(check_job(job, make_profile(defaults={"parallelism": 3}))) == []


PROFILES = [
    (
        {"images": {"requireDigest": True, "trainer": "trainer:1"}},
        "spec.images: trainer must be named by digest (image@sha256:...) when requireDigest is true, "
        "got {requireDigest: true, trainer: 'trainer:1'}",
    ),
    (
        {"images": {"requireDigest": True, "trainer": "t@sha256:1"}},
        "spec.images: server must be named by digest (image@sha256:...) when requireDigest is true, "
        "got {requireDigest: true, trainer: 't@sha256:1'}",
    ),
    (
        {"network": {"serverIngress": [{}]}},
        "spec.network.serverIngress[0]: exactly one of cidr and labels (namespaceLabels, podLabels) must be set, got nothing",
    ),
    ({"network": {"egress": [{"ports": [0]}]}}, "spec.network.egress[0].ports[0] must be at least 1, got 0"),
    (
        {"network": {"egress": [{"to": [{"cidr": "10.0.0.0"}]}]}},
        "spec.network.egress[0].to[0].cidr must be a range of addresses such as 10.0.0.0/8, got '10.0.0.0'",
    ),
    (
        {"locations": {"dataPrefixes": ["s3://lake*"]}},
        "spec.locations.dataPrefixes[0] must be a folder such as s3://bucket/ or s3://bucket/folder/, without wildcards, "
        "got 's3://lake*'",
    ),
    ({"podSecurity": {"runAsUser": 0}}, "spec.podSecurity.runAsUser must be at least 1, got 0"),
    (
        {"study": {"url": "http://x"}},
        "spec.study.url must be a study URL: grpc://host:port, grpcs://host:port or postgresql://..., got 'http://x'",
    ),
    (
        {"limits": {"maxWorkers": 3}},
        "spec.limits.maxWorkers is not a field of AutoMLProfile; did you mean spec.limits.maxResources?",
    ),
]


@pytest.mark.parametrize(("spec", "message"), PROFILES)
def test_a_profile_that_would_not_work_is_told_in_one_sentence(spec: dict[str, Any], message: str) -> None:
    """As that of a job, and whose business it is."""
    with pytest.raises(ManifestError) as error:
        parse_profile({"metadata": {"name": "default"}, "spec": spec})

    assert str(error.value) == f"AutoMLProfile default: {message}; ask the platform team"
    assert error.value.reason == "ProfileInvalid"


@pytest.mark.parametrize("name", ["my.job", "1st", "a" * 64])
def test_a_job_s_name_must_fit_its_service(name: str) -> None:
    """Else the endpoint could not be created, after all the training."""
    (found,) = check_job(parse_job(make_manifest(name=name)), None)

    assert found == Problem(
        "metadata.name",
        found.rule,
        name,
        "metadata.name must be at most 63 lower-case letters, digits and hyphens, beginning with a letter "
        f"(its Service is named after it), got '{name}'",
        Reason.INVALID_SPEC,
    )
