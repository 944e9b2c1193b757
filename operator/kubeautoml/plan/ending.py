"""What should be there when a job has a model, or never will: the endpoint, and less and less of the pods."""

from __future__ import annotations

from datetime import datetime, timedelta

from kubeautoml.api import effective
from kubeautoml.api.conditions import ConditionStatus, Reason
from kubeautoml.api.job import Serving
from kubeautoml.api.job_status import AutoMLJobStatus, ModelStatus, ServingStatus
from kubeautoml.api.model import AutoMLModelStatus
from kubeautoml.api.names import Component, server_name, service_url
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.trials import Failure, StudyOrders
from kubeautoml.plan.base import Plan
from kubeautoml.plan.facts import C, Facts, end_facts, stalled_fact, stored_words
from kubeautoml.plan.model import condition_of, kept_as_wished, model_object, model_status
from kubeautoml.plan.queueing import admitted_fact
from kubeautoml.plan.scene import Scene
from kubeautoml.plan.serving import gate_problem, served_metrics, serving_objects
from kubeautoml.plan.status import Fact, artifacts_of, false, kept, true, unknown, with_conditions, with_study
from kubeautoml.plan.trials import retired_trials
from kubeautoml.plan.workers import emptied

LONGEST_WAIT_SECONDS = 86_400.0
"""A time to live may be any number; a day is soon enough to look again."""


def succeeded(scene: Scene) -> Plan:
    result = scene.study.result
    assert result is not None
    try:
        made, model = model_object(scene.job, result), model_status(scene.job, result)
    except (ValueError, OverflowError, TypeError) as error:
        # the finalizer is a pod, and the study is written by pods
        message = f"the finalizer's result cannot be used: {' '.join(str(error).split())}"
        return failed(scene, Failure("finalize", Reason.FINALIZE_FAILED, message))
    retire = retired_trials(scene.study, scene.observed, scene.now)
    if retire:
        # the counts of a job that has ended are final: trials that were lost are counted before it ends
        return Plan(study=StudyOrders(retire=retire), status=scene.job.status, wake_after=timedelta(seconds=1))
    status = with_study(scene.job, scene.observed, scene.now)
    status = status.model_copy(
        update={
            "completion_time": status.completion_time or _second(scene.now),
            "progress_percentage": 100,
            "model": model,
            "artifacts": artifacts_of(scene.job),
        }
    )
    return serve(scene, status, model, (made,))


def serve(scene: Scene, status: AutoMLJobStatus, model: ModelStatus, also: tuple[Manifest, ...]) -> Plan:
    """The job has its model: keep the endpoint as spec.serving asks, and clean up when the time has come."""
    job = scene.job
    serving = job.spec.serving
    facts: Facts = {
        C.ACCEPTED: true(Reason.SPEC_VALID),
        C.DATA_READY: kept(status, C.DATA_READY, true(Reason.DATA_LOADED)),
        C.ADMITTED: admitted_fact(),
        C.SUCCEEDED: true(Reason.MODEL_TRAINED, f"{model.name} is at {model.uri}"),
        C.RECONCILING: false(Reason.IDLE),
        C.STALLED: false(Reason.WORKING),
    }
    delete, wake = _expired(scene, status)
    apply = also
    problem = gate_problem(serving.gate, served_metrics(job, serving, model)) if serving else None
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
    if facts[C.READY].status is ConditionStatus.FALSE:
        # who waits by kstatus' rules is told that waiting will not help
        facts[C.STALLED] = true(facts[C.READY].reason, facts[C.READY].message)
    ref = Ref("AutoMLModel", job.metadata.namespace, model.name)
    found = scene.child(ref)
    if found is not None and not also:
        apply += kept_as_wished(job, found)
    return Plan(
        apply=apply,
        delete=delete,
        status=_status(scene, status, facts),
        model_status=_model_status(scene, ref, facts[C.READY]) if found is not None or also else None,
        wake_after=wake,
    )


def _model_status(scene: Scene, ref: Ref, ready: Fact) -> tuple[Ref, AutoMLModelStatus] | None:
    new = condition_of(scene.child(ref), ready, scene.now)
    return None if new is None else (ref, new)


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


def failed(scene: Scene, failure: Failure) -> Plan:
    """The job cannot go on: say why, and start no more pods. Those that failed stay, for their logs."""
    status = with_study(scene.job, scene.observed, scene.now)
    status = status.model_copy(update={"completion_time": status.completion_time or _second(scene.now)})
    apply, delete = _no_more_pods(scene)
    return Plan(
        apply=apply,
        delete=delete,
        status=_status(scene, status, end_facts(scene, failure)),
        wake_after=timedelta(seconds=1),
    )


def failed_before(scene: Scene) -> Plan:
    """It has been said; what is left is to end pods and to clean up when the time has come. The study is not asked."""
    delete, wake = _expired(scene, scene.job.status)
    generation = scene.job.metadata.generation
    conditions = tuple(c.model_copy(update={"observed_generation": generation}) for c in scene.job.status.conditions)
    status = scene.job.status.model_copy(update={"observed_generation": generation, "conditions": conditions})
    status = _status(scene, status, {C.ACCEPTED: true(Reason.SPEC_VALID)})
    apply, emptied_too = ((), ()) if delete else _no_more_pods(scene)
    return Plan(apply=apply, delete=(*delete, *emptied_too), status=status, wake_after=wake)


def _no_more_pods(scene: Scene) -> tuple[tuple[Manifest, ...], tuple[Ref, ...]]:
    """What to (apply, delete) so that the batch Jobs that have not ended have no pods; ended pods keep their logs."""
    refs = (scene.worker_ref, scene.finalizer_ref)
    ended = ("Complete", "Failed")
    open_jobs = [r for r in refs if not any(scene.job_condition(r, c) for c in ended)]
    orders = [emptied(m) for m in map(scene.child, open_jobs) if m is not None]
    return tuple(m for apply, _ in orders for m in apply), tuple(r for _, delete in orders for r in delete)


def _expired(scene: Scene, status: AutoMLJobStatus) -> tuple[tuple[Ref, ...], timedelta | None]:
    """Jobs (and with them pods) whose time to live is over; and when to look again. Never the AutoMLJob itself."""
    ttl = effective.ttl_seconds(scene.job, scene.profile)
    refs = (scene.worker_ref, scene.finalizer_ref, scene.policy_ref)
    left = tuple(ref for ref in refs if scene.child(ref) is not None)
    if ttl is None or status.completion_time is None or not left:
        return (), None
    # a clock that was set back does not keep them for longer than they were to be kept
    wait = min(float(ttl), ttl - (scene.now - status.completion_time).total_seconds())
    return (left, None) if wait <= 0 else ((), timedelta(seconds=min(wait, LONGEST_WAIT_SECONDS)))


def _serving_refs(scene: Scene) -> tuple[Ref, ...]:
    """What of the endpoint is there now."""
    name = server_name(scene.job.metadata.name)
    kinds = ("Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy")
    refs = (Ref(kind, scene.job.metadata.namespace, name) for kind in kinds)
    return tuple(ref for ref in refs if scene.child(ref) is not None)


def _status(scene: Scene, status: AutoMLJobStatus, facts: Facts) -> AutoMLJobStatus:
    return with_conditions(status, facts, scene.job.metadata.generation, scene.now)


def _second(now: datetime) -> datetime:
    return now.replace(microsecond=0)
