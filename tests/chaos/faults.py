"""Carries out strikes on a running world, and brings back what they took."""

from __future__ import annotations

import heapq
import itertools
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from chaos.observer import JOBS, Journal, condition
from chaos.schedule import Kind, Strike
from chaos.world import World
from real.proxy import FaultyProxy, Mode
from real.rest import MERGE, ApiError, Json

MAX_PARALLELISM = 3
START_SECONDS = 90.0
"""After which a server that does not come back is the test's own trouble."""


class Faults:
    """One thread calls `strike` and `bring_back`, now and then; `settle` at the end brings back everything."""

    def __init__(self, world: World, journal: Journal) -> None:
        self._world, self._journal = world, journal
        self._due: list[tuple[float, int, str, Callable[[], None]]] = []
        self._order = itertools.count()
        self._down: set[str] = set()
        """Services that are away, or whose connections are disturbed: one fault at a time each."""
        self._returning: list[threading.Thread] = []
        self.problems: list[str] = []

    def strike(self, strike: Strike) -> str | None:
        """Do it; says what was hit, or None when there was nothing to hit."""
        with suppress(ApiError):
            hit = self._act(strike)
            if hit is not None:
                self._journal.write("strike", number=strike.number, kind=strike.kind.value, hit=hit)
            return hit
        return None

    def bring_back(self) -> None:
        """Whatever is due."""
        while self._due and self._due[0][0] <= time.monotonic():
            self._return(*heapq.heappop(self._due)[2:])

    def settle(self) -> None:
        """Everything, now; waits until it is there."""
        while self._due:
            self._return(*heapq.heappop(self._due)[2:])
        for thread in self._returning:
            thread.join(timeout=120)

    # Each kind

    def _act(self, strike: Strike) -> str | None:
        world, seconds = self._world, strike.lasts_seconds
        match strike.kind:
            case Kind.OPERATOR_KILL | Kind.OPERATOR_TERM:
                return self._end_operator(strike)
            case Kind.WORKER_KILL:
                return self._signal_pod(strike, "worker", signal.SIGKILL)
            case Kind.WORKER_TERM:
                return self._signal_pod(strike, "worker", signal.SIGTERM)
            case Kind.FINALIZER_KILL:
                return self._signal_pod(strike, "finalizer", signal.SIGKILL)
            case Kind.WORKER_POD_DELETED:
                return self._delete_pod(strike, "worker")
            case Kind.FINALIZER_POD_DELETED:
                return self._delete_pod(strike, "finalizer")
            case Kind.WORKER_JOB_DELETED:
                return self._delete_worker_job(strike)
            case Kind.STUDY_SERVER_KILL:
                return self._take("study", world.study_server.kill, world.study_server.start, seconds)
            case Kind.POSTGRES_STOP:
                return self._take("postgres", world.postgres.stop_at_once, world.postgres.start, seconds)
            case Kind.POSTGRES_KILL:
                return self._take("postgres", world.postgres.kill, world.postgres.start, seconds)
            case Kind.POSTGRES_BACKEND_KILL:
                if "postgres" in self._down or not world.postgres.kill_backend(strike.pick):
                    return None
                return "a backend"
            case Kind.S3_KILL:
                return self._take("s3", world.s3.kill, world.s3.start, seconds)
            case Kind.S3_OUTAGE:
                return self._disturb("s3", world.s3_proxy, Mode.REFUSE, 2 * seconds)
            case Kind.API_OUTAGE:
                return self._disturb("api", world.api_proxy, Mode.REFUSE, seconds)
            case Kind.API_DEAF:
                return self._disturb("api", world.api_proxy, Mode.DEAF, seconds / 2)
            case Kind.STUDY_DEAF:
                return self._disturb("study", world.study_proxy, Mode.DEAF, seconds / 2)
            case Kind.S3_CUT:
                return self._cut(world.s3_proxy, "s3")
            case Kind.API_CUT:
                return self._cut(world.api_proxy, "api")
            case Kind.STUDY_CUT:
                return self._cut(world.study_proxy, "study")
            case Kind.SUSPEND:
                return self._suspend(strike)
            case Kind.RESIZE:
                return self._resize(strike)

    def _end_operator(self, strike: Strike) -> str | None:
        running = {o.name: o for o in self._world.operators if o.is_running}
        name = strike.choose(list(running))
        if name is None:
            return None
        operator = running[name]
        operator.end(signal.SIGKILL if strike.kind is Kind.OPERATOR_KILL else signal.SIGTERM)
        self._later(strike.lasts_seconds, name, operator.start)
        return name

    def _signal_pod(self, strike: Strike, component: str, number: int) -> str | None:
        pod = strike.choose(self._pods(component))
        if pod is None:
            return None
        try:
            self._world.kubelet.kill_pod_process(*pod.split("/"), number)
        except KeyError:
            return None
        return pod

    def _delete_pod(self, strike: Strike, component: str) -> str | None:
        pod = strike.choose(self._pods(component))
        if pod is None:
            return None
        namespace, name = pod.split("/")
        self._world.plane.admin.delete(f"/api/v1/namespaces/{namespace}/pods/{name}")
        return pod

    def _delete_worker_job(self, strike: Strike) -> str | None:
        selector = "labelSelector=kubeautoml.dev/component=worker"
        found = {
            f"{namespace}/{job['metadata']['name']}"
            for namespace in self._world.namespaces
            for job in self._items(f"/apis/batch/v1/namespaces/{namespace}/jobs?{selector}")
            if job.get("status", {}).get("active")
        }
        chosen = strike.choose(list(found))
        if chosen is None:
            return None
        namespace, name = chosen.split("/")
        path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
        self._world.plane.admin.delete(path, {"propagationPolicy": "Background"})
        return chosen

    def _take(self, service: str, kill: Callable[[], object], start: Callable[[], None], seconds: float) -> str | None:
        """Kill a server; it comes back in a thread of its own, since some need long to start."""
        if service in self._down:
            return None
        self._down.add(service)
        kill()

        def come_back() -> None:
            def run() -> None:
                if problem := _started(start):
                    self.problems.append(f"{service} did not come back: {problem}")
                self._down.discard(service)

            thread = threading.Thread(target=run, name=f"start-{service}", daemon=True)
            self._returning.append(thread)
            thread.start()

        self._later(seconds, service, come_back)
        return service

    def _disturb(self, service: str, proxy: FaultyProxy, mode: Mode, seconds: float) -> str | None:
        if service in self._down:
            return None
        self._down.add(service)
        proxy.set_mode(mode)

        def open_again() -> None:
            proxy.set_mode(Mode.OPEN)
            self._down.discard(service)

        self._later(seconds, service, open_again)
        return f"{service} for {seconds:.1f} s"

    def _cut(self, proxy: FaultyProxy, service: str) -> str | None:
        if service in self._down:
            return None
        proxy.cut()
        return service

    def _suspend(self, strike: Strike) -> str | None:
        job = strike.choose(self._open_jobs(suspended=False))
        if job is None:
            return None
        self._edit(job, {"suspend": True})
        self._later(2 * strike.lasts_seconds, f"resume {job}", lambda: self._edit(job, {"suspend": False}))
        return job

    def _resize(self, strike: Strike) -> str | None:
        job = strike.choose(self._open_jobs())
        if job is None:
            return None
        parallelism = 1 + int(strike.pick * 1000) % MAX_PARALLELISM
        self._edit(job, {"workers": {"parallelism": parallelism}})
        return f"{job} to {parallelism}"

    # What is there

    def _pods(self, component: str) -> list[str]:
        selector = f"labelSelector=kubeautoml.dev/component={component}"
        return [
            f"{namespace}/{pod['metadata']['name']}"
            for namespace in self._world.namespaces
            for pod in self._items(f"/api/v1/namespaces/{namespace}/pods?{selector}")
            if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]

    def _open_jobs(self, suspended: bool | None = None) -> list[str]:
        return [
            f"{namespace}/{job['metadata']['name']}"
            for namespace in self._world.namespaces
            for job in self._items(JOBS.format(namespace))
            if condition(job, "Succeeded") not in ("True", "False")
            and suspended in (None, job["spec"].get("suspend", False))
        ]

    def _items(self, path: str) -> list[Json]:
        return self._world.plane.admin.items(path)

    def _edit(self, job: str, spec: Json) -> None:
        namespace, name = job.split("/")
        self._world.plane.admin.patch(f"{JOBS.format(namespace)}/{name}", {"spec": spec}, MERGE)

    # Coming back

    def _later(self, seconds: float, what: str, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), what, act))

    def _return(self, what: str, act: Callable[[], None]) -> None:
        act()
        self._journal.write("return", what=what)


def _started(start: Callable[[], None]) -> str:
    """Start it as a kubelet would: again and again, such as while its own database is away. Says why it does not come."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            start()
            return ""
        except Exception as error:  # noqa: BLE001  # whatever it is, it may pass
            if time.monotonic() > deadline:
                return str(error)
        time.sleep(1.0)
