"""plan(job, observed, now, settings) -> Plan: everything that is decided about one job, in one place.

A job is in exactly one stage, found anew from facts at each pass: refused, suspended, searching, stopping, finalizing,
ended. Each stage is a function that says what should be there; nothing depends on what an earlier pass remembered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

from kubeautoml.api.check import Problem, check_job
from kubeautoml.api.conditions import BudgetEnd, ConditionStatus, ConditionType, Reason, find_condition
from kubeautoml.api.job import AutoMLJob, AutoMLJobStatus, ModelStatus, Serving, ServingStatus
from kubeautoml.api.names import (
    Component,
    finalizer_job_name,
    server_name,
    service_url,
    worker_job_name,
)
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.api.profile import AutoMLProfileSpec
from kubeautoml.api.trials import Failure, StudyLimits, StudyOrders, StudySummary
from kubeautoml.plan.base import Observed, Plan, PodSeen, Settings
from kubeautoml.plan.budget import (
    STOP_GRACE_SECONDS,
    elapsed_seconds,
    limits_of,
    progress_percentage,
    search_end,
)
from kubeautoml.plan.changes import changed
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
from kubeautoml.plan.workers import finalizer_job, worker_job

C = ConditionType
Facts = dict[ConditionType, Fact]

HOPELESS_PODS = 4
"""Worker pods that failed, none having read the data, after which the job is given up."""

DEADLINE_GRACE_SECONDS = 3.0
"""Workers leave by themselves at the search deadline; this much later their Job is deleted."""


@dataclass(frozen=True)
class Scene:
    """One job and all that was seen, with what several stages derive from it."""

    job: AutoMLJob
    observed: Observed
    now: datetime
    settings: Settings

    @cached_property
    def profile(self) -> AutoMLProfileSpec:
        return self.observed.profile.spec if self.observed.profile else AutoMLProfileSpec()

    @cached_property
    def study(self) -> StudySummary:
        return self.observed.study or StudySummary()

    @cached_property
    def worker_ref(self) -> Ref:
        meta = self.job.metadata
        return Ref("Job", meta.namespace, worker_job_name(meta.name, meta.uid))

    @cached_property
    def finalizer_ref(self) -> Ref:
        meta = self.job.metadata
        return Ref("Job", meta.namespace, finalizer_job_name(meta.name, meta.uid))

    @cached_property
    def server_ref(self) -> Ref:
        return Ref("Deployment", self.job.metadata.namespace, server_name(self.job.metadata.name))

    def pods(self, component: Component) -> list[PodSeen]:
        return [p for p in self.observed.pods if p.component == component]

    @cached_property
    def living_workers(self) -> list[PodSeen]:
        return [p for p in self.pods(Component.WORKER) if p.is_alive]

    def child(self, ref: Ref) -> Manifest | None:
        return self.observed.children.get(ref)

    def job_condition(self, ref: Ref, kind: str) -> bool:
        """Whether a batch Job has reached Complete or Failed."""
        conditions = (self.child(ref) or {}).get("status", {}).get("conditions", [])
        return any(c["type"] == kind and c["status"] == "True" for c in conditions)


def plan(job: AutoMLJob, observed: Observed, *, now: datetime, settings: Settings) -> Plan:
    """Decide what to do about one job."""
    scene = Scene(job, observed, now, settings)
    todo = _stage(scene)
    status = worth_publishing(job.status, todo.status, settings.status_interval_seconds)
    apply = changed(todo.apply, observed.children)
    return replace(todo, apply=apply, status=status, events=(*_transitions(job.status, todo.status), *todo.events))


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
        **_data_facts(scene),
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
        events=_requeue_events(retire),
        wake_after=timedelta(seconds=5) if scene.living_workers or scene.study.running else None,
    )


def _searching(scene: Scene) -> Plan:
    job, study = scene.job, scene.study
    started = _resumed(scene)
    job = job.model_copy(update={"status": started})
    status = with_study(job, scene.observed, scene.now)
    limits = _limits(scene, started)
    ended_by = search_end(job, study, status.budget_used, scene.now)
    workers_left = scene.job_condition(scene.worker_ref, "Complete") and not scene.living_workers
    # a retry may have been queued just after the last worker looked; then the Job is made anew for it
    orphaned = ended_by is None and workers_left and study.waiting > 0
    if ended_by is None and workers_left and not orphaned:
        ended_by = BudgetEnd.EXHAUSTED
    used = status.budget_used.model_copy(update={"ended_by": ended_by})
    status = status.model_copy(
        update={"budget_used": used, "progress_percentage": progress_percentage(job, study, status.budget_used)}
    )
    scene = replace(scene, job=job)
    if ended_by is not None:
        return _stopping(scene, status, limits, ended_by)
    if _is_hopeless(scene):
        return _failed(scene, _pod_failure(scene))
    retire = retired_trials(study, scene.observed, scene.now)
    created = scene.child(scene.worker_ref) is None
    wake = [scene.settings.status_interval_seconds, scene.settings.resync_seconds]
    if limits.search_deadline is not None:
        wake.append(max(0.1, limits.search_deadline - scene.now.timestamp()))
    return Plan(
        apply=() if orphaned else (worker_job(job, scene.profile, scene.settings),),
        delete=(scene.worker_ref,) if orphaned else (),
        study=StudyOrders(limits=limits if limits != study.limits else None, retire=retire),
        status=_status(
            scene, status, {**_data_facts(scene), **_worker_facts(scene), **_open_end(_search_words(scene))}
        ),
        events=(
            *((EventOrder("Normal", Reason.WORKERS_CREATED, _workers_words(job)),) if created else ()),
            *_requeue_events(retire),
        ),
        wake_after=timedelta(seconds=min(wake)),
    )


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
    facts = {**_data_facts(scene), **_worker_facts(scene), **_open_end("the search has ended; making the model")}
    facts[C.SUCCEEDED] = unknown(Reason.FINALIZING, "the search has ended; making the model")
    todo = Plan(
        delete=delete,
        study=orders,
        status=_status(scene, status, facts),
        events=_budget_events(scene, ended_by),
        wake_after=timedelta(seconds=1),
    )
    if not told or scene.living_workers:
        return todo
    if study.completed == 0:
        return replace(_failed(scene, _no_trial(scene, ended_by)), study=orders)
    events = (*todo.events, EventOrder("Normal", Reason.FINALIZE_CREATED, "making the model"))
    return replace(todo, apply=(finalizer_job(scene.job, scene.profile, scene.settings),), events=events)


def _finalizing(scene: Scene) -> Plan:
    if scene.job_condition(scene.finalizer_ref, "Failed"):
        said = next((p for p in scene.pods(Component.FINALIZER) if p.message), None)
        detail = f": {said.message}" if said else ""
        message = f"the finalizer failed{detail}; its logs: kubectl automl logs {scene.job.metadata.name} -c finalizer"
        return _failed(scene, Failure("finalize", Reason.FINALIZE_FAILED, message))
    status = with_study(scene.job, scene.observed, scene.now)
    status = status.model_copy(update={"progress_percentage": 99})
    retire = retired_trials(scene.study, scene.observed, scene.now)
    words = "making the model" + (f": {scene.study.stage}" if scene.study.stage else "")
    facts = {
        **_data_facts(scene),
        **_worker_facts(scene),
        **_open_end(words),
        **_stalled_fact(scene, Component.FINALIZER),
    }
    facts[C.SUCCEEDED] = unknown(Reason.FINALIZING, words)
    return Plan(
        apply=(finalizer_job(scene.job, scene.profile, scene.settings),),
        study=StudyOrders(retire=retire),
        status=_status(scene, status, facts),
        wake_after=timedelta(seconds=scene.settings.status_interval_seconds),
    )


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
        facts[C.READY] = true(Reason.MODEL_STORED, _stored_words(scene, model))
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
        facts.update(_stalled_fact(scene, Component.SERVER))
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
    """The job cannot go on: say why, and let its pods go."""
    status = with_study(scene.job, scene.observed, scene.now)
    status = status.model_copy(update={"completion_time": status.completion_time or _second(scene.now)})
    is_data = failure.stage in ("data", "output")
    facts: Facts = {
        **_data_facts(scene),
        C.SUCCEEDED: false(failure.reason, failure.message),
        C.READY: false(Reason.NO_MODEL, failure.message),
        C.RECONCILING: false(Reason.IDLE),
        C.STALLED: true(Reason.INTERNAL_ERROR if not failure.reason else Reason(failure.reason), failure.message),
    }
    if is_data:
        facts[C.DATA_READY] = false(failure.reason, failure.message)
    delete = (scene.worker_ref,) if scene.living_workers and scene.child(scene.worker_ref) else ()
    return Plan(delete=delete, status=_status(scene, status, facts), wake_after=timedelta(seconds=1))


def _failed_before(scene: Scene) -> Plan:
    """It has been said; what is left is to end pods and to clean up when the time has come."""
    delete, wake = _expired(scene, scene.job.status)
    if scene.living_workers and scene.child(scene.worker_ref) and scene.worker_ref not in delete:
        delete += (scene.worker_ref,)
    retire = retired_trials(scene.study, scene.observed, scene.now)
    generation = scene.job.metadata.generation
    status = scene.job.status.model_copy(update={"observed_generation": generation})
    return Plan(delete=delete, study=StudyOrders(retire=retire), status=status, wake_after=wake)


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


# Facts and words


def _first_problem(scene: Scene) -> Problem | None:
    name = scene.job.spec.profile_ref.name
    if scene.observed.profile_missing:
        message = f"spec.profileRef.name: AutoMLProfile '{name}' does not exist; ask the platform team for its name"
        return Problem("spec.profileRef.name", "must exist", name, message, Reason.PROFILE_NOT_FOUND)
    return next(iter(check_job(scene.job, scene.observed.profile)), None)


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


def _limits(scene: Scene, status: AutoMLJobStatus) -> StudyLimits:
    assert status.start_time is not None
    return limits_of(scene.job, status.start_time, status.suspended_seconds)


def _data_facts(scene: Scene) -> Facts:
    data = scene.study.data
    facts = {C.ACCEPTED: true(Reason.SPEC_VALID)}
    if data is None:
        return {**facts, C.DATA_READY: unknown(Reason.READING_DATA)}
    words = (
        f"{data.rows} rows, {data.columns} columns, {data.folds} folds, {data.holdout_rows} rows kept for evaluation"
    )
    warnings = f"; warnings: {'; '.join(data.warnings)}" if data.warnings else ""
    return {**facts, C.DATA_READY: true(Reason.DATA_LOADED, words + warnings)}


def _worker_facts(scene: Scene) -> Facts:
    started = [p for p in scene.pods(Component.WORKER) if p.started_at is not None or p.phase != "Pending"]
    waiting = unknown(Reason.WAITING_FOR_PODS, "no worker pod has started yet")
    admitted = true(Reason.WORKERS_ADMITTED) if started or scene.study.data else waiting
    return {C.ADMITTED: admitted, **_stalled_fact(scene, Component.WORKER)}


def _stalled_fact(scene: Scene, component: Component) -> Facts:
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


def _open_end(words: str) -> Facts:
    return {
        C.SUCCEEDED: unknown(Reason.SEARCHING, words),
        C.READY: unknown(Reason.WAITING_FOR_MODEL),
        C.RECONCILING: true(Reason.PROGRESSING),
    }


def _search_words(scene: Scene) -> str:
    study = scene.study
    return f"{study.completed} trials completed, {study.running} running, of at most {scene.job.spec.budget.max_trials}"


def _workers_words(job: AutoMLJob) -> str:
    count = job.spec.workers.parallelism
    return f"{count} worker{'s' if count != 1 else ''} for study {job.metadata.namespace}/{job.metadata.name}"


def _stored_words(scene: Scene, model: ModelStatus) -> str:
    if scene.job.spec.serving is None:
        return f"the model is stored at {model.uri}; set spec.serving to serve it"
    return f"the model is stored at {model.uri}; serve it with: kubeautoml serve --model {model.uri}"


def _is_hopeless(scene: Scene) -> bool:
    """Workers fail again and again before any has read the data."""
    pods = scene.pods(Component.WORKER)
    failed = [p for p in pods if p.phase == "Failed" and p.reason not in ("Evicted", "Preempting", "NodeLost")]
    return scene.study.data is None and len(failed) >= HOPELESS_PODS


def _pod_failure(scene: Scene) -> Failure:
    failed = [p for p in scene.pods(Component.WORKER) if p.phase == "Failed"]
    last = max(failed, key=lambda p: p.finished_at or 0.0)
    detail = last.message or last.reason or "no message"
    message = (
        f"{len(failed)} worker pods failed before one had read the data; the last, {last.name}, ended with exit code "
        f"{last.exit_code}: {detail}; see kubectl automl logs {scene.job.metadata.name}"
    )
    return Failure("search", Reason.WORKERS_FAILED, message)


def _no_trial(scene: Scene, ended_by: BudgetEnd) -> Failure:
    study = scene.study
    why = f"; most frequent error: {study.error}" if study.error else ""
    if ended_by is BudgetEnd.MAX_FAILED_TRIALS:
        limit = scene.job.spec.budget.max_failed_trials
        message = f"{study.failed} trials failed and none completed (budget.maxFailedTrials is {limit}){why}"
        return Failure("search", Reason.TOO_MANY_FAILED_TRIALS, message)
    message = (
        f"no trial completed before the search ended ({ended_by}): {study.failed} failed, {study.pruned} were cut{why}; "
        "give a larger budget, or fewer and faster search.families"
    )
    return Failure("search", Reason.NO_TRIAL_COMPLETED, message)


# Events


def _transitions(old: AutoMLJobStatus, new: AutoMLJobStatus) -> tuple[EventOrder, ...]:
    """An event for every condition that people wait for, when it changes."""
    told = {
        C.ACCEPTED: (ConditionStatus.FALSE,),
        C.DATA_READY: (ConditionStatus.TRUE, ConditionStatus.FALSE),
        C.SUCCEEDED: (ConditionStatus.TRUE, ConditionStatus.FALSE),
        C.READY: (ConditionStatus.TRUE, ConditionStatus.FALSE),
    }
    events = []
    for kind, statuses in told.items():
        before, after = find_condition(old.conditions, kind), find_condition(new.conditions, kind)
        if after is None or after.status not in statuses:
            continue
        if before is None or (before.status, before.reason) != (after.status, after.reason):
            bad = after.status is ConditionStatus.FALSE
            events.append(EventOrder("Warning" if bad else "Normal", after.reason, after.message or kind.value))
    return tuple(events)


def _requeue_events(retire: tuple[object, ...]) -> tuple[EventOrder, ...]:
    from kubeautoml.api.trials import RetireTrial

    return tuple(
        EventOrder("Warning", Reason.TRIAL_REQUEUED, f"trial {t.number}: {t.reason}; attempt {t.attempt + 1} is queued")
        for t in retire
        if isinstance(t, RetireTrial) and t.requeue
    )


def _budget_events(scene: Scene, ended_by: BudgetEnd) -> tuple[EventOrder, ...]:
    if scene.job.status.budget_used.ended_by == ended_by:
        return ()
    seconds = int(elapsed_seconds(scene.job.status, scene.now))
    words = f"the search ended after {scene.study.completed} completed trials and {seconds} s: {ended_by}"
    return (EventOrder("Normal", Reason.BUDGET_REACHED, words),)


def _second(now: datetime) -> datetime:
    return now.replace(microsecond=0)
