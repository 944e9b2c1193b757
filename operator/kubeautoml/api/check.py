"""Is this manifest right? The same rules for `kubeautoml validate`, `kubeautoml run` and the planner, in words for its author.

Two layers: `problems` looks at the form (fields, types, ranges), `check_job` at the meaning (does the metric fit the task, do
the limits of the profile hold). What an API server can refuse by itself is in the CRD as well (`crd.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from rapidfuzz import process

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import ManifestError
from kubeautoml.api.job import AutoMLJob, Parameter, SplitType
from kubeautoml.api.metrics import METRICS, TaskType, metrics_of
from kubeautoml.api.names import JOB_NAME_PATTERN
from kubeautoml.api.objects import Manifest
from kubeautoml.api.profile import AutoMLProfile, Limits
from kubeautoml.api.values import DECIMAL_PATTERN, cpu_count, quantity_bytes

MIN_DURATION_SECONDS = 10
"""Below this no trial can be run: a worker needs a few seconds to start and read the data. Measured: 4 to 6 s."""


@dataclass(frozen=True)
class Problem:
    """One broken rule. `message` is a whole sentence with path, rule, value and, where known, what to do."""

    path: str
    rule: str
    value: Any
    message: str
    reason: Reason = Reason.INVALID_SPEC


def parse_job(manifest: Manifest) -> AutoMLJob:
    """The job in a manifest.

    Raises:
        ManifestError: it breaks a rule of form; names the first one and how many more there are.
    """
    found = problems(manifest)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ManifestError(found[0].message + more, reason=found[0].reason)
    return AutoMLJob.model_validate(manifest)


def problems(manifest: Manifest) -> list[Problem]:
    """Every broken rule of form, in the order of the fields."""
    try:
        AutoMLJob.model_validate(manifest)
    except ValidationError as error:
        return [_problem(e, manifest) for e in error.errors()]
    return []


def _problem(error: ErrorDetails, manifest: Manifest) -> Problem:
    path = _path(error["loc"])
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        return _unknown_field(path, error["loc"], value)
    if kind == "missing":
        holder = _path(error["loc"][:-1]) or "the manifest"
        return Problem(path, "is required", None, f"{path} is required; add it to {holder}")
    rule = _rule(error)
    return Problem(path, rule, value, f"{path} {rule}, got {_shown(value)}{_advice(error)}")


def _path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _unknown_field(path: str, loc: tuple[int | str, ...], value: Any) -> Problem:
    known = _fields_at(loc[:-1])
    near = process.extractOne(str(loc[-1]), known, score_cutoff=60) if known else None
    holder = _path(loc[:-1])
    hint = f"; did you mean {f'{holder}.' if holder else ''}{near[0]}?" if near else f"; known here: {', '.join(known)}"
    return Problem(path, "is not a field", value, f"{path} is not a field of AutoMLJob{hint}")


def _fields_at(loc: tuple[int | str, ...]) -> list[str]:
    """Names that may stand at a place in an AutoMLJob."""
    model: Any = AutoMLJob
    for part in loc:
        if isinstance(part, int):
            continue
        field = next((f for n, f in model.model_fields.items() if part in (f.alias, n)), None)
        model = _model_in(field.annotation) if field is not None else None
        if model is None:
            return []
    return [f.alias or n for n, f in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for m in map(_model_in, get_args(annotation)) if m is not None), None)


def _rule(error: ErrorDetails) -> str:
    """Pydantic's message as a sentence with "must"."""
    context = error.get("ctx", {})
    if error["type"] in ("enum", "literal_error"):
        return f"must be one of {str(context['expected']).replace(' or ', ', ').replace(chr(39), '')}"
    if error["type"] == "string_pattern_mismatch":
        return _pattern_rule(str(context["pattern"]))
    if error["type"] == "value_error":
        return str(context["error"])
    message = (
        error["msg"].replace("Input should be", "must be").replace("String should", "must").replace("should", "must")
    )
    message = (
        message.replace("a valid string", "text")
        .replace("greater than or equal to", "at least")
        .replace("less than or equal to", "at most")
    )
    return message[:1].lower() + message[1:]


def _pattern_rule(pattern: str) -> str:
    if pattern == DECIMAL_PATTERN:
        return 'must be a decimal string such as "0.2"'
    if pattern.startswith("^(s3|file)"):
        return "must be a URI such as s3://bucket/key or file:///path"
    return f"must match {pattern}"


def _advice(error: ErrorDetails) -> str:
    is_number = isinstance(error["input"], int | float) and not isinstance(error["input"], bool)
    if error["type"] == "string_type" and is_number:
        return f' (put it in quotes: "{error["input"]}")'
    near = None
    if error["type"] in ("enum", "literal_error") and isinstance(error["input"], str):
        choices = [c.strip().strip("'") for c in str(error["ctx"]["expected"]).replace(" or ", ", ").split(",")]
        near = process.extractOne(error["input"], choices, score_cutoff=60)
    return f"; did you mean {near[0]}?" if near else ""


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return repr(value) if not isinstance(value, str) else f"'{value[:80]}'"


def check_job(job: AutoMLJob, profile: AutoMLProfile | None) -> Iterator[Problem]:
    """Broken rules of meaning, the most telling first."""
    yield from _check_name(job)
    yield from _check_metric(job)
    yield from _check_task(job)
    yield from _check_columns(job)
    yield from _check_search(job)
    yield from _check_budget(job)
    yield from _check_workers_and_serving(job)
    if profile is not None:
        yield from _check_limits(job, profile.spec.limits)
        yield from _check_locations(job, profile)


def _said(path: str, rule: str, value: Any, *, more: str = "", reason: Reason = Reason.INVALID_SPEC) -> Problem:
    return Problem(path, rule, value, f"{path} {rule}, got {_shown(value)}{more}", reason)


def _check_name(job: AutoMLJob) -> Iterator[Problem]:
    name = job.metadata.name
    if len(name) > 63 or not re.fullmatch(JOB_NAME_PATTERN, name):
        rule = "must be at most 63 lower-case letters, digits and hyphens, beginning with a letter (its Service is named after it)"
        yield _said("metadata.name", rule, name)


def _check_metric(job: AutoMLJob) -> Iterator[Problem]:
    gate = job.spec.serving.gate if job.spec.serving else None
    named = {
        "spec.objective.metric": job.spec.objective.metric,
        "spec.serving.gate.metric": gate.metric if gate else None,
    }
    fitting = metrics_of(job.spec.task.type)
    for path, name in named.items():
        if name is None or name in fitting:
            continue
        words = f"must be a metric that fits {job.spec.task.type}: {', '.join(fitting)}"
        near = process.extractOne(name, fitting, score_cutoff=60) if name not in METRICS else None
        more = f"; did you mean {near[0]}?" if near else ""
        yield _said(path, words, name, more=more, reason=Reason.UNFITTING_METRIC)


def _check_task(job: AutoMLJob) -> Iterator[Problem]:
    task = job.spec.task
    if task.positive_class is not None and task.type is not TaskType.TABULAR_CLASSIFICATION:
        yield _said(
            "spec.task.positiveClass", f"must be left out for {task.type}, which has no classes", task.positive_class
        )


def _check_columns(job: AutoMLJob) -> Iterator[Problem]:
    dataset, target = job.spec.dataset, job.spec.task.target
    roles = {
        "spec.dataset.columns.weight": dataset.columns.weight,
        "spec.dataset.split.groupColumn": dataset.split.group_column,
        "spec.dataset.split.timeColumn": dataset.split.time_column,
    }
    for path, column in roles.items():
        if column == target:
            yield _said(path, "must be another column than spec.task.target", column)
    if target in dataset.columns.ignore:
        yield _said("spec.dataset.columns.ignore", "must not hold the target", target)
    needs = {SplitType.GROUP: ("groupColumn", dataset.split.group_column)}
    needs[SplitType.TIME] = ("timeColumn", dataset.split.time_column)
    if dataset.split.type in needs and needs[dataset.split.type][1] is None:
        name = needs[dataset.split.type][0]
        message = f"spec.dataset.split.{name} is required when split.type is {dataset.split.type}"
        yield Problem(f"spec.dataset.split.{name}", "is required", None, message)
    if dataset.split.type is SplitType.STRATIFIED and job.spec.task.type is not TaskType.TABULAR_CLASSIFICATION:
        yield _said("spec.dataset.split.type", "must be another than Stratified for numbers", dataset.split.type.value)
    if not 0.05 <= float(dataset.split.test_fraction) <= 0.5:
        yield _said("spec.dataset.split.testFraction", 'must be between "0.05" and "0.5"', dataset.split.test_fraction)


def _check_search(job: AutoMLJob) -> Iterator[Problem]:
    families = job.spec.search.families
    both = sorted(set(families.include) & set(families.exclude))
    if both:
        yield _said("spec.search.families", "must not include and exclude the same family", both[0])
    for i, parameter in enumerate(job.spec.search.parameters):
        yield from _check_range(f"spec.search.parameters[{i}]", parameter)


def _check_range(path: str, parameter: Parameter) -> Iterator[Problem]:
    for kind, given in (("float", parameter.float), ("int", parameter.int)):
        if given is None:
            continue
        low, high = float(given.min), float(given.max)
        if low > high:
            yield _said(f"{path}.{kind}.min", f"must be at most max ({given.max})", given.min)
        elif given.log and low <= 0:
            yield _said(f"{path}.{kind}.min", "must be above 0 when log is true", given.min)


def _check_budget(job: AutoMLJob) -> Iterator[Problem]:
    seconds = job.spec.budget.max_duration_seconds
    if seconds is not None and seconds < MIN_DURATION_SECONDS:
        rule = f"must be at least {MIN_DURATION_SECONDS}, or no trial can be run"
        yield _said("spec.budget.maxDurationSeconds", rule, seconds, reason=Reason.NO_TRIAL_POSSIBLE)


def _check_workers_and_serving(job: AutoMLJob) -> Iterator[Problem]:
    workers, serving = job.spec.workers, job.spec.serving
    if workers.min_parallelism is not None and workers.min_parallelism > workers.parallelism:
        rule = f"must be at most parallelism ({workers.parallelism})"
        yield _said("spec.workers.minParallelism", rule, workers.min_parallelism)
    scaling = serving.autoscaling if serving else None
    if scaling is not None and scaling.min_replicas > scaling.max_replicas:
        rule = f"must be at most maxReplicas ({scaling.max_replicas})"
        yield _said("spec.serving.autoscaling.minReplicas", rule, scaling.min_replicas)


def _check_limits(job: AutoMLJob, limits: Limits) -> Iterator[Problem]:
    spec = job.spec
    replicas = None
    if spec.serving is not None:
        scaling = spec.serving.autoscaling
        replicas = scaling.max_replicas if scaling else spec.serving.replicas
    asked = (
        ("spec.workers.parallelism", spec.workers.parallelism, "maxParallelism", limits.max_parallelism),
        ("spec.budget.maxTrials", spec.budget.max_trials, "maxTrials", limits.max_trials),
        ("spec.serving.replicas", replicas, "maxReplicas", limits.max_replicas),
    )
    for path, value, name, limit in asked:
        if limit is not None and value is not None and value > limit:
            yield _over(path, f"must be at most {limit}", value, f"limits.{name}", job)
    duration, limit = spec.budget.max_duration_seconds, limits.max_duration_seconds
    if limit is not None and (duration is None or duration > limit):
        yield _over(
            "spec.budget.maxDurationSeconds",
            f"must be set and at most {limit}",
            duration,
            "limits.maxDurationSeconds",
            job,
        )
    for side in ("requests", "limits"):
        for resource, quantity in getattr(spec.workers.resources, side).items():
            most = limits.max_resources.get(resource)
            if most is not None and _amount(resource, quantity) > _amount(resource, most):
                path = f"spec.workers.resources.{side}.{resource}"
                yield _over(path, f"must be at most {most}", quantity, f"limits.maxResources.{resource}", job)


def _over(path: str, rule: str, value: Any, limit: str, job: AutoMLJob) -> Problem:
    more = f" (AutoMLProfile {job.spec.profile_ref.name}, {limit})"
    return _said(path, rule, value, more=more, reason=Reason.LIMIT_EXCEEDED)


def _amount(resource: str, quantity: str) -> float:
    return float(quantity_bytes(quantity)) if "memory" in resource or "storage" in resource else cpu_count(quantity)


def _check_locations(job: AutoMLJob, profile: AutoMLProfile) -> Iterator[Problem]:
    dataset, allowed = job.spec.dataset, profile.spec.locations
    asked = [("spec.dataset.train.uri", dataset.train.uri, allowed.data_prefixes)]
    if dataset.test is not None:
        asked.append(("spec.dataset.test.uri", dataset.test.uri, allowed.data_prefixes))
    asked.append(("spec.output.uri", job.spec.output.uri, allowed.output_prefixes))
    for path, uri, prefixes in asked:
        if prefixes and not any(uri.startswith(p) for p in prefixes):
            more = f" (AutoMLProfile {profile.metadata.name})"
            yield _said(
                path,
                f"must begin with one of {', '.join(prefixes)}",
                uri,
                more=more,
                reason=Reason.LOCATION_NOT_ALLOWED,
            )
