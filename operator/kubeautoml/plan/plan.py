"""plan(job, observed, now, settings) -> Plan: everything that is decided about one job, in one place.

A job is in exactly one stage, found anew from facts at each pass: refused, suspended, searching, stopping, finalizing,
ended. Each stage is a function that says what should be there; nothing depends on what an earlier pass remembered.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from kubeautoml.api.check import Problem, check_job
from kubeautoml.api.conditions import BudgetEnd, ConditionStatus, Reason, find_condition
from kubeautoml.api.job import AutoMLJob, AutoMLJobStatus, ModelStatus, Serving, ServingStatus
from kubeautoml.api.names import Component, server_name, service_url
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.api.trials import Failure, StudyLimits, StudyOrders
from kubeautoml.plan.base import Observed, Plan, Settings
from kubeautoml.plan.budget import STOP_GRACE_SECONDS, limits_of, progress_percentage, search_end
from kubeautoml.plan.changes import changed
from kubeautoml.plan.events import budget_events, requeue_events, transitions
from kubeautoml.plan.facts import (
    C,
    Facts,
    data_facts,
    end_facts,
    finalizer_failure,
    is_hopeless,
    no_trial,
    open_end,
    pod_failure,
    search_words,
    stalled_fact,
    stored_words,
    worker_facts,
    workers_words,
)
from kubeautoml.plan.scene import Scene
from kubeautoml.plan.serving import gate_problem, model_object, model_status, serving_objects
from kubeautoml.plan.status import (
    Fact,
    artifacts_of,
    false,
    is_status,
    true,
    unknown,
    with_conditions,
    with_study,
    worth_publishing,
)
from kubeautoml.plan.trials import retired_trials
from kubeautoml.plan.workers import ended_trials_before, finalizer_job, resized, worker_job

DEADLINE_GRACE_SECONDS = 3.0
"""Workers leave by themselves at the search deadline; this much later their Job is deleted."""

LAST_SECONDS = 15.0
"""Workers that leave this shortly before the search deadline are not replaced: new ones need 4 to 6 s to begin."""

RESULT_SECONDS = 60.0
"""A finalizer that ended well this long ago and left no result in the study has lost it."""


def plan(job: AutoMLJob, observed: Observed, *, now: datetime, settings: Settings) -> Plan:
    """Decide what to do about one job."""
    scene = Scene(job, observed, now, settings)
    todo = _stage(scene)
    status = worth_publishing(job.status, todo.status, settings)
    apply = changed(todo.apply, observed.children)
    return replace(todo, apply=apply, status=status, events=(*transitions(job.status, todo.status), *todo.events))


def _stage(scene: Scene) -> Plan:
    job, study = scene.job, scene.study
    if is_status(job.status, C.SUCCEEDED, ConditionStatus.FALSE):
        return _failed_before(scene)
    if is_status(job.status, C.SUCCEEDED, ConditionStatus.TRUE) and job.status.model is not None:
        return _serve(scene, job.status, job.status.model, ())
    problem = _first_problem(scene)
    if problem is not None:
        return _refused(scene, problem)
    if scene.observed.study_error is not None:
        return _without_study(scene, scene.observed.study_error)
    if study.result is not None:
        return _succeeded(scene)
    if study.failure is not None:
        return _failed(scene, study.failure)
    if job.spec.suspend:
        return _suspended(scene)
    if scene.child(scene.finalizer_ref) is not None:
        return _finalizing(scene)
    return _searching(scene)


# Stages before the end


def _refused(scene: Scene, problem: Problem) -> Plan:
    """What is wrong is said; what runs already keeps running as it was."""
    facts = {
        C.ACCEPTED: false(problem.reason, problem.message),
        C.RECONCILING: false(Reason.IDLE),
        C.STALLED: true(Reason(problem.reason), problem.message),
    }
    return Plan(status=_status(scene, scene.job.status, facts))


def _without_study(scene: Scene, error: str) -> Plan:
    """Nothing is decided that the study would have to confirm."""
    facts = {
        C.ACCEPTED: true(Reason.SPEC_VALID),
        C.RECONCILING: true(Reason.PROGRESSING),
        C.STALLED: true(Reason.STUDY_UNAVAILABLE, error),
    }
    return Plan(status=_status(scene, scene.job.status, facts), wake_after=timedelta(seconds=5))


def _suspended(scene: Scene) -> Plan:
    status = with_study(scene.job, scene.observed, scene.now)
    if status.start_time is not None and status.suspended_since is None:
        status = status.model_copy(update={"suspended_since": _second(scene.now)})
    facts: Facts = {
        **data_facts(scene),
        C.ADMITTED: false(Reason.SUSPENDED, "spec.suspend is true; set it to false to go on"),
        C.SUCCEEDED: unknown(Reason.SUSPENDED),
        C.READY: unknown(Reason.WAITING_FOR_MODEL),
        C.RECONCILING: false(Reason.IDLE),
        C.STALLED: false(Reason.WORKING),
    }
    jobs = (scene.worker_ref, scene.finalizer_ref)
    retire = retired_trials(scene.study, scene.observed, scene.now)
    return Plan(
        delete=tuple(ref for ref in jobs if scene.child(ref) is not None),
        study=StudyOrders(retire=retire),
        status=_status(scene, status, facts),
        events=(*_suspended_events(scene), *requeue_events(retire)),
        wake_after=timedelta(seconds=5) if scene.living_workers or scene.study.running else None,
    )


def _suspended_events(scene: Scene) -> tuple[EventOrder, ...]:
    said = find_condition(scene.job.status.conditions, C.ADMITTED)
    if said is not None and said.reason == Reason.SUSPENDED:
        return ()
    return (EventOrder("Normal", Reason.SUSPENDED, "pods are stopped; every finished trial is kept"),)


def _searching(scene: Scene) -> Plan:
    """The budgets are looked at first; while none is reached there are workers."""
    was_suspended = scene.job.status.suspended_since is not None
    scene = replace(scene, job=scene.job.model_copy(update={"status": _resumed(scene)}))
    job, study = scene.job, scene.study
    status = with_study(job, scene.observed, scene.now)
    limits = _limits(scene)
    ended_by = search_end(job, study, status.budget_used, scene.now) or _end_by_leaving(scene, limits)
    used = status.budget_used.model_copy(update={"ended_by": ended_by})
    progress = progress_percentage(job, study, used)
    status = status.model_copy(update={"budget_used": used, "progress_percentage": progress})
    if ended_by is not None:
        return _stopping(scene, status, limits, ended_by)
    if is_hopeless(scene):
        return _failed(scene, pod_failure(scene))
    apply, delete, events = _workers(scene)
    if was_suspended:
        events = (EventOrder("Normal", Reason.RESUMED, "the search goes on"), *events)
    retire = retired_trials(study, scene.observed, scene.now)
    facts = {**data_facts(scene), **worker_facts(scene), **open_end(search_words(scene))}
    return Plan(
        apply=apply,
        delete=delete,
        study=StudyOrders(limits=limits if limits != study.limits else None, retire=retire),
        status=_status(scene, status, facts),
        events=(*events, *requeue_events(retire)),
        wake_after=_next_look(scene, limits),
    )


def _workers(scene: Scene) -> tuple[tuple[Manifest, ...], tuple[Ref, ...], tuple[EventOrder, ...]]:
    """What to apply, to delete and to tell so that there are workers."""
    job, found = scene.job, scene.child(scene.worker_ref)
    if found is None:
        told = EventOrder("Normal", Reason.WORKERS_CREATED, workers_words(job))
        return (worker_job(job, scene.profile, scene.settings, scene.ended_trials),), (), (told,)
    if scene.have_workers_left:
        # a batch Job that is complete starts no more pods; the next pass makes another one
        return (), (scene.worker_ref,), ()
    return resized(found, job.spec.workers.parallelism), (), ()


def _end_by_leaving(scene: Scene, limits: StudyLimits) -> BudgetEnd | None:
    """All workers have left of their own accord: is there work for others?

    There is when a retry was queued after the last one had looked, or a budget was raised after they had found it used up.
    Workers that came and left without a trial have found nothing to try.
    """
    found = scene.child(scene.worker_ref)
    if found is None or not scene.have_workers_left:
        return None
    if limits.search_deadline is not None and scene.now.timestamp() >= limits.search_deadline - LAST_SECONDS:
        return BudgetEnd.MAX_DURATION
    has_work = scene.study.waiting > 0 or scene.ended_trials > ended_trials_before(found)
    return None if has_work else BudgetEnd.EXHAUSTED


def _next_look(scene: Scene, limits: StudyLimits) -> timedelta:
    wait = min(scene.settings.status_interval_seconds, scene.settings.resync_seconds)
    if limits.search_deadline is not None:
        wait = min(wait, max(0.1, limits.search_deadline - scene.now.timestamp()))
    return timedelta(seconds=wait)


def _stopping(scene: Scene, status: AutoMLJobStatus, limits: StudyLimits, ended_by: BudgetEnd) -> Plan:
    """Workers are told to leave, then their Job is deleted, then the finalizer starts."""
    study, now = scene.study, scene.now.timestamp()
    told = study.limits is not None and study.limits.stop
    grace = now + STOP_GRACE_SECONDS
    leave_at = min(limits.search_deadline or grace, grace)
    if told and study.limits is not None and study.limits.search_deadline is not None:
        leave_at = study.limits.search_deadline
    stop = replace(limits, stop=True, search_deadline=leave_at)
    retire = retired_trials(study, scene.observed, scene.now)
    orders = StudyOrders(limits=stop if stop != study.limits else None, retire=retire)
    is_late = told and now >= leave_at + DEADLINE_GRACE_SECONDS
    delete = (scene.worker_ref,) if is_late and scene.living_workers and scene.child(scene.worker_ref) else ()
    facts = {**data_facts(scene), **worker_facts(scene), **open_end("the search has ended; making the model")}
    facts[C.SUCCEEDED] = unknown(Reason.FINALIZING, "the search has ended; making the model")
    todo = Plan(
        delete=delete,
        study=orders,
        status=_status(scene, status, facts),
        events=budget_events(scene, ended_by),
        wake_after=timedelta(seconds=1),
    )
    if not told or scene.living_workers:
        return todo
    if study.completed == 0:
        scene = replace(scene, job=scene.job.model_copy(update={"status": status}))
        return replace(_failed(scene, no_trial(scene, ended_by)), study=orders)
    events = (*todo.events, EventOrder("Normal", Reason.FINALIZE_CREATED, "making the model"))
    return replace(todo, apply=(finalizer_job(scene.job, scene.profile, scene.settings),), events=events)


def _finalizing(scene: Scene) -> Plan:
    if scene.job_condition(scene.finalizer_ref, "Failed"):
        return _failed(scene, finalizer_failure(scene))
    if _has_lost_result(scene):
        message = "the finalizer ended well, but its result is not in the study; make the job again under another name"
        return _failed(scene, Failure("finalize", Reason.FINALIZE_FAILED, message))
    status = with_study(scene.job, scene.observed, scene.now)
    status = status.model_copy(update={"progress_percentage": 99})
    retire = retired_trials(scene.study, scene.observed, scene.now)
    words = "making the model" + (f": {scene.study.stage}" if scene.study.stage else "")
    facts = {
        **data_facts(scene),
        **worker_facts(scene),
        **open_end(words),
        **stalled_fact(scene, Component.FINALIZER),
    }
    facts[C.SUCCEEDED] = unknown(Reason.FINALIZING, words)
    return Plan(
        study=StudyOrders(retire=retire),
        status=_status(scene, status, facts),
        wake_after=timedelta(seconds=scene.settings.status_interval_seconds),
    )


def _has_lost_result(scene: Scene) -> bool:
    ended = max((p.finished_at or 0.0 for p in scene.pods(Component.FINALIZER)), default=0.0)
    is_old = scene.now.timestamp() - ended > RESULT_SECONDS
    return scene.job_condition(scene.finalizer_ref, "Complete") and is_old


# The end


def _succeeded(scene: Scene) -> Plan:
    result = scene.study.result
    assert result is not None
    model = model_status(scene.job, result)
    status = with_study(scene.job, scene.observed, scene.now)
    status = status.model_copy(
        update={
            "completion_time": status.completion_time or _second(scene.now),
            "progress_percentage": 100,
            "model": model,
            "artifacts": artifacts_of(scene.job),
        }
    )
    retire = retired_trials(scene.study, scene.observed, scene.now)
    todo = _serve(scene, status, model, (model_object(scene.job, result),))
    return replace(todo, study=StudyOrders(retire=retire))


def _serve(scene: Scene, status: AutoMLJobStatus, model: ModelStatus, also: tuple[Manifest, ...]) -> Plan:
    """The job has its model: keep the endpoint as spec.serving asks, and clean up when the time has come."""
    job = scene.job
    serving = job.spec.serving
    facts: Facts = {
        C.ACCEPTED: true(Reason.SPEC_VALID),
        C.DATA_READY: true(Reason.DATA_LOADED),
        C.ADMITTED: true(Reason.WORKERS_ADMITTED),
        C.SUCCEEDED: true(Reason.MODEL_TRAINED, f"{model.name} is at {model.uri}"),
        C.RECONCILING: false(Reason.IDLE),
        C.STALLED: false(Reason.WORKING),
    }
    delete, wake = _expired(scene, status)
    apply = also
    problem = gate_problem(serving.gate, model.metrics) if serving else None
    if serving is None or not scene.settings.serving_enabled:
        facts[C.READY] = true(Reason.MODEL_STORED, stored_words(scene, model))
        status = status.model_copy(update={"serving": None})
        delete += _serving_refs(scene)
    elif problem is not None:
        facts[C.READY] = false(Reason.GATE_NOT_PASSED, problem)
    else:
        apply += serving_objects(job, serving, model, scene.profile, scene.settings)
        delete += tuple(r for r in _serving_refs(scene) if r not in {Ref.of(m) for m in apply})
        fact, seen = _endpoint(scene, serving, model)
        facts[C.READY] = fact
        status = status.model_copy(update={"serving": seen})
        if fact.status is ConditionStatus.UNKNOWN:
            facts[C.RECONCILING] = true(Reason.PROGRESSING)
        facts.update(stalled_fact(scene, Component.SERVER))
    return Plan(apply=apply, delete=delete, status=_status(scene, status, facts), wake_after=wake)


def _endpoint(scene: Scene, serving: Serving, model: ModelStatus) -> tuple[Fact, ServingStatus]:
    """Whether the Deployment's rollout is complete, and what is served."""
    deployment = scene.child(scene.server_ref) or {}
    status, wanted = deployment.get("status", {}), deployment.get("spec", {}).get("replicas", serving.replicas)
    available = int(status.get("availableReplicas", 0))
    url = service_url(scene.job.metadata.name, scene.job.metadata.namespace)
    is_current = status.get("observedGeneration", 0) >= deployment.get("metadata", {}).get("generation", 1)
    is_rolled_out = is_current and status.get("updatedReplicas", 0) >= wanted and available >= wanted
    version = model.version if available else None
    seen = ServingStatus(url=url, model_version=version, ready_replicas=available)
    if deployment and is_rolled_out:
        return true(Reason.SERVING, f"{available} of {wanted} servers ready at {url}"), seen
    late = [c for c in status.get("conditions", []) if c["type"] == "Progressing" and c["status"] == "False"]
    if late:
        hint = f"see kubectl automl logs {scene.job.metadata.name} -c server"
        return false(Reason.SERVING_FAILED, f"{late[0].get('message', 'the rollout did not progress')}; {hint}"), seen
    return unknown(Reason.DEPLOYING, f"{available} of {wanted} servers ready"), seen


def _failed(scene: Scene, failure: Failure) -> Plan:
    """The job cannot go on: say why, and start no more pods. Those that failed stay, for their logs."""
    status = with_study(scene.job, scene.observed, scene.now)
    status = status.model_copy(update={"completion_time": status.completion_time or _second(scene.now)})
    return Plan(
        apply=_no_more_pods(scene),
        status=_status(scene, status, end_facts(scene, failure)),
        wake_after=timedelta(seconds=1),
    )


def _failed_before(scene: Scene) -> Plan:
    """It has been said; what is left is to end pods and to clean up when the time has come."""
    delete, wake = _expired(scene, scene.job.status)
    retire = retired_trials(scene.study, scene.observed, scene.now)
    status = scene.job.status.model_copy(update={"observed_generation": scene.job.metadata.generation})
    apply = () if delete else _no_more_pods(scene)
    return Plan(apply=apply, delete=delete, study=StudyOrders(retire=retire), status=status, wake_after=wake)


def _no_more_pods(scene: Scene) -> tuple[Manifest, ...]:
    """The batch Jobs that have not ended, with parallelism 0: running pods go, ended ones keep their logs."""
    refs = (scene.worker_ref, scene.finalizer_ref)
    ended = ("Complete", "Failed")
    open_jobs = [r for r in refs if not any(scene.job_condition(r, c) for c in ended)]
    found = [m for m in map(scene.child, open_jobs) if m is not None]
    return tuple(m for job in found for m in resized(job, 0))


def _expired(scene: Scene, status: AutoMLJobStatus) -> tuple[tuple[Ref, ...], timedelta | None]:
    """Jobs (and with them pods) whose time to live is over; and when to look again. Never the AutoMLJob itself."""
    ttl = scene.job.spec.retention.ttl_seconds_after_finished
    ttl = scene.profile.ttl_seconds_after_finished if ttl is None else ttl
    left = [ref for ref in (scene.worker_ref, scene.finalizer_ref) if scene.child(ref) is not None]
    if ttl is None or status.completion_time is None or not left:
        return (), None
    wait = ttl - (scene.now - status.completion_time).total_seconds()
    return (tuple(left), None) if wait <= 0 else ((), timedelta(seconds=wait))


def _serving_refs(scene: Scene) -> tuple[Ref, ...]:
    """What of the endpoint is there now."""
    name = server_name(scene.job.metadata.name)
    kinds = ("Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget")
    refs = (Ref(kind, scene.job.metadata.namespace, name) for kind in kinds)
    return tuple(ref for ref in refs if scene.child(ref) is not None)


# Helpers


def _first_problem(scene: Scene) -> Problem | None:
    """What is wrong with the job. Limits hold when a job comes or is edited: one that was accepted stays so."""
    name = scene.job.spec.profile_ref.name
    if scene.observed.profile_missing:
        message = f"spec.profileRef.name: AutoMLProfile '{name}' does not exist; ask the platform team for its name"
        return Problem("spec.profileRef.name", "must exist", name, message, Reason.PROFILE_NOT_FOUND)
    if _is_accepted(scene):
        return None
    return next(iter(check_job(scene.job, scene.observed.profile)), None)


def _is_accepted(scene: Scene) -> bool:
    said = find_condition(scene.job.status.conditions, C.ACCEPTED)
    if said is None or said.status is not ConditionStatus.TRUE:
        return False
    return said.observed_generation == scene.job.metadata.generation


def _status(scene: Scene, status: AutoMLJobStatus, facts: Facts) -> AutoMLJobStatus:
    return with_conditions(status, facts, scene.job.metadata.generation, scene.now)


def _resumed(scene: Scene) -> AutoMLJobStatus:
    """The status with the start set, and a suspension that has ended counted."""
    status = scene.job.status
    if status.start_time is None:
        status = status.model_copy(update={"start_time": _second(scene.now)})
    if status.suspended_since is not None:
        paused = int((scene.now - status.suspended_since).total_seconds())
        status = status.model_copy(
            update={"suspended_seconds": status.suspended_seconds + paused, "suspended_since": None}
        )
    return status


def _limits(scene: Scene) -> StudyLimits:
    status = scene.job.status
    assert status.start_time is not None
    limits = limits_of(scene.job, status.start_time, status.suspended_seconds)
    return replace(limits, keep_trial_artifacts=None) if scene.settings.keeps_all_trials else limits


def _second(now: datetime) -> datetime:
    return now.replace(microsecond=0)
