"""A job that has failed, put back to work by the annotation kubeautoml.dev/retry: any value that it has not had yet.

Nothing of what it reached is lost. Where no trial completed, the search begins anew with all of its budgets, over the trials that
there are. Where some did, it goes on with what was left of its budgets; and where the search was over, only the model is made
again. First the pods of the last try go, then the study is reopened, then the status says so: each step is found from facts.
"""

from __future__ import annotations

from datetime import timedelta
from math import ceil
from typing import Any

from kubeautoml.api.conditions import Reason
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.job_status import MAX_RETRY_REQUEST, AutoMLJobStatus, BudgetUsed, RetryStatus
from kubeautoml.api.names import ANNOTATION_RETRY, Component
from kubeautoml.api.objects import EventOrder
from kubeautoml.api.trials import Reopen, StudyOrders
from kubeautoml.plan.base import Plan, PodSeen, is_failed
from kubeautoml.plan.budget import elapsed_seconds, finalize_seconds, paused, refits
from kubeautoml.plan.facts import C, Facts, data_facts
from kubeautoml.plan.scene import Scene
from kubeautoml.plan.status import false, true, unknown, with_conditions


def wants_retry(job: AutoMLJob) -> bool:
    """Whether the job has failed and somebody wants it tried again."""
    request = _request(job)
    return is_failed(job.status) and bool(request) and request != _answered(job.status).request


def noted(job: AutoMLJob, status: AutoMLJobStatus) -> AutoMLJobStatus:
    """The status, with a request that came while there was nothing to retry: it must not act when the job fails later."""
    request, answered = _request(job), _answered(status)
    if not request or is_failed(job.status) or answered.request == request:
        return status
    return status.model_copy(update={"retry": answered.model_copy(update={"request": request})})


def retrying(scene: Scene) -> Plan:
    """One step of the way back to the search."""
    job = scene.job
    if scene.observed.study_error is not None:
        facts: Facts = {C.STALLED: true(Reason.STUDY_UNAVAILABLE, scene.observed.study_error)}
        return Plan(status=_with(scene, job.status, facts), wake_after=timedelta(seconds=5))
    old = tuple(ref for ref in (scene.worker_ref, scene.finalizer_ref) if scene.child(ref) is not None)
    pods = _old_pods(scene)
    is_anew = scene.study.completed == 0
    if old or pods or not _is_reopened(scene, is_anew):
        waits = f"; pod {pods[0].name} has still to go" if pods else ""
        facts = {C.RECONCILING: true(Reason.PROGRESSING, f"the job is started again{waits}")}
        orders = StudyOrders() if old or pods else StudyOrders(reopen=Reopen(search=is_anew))
        return Plan(delete=old, study=orders, status=_with(scene, job.status, facts), wake_after=timedelta(seconds=1))
    status = _anew(scene) if is_anew else _going_on(scene)
    count = status.retry.count if status.retry else 0
    words = f"the job is started again (retry {count}); " + _words(is_anew, status)
    facts = {
        **data_facts(scene),
        C.ADMITTED: unknown(Reason.WAITING_FOR_PODS, "no worker pod has started yet"),
        C.SUCCEEDED: unknown(Reason.SEARCHING, words),
        C.READY: unknown(Reason.WAITING_FOR_MODEL),
        C.RECONCILING: true(Reason.PROGRESSING),
        C.STALLED: false(Reason.WORKING),
    }
    told = EventOrder("Normal", Reason.RETRIED, words)
    return Plan(status=_with(scene, status, facts), events=(told,), wake_after=timedelta(seconds=1))


def _request(job: AutoMLJob) -> str:
    return job.metadata.annotations.get(ANNOTATION_RETRY, "")[:MAX_RETRY_REQUEST]


def _answered(status: AutoMLJobStatus) -> RetryStatus:
    return status.retry or RetryStatus()


def _old_pods(scene: Scene) -> list[PodSeen]:
    """Pods of the last try: that they failed must not be held against the next one."""
    return [*scene.pods(Component.WORKER), *scene.pods(Component.FINALIZER)]


def _is_reopened(scene: Scene, is_anew: bool) -> bool:
    study = scene.study
    is_open = study.failure is None and study.result is None and study.stage is None
    return is_open and not (is_anew and (study.exhausted or study.limits is not None))


def _anew(scene: Scene) -> AutoMLJobStatus:
    """Every budget begins at nothing."""
    study = scene.study
    return scene.job.status.model_copy(
        update={
            "start_time": None,
            "completion_time": None,
            "suspended_seconds": 0,
            "suspended_since": None,
            "progress_percentage": 0,
            "budget_used": BudgetUsed(),
            "retry": _next(scene, trials_before=study.spent - study.running, failed_trials_before=study.failed),
        }
    )


def _going_on(scene: Scene) -> AutoMLJobStatus:
    """The time since the failure does not count. A search that was over stays so, and the model has its share of time again."""
    status = scene.job.status
    is_over = status.budget_used.ended_by is not None
    update: dict[str, Any] = {
        "retry": _next(scene) if is_over else _next(scene, failed_trials_before=scene.study.failed)
    }
    if status.completion_time is not None:
        used = int(elapsed_seconds(status, scene.now))
        back = _seconds_back(scene, used) if is_over else 0
        budget_used = status.budget_used.model_copy(update={"duration_seconds": used - back})
        update |= {"suspended_seconds": status.suspended_seconds + back, "budget_used": budget_used}
        status = paused(status.model_copy(update={"completion_time": None}), status.completion_time)
    return status.model_copy(update={"completion_time": None, **update})


def _seconds_back(scene: Scene, used: int) -> int:
    """Of the time that was used, what belongs to making the model."""
    job = scene.job
    budget = job.spec.budget.max_duration_seconds
    if budget is None:
        return 0
    # rounded so that not a second is left to search
    return max(
        0, used - ceil(budget - finalize_seconds(budget, scene.study.data, refits=refits(job, scene.study.data)))
    )


def _next(scene: Scene, **counts: int) -> RetryStatus:
    answered = _answered(scene.job.status)
    return answered.model_copy(update={"request": _request(scene.job), "count": answered.count + 1, **counts})


def _words(is_anew: bool, status: AutoMLJobStatus) -> str:
    if is_anew:
        return "no trial had completed, so the search begins anew with all of its budgets"
    if status.budget_used.ended_by is not None:
        return "the search was over, so only the model is made again"
    return "the search goes on with what is left of its budgets"


def _with(scene: Scene, status: AutoMLJobStatus, facts: Facts) -> AutoMLJobStatus:
    return with_conditions(status, facts, scene.job.metadata.generation, scene.now)
