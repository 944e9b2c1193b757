"""Does what a plan says, in its order. Every step may be the last before the operator is killed, and may come twice."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import datetime

from kubeautoml.api.conditions import Condition, ConditionStatus, ConditionType, Reason, set_condition
from kubeautoml.api.errors import ClusterError, Conflict, KubeAutoMLError, ManifestError, StudyError, Throttled
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.job_status import AutoMLJobStatus
from kubeautoml.api.model import AutoMLModelStatus
from kubeautoml.api.names import LABEL_JOB_UID
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.api.pod import PodJob
from kubeautoml.api.problems import printable
from kubeautoml.api.trials import StudySummary
from kubeautoml.cluster.base import Cluster
from kubeautoml.controller.denied import explained
from kubeautoml.controller.observe import parse_status
from kubeautoml.controller.studies import Studies
from kubeautoml.plan.base import Observed, Plan
from kubeautoml.plan.status import MAX_MESSAGE, clipped

log = logging.getLogger(__name__)


async def carry_out(
    todo: Plan,
    job: AutoMLJob,
    observed: Observed,
    cluster: Cluster,
    studies: Studies,
    study_url: str,
) -> None:
    """Make the study if it is needed, apply, delete, then write the study. The study comes before its workers."""
    pod_job = PodJob.of(job)
    exists = observed.study is not None
    if not exists and observed.study_error is None and todo.study.limits is not None:
        await studies.create(study_url, pod_job.study_name, pod_job.direction)
        exists = True
    for manifest in todo.apply:
        if Ref.of(manifest) not in observed.children:
            await _check_not_taken(manifest, job.metadata.uid, cluster)
        await cluster.apply(manifest)
    for ref in todo.delete:
        await cluster.delete(ref, uid=_uid(observed.children.get(ref)))
    if exists and (todo.study or _may_lack_attempts(observed.study)):
        await studies.carry_out(study_url, pod_job.study_name, todo.study)


async def _check_not_taken(manifest: Manifest, job_uid: str, cluster: Cluster) -> None:
    """Server-side apply would make somebody else's object ours without a word, and the garbage collector would delete it
    with the job. One that lost its labels is ours still, by its owner.

    Raises:
        ClusterError: there is one by this name that is not the job's.
    """
    ref = Ref.of(manifest)
    found = await cluster.get(ref)
    if found is None:
        return
    meta = found["metadata"]
    owners = {owner.get("uid") for owner in meta.get("ownerReferences") or ()}
    if (meta.get("labels") or {}).get(LABEL_JOB_UID) != job_uid and job_uid not in owners:
        message = f"{ref} exists and is not of this job; delete or rename it, or make the job under another name"
        raise ClusterError(message, reason=Reason.NAME_TAKEN)


async def publish(job: AutoMLJob, todo: Plan, cluster: Cluster) -> None:
    """Write the status if it changed, emit the events, and write the model's status."""
    ref = Ref("AutoMLJob", job.metadata.namespace, job.metadata.name)
    if todo.status != job.status:
        await cluster.patch_status(ref, _written(todo.status))
    for event in todo.events:
        await _emit(ref, job.metadata.uid, event, cluster)
    if todo.model_status is not None:
        await publish_model(*todo.model_status, cluster)


async def publish_model(ref: Ref, status: AutoMLModelStatus, cluster: Cluster) -> None:
    """Write the status of a model; one that was deleted meanwhile needs none."""
    try:
        await cluster.patch_status(ref, _with_told(status.model_dump(mode="json", by_alias=True, exclude_none=True)))
    except ClusterError as error:
        if error.reason != "NotFound":
            raise


async def refuse(manifest: Manifest, error: ManifestError, now: datetime, cluster: Cluster) -> None:
    """Say in the status of a job that cannot even be read what is wrong with it; nothing else of it changes."""
    facts = {ConditionType.ACCEPTED: ConditionStatus.FALSE, ConditionType.STALLED: ConditionStatus.TRUE}
    await _say(manifest, facts, error.reason, str(error), now, cluster)


async def stall(manifest: Manifest, error: KubeAutoMLError, now: datetime, cluster: Cluster) -> None:
    """Say in the status why the job does not go on, such as a quota that refuses its pods.

    What passes by itself (somebody was faster, the server is busy) is not worth it. The error itself is the caller's.
    """
    if isinstance(error, Conflict | Throttled):
        return
    reason = Reason.CLUSTER_UNAVAILABLE
    if isinstance(error, StudyError):
        reason = Reason.STUDY_UNAVAILABLE
    elif error.reason == Reason.NAME_TAKEN:
        reason = Reason.NAME_TAKEN
    message = explained(error) if isinstance(error, ClusterError) else str(error)
    with suppress(ClusterError):
        await _say(manifest, {ConditionType.STALLED: ConditionStatus.TRUE}, reason, message, now, cluster)


async def _say(
    manifest: Manifest,
    facts: dict[ConditionType, ConditionStatus],
    reason: str,
    message: str,
    now: datetime,
    cluster: Cluster,
) -> None:
    generation = manifest["metadata"].get("generation", 0)
    old = parse_status(manifest)
    conditions = old.conditions
    for kind, value in facts.items():
        condition = Condition(
            type=kind,
            status=value,
            reason=reason,
            message=clipped(printable(" ".join(message.split())), MAX_MESSAGE),
            last_transition_time=now.replace(microsecond=0),
            observed_generation=generation,
        )
        conditions = set_condition(conditions, condition)
    status = old.model_copy(update={"conditions": conditions, "observed_generation": generation})
    if status != old:
        await cluster.patch_status(Ref.of(manifest), _written(status))


def _written(status: AutoMLJobStatus) -> Manifest:
    """The status as it is sent: a message that says nothing is left out.

    Server-side apply of an empty text in a keyed list becomes null on some servers (seen on 1.20), which then refuse it.
    """
    return _with_told(status.to_manifest())


def _with_told(manifest: Manifest) -> Manifest:
    told = [{k: v for k, v in c.items() if (k, v) != ("message", "")} for c in manifest["conditions"]]
    return {**manifest, "conditions": told}


async def _emit(ref: Ref, uid: str, event: EventOrder, cluster: Cluster) -> None:
    """Events are for people and best effort: a lost one must not make a pass fail and repeat."""
    try:
        await cluster.emit(ref, uid, event)
    except ClusterError as error:
        log.warning("event not emitted", extra={"job": str(ref), "reason": event.reason, "error": str(error)})


def _may_lack_attempts(study: StudySummary | None) -> bool:
    """Whether a trial may be without its next attempt, because its worker gave it up by itself or an operator died."""
    return study is not None and study.preempted > 0 and not (study.limits and study.limits.stop)


def _uid(manifest: Manifest | None) -> str | None:
    uid: str | None = manifest["metadata"]["uid"] if manifest else None
    return uid
