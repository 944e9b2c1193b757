"""What happens around a job, as its planner sees it: shared by the tests of its life."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from factories import (
    UID,
    make_data,
    make_finished_trial,
    make_job,
    make_pod,
    make_result,
    make_running_trial,
    make_summary,
)
from kubeautoml.api.names import Component, finalizer_job_name, model_name, network_policy_name, worker_job_name
from kubeautoml.api.objects import Ref
from plan.carry import Stage

WORKERS = Ref("Job", "team-a", worker_job_name("churn", UID))
FINALIZER = Ref("Job", "team-a", finalizer_job_name("churn", UID))
MODEL = Ref("AutoMLModel", "team-a", model_name("churn", UID, "v1"))
POLICY = Ref("NetworkPolicy", "team-a", network_policy_name("churn", UID))
SERVER_POLICY = Ref("NetworkPolicy", "team-a", "churn-server")
SERVER = Ref("Deployment", "team-a", "churn-server")
SERVICE = Ref("Service", "team-a", "churn-server")


def study_of(stage: Stage, /, **changes: Any) -> None:
    """The study as workers, or the finalizer, left it."""
    stage.study = replace(stage.study or make_summary(), **changes)


# What happens around a job


def workers_start(stage: Stage) -> None:
    stage.pods = (make_pod("pod-1", started_at=stage.now.timestamp()),)


def data_is_read(stage: Stage) -> None:
    study_of(stage, data=make_data(warnings=("column id looks like an identifier",)))


def trials_run(stage: Stage) -> None:
    best = (make_finished_trial(1, 0.9), make_finished_trial(0, 0.8))
    study_of(stage, completed=2, running=1, running_trials=(make_running_trial(2),), best=best)


def trials_end(stage: Stage) -> None:
    study_of(stage, completed=3, running=0, running_trials=())


def workers_leave(stage: Stage) -> None:
    stage.pods = (make_pod("pod-1", phase="Succeeded", exit_code=0),)
    stage.end_batch_job("worker")


def finalizer_works(stage: Stage) -> None:
    stage.pods += (make_pod("pod-f", component=Component.FINALIZER),)
    study_of(stage, stage="choosing the ensemble")


def model_is_stored(stage: Stage) -> None:
    study_of(stage, result=make_result())
    stage.end_batch_job("finalize")


def servers_answer(stage: Stage) -> None:
    deployment = stage.children[SERVER]
    status = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
    stage.children[SERVER] = {**deployment, "status": status}


def searching(**spec: Any) -> Stage:
    """A job whose only worker has read the data."""
    stage = Stage(make_job(**{"budget": {"maxTrials": 3}, **spec}))
    stage.settle()
    workers_start(stage)
    data_is_read(stage)
    stage.settle()
    return stage


def finalizing(**spec: Any) -> Stage:
    stage = searching(**spec)
    trials_run(stage)
    trials_end(stage)
    stage.settle()
    workers_leave(stage)
    stage.settle()
    assert FINALIZER in stage.children
    return stage


def finished(**spec: Any) -> Stage:
    stage = finalizing(**spec)
    model_is_stored(stage)
    stage.settle()
    return stage
