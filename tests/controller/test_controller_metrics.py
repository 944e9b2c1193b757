"""Metrics, the endpoints that show them, and the settings from the environment."""

from __future__ import annotations

import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from controller.life import make_churn
from kubeautoml.api.conditions import Condition, ConditionStatus, Reason
from kubeautoml.api.errors import ClusterError, Throttled, UsageError
from kubeautoml.api.job import AutoMLJobStatus, TrialCounts
from kubeautoml.api.objects import Ref
from kubeautoml.cluster.memory import MemoryCluster
from kubeautoml.controller.endpoints import Endpoints
from kubeautoml.controller.metrics import CountedCluster, Metrics, state_of
from kubeautoml.controller.settings import OperatorSettings

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CHURN, PRICE = Ref("AutoMLJob", "team-a", "churn"), Ref("AutoMLJob", "team-a", "price")


def make_status(accepted: str = "True", succeeded: str | None = None, **fields: object) -> AutoMLJobStatus:
    facts = {"Accepted": accepted, **({"Succeeded": succeeded} if succeeded else {})}
    conditions = tuple(
        Condition(type=k, status=ConditionStatus(v), reason=Reason.SPEC_VALID, last_transition_time=NOON)
        for k, v in facts.items()
    )
    return AutoMLJobStatus(conditions=conditions, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (AutoMLJobStatus(), "Pending"),
        (make_status(accepted="False"), "Refused"),
        (make_status(start_time=NOON), "Searching"),
        (make_status(start_time=NOON, suspended_since=NOON), "Suspended"),
        (make_status(succeeded="True", start_time=NOON), "Succeeded"),
        (make_status(succeeded="False", start_time=NOON), "Failed"),
    ],
)
def test_every_job_is_in_one_state(status: AutoMLJobStatus, state: str) -> None:
    """Derived from conditions and times, never stored."""
    assert state_of(status) == state


def test_jobs_and_trials_are_counted_as_they_are_now() -> None:
    """A job moves from state to state, and leaves when it is deleted."""
    metrics = Metrics(queue_depth=lambda: 3)
    metrics.show(CHURN, make_status(start_time=NOON, trials=TrialCounts(running=2, completed=5)))
    metrics.show(PRICE, make_status(start_time=NOON, trials=TrialCounts(completed=1)))
    metrics.show(PRICE, make_status(succeeded="True", start_time=NOON, trials=TrialCounts(completed=7)))
    metrics.show(CHURN, None)

    def sample(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert (sample("kubeautoml_jobs", state="Searching"), sample("kubeautoml_jobs", state="Succeeded")) == (0, 1)
    assert (sample("kubeautoml_trials", state="completed"), sample("kubeautoml_trials", state="running")) == (7, 0)
    assert sample("kubeautoml_queue_depth") == 3


@pytest.mark.anyio
async def test_requests_are_counted_with_their_outcome() -> None:
    """Verb, kind, and Ok or the reason of the refusal."""
    metrics, memory = Metrics(), MemoryCluster()
    cluster = CountedCluster(memory, metrics)
    memory.fail_next(Throttled("slow down"), verb="list")

    await cluster.get(CHURN)
    with pytest.raises(Throttled):
        await cluster.list("AutoMLJob")

    def count(verb: str, outcome: str) -> float | None:
        labels = {"verb": verb, "kind": "AutoMLJob", "outcome": outcome}
        return metrics.registry.get_sample_value("kubeautoml_api_requests_total", labels)

    assert (count("get", "Ok"), count("list", "Throttled"), count("list", "Ok")) == (1, 1, None)


@pytest.mark.anyio
async def test_jobs_are_counted_as_they_pass_by() -> None:
    """Reading a job and writing its status show its state; reading one that is gone forgets it."""
    metrics, memory = Metrics(), MemoryCluster()
    cluster = CountedCluster(memory, metrics)
    await memory.put(make_churn())
    churn = Ref("AutoMLJob", "team-a", "churn")

    def jobs() -> dict[str, float]:
        samples = next(m for m in metrics.registry.collect() if m.name == "kubeautoml_jobs").samples
        return {s.labels["state"]: s.value for s in samples if s.value}

    await cluster.get(churn)
    read = jobs()
    await cluster.patch_status(churn, make_status(start_time=NOON).to_manifest())
    written = jobs()
    await cluster.delete(churn)
    await cluster.get(churn)

    assert (read, written, jobs()) == ({"Pending": 1}, {"Searching": 1}, {})


@pytest.mark.anyio
async def test_passes_are_measured_and_their_failures_counted_by_reason() -> None:
    """The error goes on to the queue, which decides when to try again."""
    metrics = Metrics()

    async def handle(ref: Ref) -> timedelta | None:
        if ref == PRICE:
            raise ClusterError("down")
        return timedelta(seconds=5)

    measured = metrics.measured(handle)
    wake = await measured(CHURN)
    with pytest.raises(ClusterError):
        await measured(PRICE)

    assert wake == timedelta(seconds=5)
    value = metrics.registry.get_sample_value
    assert value("kubeautoml_reconcile_duration_seconds_count") == 2
    assert value("kubeautoml_reconcile_errors_total", {"reason": "ClusterUnavailable"}) == 1


def test_endpoints_answer_health_readiness_and_metrics() -> None:
    """200 or 503 for the probes, text for Prometheus, 404 with a hint for the rest."""
    ready = False

    def fetch(port: int, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    registry = Metrics().registry
    with Endpoints({0}, registry, is_healthy=lambda: True, is_ready=lambda: ready, host="127.0.0.1") as endpoints:
        [port] = endpoints.ports
        assert fetch(port, "/healthz") == (200, "ok\n")
        assert fetch(port, "/readyz") == (503, "not yet\n")
        ready = True
        assert fetch(port, "/readyz") == (200, "ok\n")
        assert "kubeautoml_queue_depth 0.0" in fetch(port, "/metrics")[1]
        assert fetch(port, "/other")[0] == 404


def test_a_taken_port_is_said_in_one_line() -> None:
    """The operator's metrics or health port may belong to somebody else."""
    registry = CollectorRegistry()
    with (
        Endpoints({0}, registry, lambda: True, lambda: True, host="127.0.0.1") as first,
        pytest.raises(UsageError, match=f"port {first.ports[0]} cannot be used: Address already in use"),
    ):
        Endpoints({first.ports[0]}, registry, lambda: True, lambda: True, host="127.0.0.1")


# Settings


def test_settings_come_from_the_environment() -> None:
    """Everything but the study URL has a default."""
    settings = OperatorSettings.from_env(
        {
            "KUBEAUTOML_STUDY_URL": "grpc://study:13000",
            "KUBEAUTOML_OPERATOR_STUDY_URL": "postgresql://db/studies",
            "KUBEAUTOML_TRAINER_IMAGE": "registry/trainer@sha256:1",
            "KUBEAUTOML_NAMESPACES": "team-a, team-b,",
            "KUBEAUTOML_CONCURRENCY": "3",
            "KUBEAUTOML_STUDY_TOKEN_FILE": "/tokens/study",
        }
    )

    assert (settings.plan.study_url, settings.plan.trainer_image) == ("grpc://study:13000", "registry/trainer@sha256:1")
    assert settings.study_url_for(None) == "postgresql://db/studies"
    assert (settings.namespaces, settings.concurrency) == (("team-a", "team-b"), 3)
    assert settings.study_token_file == Path("/tokens/study")
    assert settings.plan.resync_seconds == 30.0


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "KUBEAUTOML_STUDY_URL must hold the study URL"),
        ({"KUBEAUTOML_STUDY_URL": "x", "KUBEAUTOML_CONCURRENCY": "many"}, "must be a number of at least 1, got 'many'"),
        ({"KUBEAUTOML_STUDY_URL": "x", "KUBEAUTOML_CONCURRENCY": "0"}, "must be a number of at least 1, got '0'"),
        ({"KUBEAUTOML_STUDY_URL": "x", "KUBEAUTOML_RESYNC_SECONDS": "nan"}, "KUBEAUTOML_RESYNC_SECONDS must be"),
    ],
)
def test_settings_that_do_not_fit_are_named(env: dict[str, str], message: str) -> None:
    """One line with the variable, the rule and the value."""
    with pytest.raises(UsageError, match=message):
        OperatorSettings.from_env(env)
