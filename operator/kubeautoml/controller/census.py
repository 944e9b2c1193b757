"""Counts the jobs there are, by namespace, as they pass by: a pass costs the same with ten jobs and with ten thousand.

What is counted up (trials that ended, accelerator time) is what the jobs' statuses grew by while this operator saw them: after a
restart or a change of leaders it begins at nothing, as counters may, and it goes with the last job of a namespace.

Beside the sums, running searches are shown one by one, but never more than SEARCHES_SHOWN of them: the number of series is
bounded whatever the number of jobs, and a search that ends takes its own along. Of more than that the first ones are shown; a
search keeps its place until it ends.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kubeautoml.api.conditions import ConditionStatus, ConditionType, Reason, find_condition
from kubeautoml.api.job_status import AutoMLJobStatus
from kubeautoml.api.objects import Ref

K = TypeVar("K")

STATES = ("Refused", "Pending", "Searching", "Suspended", "Queued", "Succeeded", "Failed")
"""One word for where a job is, derived from its conditions."""

TRIAL_STATES = ("Running", "Completed", "Pruned", "Failed", "Preempted")
ENDPOINT_STATES = ("Ready", "NotReady")

ENDED_STATES = ("Completed", "Pruned", "Failed", "Preempted")

SEARCHES_SHOWN = 200
"""Running searches that are shown by name; two series each."""


def state_of(status: AutoMLJobStatus) -> str:
    """Which of STATES a job is in."""
    if _is(status, ConditionType.ACCEPTED, ConditionStatus.FALSE):
        return "Refused"
    if _is(status, ConditionType.SUCCEEDED, ConditionStatus.TRUE):
        return "Succeeded"
    if _is(status, ConditionType.SUCCEEDED, ConditionStatus.FALSE):
        return "Failed"
    if status.suspended_since is not None:
        admitted = find_condition(status.conditions, ConditionType.ADMITTED)
        return "Queued" if admitted is not None and admitted.reason == Reason.QUEUED else "Suspended"
    return "Searching" if status.start_time else "Pending"


@dataclass(frozen=True)
class Headcount:
    """What one job adds to the sums, as (measure, label) with a number; nothing else of it is kept."""

    numbers: tuple[tuple[str, str, int], ...]
    growing: tuple[tuple[str, str, int], ...] = ()
    """Likewise, what can only become more while the job is there."""

    @classmethod
    def of(cls, status: AutoMLJobStatus) -> Headcount:
        """Of a job that is as its status says."""
        used = status.budget_used
        numbers = [
            ("jobs", state_of(status), 1),
            *(("trials", state, getattr(status.trials, state.lower())) for state in TRIAL_STATES),
            ("trials_used", "", used.trials),
            ("duration_seconds_used", "", used.duration_seconds),
            ("accelerator_seconds_used", "", used.accelerator_seconds),
        ]
        if used.ended_by:
            numbers.append(("searches_ended", used.ended_by, 1))
        if status.serving is not None:
            is_ready = _is(status, ConditionType.READY, ConditionStatus.TRUE)
            numbers.append(("endpoints", "Ready" if is_ready else "NotReady", 1))
        growing = [
            *(("trials_ended", state, getattr(status.trials, state.lower())) for state in ENDED_STATES),
            ("accelerator_seconds", "", used.accelerator_seconds),
        ]
        return cls(tuple(n for n in numbers if n[2]), tuple(growing))


@dataclass(frozen=True)
class Search:
    """What is shown of one search while it runs."""

    best: float | None
    budget_used: float

    @classmethod
    def of(cls, status: AutoMLJobStatus) -> Search | None:
        """Of a job that is as its status says; None when it does not search."""
        if status.start_time is None or status.completion_time is not None:
            return None
        best = float(status.best.value) if status.best is not None else None
        return cls(best, status.progress_percentage / 100)


@dataclass(frozen=True)
class _Measure:
    """One metric of the census. `values` of its label are shown also when they are 0."""

    name: str
    words: str
    label: str = ""
    values: tuple[str, ...] = ()


MEASURES = (
    _Measure("jobs", "AutoMLJobs by state.", "state", STATES),
    _Measure("trials", "Trials of the AutoMLJobs there are, by state.", "state", TRIAL_STATES),
    _Measure("trials_used", "Trials that count against budget.maxTrials, of the AutoMLJobs there are."),
    _Measure("duration_seconds_used", "Wall time that counts against budget.maxDurationSeconds."),
    _Measure("accelerator_seconds_used", "Accelerator time that counts against budget.maxAcceleratorSeconds."),
    _Measure("searches_ended", "AutoMLJobs whose search has ended, by the limit that ended it.", "limit"),
    _Measure("endpoints", "Endpoints of AutoMLJobs: Ready ones answer.", "state", ENDPOINT_STATES),
)

COUNTERS = (
    _Measure(
        "trials_ended",
        "Trials of AutoMLJobs that ended, by state.",
        "state",
        ENDED_STATES,
    ),
    _Measure("accelerator_seconds", "Accelerator time used by AutoMLJobs."),
)
"""Metrics of the census that are counted up, in every namespace that has a job."""


class Census(Collector):
    """Sums over the jobs there are, as a Prometheus collector. A job that is gone counts nowhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[Ref, Headcount] = {}
        self._of_namespace: Counter[str] = Counter()
        self._sums: Counter[tuple[str, str, str]] = Counter()
        self._grown: dict[str, Counter[tuple[str, str]]] = {}
        self._searches: dict[Ref, Search] = {}

    def __len__(self) -> int:
        """Jobs there are."""
        return len(self._jobs)

    def show(self, ref: Ref, status: AutoMLJobStatus | None) -> None:
        """Count a job as it is now; None when it is gone."""
        now = Headcount.of(status) if status is not None else None
        with self._lock:
            before = self._jobs.pop(ref, None)
            self._add(ref.namespace, before, -1)
            if now is not None:
                self._jobs[ref] = now
                self._add(ref.namespace, now, +1)
                self._grow(ref.namespace, before, now)
            elif ref.namespace not in self._of_namespace:
                self._grown.pop(ref.namespace, None)
            self._follow(ref, Search.of(status) if status is not None else None)

    def keep_only(self, refs: Iterable[Ref]) -> None:
        """Forget every job that is not among these, whose deletion nobody told."""
        there = set(refs)
        for ref in [ref for ref in list(self._jobs) if ref not in there]:
            self.show(ref, None)

    def collect(self) -> Iterator[Metric]:
        """For Prometheus, in whatever thread it asks."""
        with self._lock:
            sums, namespaces = dict(self._sums), sorted(self._of_namespace)
            grown = [(ns, m, v, n) for ns, counted in sorted(self._grown.items()) for (m, v), n in counted.items()]
            searches = dict(self._searches)
        yield from _counters(grown)
        yield from _search_gauges(searches)
        found: dict[tuple[str, str], dict[str, int]] = {}
        for (name, namespace, value), number in sums.items():
            found.setdefault((name, namespace), {})[value] = number
        for measure in MEASURES:
            labels = ("namespace", measure.label) if measure.label else ("namespace",)
            family = GaugeMetricFamily(f"kubeautoml_{measure.name}", measure.words, labels=labels)
            zeros = dict.fromkeys(measure.values if measure.label else ("",), 0)
            for namespace in namespaces:
                for value, number in (zeros | found.get((measure.name, namespace), {})).items():
                    family.add_metric((namespace, value) if measure.label else (namespace,), number)
            yield family

    def _grow(self, namespace: str, before: Headcount | None, now: Headcount) -> None:
        """Count up what has come since the job was seen last; of one that is seen for the first time nothing is known."""
        known = {(m, v): number for m, v, number in before.growing} if before is not None else {}
        grown = self._grown.setdefault(namespace, Counter())
        for measure, value, number in now.growing:
            grown[measure, value] += max(0, number - known.get((measure, value), number))

    def _follow(self, ref: Ref, search: Search | None) -> None:
        if search is None:
            self._searches.pop(ref, None)
        elif ref in self._searches or len(self._searches) < SEARCHES_SHOWN:
            self._searches[ref] = search

    def _add(self, namespace: str, counted: Headcount | None, sign: int) -> None:
        if counted is None:
            return
        _count(self._of_namespace, namespace, sign)
        for measure, value, number in counted.numbers:
            _count(self._sums, (measure, namespace, value), sign * number)


def _counters(grown: list[tuple[str, str, str, int]]) -> Iterator[CounterMetricFamily]:
    """Of (namespace, measure, label's value, number)."""
    for measure in COUNTERS:
        labels = ("namespace", measure.label) if measure.label else ("namespace",)
        family = CounterMetricFamily(f"kubeautoml_{measure.name}", measure.words, labels=labels)
        for namespace, name, value, number in grown:
            if name == measure.name:
                family.add_metric((namespace, value) if measure.label else (namespace,), number)
        yield family


def _search_gauges(searches: dict[Ref, Search]) -> Iterator[GaugeMetricFamily]:
    labels = ("namespace", "automljob")
    best = GaugeMetricFamily(
        "kubeautoml_search_best_value",
        f"Best score so far, of the objective's metric, of searches that run; at most {SEARCHES_SHOWN} of them.",
        labels=labels,
    )
    used = GaugeMetricFamily(
        "kubeautoml_search_budget_used_ratio",
        f"Share that is used of the budget that will end a search first, of searches that run; at most {SEARCHES_SHOWN} of them.",
        labels=labels,
    )
    for ref, search in searches.items():
        if search.best is not None:
            best.add_metric((ref.namespace, ref.name), search.best)
        used.add_metric((ref.namespace, ref.name), search.budget_used)
    yield best
    yield used


def _count(sums: Counter[K], key: K, number: int) -> None:
    """Add, and keep no zeros: namespaces come and go."""
    sums[key] += number
    if not sums[key]:
        del sums[key]


def _is(status: AutoMLJobStatus, kind: ConditionType, value: ConditionStatus) -> bool:
    found = find_condition(status.conditions, kind)
    return found is not None and found.status == value
