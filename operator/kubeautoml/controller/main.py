"""`kubeautoml operator`: watch AutoMLJobs and reconcile each until told to stop. The operator's container runs it."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.names import LABEL_JOB_UID
from kubeautoml.api.objects import Ref
from kubeautoml.cluster.base import Cluster
from kubeautoml.controller.endpoints import Endpoints
from kubeautoml.controller.metrics import CountedCluster, Metrics
from kubeautoml.controller.observe import SERVING_KINDS, TRAINING_KINDS
from kubeautoml.controller.queue import Worker
from kubeautoml.controller.reconcile import reconcile
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.controller.studies import Studies

if TYPE_CHECKING:
    from kubeautoml.cluster.kube import KubeCluster

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
RESYNC_ALL_SECONDS = 600.0
"""A safety net under the watches, not a way to work; a guess."""

_RIGHTS = "give the operator's service account the chart's ClusterRole, or a kubeconfig that may do this"

MAX_SILENCE_SECONDS = 60.0
"""A loop that was silent this long is stuck, and the pod is better restarted; a guess."""


def main(argv: list[str]) -> int:
    """Run the operator until SIGTERM. Exit codes: 0 stopped, 1 it cannot work, 2 misuse."""
    args = _parser().parse_args(argv)
    _log_to_stderr(args.log_level)
    if args.kubeconfig:
        # kopf and the client both read it from here.
        os.environ["KUBECONFIG"] = args.kubeconfig
    settings = _settings(args, os.environ)
    with closing(_connect(args)) as cluster:
        asyncio.run(run_operator(cluster, settings))
    return 0


async def run_operator(cluster: Cluster, settings: OperatorSettings) -> None:
    """Work until SIGTERM or SIGINT.

    Raises:
        ClusterError: the cluster lacks what the operator needs; the message says what to do.
    """
    from kubeautoml.controller.handlers import Watching

    await check_access(cluster, settings.namespaces)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics(lambda: len(worker.queue))
    studies = Studies(settings.study_token_file, settings.study_ca_file)
    counted = CountedCluster(cluster, metrics)

    async def pass_(ref: Ref) -> timedelta | None:
        return await reconcile(ref, counted, studies, lambda: datetime.now(UTC), settings)

    worker = Worker(metrics.measured(pass_), settings.concurrency)
    watching = Watching(worker.add, settings.namespaces)
    heart = _Heart()
    with Endpoints(
        {settings.metrics_port, settings.health_port},
        metrics.registry,
        is_healthy=heart.is_beating,
        is_ready=lambda: watching.is_ready and heart.is_beating(),
    ) as endpoints:
        namespaces, ports = ",".join(settings.namespaces) or "all", ",".join(map(str, endpoints.ports))
        log.info("operator started", extra={"namespaces": namespaces, "ports": ports})
        again = resync(counted, settings.namespaces, worker.add)
        await _until_stopped(stop, worker.run(), watching.run(), heart.run(), again)
    studies.close()
    log.info("operator stopped")


async def check_access(cluster: Cluster, namespaces: tuple[str, ...]) -> None:
    """Look for our kinds once, so that a missing definition or right is said in one line at the start.

    Raises:
        ClusterError: with what to do.
    """
    for namespace in namespaces or (None,):
        for kind in ("AutoMLJob", *TRAINING_KINDS, *SERVING_KINDS, "Pod"):
            await _check_list(cluster, kind, namespace)
    await _check_list(cluster, "AutoMLProfile", None)


async def _check_list(cluster: Cluster, kind: str, namespace: str | None) -> None:
    """List what our label selects, which is little, but takes the kind and the right to be there."""
    try:
        await cluster.list(kind, namespace, {LABEL_JOB_UID: "none"})
    except ClusterError as error:
        hint = f"; {_RIGHTS}" if error.reason in ("Forbidden", "Unauthorized") else ""
        raise ClusterError(f"{kind} objects cannot be listed: {error}{hint}", reason=error.reason) from error


async def resync(
    cluster: Cluster,
    namespaces: tuple[str, ...],
    add: Callable[[Ref, float], None],
    every_seconds: float = RESYNC_ALL_SECONDS,
) -> None:
    """Now and then ask for a pass over every job, spread over time, whatever events were missed or are not watched."""
    while True:
        await asyncio.sleep(every_seconds)
        try:
            jobs = [m for n in namespaces or (None,) for m in await cluster.list("AutoMLJob", n)]
        except ClusterError as error:
            log.warning("resync put off", extra={"error": str(error)})
            continue
        for position, job in enumerate(jobs):
            add(Ref.of(job), position * every_seconds / (2 * len(jobs)))


async def _until_stopped(stop: asyncio.Event, *works: Coroutine[Any, Any, None]) -> None:
    """Run everything until `stop`, or until one of them fails."""
    tasks = [asyncio.create_task(work) for work in works]
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({*tasks, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*tasks, stopped):
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


class _Heart:
    """Shows other threads that the event loop turns."""

    def __init__(self) -> None:
        self._beat = datetime.now(UTC)

    def is_beating(self) -> bool:
        return (datetime.now(UTC) - self._beat).total_seconds() < MAX_SILENCE_SECONDS

    async def run(self) -> None:
        while True:
            self._beat = datetime.now(UTC)
            await asyncio.sleep(HEARTBEAT_SECONDS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kubeautoml operator", description="Run the operator: reconcile AutoMLJobs until SIGTERM."
    )
    parser.add_argument("-n", "--namespace", action="append", default=[], help="work here only; may be repeated")
    parser.add_argument("--kubeconfig", help="kubeconfig file, to run outside of the cluster")
    parser.add_argument("--study-url", help="study URL as pods reach it; default: KUBEAUTOML_STUDY_URL")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser


def _settings(args: argparse.Namespace, env: Mapping[str, str]) -> OperatorSettings:
    url = {"KUBEAUTOML_STUDY_URL": args.study_url} if args.study_url else {}
    settings = OperatorSettings.from_env({**env, **url})
    return replace(settings, namespaces=tuple(args.namespace)) if args.namespace else settings


def _connect(args: argparse.Namespace) -> KubeCluster:
    """The cluster around this pod, or the one that a kubeconfig names."""
    from kubeautoml.cluster.kube import KubeCluster

    return KubeCluster.from_kubeconfig(args.kubeconfig)


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FieldFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _FieldFormatter(logging.Formatter):
    """The message, then the fields given as `extra`, as name=value."""

    _KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        fields = [f"{k}={v!r}" for k, v in vars(record).items() if k not in self._KNOWN and k != "settings"]
        return " ".join([super().format(record), *fields])
