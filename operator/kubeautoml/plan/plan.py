"""plan(job, observed, now, settings) -> Plan: everything that is decided about one job, in one place.

A job is in exactly one stage, found anew from facts at each pass: refused, suspended, searching, stopping, finalizing,
ended. Each stage is a function that says what should be there (`stages.py` before the end, `ending.py` after it); nothing
depends on what an earlier pass remembered.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from kubeautoml.api.conditions import ConditionStatus, Reason
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.objects import Ref
from kubeautoml.api.problems import Problem
from kubeautoml.plan.accepted import accepted_text, last_accepted, profile_problem, spec_problem
from kubeautoml.plan.base import Observed, Plan, Settings, is_failed
from kubeautoml.plan.budget import believed
from kubeautoml.plan.changes import changed
from kubeautoml.plan.ending import failed, failed_before, serve, succeeded
from kubeautoml.plan.events import transitions
from kubeautoml.plan.facts import C, Facts
from kubeautoml.plan.retry import noted, retrying, wants_retry
from kubeautoml.plan.scene import Scene
from kubeautoml.plan.stages import finalizing, refused, searching, suspended, without_study
from kubeautoml.plan.status import false, is_status, true, with_conditions, worth_publishing


def plan(job: AutoMLJob, observed: Observed, *, now: datetime, settings: Settings) -> Plan:
    """Decide what to do about one job."""
    todo = _decided(job, observed, believed(now, observed), settings)
    apply = changed(todo.apply, observed.children)
    events = (*transitions(job.status, todo.status), *todo.events)
    status = noted(job, todo.status)
    if not (apply or todo.delete):
        # what pods that are about to go have used is not lost: else it waits until it is worth a writing
        status = worth_publishing(job.status, status, settings, job.spec.budget.max_accelerator_seconds)
    return replace(todo, apply=apply, status=status, events=events)


def _decided(job: AutoMLJob, observed: Observed, now: datetime, settings: Settings) -> Plan:
    """What the stage wants, by the spec that holds, with what is wrong said beside it."""
    problem = spec_problem(job, observed)
    scene = Scene(job, observed, now, settings)
    if problem is None:
        todo = _stage(scene)
        todo = replace(todo, status=todo.status.model_copy(update={"accepted_spec": accepted_text(job)}))
        profile = profile_problem(job, observed)
        return todo if profile is None else _by_no_profile(_with_facts(scene, todo, _stalled(profile)), observed)
    good = last_accepted(job)
    if good is None:
        return refused(scene, problem)
    todo = _stage(replace(scene, job=good))
    todo = _with_facts(scene, todo, {C.ACCEPTED: false(problem.reason, problem.message), **_stalled(problem)})
    return todo if profile_problem(job, observed) is None else _by_no_profile(todo, observed)


def _stage(scene: Scene) -> Plan:
    job, study = scene.job, scene.study
    if is_failed(job.status):
        return retrying(scene) if wants_retry(job) else failed_before(scene)
    if is_status(job.status, C.SUCCEEDED, ConditionStatus.TRUE) and job.status.model is not None:
        return serve(scene, job.status, job.status.model, ())
    if scene.observed.study_error is not None:
        return without_study(scene, scene.observed.study_error)
    if study.result is not None:
        return succeeded(scene)
    if study.failure is not None:
        return failed(scene, study.failure)
    if job.spec.suspend:
        return suspended(scene)
    if scene.child(scene.finalizer_ref) is not None:
        return finalizing(scene)
    return searching(scene)


def _stalled(problem: Problem) -> Facts:
    return {C.STALLED: true(problem.reason, problem.message)}


def _with_facts(scene: Scene, todo: Plan, facts: Facts) -> Plan:
    status = with_conditions(todo.status, facts, scene.job.metadata.generation, scene.now)
    return replace(todo, status=status)


_MADE = (Reason.WORKERS_CREATED, Reason.FINALIZE_CREATED)


def _by_no_profile(todo: Plan, observed: Observed) -> Plan:
    """Without its profile, what is there goes on and may be resized; nothing is made or changed by guessed settings."""
    resized = (m["kind"] == "Job" and Ref.of(m) in observed.children for m in todo.apply)
    known = tuple(m for m, is_old in zip(todo.apply, resized, strict=True) if is_old or m["kind"] == "AutoMLModel")
    return replace(todo, apply=known, events=tuple(e for e in todo.events if e.reason not in _MADE))
