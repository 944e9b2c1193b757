"""What the operator tells Prometheus about itself. Few labels, and a job's name only in the two metrics of running searches, which
are bounded (`census.SEARCHES_SHOWN`); names and labels are stable.

| metric | type | labels | what |
| --- | --- | --- | --- |
| kubeautoml_jobs | gauge | namespace, state | AutoMLJobs: Refused, Pending, Searching, Suspended, Queued, Succeeded, Failed |
| kubeautoml_trials | gauge | namespace, state | their trials: Running, Completed, Pruned, Failed, Preempted |
| kubeautoml_trials_used | gauge | namespace | trials that count against budgets, of the jobs there are |
| kubeautoml_duration_seconds_used | gauge | namespace | wall time likewise |
| kubeautoml_accelerator_seconds_used | gauge | namespace | accelerator time likewise |
| kubeautoml_trials_ended_total | counter | namespace, state | trials that ended: Completed, Pruned, Failed, Preempted |
| kubeautoml_accelerator_seconds_total | counter | namespace | accelerator time used, as it grew |
| kubeautoml_search_best_value | gauge | namespace, automljob | best score so far, of at most 200 searches that run |
| kubeautoml_search_budget_used_ratio | gauge | namespace, automljob | share that is used of their budgets, the one furthest used |
| kubeautoml_searches_ended | gauge | namespace, limit | searches that ended, by status.budgetUsed.endedBy |
| kubeautoml_endpoints | gauge | namespace, state | endpoints: Ready (answer) or NotReady |
| kubeautoml_reconcile_duration_seconds | histogram | | time of a pass |
| kubeautoml_passes_total | counter | lane, result | passes by lane (Edit, Event, Timed) and Ok, Failed, Throttled, TimedOut, Crashed |
| kubeautoml_reconcile_errors_total | counter | reason | passes that failed, by reason |
| kubeautoml_passes_running | gauge | | passes that are going on |
| kubeautoml_queue_depth | gauge | lane | jobs that wait for a pass, due or not |
| kubeautoml_queue_overdue_seconds | gauge | lane | longest wait of a job that is due |
| kubeautoml_queue_wait_seconds | histogram | lane | from being due to the beginning of the pass |
| kubeautoml_api_requests_total | counter | verb, kind, outcome | requests to the API server; outcome Ok or the refusal's reason |
| kubeautoml_api_request_duration_seconds | histogram | verb, kind | their time, with the wait for the client's own limit |
| kubeautoml_api_throttle_wait_seconds_total | counter | | time that requests waited for the client's own limit |
| kubeautoml_study_calls_total | counter | call, outcome | calls to studies; outcome Ok or the error's reason |
| kubeautoml_study_call_duration_seconds | histogram | call | their time |
| kubeautoml_watch_silence_seconds | gauge | | longest time that a watch has heard nothing, not even that there is nothing new |
| kubeautoml_watch_synced | gauge | | 1 once everything there is has been listed |
| kubeautoml_namespace_denied | gauge | namespace | 1 while the operator may not work in a namespace that it was told to work in |
| kubeautoml_leader | gauge | | 1 in the replica that works |
| kubeautoml_lease_silence_seconds | gauge | | since when the Lease could not be read or written |
| kubeautoml_event_loop_lag_seconds | gauge | | how late the event loop was at its last heartbeat |
| kubeautoml_build_info | gauge | version | 1 |

Beside them process_* (memory, CPU time, files) and python_info. Gauges of jobs are those of the leader: a standby shows none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from kubeautoml import __version__
from kubeautoml.api.errors import KubeAutoMLError
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.cluster.base import Change, Heard
from kubeautoml.cluster.cached import FollowedCluster
from kubeautoml.controller.census import Census
from kubeautoml.controller.lease import Leases
from kubeautoml.controller.observe import parse_status
from kubeautoml.controller.queue import Lane

_PASS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_CALL_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0)


class Metrics:
    """The operator's metrics, in a registry of their own."""

    def __init__(self) -> None:
        # The times at which counters were made: twice the series for nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.census = Census()
        self.registry.register(self.census)
        self._reconcile = self._histogram("reconcile_duration_seconds", "Time of a pass.", _PASS_BUCKETS)
        self._errors = self._counter("reconcile_errors_total", "Passes that failed, by reason.", "reason")
        self._passes = self._counter("passes_total", "Passes by lane and result.", "lane", "result")
        self._wait = self._histogram("queue_wait_seconds", "From being due to the pass.", _PASS_BUCKETS, "lane")
        self._requests = self._counter("api_requests_total", "Requests to the API server.", "verb", "kind", "outcome")
        self._request_seconds = self._histogram(
            "api_request_duration_seconds", "Time of requests to the API server.", _CALL_BUCKETS, "verb", "kind"
        )
        self._study_calls = self._counter("study_calls_total", "Calls to studies.", "call", "outcome")
        self._study_seconds = self._histogram(
            "study_call_duration_seconds", "Time of calls to studies.", _CALL_BUCKETS, "call"
        )
        self._gauge("build_info", "Version of the operator.", "version").labels(__version__).set(1)

    def watch(self, name: str, words: str, value: Callable[[], float]) -> None:
        """Show a gauge as it is when somebody asks, which happens in a thread of its own."""
        self._gauge(name, words).set_function(value)

    def watch_lanes(self, name: str, words: str, value: Callable[[Lane], float]) -> None:
        """Likewise, a number a lane of the queue."""
        gauge = self._gauge(name, words, "lane")
        for lane in Lane:
            gauge.labels(lane.value).set_function(partial(value, lane))

    def watch_namespaces(
        self, name: str, words: str, namespaces: Iterable[str], holds: Callable[[], Container[str]]
    ) -> None:
        """Likewise, 1 or 0 a namespace."""
        gauge = self._gauge(name, words, "namespace")
        for namespace in namespaces:
            gauge.labels(namespace).set_function(partial(_is_in, namespace, holds))

    def watch_total(self, name: str, words: str, value: Callable[[], float]) -> None:
        """Show as a counter what somebody else counts."""
        self.registry.register(_Total(f"kubeautoml_{name}", words, value))

    def measured(
        self, handle: Callable[[Ref], Awaitable[timedelta | None]]
    ) -> Callable[[Ref], Awaitable[timedelta | None]]:
        """The same pass, with its time and its failures counted."""

        async def pass_(ref: Ref) -> timedelta | None:
            began = time.perf_counter()
            try:
                return await handle(ref)
            except KubeAutoMLError as error:
                self._errors.labels(error.reason).inc()
                raise
            except Exception:
                self._errors.labels("InternalError").inc()
                raise
            finally:
                self._reconcile.observe(time.perf_counter() - began)

        return pass_

    def began_pass(self, lane: Lane, waited_seconds: float) -> None:
        """A pass begins, so long after it was due."""
        self._wait.labels(lane.value).observe(waited_seconds)

    def ended_pass(self, lane: Lane, result: str) -> None:
        """A pass has ended."""
        self._passes.labels(lane.value, result).inc()

    @contextmanager
    def request(self, verb: str, kind: str) -> Iterator[None]:
        """Count the request to the API server that is made within."""
        with self._timed(self._request_seconds.labels(verb, kind), self._requests, verb, kind):
            yield

    @contextmanager
    def study_call(self, call: str) -> Iterator[None]:
        """Count the call to a study that is made within."""
        with self._timed(self._study_seconds.labels(call), self._study_calls, call):
            yield

    @contextmanager
    def _timed(self, seconds: Histogram, calls: Counter, *labels: str) -> Iterator[None]:
        began, outcome = time.perf_counter(), "Ok"
        try:
            yield
        except KubeAutoMLError as error:
            outcome = error.reason
            raise
        except asyncio.CancelledError:
            outcome = "Cancelled"
            raise
        except Exception:
            outcome = "InternalError"
            raise
        finally:
            seconds.observe(time.perf_counter() - began)
            calls.labels(*labels, outcome).inc()

    def _gauge(self, name: str, words: str, *labels: str) -> Gauge:
        return Gauge(f"kubeautoml_{name}", words, labels, registry=self.registry)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"kubeautoml_{name}", words, labels, registry=self.registry)

    def _histogram(self, name: str, words: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"kubeautoml_{name}", words, labels, buckets=buckets, registry=self.registry)


def _is_in(namespace: str, those: Callable[[], Container[str]]) -> float:
    return float(namespace in those())


class _Total(Collector):
    """A counter that somebody else counts."""

    def __init__(self, name: str, words: str, value: Callable[[], float]) -> None:
        self._name, self._words, self._value = name, words, value

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._words, self._value())


class CountedCluster:
    """A cluster whose requests are counted by verb, kind and outcome; jobs that pass by are counted by state."""

    def __init__(self, cluster: FollowedCluster, metrics: Metrics) -> None:
        self._cluster = cluster
        self._metrics = metrics

    async def get(self, ref: Ref) -> Manifest | None:
        with self._metrics.request("get", ref.kind):
            found = await self._cluster.get(ref)
        if ref.kind == "AutoMLJob":
            self._metrics.census.show(ref, parse_status(found) if found else None)
        return found

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        labels: dict[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> list[Manifest]:
        with self._metrics.request("list", kind):
            return await self._cluster.list(kind, namespace, labels, fresh=fresh)

    def watch(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change]:
        return self._cluster.watch(kind, namespace, labels)

    def follow(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change | Heard]:
        return self._cluster.follow(kind, namespace, labels)

    async def apply(self, manifest: Manifest) -> Manifest:
        with self._metrics.request("apply", manifest["kind"]):
            return await self._cluster.apply(manifest)

    async def delete(self, ref: Ref, *, uid: str | None = None) -> bool:
        with self._metrics.request("delete", ref.kind):
            return await self._cluster.delete(ref, uid=uid)

    async def patch_status(self, ref: Ref, status: Manifest) -> None:
        with self._metrics.request("patch_status", ref.kind):
            await self._cluster.patch_status(ref, status)
        if ref.kind == "AutoMLJob":
            self._metrics.census.show(ref, parse_status({"status": status}))

    async def emit(self, ref: Ref, uid: str, event: EventOrder) -> None:
        with self._metrics.request("emit", "Event"):
            await self._cluster.emit(ref, uid, event)


class CountedLeases:
    """Leases likewise."""

    def __init__(self, leases: Leases, metrics: Metrics) -> None:
        self._leases = leases
        self._metrics = metrics

    def read_lease(self, ref: Ref) -> Manifest | None:
        with self._metrics.request("get", "Lease"):
            return self._leases.read_lease(ref)

    def write_lease(self, lease: Manifest) -> Manifest:
        with self._metrics.request("replace", "Lease"):
            return self._leases.write_lease(lease)
