"""What the conditions say, in words for the user; and the sentences of a job that cannot go on."""

from __future__ import annotations

from kubeautoml.api.conditions import BudgetEnd, ConditionStatus, ConditionType, Reason, find_condition
from kubeautoml.api.job_status import ModelStatus
from kubeautoml.api.names import Component
from kubeautoml.api.trials import Failure
from kubeautoml.plan.base import PodSeen
from kubeautoml.plan.budget import failed_trials_before
from kubeautoml.plan.queueing import admitted_fact, held_fact, is_held
from kubeautoml.plan.scene import Scene
from kubeautoml.plan.status import Fact, false, true, unknown

C = ConditionType
Facts = dict[ConditionType, Fact]

HOPELESS_PODS = 4
"""Failed worker pods, beside one a worker, after which a search without any completed trial is given up.
One a worker, since whatever is wrong for a moment hits all of them at once. A guess."""


def data_facts(scene: Scene) -> Facts:
    data = scene.study.data
    facts = {C.ACCEPTED: true(Reason.SPEC_VALID)}
    if data is None:
        return {**facts, C.DATA_READY: unknown(Reason.READING_DATA, scene.study.activity)}
    words = (
        f"{data.rows} rows, {data.columns} columns, {data.folds} folds, {data.holdout_rows} rows kept for evaluation"
    )
    warnings = f"; warnings: {'; '.join(data.warnings)}" if data.warnings else ""
    return {**facts, C.DATA_READY: true(Reason.DATA_LOADED, words + warnings)}


def worker_facts(scene: Scene) -> Facts:
    found = scene.child(scene.worker_ref)
    if found is not None and is_held(found):
        return {C.ADMITTED: held_fact(found), C.STALLED: false(Reason.WORKING)}
    started = [p for p in scene.pods(Component.WORKER) if p.started_at is not None or p.phase != "Pending"]
    waiting = unknown(Reason.WAITING_FOR_PODS, "no worker pod has started yet")
    admitted = admitted_fact(found) if started or scene.study.data else waiting
    return {C.ADMITTED: admitted, **stalled_fact(scene, Component.WORKER)}


def stalled_fact(scene: Scene, component: Component) -> Facts:
    """What keeps pods of one kind from starting, if something does."""
    for pod in scene.pods(component):
        if pod.phase != "Pending":
            continue
        reason = _pending_reason(pod)
        if reason is not None:
            return {C.STALLED: true(reason, f"pod {pod.name}: {pod.message or pod.reason}")}
    return {C.STALLED: false(Reason.WORKING)}


def _pending_reason(pod: PodSeen) -> Reason | None:
    if pod.reason == "Unschedulable":
        return Reason.PODS_UNSCHEDULABLE
    if pod.reason in ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"):
        return Reason.IMAGE_UNAVAILABLE
    if pod.reason == "CreateContainerConfigError" or "secret" in pod.message.lower():
        return Reason.SECRET_NOT_FOUND
    return None


def open_end(words: str) -> Facts:
    return {
        C.SUCCEEDED: unknown(Reason.SEARCHING, words),
        C.READY: unknown(Reason.WAITING_FOR_MODEL),
        C.RECONCILING: true(Reason.PROGRESSING),
    }


def search_words(scene: Scene) -> str:
    study = scene.study
    doing = next((f"; trial {t.number}: {t.doing}" for t in study.running_trials if t.doing), "")
    most = scene.job.spec.budget.max_trials
    return f"{study.completed} trials completed, {study.running} running, of at most {most}{doing}"


def workers_words(scene: Scene) -> str:
    meta, count = scene.job.metadata, scene.parallelism
    return f"{count} worker{'s' if count != 1 else ''} for study {meta.namespace}/{meta.name}"


def stored_words(scene: Scene, model: ModelStatus) -> str:
    if scene.job.spec.serving is None:
        return f"the model is stored at {model.uri}; set spec.serving to serve it"
    return f"the model is stored at {model.uri}; serve it with: kubeautoml serve --model {model.uri}"


def is_hopeless(scene: Scene) -> bool:
    """Workers fail again and again before any trial has completed."""
    return scene.study.completed == 0 and len(_crashed(scene)) >= scene.parallelism + HOPELESS_PODS


def _crashed(scene: Scene) -> list[PodSeen]:
    return [p for p in scene.pods(Component.WORKER) if p.phase == "Failed" and not p.was_taken]


def pod_failure(scene: Scene) -> Failure:
    """Why workers cannot do their work, as the last of them said it."""
    crashed = _crashed(scene)
    last = max(crashed, key=lambda p: p.finished_at or 0.0)
    detail = last.message or last.reason or "no message"
    message = (
        f"{len(crashed)} worker pods failed before a trial completed; the last, {last.name}, ended with exit code "
        f"{last.exit_code}: {detail}; see kubectl automl logs {scene.job.metadata.name}"
    )
    return Failure("search", Reason.WORKERS_FAILED, message)


def no_trial(scene: Scene, ended_by: BudgetEnd) -> Failure:
    """The search has ended and there is nothing to make a model of."""
    study = scene.study
    why = f"; most frequent error: {study.error}" if study.error else ""
    if ended_by is BudgetEnd.MAX_FAILED_TRIALS:
        limit = scene.job.spec.budget.max_failed_trials
        failed = study.failed - failed_trials_before(scene.job.status)
        message = f"{failed} trials failed and none completed (spec.budget.maxFailedTrials is {limit}){why}"
        return Failure("search", Reason.TOO_MANY_FAILED_TRIALS, message)
    if ended_by is BudgetEnd.INTERRUPTED:
        message = "the search was interrupted before any trial completed; start it again to go on"
        return Failure("search", Reason.NO_TRIAL_COMPLETED, message)
    # the pods themselves are gone by now, but what they waited for has been said
    held_up = find_condition(scene.job.status.conditions, C.STALLED)
    if study.data is None and held_up is not None and held_up.status is ConditionStatus.TRUE:
        message = f"no worker could start before the search ended ({ended_by}): {held_up.message}"
        return Failure("search", Reason.NO_TRIAL_COMPLETED, message)
    message = (
        f"no trial completed before the search ended ({ended_by}): {study.failed} failed, {study.pruned} were cut{why}; "
        "give a larger spec.budget, or fewer and faster spec.search.families"
    )
    return Failure("search", Reason.NO_TRIAL_COMPLETED, message)


def was_finalizer_taken(scene: Scene) -> bool:
    """Whether every finalizer that failed was taken away, however often: then another one can do it."""
    return all(p.was_taken for p in scene.pods(Component.FINALIZER))


def finalizer_failure(scene: Scene) -> Failure:
    """The model could not be made of what the trials left."""
    said = next((p for p in scene.pods(Component.FINALIZER) if p.message), None)
    detail = f": {said.message}" if said else ""
    message = f"the finalizer failed{detail}; its logs: kubectl automl logs {scene.job.metadata.name} -c finalizer"
    return Failure("finalize", Reason.FINALIZE_FAILED, message)


def end_facts(scene: Scene, failure: Failure) -> Facts:
    """The conditions of a job that cannot go on."""
    reason = failure.reason or Reason.INTERNAL_ERROR
    facts = {
        **data_facts(scene),
        C.SUCCEEDED: false(reason, failure.message),
        C.READY: false(Reason.NO_MODEL, failure.message),
        C.RECONCILING: false(Reason.IDLE),
        C.STALLED: true(reason, failure.message),
    }
    return {**facts, C.DATA_READY: false(reason, failure.message)} if failure.stage in ("data", "output") else facts
