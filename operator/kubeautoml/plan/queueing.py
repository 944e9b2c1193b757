"""Kueue, as far as a batch Job sees it: a label that names the queue, and `suspend`, which is the queue's alone.

A Job of a queue is made suspended. Kueue resumes it when there is room, with fewer pods if `minParallelism` allows, and with
the node labels of the quota it found; and suspends it again when others come first. The operator reads all that and undoes
none of it: what it sends of such a Job later is what it found there, under the version at which it found it.

Source: kueue.sigs.k8s.io, "Run A Kubernetes Job" and its partial admission; pkg/controller/jobs/job in kubernetes-sigs/kueue.
"""

from __future__ import annotations

from typing import Any

from kubeautoml.api import effective
from kubeautoml.api.conditions import Reason
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.names import (
    ANNOTATION_PARALLELISM,
    QUEUE_LABEL,
    QUEUE_MIN_ANNOTATION,
    QUEUE_PRIORITY_LABEL,
)
from kubeautoml.api.objects import Manifest
from kubeautoml.api.profile import AutoMLProfileSpec
from kubeautoml.plan.base import Settings
from kubeautoml.plan.status import Fact, false, true

OURS = ("kubeautoml.dev/", "app.kubernetes.io/", QUEUE_LABEL, QUEUE_PRIORITY_LABEL, QUEUE_MIN_ANNOTATION)
"""Beginnings of the labels and annotations that the operator sends; others on the same Job belong to others."""


def queue_of(job: AutoMLJob, profile: AutoMLProfileSpec, settings: Settings) -> str | None:
    """The LocalQueue that must admit the job's pods; none on a laptop."""
    return effective.queue_name(job, profile) if settings.queueing_enabled else None


def queue_labels(job: AutoMLJob, queue: str | None) -> dict[str, str]:
    """Labels by which Kueue takes a batch Job up."""
    priority = job.metadata.labels.get(QUEUE_PRIORITY_LABEL)
    return {} if queue is None else {QUEUE_LABEL: queue, **({QUEUE_PRIORITY_LABEL: priority} if priority else {})}


def queue_annotations(job: AutoMLJob, profile: AutoMLProfileSpec, queue: str | None) -> dict[str, str]:
    """Partial admission: how few workers are still worth starting."""
    fewest = effective.min_parallelism(job, profile)
    return {} if queue is None or fewest is None else {QUEUE_MIN_ANNOTATION: str(fewest)}


def suspended(queue: str | None) -> dict[str, Any]:
    """A Job of a queue begins suspended, also where Kueue's webhook would not see to it."""
    return {} if queue is None else {"suspend": True}


def is_queued(found: Manifest) -> bool:
    """Whether the batch Job belongs to a queue."""
    return QUEUE_LABEL in found["metadata"].get("labels", {})


def is_held(found: Manifest | None) -> bool:
    """Whether somebody, a queue most likely, does not let the batch Job have pods."""
    return found is not None and found.get("spec", {}).get("suspend") is True and not _has_ended(found)


def held_fact(found: Manifest) -> Fact:
    """Admitted, for a Job that waits."""
    meta = found["metadata"]
    queue = meta.get("labels", {}).get(QUEUE_LABEL)
    if queue is None:
        words = f"batch Job {meta['name']} is suspended, and not by this operator; who suspended it must resume it"
        return false(Reason.QUEUED, words)
    words = (
        f"batch Job {meta['name']} waits in LocalQueue {queue} for Kueue to admit it, and no budget counts the time; "
        f"why: kubectl describe workloads -n {meta.get('namespace', '')}"
    )
    return false(Reason.QUEUED, words)


def admitted_fact(found: Manifest | None = None) -> Fact:
    """That the job's pods may run; and how many workers, when a queue has admitted fewer than were asked for."""
    words = "nothing holds the job's pods back"
    if found is not None and is_queued(found):
        asked, given = asked_parallelism(found), found["spec"].get("parallelism", 1)
        words = f"the queue admitted {given} of {asked} workers" if given < asked else words
    return true(Reason.WORKERS_ADMITTED, words)


def asked_parallelism(found: Manifest) -> int:
    """Workers that the batch Job was made for; a queue may have admitted fewer."""
    asked = found["metadata"].get("annotations", {}).get(ANNOTATION_PARALLELISM, "")
    return int(asked) if str(asked).isdecimal() else int(found["spec"].get("parallelism", 1))


def is_partly_admitted(found: Manifest) -> bool:
    """Whether Kueue may change the number of workers; then nobody else may while they run."""
    return is_queued(found) and QUEUE_MIN_ANNOTATION in found["metadata"].get("annotations", {})


def ours(named: dict[str, str]) -> dict[str, str]:
    """Of labels or annotations those that the operator has sent."""
    return {k: v for k, v in named.items() if k.startswith(OURS)}


def _has_ended(found: Manifest) -> bool:
    conditions = found.get("status", {}).get("conditions", [])
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)
