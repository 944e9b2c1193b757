"""What becomes of a job, its model and its endpoint after the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from factories import (
    SETTINGS,
    make_pod,
    make_result,
)
from kubeautoml.api.names import Component
from kubeautoml.api.objects import Ref
from plan.life import (
    FINALIZER,
    MODEL,
    POLICY,
    SERVER,
    SERVICE,
    WORKERS,
    finalizing,
    finished,
    model_is_stored,
    servers_answer,
)


def test_without_serving_the_stored_model_is_ready() -> None:
    stage = finished()

    assert stage.conditions()["Ready"] == "True ModelStored"
    assert stage.kinds() == sorted(f"{r.kind} {r.name}" for r in (WORKERS, FINALIZER, MODEL, POLICY))


def test_on_a_laptop_the_model_is_stored_and_the_command_named() -> None:
    stage = finished(serving={})
    stage.settings = replace(SETTINGS, serving_enabled=False)

    stage.settle()

    assert stage.conditions()["Ready"] == "True ModelStored"
    uri = make_result().model_uri
    assert stage.message("Ready") == f"the model is stored at {uri}; serve it with: kubeautoml serve --model {uri}"
    assert SERVER not in stage.children


def test_a_model_that_misses_its_gate_is_not_served() -> None:
    stage = finished(serving={"gate": {"metric": "RocAuc", "min": "0.99"}})

    assert stage.conditions()["Succeeded"] == "True ModelTrained"
    assert stage.conditions()["Ready"] == "False GateNotPassed"
    assert SERVER not in stage.children


def test_serving_can_be_added_changed_and_taken_away() -> None:
    stage = finished()

    stage.edit(budget={"maxTrials": 3}, serving={"replicas": 2})
    stage.settle()
    assert stage.conditions()["Ready"] == "Unknown Deploying"
    servers_answer(stage)
    stage.settle()
    assert stage.conditions()["Ready"] == "True Serving"

    stage.edit(budget={"maxTrials": 3}, serving={"autoscaling": {"maxReplicas": 3}})
    stage.settle()
    assert "HorizontalPodAutoscaler churn-server" in stage.kinds()
    assert "PodDisruptionBudget churn-server" not in stage.kinds()
    assert "replicas" not in stage.children[SERVER]["spec"]

    stage.edit(budget={"maxTrials": 3})
    stage.settle()
    assert stage.conditions()["Ready"] == "True ModelStored"
    assert stage.kinds() == sorted(f"{r.kind} {r.name}" for r in (WORKERS, FINALIZER, MODEL, POLICY))
    assert stage.job.status.serving is None


def test_an_endpoint_that_was_edited_or_deleted_comes_back() -> None:
    stage = finished(serving={"replicas": 2})
    del stage.children[SERVICE]
    stage.children[SERVER]["spec"]["replicas"] = 7

    passes = stage.settle()

    assert [Ref.of(m) for p in passes for m in p.apply] == [SERVER, SERVICE]
    assert stage.children[SERVER]["spec"]["replicas"] == 2


@pytest.mark.parametrize(
    ("status", "ready"),
    [
        ({}, "Unknown Deploying"),
        ({"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 2}, "Unknown Deploying"),
        ({"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 1}, "Unknown Deploying"),
        ({"observedGeneration": 0, "updatedReplicas": 2, "availableReplicas": 2}, "Unknown Deploying"),
        ({"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 2}, "True Serving"),
        (
            {"conditions": [{"type": "Progressing", "status": "False", "message": "deadline exceeded"}]},
            "False ServingFailed",
        ),
    ],
)
def test_ready_means_that_the_rollout_is_complete(status: dict[str, Any], ready: str) -> None:
    stage = finished(serving={"replicas": 2})
    stage.children[SERVER] = {**stage.children[SERVER], "status": status}

    stage.settle()

    assert stage.conditions()["Ready"] == ready


def test_a_finished_job_does_not_train_again() -> None:
    """Neither a larger budget nor a lost study changes what was made."""
    stage = finished()
    stage.study = None

    stage.edit(budget={"maxTrials": 9000})
    passes = stage.settle()

    assert [m for p in passes for m in p.apply] == []
    assert stage.conditions()["Succeeded"] == "True ModelTrained"


@pytest.mark.parametrize("has_failed", [False, True])
def test_after_its_time_to_live_pods_go_and_the_job_stays(has_failed: bool) -> None:
    """The planner wakes by itself for it; the model and the endpoint are no leftovers."""
    stage = finalizing(retention={"ttlSecondsAfterFinished": 100}, serving={"replicas": 2})
    if has_failed:
        stage.pods = (make_pod("pod-f", Component.FINALIZER, "Failed", exit_code=1),)
        stage.end_batch_job("finalize", "Failed")
    else:
        model_is_stored(stage)
    stage.settle()
    kept = [k for k in stage.kinds() if not k.startswith("Job ") and k != f"NetworkPolicy {POLICY.name}"]
    assert stage.look().wake_after == timedelta(seconds=100)

    stage.wait(100)
    stage.settle()

    assert stage.kinds() == kept
    assert stage.look().wake_after is None


def test_a_time_to_live_of_ages_is_looked_at_once_a_day() -> None:
    stage = finished(retention={"ttlSecondsAfterFinished": 10**18})

    assert stage.look().wake_after == timedelta(days=1)
