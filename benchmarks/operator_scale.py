"""A thousand AutoMLJobs at once on a real API server with its controllers: how soon each has workers, and what that costs.

    python benchmarks/operator_scale.py [--jobs 1000] [--events 10000]

The operator runs as a process with its production wiring and its service account's rights, the study server in front of
PostgreSQL. There is no kubelet: pods are created and stay Pending. Then come further events: children are edited, pods
are deleted and made anew by the Job controller. Memory is read before and after, each time once nothing moves any more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from figures import record
from operator_world import ROOT, buckets, create_job, make_job, memory_mib, quantile, wait, worker_jobs, writes

from real.controlplane import OPERATOR_NAMESPACE, ControlPlane, running_control_plane
from real.operator_process import OperatorProcess, running_operator
from real.postgres import running_postgres
from real.rest import ApiError
from real.study_server import running_study_server

NAMESPACES = tuple(f"team-{letter}" for letter in "abcdefghij")
WINDOW_SECONDS = 5.0
SETTLE_SECONDS = 10.0
CLIENTS = 4
LONGEST_SECONDS = 600.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Many AutoMLJobs at once.")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--events", type=int, default=10_000)
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plane = stack.enter_context(running_control_plane(ROOT / "crds"))
        postgres = stack.enter_context(running_postgres())
        study = stack.enter_context(running_study_server(postgres.create_database()))
        for namespace in NAMESPACES:
            plane.create_namespace(namespace)
        operator = stack.enter_context(
            running_operator(plane, folder / "operator.log", lease_namespace=OPERATOR_NAMESPACE, study_url=study.url)
        )
        wait(lambda: operator.metric("kubeautoml_leader") == 1, 60, "the operator leads")
        record("memory at rest", memory_mib(operator.pid), "MiB")
        with watching_writes(operator) as most:
            seconds = create_all(plane, args.jobs)
            record("seconds until every worker Job exists", seconds, f"s ({args.jobs} jobs)")
            settle(operator)
            record("most writes a second, over 5 s", most(), "writes/s")
        passes = buckets(operator, "kubeautoml_reconcile_duration_seconds")
        record("reconcile p99", quantile(passes, 0.99), "s")
        record("reconcile p50", quantile(passes, 0.5), "s")
        waits = {"histogram": "kubeautoml_queue_wait_seconds", "lane": "Event"}
        before, waited = memory_mib(operator.pid), buckets(operator, **waits)
        with watching_writes(operator) as most:
            make_events(plane, args.events)
            settle(operator)
            record("most writes a second during events", most(), "writes/s")
        record("wait for a pass after an event p99", quantile(buckets(operator, **waits), 0.99, waited), "s")
        after = memory_mib(operator.pid)
        record("peak memory", memory_mib(operator.pid, "VmHWM"), "MiB")
        record("memory growth over the events", after / before - 1, f"({before:.0f} to {after:.0f} MiB)")
        record("writes a job", writes(operator, with_lease=False) / args.jobs, "writes")
        record("failed passes", failed_passes(operator), "")
        print_costs(operator)
    return 0


def create_all(plane: ControlPlane, jobs: int) -> float:
    """Seconds from the first creation until each has its worker Job."""
    manifests = [make_job(NAMESPACES[n % len(NAMESPACES)], f"job-{n:04}") for n in range(jobs)]
    edited = make_job(NAMESPACES[0], "edited")
    create_job(plane, edited)
    wait(lambda: "edited" in worker_jobs(plane, NAMESPACES[0]), 60, "the first job has its worker Job")
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda manifest: create_job(plane, manifest), manifests))
    print(f"created within {time.monotonic() - began:.1f} s", flush=True)
    record("suspension during the burst", suspend(plane, edited), "s")

    def all_there() -> bool:
        time.sleep(0.5)  # a list of everything is not free for the server that is measured
        return sum(len(worker_jobs(plane, namespace) - {"edited"}) for namespace in NAMESPACES) == jobs

    wait(all_there, LONGEST_SECONDS, "every worker Job exists")
    return time.monotonic() - began


def suspend(plane: ControlPlane, job: dict[str, Any]) -> float:
    """Seconds from an edit until the job says that it is suspended, while hundreds of others wait for their first pass."""
    meta = job["metadata"]
    path = f"/apis/kubeautoml.dev/v1alpha1/namespaces/{meta['namespace']}/automljobs/{meta['name']}"
    began = time.monotonic()
    plane.admin.patch(path, {"spec": {"suspend": True}})
    wait(lambda: plane.admin.get(path).get("status", {}).get("suspendedSince"), LONGEST_SECONDS, "a job is suspended")
    return time.monotonic() - began


def settle(operator: OperatorProcess) -> None:
    """Until no pass has been asked for by an event for a while: what is due by time goes on for ever."""
    quiet_since = time.monotonic()
    deadline = quiet_since + LONGEST_SECONDS
    passes = -1.0
    while time.monotonic() - quiet_since < SETTLE_SECONDS:
        time.sleep(1.0)
        now = operator.metric("kubeautoml_passes_total", lane="Event")
        if now != passes or operator.metric("kubeautoml_queue_overdue_seconds", lane="Event") > 0:
            passes, quiet_since = now, time.monotonic()
        if time.monotonic() > deadline:
            raise SystemExit(f"events still make passes after {LONGEST_SECONDS:.0f} s")


@contextmanager
def watching_writes(operator: OperatorProcess) -> Iterator[Any]:
    """Gives a function that tells the most writes a second in any window so far."""
    seen: deque[tuple[float, float]] = deque()
    most, stop = 0.0, threading.Event()

    def look() -> None:
        nonlocal most
        while not stop.wait(0.5):
            now, count = time.monotonic(), writes(operator)
            seen.append((now, count))
            while now - seen[0][0] > WINDOW_SECONDS:
                then, before = seen.popleft()
                most = max(most, (count - before) / (now - then))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: most
    finally:
        stop.set()
        thread.join(30)


def make_events(plane: ControlPlane, events: int) -> None:
    """Half of them edits of Jobs by somebody else, the rest pods that go, and that the Job controller makes anew."""
    jobs = {ns: plane.admin.items(f"/apis/batch/v1/namespaces/{ns}/jobs") for ns in NAMESPACES}
    names = [(ns, job["metadata"]["name"]) for ns in NAMESPACES for job in jobs[ns]]
    began = time.monotonic()

    def edit(number: int) -> None:
        namespace, name = names[number % len(names)]
        patch = {"metadata": {"annotations": {"example.com/touched": str(number)}}}
        plane.admin.patch(f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}", patch)

    def churn(namespace: str) -> int:
        """Delete the pods there are; each gives four events or more: deleting, deleted, added, and the Job's status."""
        pods = plane.admin.items(f"/api/v1/namespaces/{namespace}/pods")
        for pod in pods:
            try:
                plane.admin.delete(
                    f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}", {"gracePeriodSeconds": 0}
                )
            except ApiError as error:
                print(error)
        return 4 * len(pods)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(edit, range(events // 2)))
        made = events // 2
        while made < events:
            made += sum(pool.map(churn, NAMESPACES[: max(1, min(10, (events - made) // 100))]))
            time.sleep(2.0)
    print(f"{made} events within {time.monotonic() - began:.1f} s", flush=True)


def failed_passes(operator: OperatorProcess) -> float:
    samples = operator.metrics()
    return sum(v for name, labels, v in samples if name == "kubeautoml_passes_total" and labels["result"] != "Ok")


def print_costs(operator: OperatorProcess) -> None:
    """What the operator asked of the API server, for whoever wants to make it cheaper."""
    calls: dict[tuple[str, str, str], float] = {}
    for name, labels, value in operator.metrics():
        if name == "kubeautoml_api_requests_total":
            calls[labels["verb"], labels["kind"], labels["outcome"]] = value
    for (verb, kind, outcome), count in sorted(calls.items(), key=lambda item: -item[1])[:14]:
        print(f"  {verb:<14}{kind:<22}{outcome:<12}{count:>8.0f}")
    print(
        f"  passes {operator.metric('kubeautoml_passes_total'):.0f}, CPU {operator.metric('process_cpu_seconds_total'):.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
