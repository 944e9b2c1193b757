"""`kubectl wait` returns at the right moment, and what is left when a job ends, expires, and is deleted from Git."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from gitops.team import NOWHERE, PATIENCE_SECONDS, Team, eventually, make_churn
from kubeautoml.api.names import Component
from kubeautoml.api.objects import Manifest
from kubeautoml.api.trials import Failure

pytestmark = pytest.mark.controlplane


class Waits:
    """`kubectl wait` for several conditions of one job, each in its process."""

    def __init__(self, team: Team, name: str, *conditions: str) -> None:
        self.processes: dict[str, subprocess.Popen[str]] = {
            c: team.start("wait", f"--for=condition={c}", f"automljob/{name}", "--timeout=600s") for c in conditions
        }

    def going_on(self) -> set[str]:
        return {c for c, process in self.processes.items() if process.poll() is None}

    def has_returned(self, condition: str) -> bool:
        """With success, in time."""
        process = self.processes[condition]
        process.wait(PATIENCE_SECONDS)
        return process.returncode == 0

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.communicate()


@pytest.fixture
def waits(request: pytest.FixtureRequest) -> Any:
    made: list[Waits] = []

    def start(*arguments: Any) -> Waits:
        made.append(Waits(*arguments))
        return made[-1]

    yield start
    for w in made:
        w.end()


def names(objects: list[Manifest]) -> list[str]:
    return [o["metadata"]["name"] for o in objects]


def test_waiting_ends_with_the_model_and_then_with_the_endpoint(team: Team, waits: Any) -> None:
    """Succeeded when the model is there, Ready when a server answers; pods go with their time, the job and its model stay."""
    name = "served"
    retention = {"ttlSecondsAfterFinished": 0}
    team.apply(make_churn(name, serving={"replicas": 1, **NOWHERE}, retention=retention))
    waiting = waits(team, name, "Succeeded", "Ready", "Succeeded=false", "Ready=false")

    team.search(name)
    eventually(lambda: team.job(name)["status"]["trials"]["completed"] == 2, "the operator sees the trials")
    assert waiting.going_on() == {"Succeeded", "Ready", "Succeeded=false", "Ready=false"}
    team.finalize(name)
    assert waiting.has_returned("Succeeded")
    assert team.condition(name, "Succeeded") == "True ModelTrained"
    assert waiting.going_on() == {"Ready", "Succeeded=false", "Ready=false"}

    team.start_pods(name, Component.SERVER)
    assert waiting.has_returned("Ready")
    assert team.condition(name, "Ready") == "True Serving"
    assert waiting.going_on() == {"Succeeded=false", "Ready=false"}

    eventually(lambda: not team.objects(name, "jobs") and not team.pods(name, Component.WORKER), "its pods expire")
    team.settled(name)
    [model] = team.objects(name, "automlmodels")
    assert team.condition(name, "Succeeded") == "True ModelTrained"
    assert len(team.objects(name, "deployments")) == 1

    # an edit that changes nothing about the endpoint: whoever waits then is not left waiting
    team.plane.admin.patch(team.path(name), {"spec": {"retention": {"keepTrialArtifacts": 3}}})
    assert waits(team, name, "Ready").has_returned("Ready")
    assert team.job(name)["status"]["observedGeneration"] == 2

    team.kubectl("delete", "automljob", name, "--timeout=90s")
    eventually(
        lambda: not team.objects(name, "deployments") and not team.objects(name, "services"), "the endpoint goes"
    )

    def model_is_alone() -> bool:
        [left] = team.objects(name, "automlmodels")
        assert left["metadata"]["uid"] == model["metadata"]["uid"]
        return "its job is gone" in left["status"]["conditions"][0]["message"]

    eventually(model_is_alone, "the model says that its job is gone")


def test_waiting_for_the_failure_ends_with_it(team: Team, waits: Any) -> None:
    """Both negative forms return when the job has failed, and the positive ones do not."""
    name = "failing"
    team.apply(make_churn(name))
    waiting = waits(team, name, "Succeeded", "Ready", "Succeeded=false", "Ready=false")
    eventually(lambda: team.condition(name, "Succeeded").startswith("Unknown"), "it begins")
    assert waiting.going_on() == {"Succeeded", "Ready", "Succeeded=false", "Ready=false"}

    team.fail(name, Failure("data", "TargetNotFound", "spec.task.target: column 'churned' is not in the data"))

    assert waiting.has_returned("Succeeded=false") and waiting.has_returned("Ready=false")
    assert team.condition(name, "Succeeded") == "False TargetNotFound"
    assert waiting.going_on() == {"Succeeded", "Ready"}


def test_a_refused_manifest_is_told_from_an_accepted_one(team: Team, waits: Any) -> None:
    """Accepted is the first to wait for: a refused job never begins, and so never fails."""
    team.apply(make_churn("good"), make_churn("bad", objective={"metric": "Rmse"}))

    assert waits(team, "good", "Accepted").has_returned("Accepted")
    assert waits(team, "bad", "Accepted=False").has_returned("Accepted=False")
    assert team.condition("bad", "Accepted") == "False UnfittingMetric"
    assert team.condition("bad", "Succeeded") == "" and team.objects("bad", "jobs") == []


def test_a_model_goes_with_its_job_where_the_job_says_so(team: Team, waits: Any) -> None:
    """retention.model: Delete. A job that is not served is Ready when its model is stored."""
    name = "stored"
    team.apply(make_churn(name, retention={"model": "Delete"}))
    waiting = waits(team, name, "Ready")
    team.search(name)
    assert waiting.going_on() == {"Ready"}
    team.finalize(name)
    assert waiting.has_returned("Ready")
    assert len(names(team.objects(name, "automlmodels"))) == 1

    team.kubectl("delete", "automljob", name, "--timeout=90s")

    eventually(lambda: not team.objects(name, "automlmodels"), "the model goes, too")
    eventually(lambda: not team.objects(name, "jobs"), "the batch Jobs go, too")
