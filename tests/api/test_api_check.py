"""What the author of a manifest reads when it is wrong: where, the rule, the value, what to do."""

from __future__ import annotations

from typing import Any

import pytest

from factories import make_job, make_manifest, make_profile
from kubeautoml.api.check import Problem, check_job, parse_job, problems
from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import ManifestError
from kubeautoml.api.metrics import metrics_of
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
        "spec.task.zzz is not a field of AutoMLJob; known here: type, target, positiveClass",
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
        "spec.serving.gate: exactly one of min and max must be set",
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
MEANING = [
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
        {"locations": {"dataPrefixes": ["s3://shop/", "s3://web/"]}},
        {},
        "spec.dataset.train.uri must begin with one of s3://shop/, s3://web/, got 's3://lake/churn.csv' "
        "(AutoMLProfile default)",
    ),
    (
        {"locations": {"outputPrefixes": ["s3://safe/"]}},
        {},
        "spec.output.uri must begin with one of s3://safe/, got 's3://models' (AutoMLProfile default)",
    ),
]


@pytest.mark.parametrize(("profile", "spec", "message"), LIMITS, ids=[m.split(" ")[0] for *_, m in LIMITS])
def test_the_profile_s_limits_hold(profile: dict[str, Any], spec: dict[str, Any], message: str) -> None:
    """The message names the limit and whose it is."""
    (found,) = check_job(make_job(**spec), make_profile(**profile))

    expected = Reason.LOCATION_NOT_ALLOWED if "locations" in profile else Reason.LIMIT_EXCEEDED
    assert (found.message, found.reason) == (message, expected)


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


@pytest.mark.parametrize("uri", ["s3://lake/churn.csv", "s3://lake/a/*.parquet", "s3://lake"])
@pytest.mark.parametrize("prefix", ["s3://lake", "s3://lake/"])
def test_a_location_under_the_prefix_is_allowed(uri: str, prefix: str) -> None:
    job = make_job(dataset={"train": {"uri": uri}})

    assert list(check_job(job, make_profile(locations={"dataPrefixes": [prefix]}))) == []


@pytest.mark.parametrize("uri", ["s3://lakes/churn.csv", "s3://lake/../secret/a.csv", "file:///lake/a.csv"])
def test_a_location_beside_the_prefix_is_not(uri: str) -> None:
    """A prefix ends at a slash, and nothing leads out of it."""
    job = make_job(dataset={"train": {"uri": uri}})

    (found,) = check_job(job, make_profile(locations={"dataPrefixes": ["s3://lake"]}))

    assert found.reason is Reason.LOCATION_NOT_ALLOWED
