"""Looks at everything around one job and turns it into what the planner reads. Nothing is remembered between passes."""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from kubeautoml.api import form
from kubeautoml.api.cel import IMMUTABLE
from kubeautoml.api.conditions import ConditionStatus, ConditionType, Reason
from kubeautoml.api.effective import accelerators
from kubeautoml.api.errors import ClusterError, ManifestError, StudyError
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.job_status import AutoMLJobStatus
from kubeautoml.api.names import LABEL_COMPONENT, LABEL_JOB, LABEL_JOB_UID, Component, labels, study_name
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.problems import Problem
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.api.trials import StudySummary
from kubeautoml.cluster.base import Cluster
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.controller.studies import Studies
from kubeautoml.plan.accepted import accepted_part
from kubeautoml.plan.base import Observed, PodSeen, is_failed
from kubeautoml.plan.retry import wants_retry
from kubeautoml.plan.status import is_status

TRAINING_KINDS = ("Job", "AutoMLModel")
SERVING_KINDS = ("Deployment", "Service")
"""Kinds of children; those of the endpoint are looked for only once there is a model."""

OPTIONAL_TRAINING_KINDS = ("NetworkPolicy",)
OPTIONAL_SERVING_KINDS = ("HorizontalPodAutoscaler", "PodDisruptionBudget")
"""Likewise, but a server may be too old to know them."""

_DEFAULT_PROFILE = "default"

_IMMUTABLE = frozenset(IMMUTABLE["AutoMLJobSpec"])


async def observe(
    job: AutoMLJob,
    cluster: Cluster,
    studies: Studies,
    settings: OperatorSettings,
    spec_problem: Problem | None = None,
    *,
    fresh: bool = False,
) -> tuple[Observed, str]:
    """All that the planner needs to know of a job, and the URL of its study as the operator reaches it.

    The order matters. Batch Jobs come before the study: when workers have left, all that they told is in it. Pods come after
    it: one that named itself in a trial is in the list if it lives. The study of a job that has ended is not asked for.

    Args:
        spec_problem: why the stored spec cannot be read, when `job` is made of what was accepted last.
        fresh: ask the server even where a cache would do.
    """
    profile, profile_error, study_url = await _profile(job, cluster)
    url = study_url or settings.study_url_for(profile)
    children = await _children(job, cluster, TRAINING_KINDS, OPTIONAL_TRAINING_KINDS, fresh=fresh)
    is_over = has_ended(job.status) and not wants_retry(job)
    summary, study_error = (None, None) if is_over else await _study(job, studies, url)
    warm_start = None
    if job.spec.search.warm_start_from and study_error is None and (summary is None or summary.limits is None):
        warm_start, study_error = (None, None) if is_over else await _warm_start(job, studies, url)
    if job.status.model is not None or (summary is not None and summary.result is not None):
        children += await _children(job, cluster, SERVING_KINDS, OPTIONAL_SERVING_KINDS)
    pods = await cluster.list("Pod", job.metadata.namespace, {LABEL_JOB_UID: job.metadata.uid}, fresh=fresh)
    observed = Observed(
        profile=profile,
        profile_missing=profile is None and profile_error is None and job.spec.profile_ref.name != _DEFAULT_PROFILE,
        profile_error=profile_error,
        spec_problem=spec_problem,
        children={Ref.of(m): m for m in children},
        pods=tuple(pod_seen(p) for p in pods),
        study=summary,
        warm_start=warm_start,
        study_error=study_error,
    )
    return observed, url


def has_ended(status: AutoMLJobStatus) -> bool:
    """Whether the job has failed, or has its model and has said so: what the study holds changes nothing any more."""
    return is_failed(status) or (
        is_status(status, ConditionType.SUCCEEDED, ConditionStatus.TRUE) and bool(status.model)
    )


def parse_job(manifest: Manifest) -> AutoMLJob:
    """The job in a manifest.

    Raises:
        ManifestError: the spec breaks a rule; the message names the field.
    """
    job = form.parse_job({**manifest, "status": {}})
    return job.model_copy(update={"status": parse_status(manifest)})


def read_job(manifest: Manifest) -> tuple[AutoMLJob, Problem | None]:
    """The job in a manifest; where its spec cannot be read, the job as it was last accepted, and what is wrong now.

    Raises:
        ManifestError: the spec breaks a rule, and none was accepted before.
    """
    try:
        return parse_job(manifest), None
    except ManifestError as error:
        accepted = accepted_part(parse_status(manifest).accepted_spec)
        if accepted is None:
            raise
        found = manifest.get("spec")
        kept = {k: v for k, v in found.items() if k in _IMMUTABLE} if isinstance(found, dict) else {}
        stop = {"suspend": True} if isinstance(found, dict) and found.get("suspend") is True else {}
        problem = Problem("spec", "must be readable", None, str(error), Reason.INVALID_SPEC)
        return parse_job({**manifest, "spec": {**kept, **accepted, **stop}}), problem


def parse_status(manifest: Manifest) -> AutoMLJobStatus:
    """The status in a job's manifest; of one that somebody else has written, as much as can be read.

    What is lost is observed anew: counts from the study, conditions from the facts.
    """
    status = manifest.get("status")
    if not isinstance(status, dict):
        return AutoMLJobStatus()
    try:
        return AutoMLJobStatus.model_validate(status)
    except ValidationError:
        conditions = status.get("conditions")
        if isinstance(conditions, list):
            status = {**status, "conditions": [c for c in conditions if _is_readable("conditions", [c])]}
        readable = {k: v for k, v in status.items() if _is_readable(k, v)}
        return AutoMLJobStatus.model_validate(readable)


def _is_readable(field: str, value: object) -> bool:
    try:
        AutoMLJobStatus.model_validate({field: value})
    except ValidationError:
        return False
    return True


def pod_seen(pod: Manifest) -> PodSeen:
    """What the planner needs of a Pod object."""
    metadata, status = pod["metadata"], pod.get("status", {})
    containers = status.get("containerStatuses") or [{}]
    state = containers[0].get("state", {})
    terminated = state.get("terminated", {})
    reason, message = _why(status, state)
    return PodSeen(
        name=metadata["name"],
        uid=metadata["uid"],
        component=metadata.get("labels", {}).get(LABEL_COMPONENT, ""),
        phase=status.get("phase", "Pending"),
        is_deleting="deletionTimestamp" in metadata,
        exit_code=terminated.get("exitCode"),
        reason=reason,
        message=message,
        started_at=_seconds(terminated.get("startedAt") or state.get("running", {}).get("startedAt") or _began(status)),
        finished_at=_seconds(terminated.get("finishedAt") or _ended(status)),
        accelerators=sum(
            accelerators(c.get("resources", {}).get("limits", {})) for c in pod.get("spec", {}).get("containers", [])
        ),
    )


def _why(status: Manifest, state: Manifest) -> tuple[str, str]:
    """Why a pod waits or ended: what the kubelet says of the pod, of its container, then what the scheduler says."""
    scheduled: Manifest = next((c for c in status.get("conditions", []) if c["type"] == "PodScheduled"), {})
    unscheduled = scheduled if scheduled.get("status") == "False" else {}
    for said in (status, state.get("waiting", {}), state.get("terminated", {}), unscheduled):
        if said.get("reason"):
            return str(said["reason"]), str(said.get("message", ""))
    return "", ""


def _began(status: Manifest) -> str | None:
    """When the kubelet took up a pod that says no more of its container, as after an eviction or on a lost node."""
    started: str | None = status.get("startTime") if status.get("phase") not in (None, "Pending") else None
    return started


def _ended(status: Manifest) -> str | None:
    """Likewise, when it was said to have ended: the last change of its conditions."""
    if status.get("phase") not in ("Failed", "Succeeded"):
        return None
    changes = [c["lastTransitionTime"] for c in status.get("conditions", []) if c.get("lastTransitionTime")]
    return max(changes, default=None)


def _seconds(stamp: str | None) -> float | None:
    """Unix time of an RFC 3339 stamp."""
    return datetime.fromisoformat(stamp).timestamp() if stamp else None


async def find_profile(job: AutoMLJob, cluster: Cluster) -> AutoMLProfile | None:
    """The job's profile, or None when it does not exist.

    Raises:
        ManifestError: it exists and breaks a rule.
    """
    found = await cluster.get(Ref("AutoMLProfile", "", job.spec.profile_ref.name))
    return None if found is None else form.parse_profile(found)


async def _profile(job: AutoMLJob, cluster: Cluster) -> tuple[AutoMLProfile | None, str | None, str | None]:
    """(the profile, why it cannot be used, the study URL in one that cannot be used)."""
    found = await cluster.get(Ref("AutoMLProfile", "", job.spec.profile_ref.name))
    if found is None:
        return None, None, None
    try:
        return form.parse_profile(found), None, None
    except ManifestError as error:
        spec = found.get("spec")
        study = spec.get("study") if isinstance(spec, dict) else None
        url = study.get("url") if isinstance(study, dict) else None
        return None, str(error), url if isinstance(url, str) else None


async def _children(
    job: AutoMLJob, cluster: Cluster, kinds: tuple[str, ...], optional: tuple[str, ...], *, fresh: bool = False
) -> list[Manifest]:
    namespace, mine = job.metadata.namespace, {LABEL_JOB_UID: job.metadata.uid}
    found = [m for kind in kinds for m in await cluster.list(kind, namespace, mine, fresh=fresh)]
    for kind in optional:
        try:
            found += await cluster.list(kind, namespace, mine)
        except ClusterError as error:
            if error.reason != "NotFound":
                raise
    return found


async def models_of(namespace: str, job: str, cluster: Cluster) -> list[Manifest]:
    """AutoMLModels that jobs of this name have left."""
    label = labels(job, "", Component.MODEL)[LABEL_JOB]
    return await cluster.list("AutoMLModel", namespace, {LABEL_JOB: label, LABEL_COMPONENT: Component.MODEL.value})


async def _study(job: AutoMLJob, studies: Studies, url: str) -> tuple[StudySummary | None, str | None]:
    meta = job.metadata
    name = study_name(meta.namespace, meta.name, meta.uid)
    try:
        summary = await studies.summary(url, name)
    except StudyError as error:
        return None, str(error)
    if summary is None and job.status.start_time is not None:
        # beginning anew would hide, and in the end lose, what is somewhere else
        return None, (
            f"study {name} is not where it was: another study server is configured, or its database was lost; "
            "bring it back, or delete the job to begin anew"
        )
    return summary, None


async def _warm_start(job: AutoMLJob, studies: Studies, url: str) -> tuple[tuple[str, ...] | None, str | None]:
    """The latest studies of the jobs named, in their order; one without a completed trial is left out, and its pod says so."""
    meta = job.metadata
    own = study_name(meta.namespace, meta.name, meta.uid)
    try:
        found = [await studies.latest(url, meta.namespace, ref.name) for ref in job.spec.search.warm_start_from]
    except StudyError as error:
        return None, str(error)
    return tuple(name for name in found if name is not None and name != own), None
