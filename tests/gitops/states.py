"""Every state that a job can be in, as the real planner writes it: fixtures for health scripts and expressions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from factories import make_data, make_finished_trial, make_job, make_pod, make_result, make_summary
from kubeautoml.api.names import QUEUE_LABEL, Component
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.trials import Failure
from plan.carry import Stage

SERVER = Ref("Deployment", "team-a", "churn-server")
SERVED: dict[str, Any] = {"serving": {"replicas": 2}}


def new_job(**spec: Any) -> Stage:
    return Stage(job=make_job(**spec))


def pending(**spec: Any) -> Stage:
    """Workers are asked for; no pod has started."""
    stage = new_job(**spec)
    stage.settle()
    return stage


def reading_data(**spec: Any) -> Stage:
    stage = pending(**spec)
    stage.pods = (make_pod("pod-1", started_at=stage.now.timestamp()),)
    stage.settle()
    return stage


def searching(**spec: Any) -> Stage:
    stage = reading_data(**spec)
    best = (make_finished_trial(1, 0.9), make_finished_trial(0, 0.8))
    stage.study = replace(stage.study or make_summary(), data=make_data(), completed=2, best=best)
    stage.settle()
    return stage


def queued() -> Stage:
    """Kueue has not admitted the worker Job yet."""
    stage = new_job()
    labels = {QUEUE_LABEL: "team-a"}
    stage.job = stage.job.model_copy(update={"metadata": stage.job.metadata.model_copy(update={"labels": labels})})
    stage.settle()
    return stage


def suspended() -> Stage:
    stage = searching()
    stage.edit(suspend=True)
    stage.pods = ()
    stage.settle()
    return stage


def held_up(reason: str, message: str) -> Callable[[], Stage]:
    """A pod that cannot start."""

    def build() -> Stage:
        stage = pending()
        stage.pods = (make_pod("pod-1", phase="Pending", reason=reason, message=message),)
        stage.settle()
        return stage

    return build


def study_away() -> Stage:
    stage = searching()
    stage.study_error = "study server study:9090 did not answer for 5 s"
    stage.settle()
    return stage


def refused() -> Stage:
    stage = new_job(objective={"metric": "Rmse"})
    stage.settle()
    return stage


def refused_later() -> Stage:
    """An illegal edit of a job that is running, which goes on as it was."""
    stage = searching()
    stage.edit(serving={"replicas": 1, "gate": {"metric": "Nonsense", "min": "0.9"}})
    stage.settle()
    return stage


def finalizing(**spec: Any) -> Stage:
    stage = searching(budget={"maxTrials": 2}, **spec)
    stage.settle()
    stage.pods = ()
    stage.settle()
    return stage


def failed(failure: Failure) -> Callable[[], Stage]:
    def build() -> Stage:
        stage = reading_data()
        stage.study = replace(stage.study or make_summary(), failure=failure)
        stage.settle()
        return stage

    return build


def failed_workers() -> Stage:
    """One worker after the other has ended with an error."""
    stage = pending()
    crashed = (make_pod(f"pod-{n}", phase="Failed", exit_code=1, message="no such module") for n in range(6))
    stage.pods = tuple(crashed)
    stage.settle()
    return stage


def failed_trials() -> Stage:
    """More trials have failed than the budget allows, and none is complete."""
    stage = reading_data(budget={"maxFailedTrials": 2})
    stage.study = replace(stage.study or make_summary(), data=make_data(), failed=3)
    stage.settle()
    stage.pods = ()
    stage.settle()
    return stage


def out_of_time() -> Stage:
    """The time is over before a trial is complete."""
    stage = reading_data(budget={"maxDurationSeconds": 600})
    stage.wait(700)
    stage.settle()
    stage.pods = ()
    stage.settle()
    return stage


def failed_finalizer() -> Stage:
    stage = finalizing()
    stage.pods = (make_pod("f", component=Component.FINALIZER, phase="Failed", exit_code=1, message="no space left"),)
    stage.end_batch_job("-finalize", "Failed")
    stage.settle()
    return stage


def profile_missing() -> Stage:
    stage = new_job()
    stage.profile_missing = True
    stage.settle()
    return stage


def profile_gone() -> Stage:
    """Deleted while the job is running, which goes on as it was."""
    stage = searching()
    stage.profile_missing = True
    stage.settle()
    return stage


def stored(**spec: Any) -> Stage:
    stage = finalizing(**spec)
    stage.study = replace(stage.study or make_summary(), result=make_result())
    stage.settle()
    return stage


def serving_failed() -> Stage:
    stage = stored(**SERVED)
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "too late"}
    stage.children[SERVER] = {**stage.children[SERVER], "status": {"observedGeneration": 1, "conditions": [late]}}
    stage.settle()
    return stage


def serving_image_missing() -> Stage:
    stage = stored(**SERVED)
    pod = make_pod("s", component=Component.SERVER, phase="Pending", reason="ImagePullBackOff", message="no such image")
    stage.pods = (pod,)
    stage.settle()
    return stage


def ready() -> Stage:
    stage = stored(**SERVED)
    status = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
    stage.children[SERVER] = {**stage.children[SERVER], "status": status}
    stage.settle()
    return stage


def model_removed() -> Stage:
    """Somebody has deleted the AutoMLModel; the endpoint goes on."""
    stage = ready()
    stage.children = {ref: m for ref, m in stage.children.items() if ref.kind != "AutoMLModel"}
    stage.settle()
    return stage


def not_seen_since_edited() -> Stage:
    stage = ready()
    stage.edit(serving={"replicas": 3})
    return stage


STATES: dict[str, Callable[[], Stage]] = {
    "new": new_job,
    "pending": pending,
    "queued": queued,
    "reading-data": reading_data,
    "searching": searching,
    "suspended": suspended,
    "suspended-from-the-start": lambda: pending(suspend=True),
    "unschedulable": held_up("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"),
    "image-unavailable": held_up("ImagePullBackOff", 'Back-off pulling image "trainer:0.1"'),
    "secret-missing": held_up("CreateContainerConfigError", 'secret "lake-ro" not found'),
    "study-away": study_away,
    "refused": refused,
    "refused-later": refused_later,
    "profile-missing": profile_missing,
    "profile-gone": profile_gone,
    "finalizing": finalizing,
    "failed-data": failed(Failure("data", "TargetNotFound", "spec.task.target: column 'churned' is not in the data")),
    "failed-search": failed(Failure("search", "InvalidSearch", "no family is left to search")),
    "failed-workers": failed_workers,
    "failed-trials": failed_trials,
    "failed-finalizer": failed_finalizer,
    "out-of-time": out_of_time,
    "stored": stored,
    "gate-not-passed": lambda: stored(serving={"replicas": 2, "gate": {"metric": "RocAuc", "min": "0.99"}}),
    "deploying": lambda: stored(**SERVED),
    "serving-failed": serving_failed,
    "serving-image-missing": serving_image_missing,
    "ready": ready,
    "model-removed": model_removed,
    "not-seen-since-edited": not_seen_since_edited,
    "being-deleted": ready,
}


def job_in(state: str) -> Manifest:
    """The AutoMLJob as a client sees it in that state."""
    manifest = STATES[state]().job.to_manifest()
    if state == "new":
        manifest["status"] = {"observedGeneration": -1}  # the schema's default
    if state == "being-deleted":
        manifest["metadata"]["deletionTimestamp"] = "2026-01-05T13:00:00Z"
    return manifest


def model_in(state: str) -> Manifest | None:
    """The AutoMLModel that belongs to a job in that state, if there is one."""
    children = STATES[state]().children
    found = next((m for ref, m in children.items() if ref.kind == "AutoMLModel"), None)
    return found and {**found, "metadata": {**found["metadata"], "generation": 1}}
