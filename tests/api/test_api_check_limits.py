"""What a platform team's profile allows, and what the author of a manifest reads that asks for more."""

from __future__ import annotations

from typing import Any

import pytest

from factories import make_job, make_manifest, make_profile
from kubeautoml.api.check import check_job
from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import ManifestError
from kubeautoml.api.form import parse_job, parse_profile
from kubeautoml.api.problems import Problem
from kubeautoml.api.profile import AutoMLProfile, AutoMLProfileSpec, Locations

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
