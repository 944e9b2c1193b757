"""What the author of a manifest reads that is well formed and makes no sense, or that no pod could have."""

from __future__ import annotations

from typing import Any

import pytest

from factories import make_job, make_profile
from kubeautoml.api.check import check_job
from kubeautoml.api.conditions import Reason
from kubeautoml.api.metrics import metrics_of

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
        'spec.dataset.split.testFraction must be "0", or between "0.05" and "0.5", got \'0.9\'',
    ),
    (
        {
            "dataset": {"train": {"uri": "s3://a"}, "split": {"testFraction": "0"}},
            "serving": {"gate": {"metric": "RocAuc", "min": "0.8"}},
        },
        Reason.INVALID_SPEC,
        "spec.dataset.split.testFraction must be above \"0\", or dataset.test be given, when serving.gate is set, got '0'",
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
