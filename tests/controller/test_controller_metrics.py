"""Metrics, the endpoints that show them, and the settings from the environment."""

from __future__ import annotations

import asyncio
import re
import socket
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import kubeautoml.controller.metrics as metrics_module
from controller.life import make_churn
from kubeautoml import __version__
from kubeautoml.api.conditions import Condition, ConditionStatus, Reason
from kubeautoml.api.errors import ClusterError, Conflict, StudyError, Throttled, UsageError
from kubeautoml.api.job_status import AutoMLJobStatus, BudgetUsed, RankedTrial, ServingStatus, TrialCounts
from kubeautoml.api.objects import Ref
from kubeautoml.cluster.memory import MemoryCluster
from kubeautoml.controller.census import SEARCHES_SHOWN, STATES, Census, state_of
from kubeautoml.controller.endpoints import Endpoints
from kubeautoml.controller.metrics import CountedCluster, CountedLeases, Metrics
from kubeautoml.controller.queue import Lane
from kubeautoml.controller.settings import OperatorSettings

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CHURN, PRICE = Ref("AutoMLJob", "team-a", "churn"), Ref("AutoMLJob", "team-a", "price")


def make_status(
    accepted: str = "True", succeeded: str | None = None, admitted: str | None = None, **fields: object
) -> AutoMLJobStatus:
    facts = [("Accepted", accepted, Reason.SPEC_VALID)]
    facts += [("Succeeded", succeeded, Reason.MODEL_TRAINED)] if succeeded else []
    facts += [("Admitted", "False", Reason(admitted))] if admitted else []
    conditions = tuple(
        Condition(type=k, status=ConditionStatus(v), reason=r, last_transition_time=NOON) for k, v, r in facts
    )
    return AutoMLJobStatus(conditions=conditions, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (AutoMLJobStatus(), "Pending"),
        (make_status(accepted="False"), "Refused"),
        (make_status(start_time=NOON), "Searching"),
        (make_status(start_time=NOON, suspended_since=NOON), "Suspended"),
        (make_status(admitted="Queued", start_time=NOON, suspended_since=NOON), "Queued"),
        (make_status(succeeded="True", start_time=NOON), "Succeeded"),
        (make_status(succeeded="False", start_time=NOON), "Failed"),
    ],
)
def test_every_job_is_in_one_state(status: AutoMLJobStatus, state: str) -> None:
    """Derived from conditions and times, never stored."""
    assert state_of(status) == state


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Values that are not 0, by the values of their labels."""
    found = next(m for m in metrics.registry.collect() if m.name == f"kubeautoml_{name}").samples
    return {tuple(s.labels.values()): s.value for s in found if s.value}


def test_jobs_and_trials_are_counted_as_they_are_now() -> None:
    """A job moves from state to state, and leaves when it is deleted; sums are by namespace."""
    metrics = Metrics()
    used = BudgetUsed(trials=7, duration_seconds=60, accelerator_seconds=120, ended_by="MaxTrials")
    show = metrics.census.show
    show(CHURN, make_status(start_time=NOON, trials=TrialCounts(running=2, completed=5)))
    show(PRICE, make_status(start_time=NOON, trials=TrialCounts(completed=1)))
    show(PRICE, make_status(succeeded="True", start_time=NOON, trials=TrialCounts(completed=7), budget_used=used))
    show(Ref("AutoMLJob", "team-b", "churn"), make_status(accepted="False"))
    show(CHURN, None)

    assert samples(metrics, "jobs") == {("team-a", "Succeeded"): 1, ("team-b", "Refused"): 1}
    assert samples(metrics, "trials") == {("team-a", "Completed"): 7}
    assert samples(metrics, "trials_used") == {("team-a",): 7}
    assert samples(metrics, "duration_seconds_used") == {("team-a",): 60}
    assert samples(metrics, "accelerator_seconds_used") == {("team-a",): 120}
    assert samples(metrics, "searches_ended") == {("team-a", "MaxTrials"): 1}


def test_endpoints_are_counted_by_whether_they_answer() -> None:
    """A job without an endpoint counts as neither."""
    metrics = Metrics()
    serving = ServingStatus(url="http://churn", model_version="v1")
    ready = Condition(type="Ready", status=ConditionStatus.TRUE, reason=Reason.SERVING, last_transition_time=NOON)
    metrics.census.show(CHURN, make_status(serving=serving))
    before = samples(metrics, "endpoints")
    metrics.census.show(CHURN, AutoMLJobStatus(conditions=(ready,), serving=serving))
    metrics.census.show(PRICE, make_status())

    assert (before, samples(metrics, "endpoints")) == ({("team-a", "NotReady"): 1}, {("team-a", "Ready"): 1})


def test_a_namespace_without_jobs_is_shown_no_more() -> None:
    """Ten thousand jobs in a thousand namespaces come and go, and leave nothing behind."""
    census = Census()
    refs = [Ref("AutoMLJob", f"team-{n % 1000}", f"job-{n}") for n in range(10_000)]
    for ref in refs:
        census.show(ref, make_status(start_time=NOON, trials=TrialCounts(running=1)))
    busy = sum(len(family.samples) for family in census.collect())
    for ref in refs[:9_999]:
        census.show(ref, None)
    census.keep_only([])

    assert busy == 1000 * (len(STATES) + 5 + 3 + 2 + 5) + SEARCHES_SHOWN
    assert (len(census), [family.samples for family in census.collect()]) == (0, [[]] * 11)


def test_states_of_a_namespace_are_shown_also_when_they_are_zero() -> None:
    """An alert on failed jobs needs a series before the first one fails."""
    metrics = Metrics()
    metrics.census.show(CHURN, make_status())

    value = metrics.registry.get_sample_value("kubeautoml_jobs", {"namespace": "team-a", "state": "Failed"})

    assert value == 0


def test_the_queue_is_shown_by_lane() -> None:
    """Gauges are read when somebody asks."""
    metrics, depth = Metrics(), {Lane.EDIT: 1, Lane.EVENT: 3, Lane.TIMED: 500}
    metrics.watch_lanes("queue_depth", "Jobs that wait.", lambda lane: depth[lane])
    metrics.watch("passes_running", "Passes.", lambda: 8)
    metrics.watch_total("api_throttle_wait_seconds", "Waits.", lambda: 1.5)
    metrics.began_pass(Lane.EVENT, 0.2)
    metrics.ended_pass(Lane.EVENT, "Ok")
    value = metrics.registry.get_sample_value

    assert [value("kubeautoml_queue_depth", {"lane": lane.value}) for lane in Lane] == [1, 3, 500]
    assert value("kubeautoml_passes_running") == 8
    assert value("kubeautoml_api_throttle_wait_seconds_total") == 1.5
    assert value("kubeautoml_queue_wait_seconds_count", {"lane": "Event"}) == 1
    assert value("kubeautoml_passes_total", {"lane": "Event", "result": "Ok"}) == 1
    assert value("kubeautoml_build_info", {"version": __version__}) == 1


def test_what_jobs_have_done_is_counted_up_from_when_they_were_seen_first() -> None:
    """Counters never fall: not when a job is deleted, nor when a retry counts its budgets anew. What was there before is unknown."""
    metrics = Metrics()
    show = metrics.census.show

    def ran(completed: int, seconds: int) -> AutoMLJobStatus:
        return make_status(
            start_time=NOON,
            trials=TrialCounts(completed=completed, failed=1),
            budget_used=BudgetUsed(accelerator_seconds=seconds),
        )

    show(CHURN, ran(100, 5000))
    assert samples(metrics, "trials_ended") == {}
    show(CHURN, ran(103, 5060))
    show(CHURN, ran(104, 20))
    show(CHURN, ran(104, 50))
    show(PRICE, make_status())
    show(CHURN, None)
    show(PRICE, ran(2, 7))

    assert samples(metrics, "trials_ended") == {("team-a", "Completed"): 6, ("team-a", "Failed"): 1}
    assert samples(metrics, "accelerator_seconds") == {("team-a",): 97}


def test_running_searches_are_shown_by_name() -> None:
    """Best score and share of the budget; a job that has ended, or is gone, shows nothing."""
    metrics = Metrics()
    best = RankedTrial(trial=3, value="0.91", family="Linear")
    metrics.census.show(CHURN, make_status(start_time=NOON, best=best, progress_percentage=40))
    metrics.census.show(PRICE, make_status(start_time=NOON, progress_percentage=10))

    assert samples(metrics, "search_best_value") == {("team-a", "churn"): 0.91}
    assert samples(metrics, "search_budget_used_ratio") == {("team-a", "churn"): 0.4, ("team-a", "price"): 0.1}

    metrics.census.show(CHURN, make_status(start_time=NOON, completion_time=NOON, best=best, succeeded="True"))
    metrics.census.show(PRICE, None)
    assert samples(metrics, "search_best_value") == {}
    assert samples(metrics, "search_budget_used_ratio") == {}


def test_the_number_of_searches_that_are_shown_is_bounded() -> None:
    """A place is kept until its search ends; then the next one that passes by has it."""
    metrics = Metrics()
    jobs = [Ref("AutoMLJob", "team-a", f"job-{n}") for n in range(SEARCHES_SHOWN + 50)]
    running = make_status(start_time=NOON, progress_percentage=50)
    for job in jobs:
        metrics.census.show(job, running)

    shown = {name for _, name in samples(metrics, "search_budget_used_ratio")}
    assert shown == {job.name for job in jobs[:SEARCHES_SHOWN]}

    metrics.census.show(jobs[0], None)
    metrics.census.show(jobs[-1], running)
    shown = {name for _, name in samples(metrics, "search_budget_used_ratio")}
    assert jobs[-1].name in shown
    assert len(shown) == SEARCHES_SHOWN


def test_every_metric_is_in_the_table() -> None:
    """Dashboards and alerts are built on the docstring's names; it must neither lack one nor invent one."""
    metrics = Metrics()
    for name in ("queue_depth", "queue_overdue_seconds"):
        metrics.watch_lanes(name, "", lambda lane: 0)
    for name in WATCHED:
        metrics.watch(name, "", lambda: 0)
    metrics.watch_namespaces("namespace_denied", "", (), set)
    metrics.watch_total("api_throttle_wait_seconds", "", lambda: 0)
    counters = {m.name for m in metrics.registry.collect() if m.type == "counter"}
    found = {m.name + ("_total" if m.name in counters else "") for m in metrics.registry.collect()}

    assert {name for name in found if name.startswith("kubeautoml_")} == set(
        re.findall(r"^\| (kubeautoml_\w+)", metrics_module.__doc__ or "", re.MULTILINE)
    )


WATCHED = (
    "passes_running",
    "watch_silence_seconds",
    "watch_synced",
    "leader",
    "lease_silence_seconds",
    "event_loop_lag_seconds",
)
"""Gauges that main.py adds, as the test of the running operator holds."""


def test_study_calls_and_lease_requests_are_counted() -> None:
    """By call and outcome; a failure goes on to the caller."""
    metrics = Metrics()

    class Leases:
        def read_lease(self, ref: Ref) -> None:
            return None

        def write_lease(self, lease: dict[str, object]) -> dict[str, object]:
            raise Conflict("changed")

    leases = CountedLeases(Leases(), metrics)
    leases.read_lease(Ref("Lease", "system", "x"))
    with pytest.raises(Conflict):
        leases.write_lease({})
    with pytest.raises(StudyError), metrics.study_call("summary"):
        raise StudyError("away")
    with pytest.raises(asyncio.CancelledError), metrics.study_call("summary"):
        raise asyncio.CancelledError
    with pytest.raises(ValueError, match="bug"), metrics.study_call("summary"):
        raise ValueError("bug")

    value = metrics.registry.get_sample_value
    for verb, outcome in (("get", "Ok"), ("replace", "Conflict")):
        labels = {"verb": verb, "kind": "Lease", "outcome": outcome}
        assert value("kubeautoml_api_requests_total", labels) == 1
    outcomes = ("StudyUnavailable", "Cancelled", "InternalError")
    calls = [value("kubeautoml_study_calls_total", {"call": "summary", "outcome": o}) for o in outcomes]
    assert calls == [1, 1, 1]
    assert value("kubeautoml_study_call_duration_seconds_count", {"call": "summary"}) == 3


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

    def jobs() -> dict[tuple[str, ...], float]:
        return samples(metrics, "jobs")

    await cluster.get(churn)
    read = jobs()
    await cluster.patch_status(churn, make_status(start_time=NOON).to_manifest())
    written = jobs()
    await cluster.delete(churn)
    await cluster.get(churn)

    assert (read, written, jobs()) == ({("team-a", "Pending"): 1}, {("team-a", "Searching"): 1}, {})


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
    """200, or 503 with the reason, for the probes, text for Prometheus, 404 with a hint for the rest."""
    why: str | None = "a watch has heard nothing for 300 s"

    def fetch(port: int, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    registry = Metrics().registry
    with Endpoints({0}, registry, lambda: None, lambda: why, host="127.0.0.1") as endpoints:
        [port] = endpoints.ports
        assert fetch(port, "/healthz") == (200, "ok\n")
        assert fetch(port, "/readyz") == (503, "a watch has heard nothing for 300 s\n")
        why = None
        assert fetch(port, "/readyz") == (200, "ok\n")
        assert "kubeautoml_reconcile_duration_seconds_count 0.0" in fetch(port, "/metrics")[1]
        assert fetch(port, "/other")[0] == 404


def test_endpoints_answer_on_every_address_of_the_pod() -> None:
    """Clusters may be of IPv4, of IPv6, or of both."""
    addresses = ["127.0.0.1", "[::1]"] if socket.has_dualstack_ipv6() else ["127.0.0.1"]
    with Endpoints({0}, CollectorRegistry(), lambda: None, lambda: None) as endpoints:
        for address in addresses:
            url = f"http://{address}:{endpoints.ports[0]}/healthz"
            assert urllib.request.urlopen(url, timeout=20).status == 200, address


def test_a_taken_port_is_said_in_one_line() -> None:
    """The operator's metrics or health port may belong to somebody else."""
    registry = CollectorRegistry()
    with (
        Endpoints({0}, registry, lambda: None, lambda: None, host="127.0.0.1") as first,
        pytest.raises(UsageError, match=f"port {first.ports[0]} cannot be used: Address already in use"),
    ):
        Endpoints({first.ports[0]}, registry, lambda: None, lambda: None, host="127.0.0.1")


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
            "KUBEAUTOML_TIMED_PASSES_PER_SECOND": "7.5",
            "KUBEAUTOML_NAMESPACE": "kubeautoml-system",
            "KUBEAUTOML_POD_NAME": "operator-0",
        }
    )

    assert (settings.plan.study_url, settings.plan.trainer_image) == ("grpc://study:13000", "registry/trainer@sha256:1")
    assert settings.study_url_for(None) == "postgresql://db/studies"
    assert (settings.namespaces, settings.concurrency) == (("team-a", "team-b"), 3)
    assert settings.study_token_file == Path("/tokens/study")
    assert settings.plan.resync_seconds == 30.0
    assert (settings.timed_passes_per_second, settings.elects_leader) == (7.5, True)
    assert (settings.namespace, settings.pod_name) == ("kubeautoml-system", "operator-0")


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
