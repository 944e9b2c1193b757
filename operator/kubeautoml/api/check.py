"""Is this manifest right? The same rules for `kubeautoml validate`, `kubeautoml run` and the planner, in words for its author.

Two layers: `problems` looks at the form (fields, types, ranges), `check_job` at the meaning (does the metric fit the task, do
the limits of the profile hold). What an API server can refuse by itself is in the CRD as well (`crd.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from rapidfuzz import process

from kubeautoml.api.conditions import Reason
from kubeautoml.api.dataset import URI_PATTERN, SplitType
from kubeautoml.api.effective import parallelism
from kubeautoml.api.errors import ManifestError
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.limits import check_profile
from kubeautoml.api.metrics import METRICS, QUANTILE_METRIC, TaskType, metrics_of
from kubeautoml.api.names import JOB_NAME_PATTERN
from kubeautoml.api.objective import ClassWeight, Objective
from kubeautoml.api.objects import Manifest
from kubeautoml.api.placement import CLASS_NAME_PATTERN, LABEL_KEY_PATTERN, LABEL_VALUE_PATTERN
from kubeautoml.api.problems import Problem, printable, said, shown
from kubeautoml.api.profile import (
    CIDR_PATTERN,
    HTTP_PATTERN,
    PREFIX_PATTERN,
    STUDY_URL_PATTERN,
    AutoMLProfile,
    AutoMLProfileSpec,
)
from kubeautoml.api.search import SHA256_PATTERN, Parameter, SamplerType
from kubeautoml.api.values import (
    CAMEL_PATTERN,
    DECIMAL_PATTERN,
    DNS_LABEL_PATTERN,
    QUANTITY_PATTERN,
    quantity_number,
)

MIN_DURATION_SECONDS = 10
"""Below this no trial can be run: a worker needs a few seconds to start and read the data. Measured: 4 to 6 s."""


REQUIRED = "is required"
UNKNOWN = "is not a field"

RULE_OF_PATTERN = {
    DECIMAL_PATTERN: 'must be a decimal string such as "0.2"',
    QUANTITY_PATTERN: 'must be a Kubernetes quantity such as "500m", "2" or "4Gi"',
    DNS_LABEL_PATTERN: "must be lower-case letters, digits and hyphens, with a letter or digit at both ends",
    CAMEL_PATTERN: "must be one word in CamelCase",
    URI_PATTERN: "must be a URI such as s3://bucket/key or file:///path",
    SHA256_PATTERN: "must be a SHA-256 digest: 64 digits and letters a to f, in lower case",
    LABEL_KEY_PATTERN: "must be the key of a label, such as pool or example.com/pool",
    LABEL_VALUE_PATTERN: "must be the value of a label: letters, digits, '-', '_' and '.', at most 63",
    PREFIX_PATTERN: "must be a folder such as s3://bucket/ or s3://bucket/folder/, without wildcards",
    CIDR_PATTERN: "must be a range of addresses such as 10.0.0.0/8",
    HTTP_PATTERN: "must be a URL such as https://s3.example.com",
    STUDY_URL_PATTERN: "must be a study URL: grpc://host:port, grpcs://host:port or postgresql://...",
    CLASS_NAME_PATTERN: "must be the name of an object: lower-case letters, digits, '-' and '.'",
}
RULE_OF_TYPE = {
    "string_type": "must be text",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have at most {max_length} entries",
}
"""Pydantic's kinds of error in this project's words."""


def parse_job(manifest: Manifest) -> AutoMLJob:
    """The job in a manifest.

    Raises:
        ManifestError: it breaks a rule of form; names the first one and how many more there are.
    """
    found = problems(manifest)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ManifestError(found[0].message + more, reason=found[0].reason)
    return AutoMLJob.model_validate_json(json.dumps(manifest, default=str))


def parse_profile(manifest: Manifest) -> AutoMLProfile:
    """The profile in a manifest.

    Raises:
        ManifestError: it breaks a rule of form; names the profile and the first rule, and how many more there are.
    """
    found = problems(manifest, AutoMLProfile)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        name = manifest.get("metadata", {}).get("name", "")
        message = f"AutoMLProfile {name}: {found[0].message}{more}; ask the platform team"
        raise ManifestError(message, reason=Reason.PROFILE_INVALID)
    return AutoMLProfile.model_validate_json(json.dumps(manifest, default=str))


def problems(manifest: Manifest, kind: type[BaseModel] = AutoMLJob) -> list[Problem]:
    """Every broken rule of form, misspelt fields first, then in the order of the fields.

    As strict as the API server: "10" is not a number and "yes" is not a boolean.
    """
    try:
        kind.model_validate_json(json.dumps(manifest, default=str), strict=True)
    except ValidationError as error:
        found = [_problem(e, kind) for e in error.errors()]
        meant = {p.near for p in found if p.near}
        found = [p for p in found if not (p.rule == REQUIRED and p.path in meant)]
        return sorted(found, key=lambda p: p.rule != UNKNOWN)
    return []


def _problem(error: ErrorDetails, root: type[BaseModel]) -> Problem:
    path, loc = _path(error["loc"]) or "the manifest", error["loc"]
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        return _unknown_field(path, loc, value, root)
    if kind == "missing":
        holder = _path(loc[:-1]) or "the manifest"
        return Problem(path, REQUIRED, None, f"{path} is required; add it to {holder}")
    if kind == "value_error":
        rule = str(error["ctx"]["error"])
        got = "" if " got " in rule else f", got {_members(value)}"
        colon = "" if rule.startswith("must ") else ":"
        return Problem(path, rule, value, f"{path}{colon} {rule}{got}")
    rule = _rule(error, root)
    return Problem(path, rule, value, f"{path} {rule}, got {shown(value)}{_advice(error)}")


def _path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        name = f"[{part}]" if isinstance(part, int) else printable(part[:80])
        path += name if isinstance(part, int) or not path else f".{name}"
    return path


def _members(value: Any) -> str:
    """What an object says, member by member, and not for ever."""
    if not isinstance(value, dict) or not value:
        return shown(value or None)
    told = ", ".join(f"{printable(str(k)[:80])}: {shown(v)}" for k, v in list(value.items())[:8])
    return f"{{{told}}}" if len(told) <= 200 else f"{{{told[:200]}...}}"


def _unknown_field(path: str, loc: tuple[int | str, ...], value: Any, root: type[BaseModel]) -> Problem:
    known = _fields_at(loc[:-1], root)
    near = _nearest(str(loc[-1]), known)
    holder = _path(loc[:-1])
    meant = f"{holder}.{near}" if holder and near else near
    hint = f"; did you mean {meant}?" if meant else f"; known here: {', '.join(known)}"
    where = path
    if not str(loc[-1]).isprintable():
        path = holder or "the manifest"
        where = f"{path}: {shown(loc[-1])}"
    return Problem(path, UNKNOWN, value, f"{where} is not a field of {root.__name__}{hint}", near=meant)


def _nearest(given: str, known: Iterable[str]) -> str | None:
    found = process.extractOne(given, list(known), processor=str.lower, score_cutoff=60)
    return str(found[0]) if found else None


def _fields_at(loc: tuple[int | str, ...], root: type[BaseModel]) -> list[str]:
    """Names that may stand at a place in an object."""
    model = root if not loc else _model_in(_annotation_at(loc, root))
    return [f.alias or n for n, f in model.model_fields.items()] if model is not None else []


def _annotation_at(loc: tuple[int | str, ...], root: type[BaseModel]) -> Any:
    """The type of what stands at a place in an object, with its constraints; None when that is not a field."""
    model: type[BaseModel] | None = root
    annotation: Any = None
    for part in loc:
        if isinstance(part, int):
            continue
        field = next((f for n, f in model.model_fields.items() if part in (f.alias, n)), None) if model else None
        if field is None:
            return None
        annotation = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        model = _model_in(field.annotation)
    return annotation


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for m in map(_model_in, get_args(annotation)) if m is not None), None)


def _rule(error: ErrorDetails, root: type[BaseModel]) -> str:
    """The rule as the end of a sentence that begins with the field."""
    context = error.get("ctx", {})
    if error["type"] == "string_type" and repr(DECIMAL_PATTERN) in repr(_annotation_at(error["loc"], root)):
        return RULE_OF_PATTERN[DECIMAL_PATTERN]
    if error["type"] == "string_pattern_mismatch":
        return RULE_OF_PATTERN.get(str(context["pattern"]), f"must match {context['pattern']}")
    if error["type"] in ("enum", "literal_error"):
        choices = _choices(error)
        return f"must be one of {', '.join(choices)}" if len(choices) > 1 else f"must be {choices[0]}"
    words = RULE_OF_TYPE.get(error["type"])
    if words is not None:
        return words.format(**context)
    message = error["msg"].replace("Input should", "must").replace("String should", "must").replace("should", "must")
    return message[:1].lower() + message[1:]


def _choices(error: ErrorDetails) -> list[str]:
    return [c.strip().strip("'") for c in str(error["ctx"]["expected"]).replace(" or ", ", ").split(",")]


def _advice(error: ErrorDetails) -> str:
    value = error["input"]
    if error["type"] == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
        return f' (put it in quotes: "{value}")'
    if not isinstance(value, str):
        return ""
    near = None
    if error["type"] in ("enum", "literal_error"):
        near = _nearest(value, _choices(error))
    if error["type"] == "string_pattern_mismatch" and error["loc"][-1] == "metric":
        near = _nearest(value, METRICS)
    if error["type"] == "int_type" and value.isdecimal():
        return " (write it without quotes)"
    return f"; did you mean {near}?" if near else ""


def check_job(job: AutoMLJob, profile: AutoMLProfile | None) -> Iterator[Problem]:
    """Broken rules of meaning, the most telling first."""
    yield from _check_name(job)
    yield from _check_metric(job)
    yield from _check_task(job)
    yield from _check_objective(job)
    yield from _check_columns(job)
    yield from _check_search(job)
    yield from _check_budget(job)
    yield from _check_workers_and_serving(job, profile)
    yield from _check_resources(job)
    if profile is not None:
        yield from check_profile(job, profile)


def _check_name(job: AutoMLJob) -> Iterator[Problem]:
    name = job.metadata.name
    if len(name) > 63 or not re.fullmatch(JOB_NAME_PATTERN, name):
        rule = "must be at most 63 lower-case letters, digits and hyphens, beginning with a letter (its Service is named after it)"
        yield said("metadata.name", rule, name)


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
        near = _nearest(name, fitting) if name not in METRICS else None
        more = f"; did you mean {near}?" if near else ""
        yield said(path, words, name, more=more, reason=Reason.UNFITTING_METRIC)


def _check_task(job: AutoMLJob) -> Iterator[Problem]:
    task = job.spec.task
    if task.positive_class is not None and not task.type.is_classification:
        yield said(
            "spec.task.positiveClass", f"must be left out for {task.type}, which has no classes", task.positive_class
        )


def _check_objective(job: AutoMLJob) -> Iterator[Problem]:
    task, objective = job.spec.task, job.spec.objective
    yield from _check_quantiles(job)
    if objective.metric == "ExpectedCost" and not objective.costs:
        message = (
            "spec.objective.costs is required when objective.metric is ExpectedCost; list what wrong decisions cost"
        )
        yield Problem("spec.objective.costs", REQUIRED, None, message)
    if not 0 < float(objective.min_precision) <= 1:
        yield said("spec.objective.minPrecision", 'must be above "0" and at most "1"', objective.min_precision)
    if objective.intervals is not None and not 0.5 < float(objective.intervals.coverage) < 1:
        rule = 'must be between "0.5" and "1", both excluded'
        yield said("spec.objective.intervals.coverage", rule, objective.intervals.coverage)
    if not task.type.is_classification:
        rule = f"must be left out for {task.type}, which has no classes"
        if objective.class_weight is ClassWeight.BALANCED:
            yield said("spec.objective.classWeight", rule, objective.class_weight.value)
        if objective.costs:
            yield said("spec.objective.costs", rule, len(objective.costs))
        if objective.decision_metric is not None:
            yield said("spec.objective.decisionMetric", rule, objective.decision_metric)
        return
    yield from _check_decisions(task.type, objective)


def _check_quantiles(job: AutoMLJob) -> Iterator[Problem]:
    task, objective = job.spec.task, job.spec.objective
    path, values = "spec.task.quantiles", [float(q) for q in task.quantiles]
    if values and task.type.is_classification:
        yield said(path, f"must be left out for {task.type}, which predicts no numbers", len(values))
        return
    for given, value in zip(task.quantiles, values, strict=True):
        if not 0 < value < 1:
            yield said(path, 'must be between "0" and "1", both excluded', given)
    falling = next((b for a, b in pairwise(values) if a >= b), None)
    if falling is not None:
        yield said(path, "must rise", f"{falling:g}")
    metric = objective.metric
    if metric == QUANTILE_METRIC and not values:
        message = f"{path} is required when objective.metric is {QUANTILE_METRIC}; name the quantiles, such as 0.1, 0.5 and 0.9"
        yield Problem(path, REQUIRED, None, message)
    if values and metric in METRICS and metric != QUANTILE_METRIC:
        rule = f"must be {QUANTILE_METRIC}, or be left out, when task.quantiles is set"
        yield said("spec.objective.metric", rule, metric, reason=Reason.UNFITTING_METRIC)


def _check_decisions(task: TaskType, objective: Objective) -> Iterator[Problem]:
    about = [name for name in metrics_of(task) if METRICS[name].is_decision]
    chosen = objective.decision_metric
    if chosen is not None and chosen not in about:
        rule = f"must be a metric of decisions: {', '.join(about)}"
        yield said("spec.objective.decisionMetric", rule, chosen, reason=Reason.UNFITTING_METRIC)
    if chosen == "ExpectedCost" and not objective.costs:
        message = "spec.objective.costs is required when objective.decisionMetric is ExpectedCost"
        yield Problem("spec.objective.costs", REQUIRED, None, message)
    seen = set()
    for i, cost in enumerate(objective.costs):
        pair = (cost.actual, cost.predicted)
        if pair in seen:
            yield said(
                f"spec.objective.costs[{i}]", "must be a pair of classes not listed before", f"{pair[0]} as {pair[1]}"
            )
        seen.add(pair)


def _check_columns(job: AutoMLJob) -> Iterator[Problem]:
    dataset, target = job.spec.dataset, job.spec.task.target
    roles = {
        "spec.dataset.columns.weight": dataset.columns.weight,
        "spec.dataset.split.groupColumn": dataset.split.group_column,
        "spec.dataset.split.timeColumn": dataset.split.time_column,
    }
    for path, column in roles.items():
        if column == target:
            yield said(path, "must be another column than spec.task.target", column)
    if target in dataset.columns.ignore:
        yield said("spec.dataset.columns.ignore", "must not hold the target", target)
    needs = {SplitType.GROUP: ("groupColumn", dataset.split.group_column)}
    needs[SplitType.TIME] = ("timeColumn", dataset.split.time_column)
    if dataset.split.type in needs and needs[dataset.split.type][1] is None:
        name = needs[dataset.split.type][0]
        message = f"spec.dataset.split.{name} is required when split.type is {dataset.split.type}"
        yield Problem(f"spec.dataset.split.{name}", "is required", None, message)
    if dataset.split.type is SplitType.STRATIFIED and not job.spec.task.type.is_classification:
        yield said("spec.dataset.split.type", "must be another than Stratified for numbers", dataset.split.type.value)
    yield from _check_test_fraction(job)


def _check_test_fraction(job: AutoMLJob) -> Iterator[Problem]:
    path, fraction = "spec.dataset.split.testFraction", job.spec.dataset.split.test_fraction
    if float(fraction) != 0 and not 0.05 <= float(fraction) <= 0.5:
        yield said(path, 'must be "0", or between "0.05" and "0.5"', fraction)
    gate = job.spec.serving.gate if job.spec.serving else None
    if float(fraction) == 0 and job.spec.dataset.test is None and gate is not None:
        yield said(path, 'must be above "0", or dataset.test be given, when serving.gate is set', fraction)


def _check_search(job: AutoMLJob) -> Iterator[Problem]:
    families = job.spec.search.families
    both = sorted(set(families.include) & set(families.exclude))
    if both:
        yield said("spec.search.families", "must not include and exclude the same family", both[0])
    sampler = job.spec.search.sampler
    if sampler.generations is not None and sampler.type is not SamplerType.EVOLUTIONARY:
        rule = "must be left out unless sampler.type is Evolutionary"
        yield said("spec.search.sampler.generations", rule, sampler.generations)
    for i, weights in enumerate(job.spec.search.pretrained):
        path = f"spec.search.pretrained[{i}]"
        if any(w.family == weights.family for w in job.spec.search.pretrained[:i]):
            yield said(f"{path}.family", "must not name a family twice", weights.family)
        if weights.family in families.exclude:
            yield said(f"{path}.family", "must not be one of spec.search.families.exclude", weights.family)
        if re.search(r"[*?]", weights.uri):
            yield said(f"{path}.uri", "must be one file, or a folder that ends in /, without wildcards", weights.uri)
    for i, parameter in enumerate(job.spec.search.parameters):
        yield from _check_range(f"spec.search.parameters[{i}]", parameter)


def _check_range(path: str, parameter: Parameter) -> Iterator[Problem]:
    for kind, given in (("float", parameter.float), ("int", parameter.int)):
        if given is None:
            continue
        low, high = float(given.min), float(given.max)
        if low > high:
            yield said(f"{path}.{kind}.min", f"must be at most max ({given.max})", given.min)
        elif given.log and low <= 0:
            yield said(f"{path}.{kind}.min", "must be above 0 when log is true", given.min)


def _check_budget(job: AutoMLJob) -> Iterator[Problem]:
    seconds = job.spec.budget.max_duration_seconds
    if seconds is not None and seconds < MIN_DURATION_SECONDS:
        rule = f"must be at least {MIN_DURATION_SECONDS}, or no trial can be run"
        yield said("spec.budget.maxDurationSeconds", rule, seconds, reason=Reason.NO_TRIAL_POSSIBLE)


def _check_workers_and_serving(job: AutoMLJob, profile: AutoMLProfile | None) -> Iterator[Problem]:
    workers, serving = job.spec.workers, job.spec.serving
    count = parallelism(job, profile.spec if profile else AutoMLProfileSpec())
    if workers.min_parallelism is not None and workers.min_parallelism > count:
        rule = f"must be at most parallelism ({count})"
        yield said("spec.workers.minParallelism", rule, workers.min_parallelism)
    variants = [v.value for v in job.spec.output.variants]
    if len(set(variants)) != len(variants):
        yield said("spec.output.variants", "must not name a variant twice", ", ".join(variants))
    if serving is not None and serving.variant is not None and serving.variant not in job.spec.output.variants:
        rule = f"must be one of spec.output.variants ({', '.join(variants)})"
        yield said("spec.serving.variant", rule, serving.variant.value)
    scaling = serving.autoscaling if serving else None
    if scaling is not None and scaling.min_replicas > scaling.max_replicas:
        rule = f"must be at most maxReplicas ({scaling.max_replicas})"
        yield said("spec.serving.autoscaling.minReplicas", rule, scaling.min_replicas)


NATIVE_RESOURCES = ("cpu", "memory", "ephemeral-storage")


def _check_resources(job: AutoMLJob) -> Iterator[Problem]:
    """What an API server would say of the pods, said of the job."""
    asked = [("spec.workers.resources", job.spec.workers.resources)]
    asked += [("spec.serving.resources", job.spec.serving.resources)] if job.spec.serving else []
    for path, resources in asked:
        for side, amounts in (("requests", resources.requests), ("limits", resources.limits)):
            for name, quantity in amounts.items():
                yield from _check_resource(f"{path}.{side}.{name}", name, quantity)
        for name, request in resources.requests.items():
            limit = resources.limits.get(name)
            if "/" in name and limit is None:
                message = f"{path}.limits.{name} is required, since accelerators and the like are limits; move it there from requests"
                yield Problem(f"{path}.limits.{name}", REQUIRED, None, message)
            elif limit is not None and _is_request_wrong(name, request, limit):
                rule = f"must be {'the same as' if '/' in name else 'at most'} the limit ({limit})"
                yield said(f"{path}.requests.{name}", rule, request)


def _check_resource(path: str, name: str, quantity: str) -> Iterator[Problem]:
    if "/" in name:
        if not quantity.isdecimal():
            yield said(path, "must be a whole number", quantity)
    elif name not in NATIVE_RESOURCES and not name.startswith("hugepages-"):
        rule = f"must be one of {', '.join(NATIVE_RESOURCES)}, or a name with a domain such as nvidia.com/gpu"
        yield Problem(path, rule, name, f"{path}: a resource {rule}, got '{name[:80]}'")


def _is_request_wrong(name: str, request: str, limit: str) -> bool:
    asked, most = quantity_number(request), quantity_number(limit)
    return asked != most if "/" in name else asked > most
