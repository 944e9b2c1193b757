"""Does a job keep to what its profile allows? Locations, limits, service accounts; each answer names the limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from kubeautoml.api import effective
from kubeautoml.api.conditions import Reason
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.problems import Problem, said
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.api.values import Quantity, quantity_number

ASK = "ask the platform team"


def check_profile(job: AutoMLJob, profile: AutoMLProfile) -> Iterator[Problem]:
    """What the profile does not allow, the most telling first."""
    yield from _check_counts(job, profile)
    yield from _check_budgets(job, profile)
    yield from _check_accelerators(job, profile)
    yield from _check_resources(job, profile)
    yield from _check_names(job, profile)
    yield from _check_locations(job, profile)


def is_within(uri: str, prefix: str) -> bool:
    """Whether a URI lies in a folder: s3://lake allows s3://lake/a, not s3://lake-b nor s3://lake/../b. s3:/// is every bucket.

    >>> is_within("s3://lake/team-a/*.csv", "s3://lake/team-a/"), is_within("s3://lake-evil/x", "s3://lake")
    (True, False)
    """
    scheme, path = _parts(uri)
    allowed_scheme, allowed_path = _parts(prefix)
    if scheme != allowed_scheme or ".." in path.replace("\\", "/").split("/"):
        return False
    allowed = allowed_path.rstrip("/")
    return not allowed or f"{path}/".startswith(f"{allowed}/")


def _parts(uri: str) -> tuple[str, str]:
    """(scheme, bucket and key, or path). Schemes have no case; file URIs may spell characters as %2e, keys of S3 may not."""
    scheme, _, rest = uri.partition("://")
    scheme = scheme.lower()
    return scheme, unquote(rest) if scheme == "file" else rest


def _check_counts(job: AutoMLJob, profile: AutoMLProfile) -> Iterator[Problem]:
    spec, limits = job.spec, profile.spec.limits
    replicas = None
    if spec.serving is not None:
        scaling = spec.serving.autoscaling
        replicas = scaling.max_replicas if scaling else spec.serving.replicas
    workers = effective.parallelism(job, profile.spec)
    asked: tuple[tuple[str, int | None, str, int | None], ...] = (
        ("spec.workers.parallelism", workers, "maxParallelism", limits.max_parallelism),
        ("spec.budget.maxTrials", spec.budget.max_trials, "maxTrials", limits.max_trials),
        ("spec.serving.replicas", replicas, "maxReplicas", limits.max_replicas),
        (
            "spec.retention.ttlSecondsAfterFinished",
            spec.retention.ttl_seconds_after_finished,
            "maxTtlSecondsAfterFinished",
            limits.max_ttl_seconds_after_finished,
        ),
    )
    for path, value, name, limit in asked:
        if limit is not None and value is not None and value > limit:
            yield _over(path, f"must be at most {limit}", value, f"limits.{name}", job)


def _check_budgets(job: AutoMLJob, profile: AutoMLProfile) -> Iterator[Problem]:
    budget, limits = job.spec.budget, profile.spec.limits
    duration, limit = budget.max_duration_seconds, limits.max_duration_seconds
    if limit is not None and (duration is None or duration > limit):
        path, rule = "spec.budget.maxDurationSeconds", f"must be set and at most {limit}"
        yield _over(path, rule, duration, "limits.maxDurationSeconds", job)
    seconds, limit = budget.max_accelerator_seconds, limits.max_accelerator_seconds
    holds = effective.accelerators(effective.worker_resources(job, profile.spec).limits) > 0
    if limit is not None and ((seconds is None and holds) or (seconds is not None and seconds > limit)):
        path, rule = "spec.budget.maxAcceleratorSeconds", f"must be set and at most {limit}"
        yield _over(path, rule, seconds, "limits.maxAcceleratorSeconds", job)


def _check_accelerators(job: AutoMLJob, profile: AutoMLProfile) -> Iterator[Problem]:
    limit = profile.spec.limits.max_accelerators
    each = effective.accelerators(effective.worker_resources(job, profile.spec).limits)
    workers = effective.parallelism(job, profile.spec)
    if limit is not None and each * workers > limit:
        rule = f"must be so that all workers together hold at most {limit} accelerators ({each} each)"
        yield _over("spec.workers.parallelism", rule, workers, "limits.maxAccelerators", job)


def _check_resources(job: AutoMLJob, profile: AutoMLProfile) -> Iterator[Problem]:
    most = profile.spec.limits.max_resources
    serving = job.spec.serving
    asked = [("spec.workers.resources", job.spec.workers.resources)]
    asked += [("spec.serving.resources", serving.resources)] if serving else []
    for path, resources in asked:
        sides: tuple[tuple[str, dict[str, Quantity]], ...] = (
            ("requests", resources.requests),
            ("limits", resources.limits),
        )
        for side, amounts in sides:
            for name, quantity in amounts.items():
                if name in most and quantity_number(quantity) > quantity_number(most[name]):
                    where, rule = f"{path}.{side}.{name}", f"must be at most {most[name]}"
                    yield _over(where, rule, quantity, f"limits.maxResources.{name}", job)


def _check_names(job: AutoMLJob, profile: AutoMLProfile) -> Iterator[Problem]:
    workers, spec = job.spec.workers, profile.spec
    asked: tuple[tuple[str, str | None, str, list[str]], ...] = (
        (
            "spec.workers.serviceAccountName",
            workers.service_account_name,
            "allowedServiceAccountNames",
            spec.allowed_service_account_names,
        ),
        (
            "spec.workers.placement.priorityClassName",
            workers.placement.priority_class_name,
            "allowedPriorityClassNames",
            spec.allowed_priority_class_names,
        ),
    )
    serving = job.spec.serving
    if serving is not None:
        path, name = "spec.serving.placement.priorityClassName", serving.placement.priority_class_name
        asked += ((path, name, "allowedPriorityClassNames", spec.allowed_priority_class_names),)
    for path, name, field, allowed in asked:
        if name is not None and allowed and name not in allowed:
            yield _over(path, f"must be one of {', '.join(allowed)}", name, field, job)


def _check_locations(job: AutoMLJob, profile: AutoMLProfile) -> Iterator[Problem]:
    dataset, allowed = job.spec.dataset, profile.spec.locations
    asked = [("spec.dataset.train.uri", dataset.train.uri, allowed.data_prefixes, "dataPrefixes")]
    if dataset.test is not None:
        asked.append(("spec.dataset.test.uri", dataset.test.uri, allowed.data_prefixes, "dataPrefixes"))
    for i, weights in enumerate(job.spec.search.pretrained):
        asked.append((f"spec.search.pretrained[{i}].uri", weights.uri, allowed.data_prefixes, "dataPrefixes"))
    asked.append(("spec.output.uri", job.spec.output.uri, allowed.output_prefixes, "outputPrefixes"))
    for path, uri, prefixes, name in asked:
        more = f" (AutoMLProfile {profile.metadata.name}, locations.{name}); choose another place, or {ASK}"
        if prefixes and not any(is_within(uri, p) for p in prefixes):
            yield _elsewhere(path, f"must lie in one of {', '.join(prefixes)}", uri, more)
        elif not prefixes and _parts(uri)[0] == "file":
            yield _elsewhere(path, "must not be a file:// location, since the profile lists none", uri, more)


def _elsewhere(path: str, rule: str, uri: str, more: str) -> Problem:
    return said(path, rule, uri, more=more, reason=Reason.LOCATION_NOT_ALLOWED)


def _over(path: str, rule: str, value: Any, limit: str, job: AutoMLJob) -> Problem:
    more = f" (AutoMLProfile {job.spec.profile_ref.name}, {limit}); ask for less, or {ASK}"
    return said(path, rule, value, more=more, reason=Reason.LIMIT_EXCEEDED)
