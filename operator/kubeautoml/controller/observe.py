"""Looks at everything around one job and turns it into what the planner reads. Nothing is remembered between passes."""

from __future__ import annotations

import re
from datetime import datetime

from pydantic import ValidationError

from kubeautoml.api import check
from kubeautoml.api.errors import ClusterError, ManifestError, StudyError
from kubeautoml.api.job import AutoMLJob, AutoMLJobStatus
from kubeautoml.api.names import LABEL_COMPONENT, LABEL_JOB_UID, study_name
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.api.trials import StudySummary
from kubeautoml.cluster.base import Cluster
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.controller.studies import Studies
from kubeautoml.plan.base import Observed, PodSeen

TRAINING_KINDS = ("Job", "AutoMLModel")
SERVING_KINDS = ("Deployment", "Service")
"""Kinds of children; those of the endpoint are looked for only once there is a model."""

EXTRA_SERVING_KINDS = ("HorizontalPodAutoscaler", "PodDisruptionBudget")
"""Likewise, but a server may be too old to know them."""

_DEFAULT_PROFILE = "default"

# Extended resources that count as accelerators: the names vendors' device plug-ins register.
_ACCELERATOR = re.compile(r"^[a-z0-9.-]+/(gpu|gpu\.shared|mig-.+|tpu|gaudi|neuron|neuroncore|npu|i915|xe)$")


async def observe(
    job: AutoMLJob, cluster: Cluster, studies: Studies, settings: OperatorSettings
) -> tuple[Observed, str]:
    """All that the planner needs to know of a job, and the URL of its study as the operator reaches it."""
    profile = await find_profile(job, cluster)
    url = settings.study_url_for(profile)
    summary, study_error = await _study(job, studies, url)
    has_model = job.status.model is not None or (summary is not None and summary.result is not None)
    children = await _children(job, cluster, has_model)
    pods = await cluster.list("Pod", job.metadata.namespace, {LABEL_JOB_UID: job.metadata.uid})
    observed = Observed(
        profile=profile,
        profile_missing=profile is None and job.spec.profile_ref.name != _DEFAULT_PROFILE,
        children={Ref.of(m): m for m in children},
        pods=tuple(pod_seen(p) for p in pods),
        study=summary,
        study_error=study_error,
    )
    return observed, url


def parse_job(manifest: Manifest) -> AutoMLJob:
    """The job in a manifest.

    Raises:
        ManifestError: the spec breaks a rule; the message names the field.
    """
    job = check.parse_job({**manifest, "status": {}})
    return job.model_copy(update={"status": parse_status(manifest)})


def parse_status(manifest: Manifest) -> AutoMLJobStatus:
    """The status in a job's manifest; one that this version cannot read counts as none."""
    try:
        return AutoMLJobStatus.model_validate(manifest.get("status", {}))
    except ValidationError:
        return AutoMLJobStatus()


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
        started_at=_seconds(terminated.get("startedAt") or state.get("running", {}).get("startedAt")),
        finished_at=_seconds(terminated.get("finishedAt")),
        accelerators=sum(_accelerators(c) for c in pod.get("spec", {}).get("containers", [])),
    )


def _why(status: Manifest, state: Manifest) -> tuple[str, str]:
    """Why a pod waits or ended: what the kubelet says of the pod, of its container, then what the scheduler says."""
    scheduled: Manifest = next((c for c in status.get("conditions", []) if c["type"] == "PodScheduled"), {})
    unscheduled = scheduled if scheduled.get("status") == "False" else {}
    for said in (status, state.get("waiting", {}), state.get("terminated", {}), unscheduled):
        if said.get("reason"):
            return str(said["reason"]), str(said.get("message", ""))
    return "", ""


def _accelerators(container: Manifest) -> int:
    limits = container.get("resources", {}).get("limits", {})
    return sum(int(amount) for name, amount in limits.items() if _ACCELERATOR.match(name))


def _seconds(stamp: str | None) -> float | None:
    """Unix time of an RFC 3339 stamp."""
    return datetime.fromisoformat(stamp).timestamp() if stamp else None


async def find_profile(job: AutoMLJob, cluster: Cluster) -> AutoMLProfile | None:
    """The job's profile, or None when it does not exist.

    Raises:
        ManifestError: it exists and breaks a rule.
    """
    name = job.spec.profile_ref.name
    found = await cluster.get(Ref("AutoMLProfile", "", name))
    if found is None:
        return None
    try:
        return AutoMLProfile.model_validate(found)
    except ValidationError as error:
        raise ManifestError(f"AutoMLProfile {name}: {_first_problem(error)}; ask the platform team") from error


async def _children(job: AutoMLJob, cluster: Cluster, has_model: bool) -> list[Manifest]:
    namespace, mine = job.metadata.namespace, {LABEL_JOB_UID: job.metadata.uid}
    found = [m for kind in TRAINING_KINDS for m in await cluster.list(kind, namespace, mine)]
    if not has_model:
        return found
    found += [m for kind in SERVING_KINDS for m in await cluster.list(kind, namespace, mine)]
    for kind in EXTRA_SERVING_KINDS:
        try:
            found += await cluster.list(kind, namespace, mine)
        except ClusterError as error:
            if error.reason != "NotFound":
                raise
    return found


async def _study(job: AutoMLJob, studies: Studies, url: str) -> tuple[StudySummary | None, str | None]:
    meta = job.metadata
    try:
        return await studies.summary(url, study_name(meta.namespace, meta.name, meta.uid)), None
    except StudyError as error:
        return None, str(error)


def _first_problem(error: ValidationError) -> str:
    """One line for the first broken rule: the field's path, the rule, the value."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    rule = first["msg"][:1].lower() + first["msg"][1:]
    got = "" if isinstance(first["input"], dict | list) else f", got {first['input']!r}"
    more = len(error.errors()) - 1
    return f"{path}: {rule}{got}" + (f" (and {more} more)" if more else "")
