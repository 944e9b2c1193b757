"""What the operator tells Prometheus about itself. Few labels, and never a job's name."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from kubeautoml.api.conditions import ConditionType, find_condition
from kubeautoml.api.errors import ClusterError, KubeAutoMLError
from kubeautoml.api.job import AutoMLJobStatus
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.cluster.base import Change, Cluster
from kubeautoml.controller.observe import parse_status

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The operator's metrics in a registry of their own."""

    def __init__(self, queue_depth: Callable[[], int] = lambda: 0) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._jobs: dict[Ref, AutoMLJobStatus] = {}
        self._state = Gauge("kubeautoml_jobs", "AutoMLJobs by state.", ("state",), registry=self.registry)
        self._trials = Gauge(
            "kubeautoml_trials", "Trials of the AutoMLJobs there are, by state.", ("state",), registry=self.registry
        )
        self._reconcile = Histogram(
            "kubeautoml_reconcile_duration_seconds", "Time of a pass.", buckets=_BUCKETS, registry=self.registry
        )
        self._errors = Counter(
            "kubeautoml_reconcile_errors_total", "Passes that failed.", ("reason",), registry=self.registry
        )
        self.calls = Counter(
            "kubeautoml_api_requests_total",
            "Requests to the API server.",
            ("verb", "kind", "outcome"),
            registry=self.registry,
        )
        depth = Gauge("kubeautoml_queue_depth", "Jobs that wait for a pass, due or not.", registry=self.registry)
        depth.set_function(queue_depth)

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

    def show(self, ref: Ref, status: AutoMLJobStatus | None) -> None:
        """Count a job as it is now; None when it is gone."""
        if status is None:
            self._jobs.pop(ref, None)
        else:
            self._jobs[ref] = status
        states = [state_of(s) for s in self._jobs.values()]
        for state in STATES:
            self._state.labels(state).set(states.count(state))
        for name in ("running", "completed", "pruned", "failed", "preempted"):
            self._trials.labels(name).set(sum(getattr(s.trials, name) for s in self._jobs.values()))


STATES = ("Refused", "Pending", "Searching", "Suspended", "Succeeded", "Failed")
"""One word for where a job is, derived from its conditions."""


def state_of(status: AutoMLJobStatus) -> str:
    """Which of STATES a job is in."""

    def is_(kind: ConditionType, value: str) -> bool:
        found = find_condition(status.conditions, kind)
        return found is not None and found.status.value == value

    if is_(ConditionType.ACCEPTED, "False"):
        return "Refused"
    if is_(ConditionType.SUCCEEDED, "True"):
        return "Succeeded"
    if is_(ConditionType.SUCCEEDED, "False"):
        return "Failed"
    if status.suspended_since is not None:
        return "Suspended"
    return "Searching" if status.start_time else "Pending"


class CountedCluster:
    """A cluster whose requests are counted by verb, kind and outcome; jobs that pass by are counted by state."""

    def __init__(self, cluster: Cluster, metrics: Metrics) -> None:
        self._cluster = cluster
        self._metrics = metrics

    async def get(self, ref: Ref) -> Manifest | None:
        with _Count(self._metrics, "get", ref.kind):
            found = await self._cluster.get(ref)
        if ref.kind == "AutoMLJob":
            self._metrics.show(ref, parse_status(found) if found else None)
        return found

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        labels: dict[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> list[Manifest]:
        with _Count(self._metrics, "list", kind):
            return await self._cluster.list(kind, namespace, labels, fresh=fresh)

    def watch(
        self, kind: str, namespace: str | None = None, labels: dict[str, str] | None = None
    ) -> AsyncIterator[Change]:
        return self._cluster.watch(kind, namespace, labels)

    async def apply(self, manifest: Manifest) -> Manifest:
        with _Count(self._metrics, "apply", manifest["kind"]):
            return await self._cluster.apply(manifest)

    async def delete(self, ref: Ref, *, uid: str | None = None) -> bool:
        with _Count(self._metrics, "delete", ref.kind):
            return await self._cluster.delete(ref, uid=uid)

    async def patch_status(self, ref: Ref, status: Manifest) -> None:
        with _Count(self._metrics, "patch_status", ref.kind):
            await self._cluster.patch_status(ref, status)
        if ref.kind == "AutoMLJob":
            self._metrics.show(ref, parse_status({"status": status}))

    async def emit(self, ref: Ref, uid: str, event: EventOrder) -> None:
        with _Count(self._metrics, "emit", "Event"):
            await self._cluster.emit(ref, uid, event)


class _Count:
    """Counts one request, by how the block under it ends."""

    def __init__(self, metrics: Metrics, verb: str, kind: str) -> None:
        self._metrics, self._verb, self._kind = metrics, verb, kind

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        outcome = "Ok" if error is None else error.reason if isinstance(error, ClusterError) else "Error"
        self._metrics.calls.labels(self._verb, self._kind, outcome).inc()
