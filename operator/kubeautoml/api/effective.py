"""What a job gets in the end: its own wishes, over the profile's defaults, under what the profile enforces.

Checked against the profile's limits (`limits.py`) and turned into pods (`kubeautoml.plan`), so both see the same.
"""

from __future__ import annotations

import re

from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.names import QUEUE_LABEL
from kubeautoml.api.placement import Affinity, Placement
from kubeautoml.api.profile import AutoMLProfileSpec
from kubeautoml.api.values import Quantity, Resources, quantity_number

# Extended resources that count as accelerators: the names vendors' device plug-ins register.
_ACCELERATOR = re.compile(r"^[a-z0-9.-]+/(gpu|gpu\.shared|mig-.+|tpu|gaudi|neuron|neuroncore|npu|i915|xe)$")


def parallelism(job: AutoMLJob, profile: AutoMLProfileSpec) -> int:
    """Workers at the same time."""
    return job.spec.workers.parallelism or profile.defaults.parallelism or 1


def min_parallelism(job: AutoMLJob, profile: AutoMLProfileSpec) -> int | None:
    """Fewest workers that are worth starting; None when fewer than all are not. A profile's default never exceeds a job."""
    own, default = job.spec.workers.min_parallelism, profile.defaults.min_parallelism
    fewest = own if own is not None else default
    return fewest if fewest is not None and fewest < parallelism(job, profile) else None


def queue_name(job: AutoMLJob, profile: AutoMLProfileSpec) -> str | None:
    """Kueue LocalQueue that admits the job's pods; None when nobody has to."""
    return job.metadata.labels.get(QUEUE_LABEL) or profile.defaults.queue_name


def worker_resources(job: AutoMLJob, profile: AutoMLProfileSpec) -> Resources:
    """Of one worker, and of the finalizer."""
    return _resources(job.spec.workers.resources, profile.worker_resources, profile)


def names_worker_cpu(job: AutoMLJob, profile: AutoMLProfileSpec) -> bool:
    """Whether the job or the profile says how many cores a worker gets; without either it is the project's default."""
    own = job.spec.workers.resources
    return "cpu" in {**own.requests, **own.limits} or "worker_resources" in profile.model_fields_set


def server_resources(job: AutoMLJob, profile: AutoMLProfileSpec) -> Resources:
    """Of one server."""
    own = job.spec.serving.resources if job.spec.serving else Resources()
    return _resources(own, profile.server_resources, profile)


def ttl_seconds(job: AutoMLJob, profile: AutoMLProfileSpec) -> int | None:
    """Seconds after the end when pods go; None keeps them."""
    own = job.spec.retention.ttl_seconds_after_finished
    given = own if own is not None else profile.ttl_seconds_after_finished
    return given if given is not None else profile.limits.max_ttl_seconds_after_finished


def placement(job: AutoMLJob, profile: AutoMLProfileSpec) -> Placement:
    """Where workers and finalizer may run."""
    return _placement(job.spec.workers.placement, profile)


def server_placement(job: AutoMLJob, profile: AutoMLProfileSpec) -> Placement:
    """Where servers may run."""
    return _placement(job.spec.serving.placement if job.spec.serving else Placement(), profile)


def _placement(own: Placement, profile: AutoMLProfileSpec) -> Placement:
    enforced = profile.enforced_placement
    chosen = profile.placement if own.is_empty() else own
    both = (*chosen.tolerations, *(t for t in enforced.tolerations if t not in chosen.tolerations))
    return Placement(
        node_selector={**chosen.node_selector, **enforced.node_selector},
        tolerations=list(both),
        affinity=_affinity(chosen.affinity, enforced.affinity),
        topology_spread_constraints=enforced.topology_spread_constraints or chosen.topology_spread_constraints,
        priority_class_name=enforced.priority_class_name or chosen.priority_class_name,
        runtime_class_name=enforced.runtime_class_name or chosen.runtime_class_name,
    )


def accelerators(amounts: dict[str, Quantity]) -> int:
    """Accelerators among resources, such as {nvidia.com/gpu: "2"}; what is no whole number counts as none."""
    held = (amount for name, amount in amounts.items() if _ACCELERATOR.match(name))
    return sum(int(amount) for amount in held if str(amount).isdecimal())


def _affinity(chosen: Affinity | None, enforced: Affinity | None) -> Affinity | None:
    """An enforced half replaces the job's half: terms of the two are alternatives, and so cannot be added."""
    if chosen is None or enforced is None:
        return enforced or chosen
    return Affinity(
        node_affinity=enforced.node_affinity or chosen.node_affinity,
        pod_anti_affinity=enforced.pod_anti_affinity or chosen.pod_anti_affinity,
    )


def _resources(own: Resources, default: Resources, profile: AutoMLProfileSpec) -> Resources:
    """The job's, resource by resource; a resource that it names is all its own, so that a request never exceeds a default."""
    named = {*own.requests, *own.limits}
    requests = {**{k: v for k, v in default.requests.items() if k not in named}, **own.requests}
    limits = {**{k: v for k, v in default.limits.items() if k not in named}, **own.limits}
    most = profile.limits.max_resources.get("memory")
    if most is not None and "memory" not in limits:
        asked = requests.get("memory")
        limits["memory"] = asked if asked is not None and quantity_number(asked) > quantity_number(most) else most
    return Resources(requests=requests, limits=limits)
