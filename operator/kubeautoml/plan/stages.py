"""What should be there while a job has no model yet: refused, suspended, searching, stopping, finalizing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from kubeautoml.api.conditions import BudgetEnd, Reason, find_condition
from kubeautoml.api.job_status import AutoMLJobStatus
from kubeautoml.api.names import Component
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.api.problems import Problem
from kubeautoml.api.trials import Failure, StudyLimits, StudyOrders
from kubeautoml.plan.base import Plan
from kubeautoml.plan.budget import (
    CLOCK_TOLERANCE_SECONDS,
    STOP_GRACE_SECONDS,
    accelerator_deadline,
    accelerator_spare,
    limits_of,
    paused,
    progress_percentage,
    resumed,
    search_end,
    steady_limits,
)
from kubeautoml.plan.ending import failed
from kubeautoml.plan.events import budget_events, requeue_events
from kubeautoml.plan.facts import (
    C,
    Facts,
    data_facts,
    finalizer_failure,
    is_hopeless,
    no_trial,
    open_end,
    pod_failure,
    search_words,
    stalled_fact,
    was_finalizer_taken,
    worker_facts,
    workers_words,
)
from kubeautoml.plan.network import training_policy
from kubeautoml.plan.queueing import admitted_fact, asked_parallelism, held_fact, is_held
from kubeautoml.plan.scene import Scene
from kubeautoml.plan.status import Fact, false, true, unknown, with_conditions, with_study
from kubeautoml.plan.trials import retired_trials
from kubeautoml.plan.workers import ended_trials_before, finalizer_job, fitted, worker_job

DEADLINE_GRACE_SECONDS = 3.0
"""Workers leave by themselves at the search deadline; this much later their Job is deleted."""

LAST_SECONDS = 15.0
"""Workers that leave this shortly before the search deadline are not replaced: new ones need 4 to 6 s to begin."""

RESULT_SECONDS = 60.0
"""A finalizer that ended well this long ago and left no result in the study has lost it."""


def refused(scene: Scene, problem: Problem) -> Plan:
    """What is wrong is said. Nothing was ever accepted, so there is nothing to go on with."""
    facts = {
        C.ACCEPTED: false(problem.reason, problem.message),
        C.RECONCILING: false(Reason.IDLE),
        C.STALLED: true(problem.reason, problem.message),
    }
    return Plan(status=_status(scene, scene.job.status, facts))


def without_study(scene: Scene, error: str) -> Plan:
    """Nothing is decided that the study would have to confirm. Pods that nobody wants any more still go."""
    facts: Facts = {
        C.ACCEPTED: true(Reason.SPEC_VALID),
        C.RECONCILING: true(Reason.PROGRESSING),
        C.STALLED: true(Reason.STUDY_UNAVAILABLE, error),
    }
    delete: tuple[Ref, ...] = ()
    status = scene.job.status
    if scene.job.spec.suspend:
        delete, status = _training_jobs(scene), paused(status, scene.now)
        facts[C.ADMITTED] = _suspended_fact()
    return Plan(delete=delete, status=_status(scene, status, facts), wake_after=timedelta(seconds=5))


def suspended(scene: Scene) -> Plan:
    """No pods; every finished trial is kept, and the time does not count."""
    scene = _at(scene, paused(scene.job.status, scene.now))
    status = with_study(scene.job, scene.observed, scene.now)
    facts: Facts = {
        **data_facts(scene),
        C.ADMITTED: _suspended_fact(),
        C.SUCCEEDED: unknown(Reason.SUSPENDED),
        C.READY: unknown(Reason.WAITING_FOR_MODEL),
        C.RECONCILING: false(Reason.IDLE),
        C.STALLED: false(Reason.WORKING),
    }
    retire = retired_trials(scene.study, scene.observed, scene.now)
    return Plan(
        delete=_training_jobs(scene),
        study=StudyOrders(retire=retire),
        status=_status(scene, status, facts),
        events=(*_suspended_events(scene), *requeue_events(retire)),
        wake_after=timedelta(seconds=5) if scene.living_workers or scene.study.running else None,
    )


def _suspended_fact() -> Fact:
    return false(Reason.SUSPENDED, "spec.suspend is true; set it to false to go on")


def _training_jobs(scene: Scene) -> tuple[Ref, ...]:
    return tuple(ref for ref in (scene.worker_ref, scene.finalizer_ref) if scene.child(ref) is not None)


def _suspended_events(scene: Scene) -> tuple[EventOrder, ...]:
    if _admitted_reason(scene) == Reason.SUSPENDED:
        return ()
    return (EventOrder("Normal", Reason.SUSPENDED, "pods are stopped; every finished trial is kept"),)


def _admitted_reason(scene: Scene) -> str | None:
    said = find_condition(scene.job.status.conditions, C.ADMITTED)
    return said.reason if said is not None else None


def _at(scene: Scene, status: AutoMLJobStatus) -> Scene:
    """The scene with another status of the job."""
    return replace(scene, job=scene.job.model_copy(update={"status": status}))


def searching(scene: Scene) -> Plan:
    """The budgets are looked at first; while none is reached there are workers."""
    before, held = scene, is_held(scene.child(scene.worker_ref))
    scene = _timed(scene, held=held)
    job, study = scene.job, scene.study
    status = with_study(job, scene.observed, scene.now)
    spare = accelerator_spare(job, scene.accelerators)
    limits = steady_limits(_limits(scene, status, spare), study.limits)
    ended_by = search_end(job, study, status.budget_used, spare) or _end_by_leaving(scene, limits)
    used = status.budget_used.model_copy(update={"ended_by": ended_by})
    progress = progress_percentage(job, study, used)
    status = status.model_copy(update={"budget_used": used, "progress_percentage": progress})
    if ended_by is not None:
        return _stopping(scene, status, limits, ended_by)
    if is_hopeless(scene):
        return failed(scene, pod_failure(scene))
    apply, delete, events = _workers(scene)
    retire = retired_trials(study, scene.observed, scene.now)
    facts = {**data_facts(scene), **worker_facts(scene), **open_end(search_words(scene))}
    return Plan(
        apply=apply,
        delete=delete,
        study=StudyOrders(
            limits=limits if limits != study.limits else None, warm_start=scene.observed.warm_start, retire=retire
        ),
        status=_status(scene, status, facts),
        events=(*_admission_events(before, held), *events, *requeue_events(retire)),
        wake_after=timedelta(seconds=scene.settings.resync_seconds) if held else _next_look(scene, limits),
    )


def _timed(scene: Scene, *, held: bool) -> Scene:
    """The scene with a start; time counts unless a queue holds the pods back."""
    status = scene.job.status
    if held and status.suspended_since is not None:
        return scene
    status = resumed(status, scene.now)
    return _at(scene, paused(status, scene.now) if held else status)


def _admission_events(scene: Scene, held: bool) -> tuple[EventOrder, ...]:
    """A suspension that has ended, and what a queue did."""
    was = _admitted_reason(scene)
    events = []
    if was == Reason.SUSPENDED:
        events.append(EventOrder("Normal", Reason.RESUMED, "the search goes on"))
    found = scene.child(scene.worker_ref)
    if held and found is not None and was != Reason.QUEUED:
        events.append(EventOrder("Normal", Reason.QUEUED, held_fact(found).message))
    if was == Reason.QUEUED and found is not None and not held:
        events.append(EventOrder("Normal", Reason.WORKERS_ADMITTED, "the queue has admitted the workers"))
    return tuple(events)


def _workers(scene: Scene) -> tuple[tuple[Manifest, ...], tuple[Ref, ...], tuple[EventOrder, ...]]:
    """What to apply, to delete and to tell so that there are workers, behind their NetworkPolicy."""
    job, found = scene.job, scene.child(scene.worker_ref)
    policy = training_policy(job, scene.profile, scene.settings)
    unwanted = () if policy or scene.child(scene.policy_ref) is None else (scene.policy_ref,)
    if found is None:
        told = EventOrder("Normal", Reason.WORKERS_CREATED, workers_words(scene))
        made = worker_job(job, scene.profile, scene.settings, scene.ended_trials)
        return (*policy, made), unwanted, (told,)
    if scene.have_workers_left:
        # a batch Job that is complete starts no more pods; the next pass makes another one
        return policy, (scene.worker_ref, *unwanted), ()
    # another default of the profile is for Jobs to come; what runs is resized when its own spec says so
    apply, delete = fitted(found, job.spec.workers.parallelism or asked_parallelism(found))
    return (*policy, *apply), (*delete, *unwanted), ()


def _end_by_leaving(scene: Scene, limits: StudyLimits) -> BudgetEnd | None:
    """All workers have left of their own accord: is there work for others?

    There is when a retry was queued after the last one had looked, when one will be (a trial that still runs has lost its worker),
    or when a budget was raised after they had found it used up. Workers that came and left without a trial have found nothing to
    try.
    """
    found = scene.child(scene.worker_ref)
    if found is None or not scene.have_workers_left:
        return None
    if limits.search_deadline is not None and scene.now.timestamp() >= limits.search_deadline - LAST_SECONDS:
        return BudgetEnd.MAX_DURATION
    is_queued = scene.study.waiting > 0 or scene.study.running > 0
    has_work = is_queued or scene.ended_trials > ended_trials_before(found)
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
        # a clock that went back must not give them more time than they were promised
        leave_at = min(study.limits.search_deadline, grace)
    stop = replace(limits, stop=True, search_deadline=leave_at)
    retire = retired_trials(study, scene.observed, scene.now)
    orders = StudyOrders(limits=stop if stop != study.limits else None, retire=retire)
    found = scene.child(scene.worker_ref)
    is_late = told and now >= leave_at + DEADLINE_GRACE_SECONDS and bool(scene.living_workers)
    # nor must a Job that waits in a queue be admitted when there is nothing more to do
    delete = (scene.worker_ref,) if found is not None and (is_late or is_held(found)) else ()
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
        scene = _at(scene, status)
        return replace(failed(scene, no_trial(scene, ended_by)), study=orders)
    events = (*todo.events, EventOrder("Normal", Reason.FINALIZE_CREATED, "making the model"))
    policy = training_policy(scene.job, scene.profile, scene.settings)
    return replace(todo, apply=(*policy, finalizer_job(scene.job, scene.profile, scene.settings)), events=events)


def finalizing(scene: Scene) -> Plan:
    has_failed = scene.job_condition(scene.finalizer_ref, "Failed")
    if has_failed and not was_finalizer_taken(scene):
        return failed(scene, finalizer_failure(scene))
    if _has_lost_result(scene):
        again = f"kubectl automl retry {scene.job.metadata.name}"
        message = f"the finalizer ended well, but its result is not in the study; make the model again with: {again}"
        return failed(scene, Failure("finalize", Reason.FINALIZE_FAILED, message))
    found = scene.child(scene.finalizer_ref)
    held = is_held(found)
    scene = _timed(scene, held=held)
    status = with_study(scene.job, scene.observed, scene.now)
    status = status.model_copy(update={"progress_percentage": 99})
    retire = retired_trials(scene.study, scene.observed, scene.now)
    words = "making the model" + (f": {scene.study.stage}" if scene.study.stage else "")
    facts = {
        **data_facts(scene),
        **open_end(words),
        **stalled_fact(scene, Component.FINALIZER),
    }
    facts[C.ADMITTED] = held_fact(found) if found is not None and held else admitted_fact()
    facts[C.SUCCEEDED] = unknown(Reason.FINALIZING, words)
    return Plan(
        # a batch Job that has failed starts no more pods; the next pass makes another one
        delete=(scene.finalizer_ref,) if has_failed else (),
        study=StudyOrders(limits=_later_due(scene), retire=retire),
        status=_status(scene, status, facts),
        wake_after=timedelta(seconds=scene.settings.status_interval_seconds),
    )


def _later_due(scene: Scene) -> StudyLimits | None:
    """The limits with the time at which the model is due, when that has moved: by a wait in a queue, or a clock set back."""
    known, status = scene.study.limits, scene.job.status
    if known is None or known.job_deadline is None or status.start_time is None or status.suspended_since is not None:
        return None
    due = limits_of(scene.job, status.start_time, status.suspended_seconds).job_deadline
    if due is None or abs(due - known.job_deadline) <= CLOCK_TOLERANCE_SECONDS:
        return None
    return replace(known, job_deadline=due)


def _has_lost_result(scene: Scene) -> bool:
    ended = max((p.finished_at or 0.0 for p in scene.pods(Component.FINALIZER)), default=0.0)
    is_old = scene.now.timestamp() - ended > RESULT_SECONDS
    return scene.job_condition(scene.finalizer_ref, "Complete") and is_old


def _limits(scene: Scene, status: AutoMLJobStatus, spare: float) -> StudyLimits:
    """What workers must know, with the moment at which the accelerators at work will have used their budget up."""
    assert status.start_time is not None
    foretold = accelerator_deadline(scene.job, status.budget_used, scene.observed, spare, scene.now)
    limits = limits_of(scene.job, status.start_time, status.suspended_seconds, foretold, scene.study.data)
    return replace(limits, keep_trial_artifacts=None) if scene.settings.keeps_all_trials else limits


def _status(scene: Scene, status: AutoMLJobStatus, facts: Facts) -> AutoMLJobStatus:
    return with_conditions(status, facts, scene.job.metadata.generation, scene.now)
