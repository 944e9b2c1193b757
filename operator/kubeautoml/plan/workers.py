"""The batch Jobs that train: that of the workers and that of the finalizer, each as one literal."""

from __future__ import annotations

from typing import Any

from kubeautoml.api import effective
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.names import (
    ANNOTATION_PARALLELISM,
    ANNOTATION_TRIALS,
    LABEL_COMPONENT,
    Component,
    finalizer_job_name,
    labels,
    worker_job_name,
)
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.profile import AutoMLProfileSpec
from kubeautoml.plan.base import Settings
from kubeautoml.plan.pods import owner, pod_template
from kubeautoml.plan.queueing import (
    asked_parallelism,
    is_partly_admitted,
    is_queued,
    ours,
    queue_annotations,
    queue_labels,
    queue_of,
    suspended,
)

MANY_FAILURES = 100_000
"""The planner decides when to give up (maxFailedTrials, WorkersFailed); the Job controller only replaces pods."""

FINALIZE_RETRIES = 2

TAKEN_AWAY: dict[str, Any] = {
    "rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [143]}},
    ]
}
"""Pods that a drained node, a preemption, a queue that had others to serve first, or somebody's `kubectl delete pod` took are
replaced and count as nothing. 143: the pod was told to leave and did."""


def worker_job(job: AutoMLJob, profile: AutoMLProfileSpec, settings: Settings, ended_trials: int = 0) -> Manifest:
    """`parallelism` identical pods that take trials from the study until there is nothing more to do.

    `ended_trials`, those there were before, stays on the Job: whether it was of any use shows in the difference.
    """
    count, queue = effective.parallelism(job, profile), queue_of(job, profile, settings)
    spec = {
        **suspended(queue),
        "parallelism": count,
        "backoffLimit": MANY_FAILURES,
        "podFailurePolicy": TAKEN_AWAY,
        "template": pod_template(job, profile, settings, Component.WORKER),
    }
    annotations = {
        ANNOTATION_TRIALS: str(ended_trials),
        ANNOTATION_PARALLELISM: str(count),
        **queue_annotations(job, profile, queue),
    }
    return _batch_job(job, worker_job_name(job.metadata.name, job.metadata.uid), queue, spec, annotations)


def ended_trials_before(found: Manifest) -> int:
    """Trials that had ended when this worker Job was made."""
    text = str(found["metadata"].get("annotations", {}).get(ANNOTATION_TRIALS, ""))
    return int(text) if text.isdecimal() else 0


def fitted(found: Manifest, parallelism: int) -> tuple[tuple[Manifest, ...], tuple[Ref, ...]]:
    """What to (apply, delete) so that there are this many workers, of those that a queue admits.

    Kueue lets nobody else change the number of pods of a Job that it may have admitted in part, so that Job is made anew;
    its running trials are queued again, and go on from their checkpoints.
    """
    if not is_queued(found):
        return resized(found, parallelism), ()
    if asked_parallelism(found) == parallelism:
        return (), ()
    return ((), (Ref.of(found),)) if is_partly_admitted(found) else (resized(found, parallelism), ())


def emptied(found: Manifest) -> tuple[tuple[Manifest, ...], tuple[Ref, ...]]:
    """What to (apply, delete) so that there are no workers any more: pods that have ended stay for their logs if they can."""
    return ((), (Ref.of(found),)) if is_queued(found) else (resized(found, 0), ())


def resized(found: Manifest, parallelism: int) -> tuple[Manifest, ...]:
    """The batch Job with another number of pods; nothing if it has that number.

    All else stays as it was found: a pod template cannot change, and must not when the operator or the profile did. What a
    queue may change at the same moment is only sent while the Job is as it was found.
    """
    if found["spec"].get("parallelism") == parallelism:
        return ()
    meta, spec = found["metadata"], found["spec"]
    pod_meta = spec["template"]["metadata"]
    carried = ours(pod_meta.get("annotations", {}))
    pod = {"labels": pod_meta.get("labels", {}), **({"annotations": carried} if carried else {})}
    template = {**spec["template"], "metadata": pod}
    annotations = {**ours(meta.get("annotations", {})), ANNOTATION_PARALLELISM: str(parallelism)}
    version = {"resourceVersion": meta["resourceVersion"]} if is_queued(found) and "resourceVersion" in meta else {}
    return (
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                **{k: meta[k] for k in ("name", "namespace", "ownerReferences") if k in meta},
                **version,
                "labels": ours(meta.get("labels", {})),
                "annotations": annotations,
            },
            "spec": {**spec, "parallelism": parallelism, "template": template},
        },
    )


def finalizer_job(job: AutoMLJob, profile: AutoMLProfileSpec, settings: Settings) -> Manifest:
    """One pod that makes the model of what the trials left."""
    queue = queue_of(job, profile, settings)
    spec = {
        **suspended(queue),
        "parallelism": 1,
        "completions": 1,
        "backoffLimit": FINALIZE_RETRIES,
        "podFailurePolicy": TAKEN_AWAY,
        "template": pod_template(job, profile, settings, Component.FINALIZER),
    }
    return _batch_job(job, finalizer_job_name(job.metadata.name, job.metadata.uid), queue, spec, {})


def _batch_job(
    job: AutoMLJob, name: str, queue: str | None, spec: dict[str, Any], annotations: dict[str, str]
) -> Manifest:
    component = Component(spec["template"]["metadata"]["labels"][LABEL_COMPONENT])
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": job.metadata.namespace,
            "labels": {**labels(job.metadata.name, job.metadata.uid, component), **queue_labels(job, queue)},
            "ownerReferences": owner(job),
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": spec,
    }
