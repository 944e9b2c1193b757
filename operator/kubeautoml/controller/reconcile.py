"""One pass over one job: look, decide, act, tell. The only place that puts the four together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from kubeautoml.api.errors import ClusterError, ManifestError, StudyError
from kubeautoml.api.names import LABEL_JOB_UID
from kubeautoml.api.objects import Ref
from kubeautoml.cluster.base import Cluster
from kubeautoml.controller.carry_out import carry_out, publish, publish_model, refuse, stall
from kubeautoml.controller.observe import models_of, observe, read_job
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.controller.studies import Studies
from kubeautoml.plan import plan
from kubeautoml.plan.model import orphan_condition

Clock = Callable[[], datetime]


async def reconcile(
    ref: Ref, cluster: Cluster, studies: Studies, clock: Clock, settings: OperatorSettings
) -> timedelta | None:
    """Bring one job's children in line with its spec; return when to look again.

    Raises:
        KubeAutoMLError: something did not answer; a later pass will find things as this one left them and go on.
    """
    manifest = await cluster.get(ref)
    if manifest is None:
        await _orphan_models(ref, None, cluster, clock())
    if manifest is None or "deletionTimestamp" in manifest["metadata"]:
        return None
    try:
        job, problem = read_job(manifest)
    except ManifestError as error:
        await refuse(manifest, error, clock(), cluster)
        return None
    if job.status.observed_generation <= 0:
        await _orphan_models(ref, job.metadata.uid, cluster, clock())
    observed, study_url = await observe(job, cluster, studies, settings, problem)
    todo = plan(job, observed, now=clock(), settings=settings.plan)
    if todo.is_grave(job.status):
        # what cannot be undone is decided again on what the server says now, since a cache may lag behind
        observed, study_url = await observe(job, cluster, studies, settings, problem, fresh=True)
        todo = plan(job, observed, now=clock(), settings=settings.plan)
    try:
        await carry_out(todo, job, observed, cluster, studies, study_url)
    except (ClusterError, StudyError) as error:
        await stall(manifest, error, clock(), cluster)
        raise
    await publish(job, todo, cluster)
    return todo.wake_after


async def _orphan_models(ref: Ref, uid: str | None, cluster: Cluster, now: datetime) -> None:
    """Say of the models that a job of this name has left, and that are not the present job's, that nothing serves them."""
    for model in await models_of(ref.namespace, ref.name, cluster):
        status = orphan_condition(model, now)
        if status is not None and model["metadata"].get("labels", {}).get(LABEL_JOB_UID) != uid:
            await publish_model(Ref.of(model), status, cluster)
