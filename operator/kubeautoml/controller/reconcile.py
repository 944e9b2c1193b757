"""One pass over one job: look, decide, act, tell. The only place that puts the four together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from kubeautoml.api.errors import ClusterError, ManifestError, StudyError
from kubeautoml.api.objects import Ref
from kubeautoml.cluster.base import Cluster
from kubeautoml.controller.carry_out import carry_out, publish, refuse, stall
from kubeautoml.controller.observe import observe, parse_job
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.controller.studies import Studies
from kubeautoml.plan import plan

Clock = Callable[[], datetime]


async def reconcile(
    ref: Ref, cluster: Cluster, studies: Studies, clock: Clock, settings: OperatorSettings
) -> timedelta | None:
    """Bring one job's children in line with its spec; return when to look again.

    Raises:
        KubeAutoMLError: something did not answer; a later pass will find things as this one left them and go on.
    """
    manifest = await cluster.get(ref)
    if manifest is None or "deletionTimestamp" in manifest["metadata"]:
        return None
    try:
        job = parse_job(manifest)
        observed, study_url = await observe(job, cluster, studies, settings)
    except ManifestError as error:
        await refuse(manifest, error, clock(), cluster)
        return None
    todo = plan(job, observed, now=clock(), settings=settings.plan)
    try:
        await carry_out(todo, job, observed, cluster, studies, study_url)
    except (ClusterError, StudyError) as error:
        await stall(manifest, error, clock(), cluster)
        raise
    await publish(job, todo, cluster)
    return todo.wake_after
