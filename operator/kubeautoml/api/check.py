"""Does this job make sense? The same rules for `kubeautoml validate`, `kubeautoml run` and the planner, in words for its author.

`form.py` has looked at fields, types and ranges before; here is what they mean together (does the metric fit the task, do the
limits of the profile hold). What an API server can refuse by itself is in the CRD as well (`cel.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from kubeautoml.api.conditions import Reason
from kubeautoml.api.dataset import SplitType
from kubeautoml.api.effective import parallelism
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.limits import check_profile
from kubeautoml.api.metrics import METRICS, QUANTILE_METRIC, TaskType, metrics_of
from kubeautoml.api.names import JOB_NAME_PATTERN
from kubeautoml.api.objective import ClassWeight, Objective
from kubeautoml.api.problems import REQUIRED, Problem, nearest, said
from kubeautoml.api.profile import AutoMLProfile, AutoMLProfileSpec
from kubeautoml.api.search import Parameter, SamplerType
from kubeautoml.api.values import quantity_number

MIN_DURATION_SECONDS = 10
"""Below this no trial can be run: a worker needs a few seconds to start and read the data. Measured: 4 to 6 s."""


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
        near = nearest(name, fitting) if name not in METRICS else None
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
