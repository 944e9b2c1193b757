"""`kubeautoml operator`: watch AutoMLJobs and reconcile each until told to stop. The operator's container runs it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from kubeautoml.api.errors import ClusterError, KubeAutoMLError, UsageError
from kubeautoml.api.logs import LogFormat, log_to_stderr
from kubeautoml.api.names import LEASE_NAME
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cluster.cached import CachedCluster
from kubeautoml.controller.areas import Areas
from kubeautoml.controller.endpoints import Endpoints
from kubeautoml.controller.fence import Fence, FencedCluster
from kubeautoml.controller.lease import LeaderElection, new_identity
from kubeautoml.controller.metrics import CountedCluster, CountedLeases, Metrics
from kubeautoml.controller.passes import Worker
from kubeautoml.controller.probes import Heart, Probes
from kubeautoml.controller.queue import Lane, WorkQueue
from kubeautoml.controller.reconcile import reconcile
from kubeautoml.controller.settings import OperatorEnv, OperatorSettings
from kubeautoml.controller.start import Start, check_access, check_definitions, check_lease
from kubeautoml.controller.studies import Studies

if TYPE_CHECKING:
    from kubeautoml.cluster.kube import KubeCluster

log = logging.getLogger(__name__)

RESYNC_ALL_SECONDS = 600.0
"""A safety net under the watches, not a way to work; a guess."""

_LAST_WRITES_SECONDS = 1.0
"""Longest wait for writes under way before the lease is released."""

_SYNC_SECONDS = 30.0
"""Longest wait of a new leader for its cache; then it works without."""

_LAST_CALLS_SECONDS = 2.0
"""Longest wait for calls that hang, once all is done."""


def main(argv: list[str]) -> int:
    """Run the operator until SIGTERM. Exit codes: 0 stopped, 1 it cannot work, 2 misuse, 3 another operator leads now."""
    args = _parser().parse_args(argv)
    log_to_stderr(args.log_level, _log_format(args.log_format, os.environ))
    if args.kubeconfig:
        # kopf and the client both read it from here.
        os.environ["KUBECONFIG"] = args.kubeconfig
    code = _run(args, _settings(args, os.environ))
    _leave_hanging_calls(code)
    return code


def _run(args: argparse.Namespace, settings: OperatorSettings) -> int:
    try:
        with closing(_connect(args)) as cluster:
            asyncio.run(run_operator(cluster, settings))
    except UsageError:
        raise
    except KubeAutoMLError as error:
        log.error("operator cannot work", extra={"reason": error.reason, "error": str(error)})
        return 1
    except Exception:
        log.exception("operator crashed")
        return 1
    return 0


def _leave_hanging_calls(code: int) -> None:
    """End now if threads still wait for servers that do not answer: Python would wait for them, for a minute or more."""
    deadline = time.monotonic() + _LAST_CALLS_SECONDS
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                log.warning("calls that hang are left behind", extra={"of": thread.name})
                logging.shutdown()
                os._exit(code)


async def run_operator(cluster: KubeCluster, settings: OperatorSettings) -> None:
    """Work until SIGTERM or SIGINT.

    Raises:
        ClusterError: watching is not possible any more.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Operator(cluster, settings).run(stop)


def lease_ref(cluster: KubeCluster, settings: OperatorSettings) -> Ref:
    """The Lease that all replicas of this operator contend for."""
    return Ref("Lease", settings.namespace or cluster.default_namespace, LEASE_NAME)


class Operator:
    """All parts of the operator, put together. Make and run it in one event loop."""

    def __init__(self, cluster: KubeCluster, settings: OperatorSettings) -> None:
        from kubeautoml.controller.handlers import Wakes, Watching

        self._cluster, self._settings = cluster, settings
        self._leads = asyncio.Event()
        self._metrics = Metrics()
        self._election = self._contender(asyncio.get_running_loop()) if settings.elects_leader else None
        self._fence = Fence(self._election.is_held) if self._election else Fence()
        self._studies = Studies(settings.study_token_file, settings.study_ca_file, self._fence, self._metrics)
        queue = WorkQueue(timed_per_second=settings.timed_passes_per_second)
        self._worker = Worker(
            self._metrics.measured(self._pass), settings.concurrency, queue=queue, observer=self._metrics
        )
        self._wakes = Wakes(lambda ref, lane: self._worker.add(ref, lane=lane))
        self._areas = Areas(settings.namespaces, partial(check_access, cluster), self._work_in)
        self._watching = Watching(self._wakes.job, settings.namespaces, self._areas.look_again)
        self._children = CachedCluster(CountedCluster(cluster, self._metrics), settings.namespaces, self._wakes.change)
        self._fenced = FencedCluster(self._children, self._fence)
        self._heart = Heart()
        self._start = Start(self._look_around)
        self._probes = Probes(
            self._heart, self._worker, self._watching, self._children, self._election, self._start.why_not
        )
        self._show()

    async def run(self, stop: asyncio.Event) -> None:
        """Wait for what is missing, watch, work once we lead, and leave in order.

        Raises:
            ClusterError: watching is not possible any more.
        """
        settings, probes = self._settings, self._probes
        ports = {settings.metrics_port, settings.health_port}
        with Endpoints(ports, self._metrics.registry, probes.why_unhealthy, probes.why_unready) as endpoints:
            said = {"namespaces": ",".join(settings.namespaces) or "all", "ports": ",".join(map(str, endpoints.ports))}
            log.info("operator started", extra=said)
            beating = asyncio.create_task(self._heart.run())
            try:
                if await self._start.wait(stop):
                    await self._lead_and_work(stop)
            finally:
                self._studies.close()
                await _end(beating)
        log.info("operator stopped")

    async def _look_around(self) -> None:
        await check_definitions(self._cluster)
        await self._areas.look()
        if self._settings.elects_leader:
            await asyncio.to_thread(check_lease, self._cluster, lease_ref(self._cluster, self._settings))

    def _work_in(self, namespaces: tuple[str, ...], new: frozenset[str]) -> None:
        """Rights have come or gone: watch these namespaces, and take all jobs of the new ones for new."""
        self._wakes.forget(new)
        self._children.serve(namespaces)
        self._watching.serve(namespaces)

    async def _lead_and_work(self, stop: asyncio.Event) -> None:
        if self._election is not None:
            self._election.start()
        else:
            self._leads.set()
        watches = [self._children.run(), self._watching.run(), self._resync()]
        if self._areas.told:
            watches.append(self._areas.run())
        await _until_stopped(stop, self._leave, self._work(), *watches)

    async def _work(self) -> None:
        """Passes begin once we lead; until then the queue collects what they will be about.

        Before everything has been listed each would ask the server for what the cache knows a moment later.
        """
        await self._leads.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(_SYNC_SECONDS):
                while not self._children.is_synced:
                    await asyncio.sleep(0.1)
        await self._worker.run()

    async def _leave(self) -> None:
        """After the passes have ended: let nothing more be written, then let another lead."""
        self._cluster.stop_writing()
        await self._fence.close(_LAST_WRITES_SECONDS)
        if self._election is not None:
            await asyncio.to_thread(self._election.release)

    async def _pass(self, ref: Ref) -> timedelta | None:
        if not self._areas.serves(ref.namespace):
            return None  # its jobs are all looked at when it is taken up again
        self._settings = self._settings.with_present_ca()
        return await reconcile(ref, self._fenced, self._studies, lambda: datetime.now(UTC), self._settings)

    async def _resync(self) -> None:
        await resync(self._cluster.list_metadata, lambda: self._areas.served, self._resynced)

    def _resynced(self, jobs: list[Manifest], listed_at: float, within_seconds: float) -> None:
        """Ask for a pass over every job, spread over time, and forget whatever is gone."""
        there = self._wakes.keep_only({job["metadata"]["uid"] for job in jobs}, listed_at)
        there |= {Ref.of(job) for job in jobs}
        self._metrics.census.keep_only(there)
        self._worker.queue.keep_only(there, listed_at)
        for position, ref in enumerate(sorted(there)):
            self._worker.add(ref, position * within_seconds / len(there), Lane.TIMED)

    def _contender(self, loop: asyncio.AbstractEventLoop) -> LeaderElection:
        def acquired() -> None:
            loop.call_soon_threadsafe(self._leads.set)

        leases, ref = CountedLeases(self._cluster, self._metrics), lease_ref(self._cluster, self._settings)
        return LeaderElection(leases, ref, new_identity(self._settings.pod_name), acquired)

    def _show(self) -> None:
        """The metrics that are read when somebody asks."""
        metrics, election = self._metrics, self._election
        metrics.watch_lanes("queue_depth", "Jobs that wait for a pass, due or not.", self._worker.queue.depth)
        metrics.watch_lanes("queue_overdue_seconds", "Longest wait of a job that is due.", self._worker.overdue_seconds)
        metrics.watch("passes_running", "Passes that are going on.", lambda: self._worker.running)
        metrics.watch("watch_silence_seconds", "Longest silence of a watch.", self._children.silence_seconds)
        metrics.watch("watch_synced", "1 once everything has been listed.", lambda: self._children.is_synced)
        metrics.watch("event_loop_lag_seconds", "How late the event loop was.", lambda: self._heart.lag_seconds)
        metrics.watch("leader", "1 in the replica that works.", election.is_held if election else lambda: 1.0)
        metrics.watch(
            "lease_silence_seconds",
            "Since when the Lease could not be read or written.",
            election.silence_seconds if election else lambda: 0.0,
        )
        metrics.watch_namespaces(
            "namespace_denied",
            "1 while the operator may not work in a namespace that it was told to work in.",
            self._areas.told,
            self._areas.denied,
        )
        metrics.watch_total(
            "api_throttle_wait_seconds",
            "Time that requests waited for the client's own limit.",
            lambda: self._cluster.requests.waited_seconds,
        )


async def resync(
    list_jobs: Callable[[str, str | None], Awaitable[list[Manifest]]],
    namespaces: Callable[[], tuple[str, ...]],
    on_listed: Callable[[list[Manifest], float, float], None],
    every_seconds: float = RESYNC_ALL_SECONDS,
) -> None:
    """Now and then list all jobs, whatever events were missed or are not watched.

    Args:
        namespaces: where to look; none for the whole cluster.
        on_listed: told the jobs, the time of the loop at which they were asked for, and the seconds over which to spread
            the passes.
    """
    while True:
        await asyncio.sleep(every_seconds)
        listed_at = asyncio.get_running_loop().time()
        try:
            jobs = [m for n in namespaces() or (None,) for m in await list_jobs("AutoMLJob", n)]
        except ClusterError as error:
            log.warning("resync put off", extra={"error": str(error)})
            continue
        on_listed(jobs, listed_at, every_seconds / 2)


async def _until_stopped(
    stop: asyncio.Event,
    leave: Callable[[], Awaitable[None]],
    work: Coroutine[Any, Any, None],
    *watches: Coroutine[Any, Any, None],
) -> None:
    """Run everything until `stop`, or until one of them fails; then end the work, leave, and end the rest."""
    tasks = [asyncio.create_task(each) for each in (work, *watches)]
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({*tasks, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(tasks[0])
        await leave()
        results = await _end(*tasks, stopped)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _end(*tasks: asyncio.Task[Any]) -> list[Any]:
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kubeautoml operator", description="Run the operator: reconcile AutoMLJobs until SIGTERM."
    )
    parser.add_argument("-n", "--namespace", action="append", default=[], help="work here only; may be repeated")
    parser.add_argument("--kubeconfig", help="kubeconfig file, to run outside of the cluster")
    parser.add_argument("--study-url", help="study URL as pods reach it; default: KUBEAUTOML_STUDY_URL")
    parser.add_argument(
        "--no-leader-election", action="store_true", help="work at once, where no other operator can be running"
    )
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--log-format", choices=("json", "text"), help="default: KUBEAUTOML_LOG_FORMAT, or json")
    return parser


def _settings(args: argparse.Namespace, env: Mapping[str, str]) -> OperatorSettings:
    url = {"KUBEAUTOML_STUDY_URL": args.study_url} if args.study_url else {}
    settings = OperatorSettings.from_env({**env, **url})
    if args.no_leader_election:
        settings = replace(settings, elects_leader=False)
    return replace(settings, namespaces=tuple(args.namespace)) if args.namespace else settings


def _log_format(given: str | None, env: Mapping[str, str]) -> LogFormat:
    name = OperatorEnv.LOG_FORMAT.value
    match given or env.get(name) or "json":
        case "json":
            return "json"
        case "text":
            return "text"
        case other:
            raise UsageError(f"environment variable {name} must be json or text, got {other!r}")


def _connect(args: argparse.Namespace) -> KubeCluster:
    """The cluster around this pod, or the one that a kubeconfig names."""
    from kubeautoml.cluster.kube import KubeCluster

    return KubeCluster.from_kubeconfig(args.kubeconfig)
