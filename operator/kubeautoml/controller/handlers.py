"""The only user of kopf: it watches AutoMLJobs, and every event only says which one to look at. Nothing is decided here.

With event handlers alone kopf writes nothing into objects: no annotation, no finalizer, no status (tests hold it).
It runs in a thread with a loop of its own, so that its shutdown, which cancels every task it finds, finds only its own.
Children and profiles are watched by `cluster.cached`, which keeps them, too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import kopf

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.kinds import GROUP, VERSION
from kubeautoml.api.names import LABEL_JOB, LABEL_JOB_UID
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cluster.base import Change
from kubeautoml.controller.queue import Lane

_OF_A_JOB = ("name", "namespace", "uid", "generation", "deletionTimestamp", "labels", "annotations")

log = logging.getLogger(__name__)

_STOP_SECONDS = 2.0
"""Longest wait for kopf's thread at the end; the process ends anyway."""

WATCH_SECONDS = 240
"""The server ends a watch after this long, and kopf begins the next one from there."""

SILENCE_SECONDS = 90.0
"""A watch that says nothing for so long is taken for dead and begun anew: servers send a bookmark about every minute."""

SHORT_SECONDS = 30.0
"""A watch that ends sooner is not begun anew: it will not do better next time."""

ANSWER_SECONDS = 60.0
"""Longest wait for a list; what died without a word must not stay unnoticed."""


def _is_settled(manifest: Any) -> bool:
    """Whether it is a model that says already that nothing serves it: of those that outlive their job there may be thousands."""
    conditions = manifest.get("status", {}).get("conditions", [])
    return manifest.get("kind") == "AutoMLModel" and any(c.get("reason") == Reason.STORED for c in conditions)


class Wakes:
    """Turns events into the jobs they concern. One event loop uses it, wherever the events come from.

    Args:
        wake: asks for a pass over a job, in a lane of the queue.
        clock: seconds of the loop's clock.
    """

    def __init__(self, wake: Callable[[Ref, Lane], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._wake = wake
        self._clock = clock
        self._jobs: dict[str, _Job] = {}

    def change(self, change: Change) -> None:
        """A child, a pod or a profile has changed."""
        if change.manifest["kind"] == "AutoMLProfile":
            self.profile()
        else:
            self.child(change.manifest)

    def job(self, event_type: str | None, manifest: Any) -> None:
        """An AutoMLJob: changes of its status are our own writing and wake nobody; labels may be a queue's, say."""
        meta = manifest["metadata"]
        uid, ref = meta["uid"], Ref("AutoMLJob", meta["namespace"], meta["name"])
        before = self._jobs.pop(uid, None)
        if event_type == "DELETED":
            self._wake(ref, Lane.EDIT)
            return
        added = json.dumps([meta.get("labels"), meta.get("annotations")], sort_keys=True)
        mark = (meta.get("generation"), meta.get("deletionTimestamp"), hash(added))
        self._jobs[uid] = _Job(ref, mark, self._clock())
        if before is None or before.mark != mark:
            self._wake(ref, Lane.EVENT if before is None else Lane.EDIT)

    def child(self, manifest: Any) -> None:
        """A child or a pod: found by the uid of its job, since a label cannot hold a long name."""
        meta = manifest["metadata"]
        labels = meta.get("labels", {})
        job = self._jobs.get(labels.get(LABEL_JOB_UID, ""))
        ref = job.ref if job else None
        if ref is None and LABEL_JOB in labels and not _is_settled(manifest):
            ref = Ref("AutoMLJob", meta["namespace"], labels[LABEL_JOB])
        if ref is not None:
            self._wake(ref, Lane.EVENT)

    def profile(self) -> None:
        """A profile: any job may use it."""
        for job in self._jobs.values():
            self._wake(job.ref, Lane.EVENT)

    def forget(self, namespaces: frozenset[str]) -> None:
        """Take the next that is heard of a job in these namespaces for the first."""
        for uid in [uid for uid, job in self._jobs.items() if job.ref.namespace in namespaces]:
            del self._jobs[uid]

    def keep_only(self, uids: set[str], since: float) -> set[Ref]:
        """Forget the jobs not among these, of which nothing was heard after `since`: a broken watch has not told their end.

        Returns:
            the jobs there are.
        """
        for uid in [uid for uid, job in self._jobs.items() if uid not in uids and job.heard_at < since]:
            del self._jobs[uid]
        return {job.ref for job in self._jobs.values()}


@dataclass(frozen=True)
class _Job:
    """A job there is, what tells its versions apart, and when it was last heard of."""

    ref: Ref
    mark: tuple[Any, ...]
    heard_at: float


def log_in(**arguments: Any) -> kopf.ConnectionInfo | None:
    """Where the API server is and who we are: what KUBECONFIG names, else this pod's account, else ~/.kube/config."""
    account = None if os.environ.get("KUBECONFIG") else kopf.login_with_service_account(**arguments)
    if account is not None:
        return account
    found = kopf.login_with_kubeconfig(**arguments)
    if found is not None and (found.token or found.username or found.certificate_path or found.certificate_data):
        return found
    # The Kubernetes client also runs the helper programs that some kubeconfigs name.
    return kopf.login_via_client(**arguments)


def make_registry(
    on_job: Callable[[str | None, Manifest], None],
    log_in: Callable[..., kopf.ConnectionInfo | None] = log_in,
) -> kopf.OperatorRegistry:
    """The handler: what it is told of a job is what tells its versions apart, and no more."""
    registry = kopf.OperatorRegistry()

    @kopf.on.event(GROUP, VERSION, "automljobs", registry=registry)
    async def job(event: Any, **_: Any) -> None:
        meta = event["object"]["metadata"]
        on_job(event["type"], {"metadata": {k: meta[k] for k in _OF_A_JOB if k in meta}})

    kopf.on.login(registry=registry)(log_in)
    return registry


def make_settings() -> kopf.OperatorSettings:
    """Kopf as a watcher: no peering, no events, no watching of CRDs and namespaces (which would need more rights)."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = None
    settings.networking.error_backoffs = _Patience()
    settings.networking.connect_timeout = 10.0
    settings.networking.request_timeout = ANSWER_SECONDS
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + ANSWER_SECONDS
    settings.watching.inactivity_timeout = SILENCE_SECONDS
    return settings


class _Patience:
    """Waits between attempts at a request, without an end: an API server that is away comes back some day."""

    def __iter__(self) -> Iterator[float]:
        yield from (1.0, 1.0, 2.0, 3.0, 5.0, 8.0)
        yield from repeat(13.0)


class Watching:
    """Kopf in its thread, begun anew should it end by itself, as it does on an error within a watch.

    Args:
        on_job: told every event of an AutoMLJob, in the loop that `run` is awaited in.
        namespaces: where to look; empty for all.
        look: called when kopf has ended by itself; it calls `serve` if that was because rights have gone.
    """

    def __init__(
        self,
        on_job: Callable[[str | None, Manifest], None],
        namespaces: tuple[str, ...],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        self._on_job = on_job
        self._namespaces = namespaces
        self._look = look
        self._ready = threading.Event()
        self._ended: asyncio.Future[str] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the watch has started."""
        return self._ready.is_set()

    def serve(self, namespaces: tuple[str, ...]) -> None:
        """Look in these from now on. Kopf learns them when it starts (without the right to watch namespaces), so it starts anew."""
        self._namespaces = namespaces
        if self._ended is not None and not self._ended.done():
            self._ended.set_result("other namespaces")

    async def run(self) -> None:
        """Watch until cancelled.

        Raises:
            ClusterError: kopf could not log in, or ended by itself before long.
        """
        loop = asyncio.get_running_loop()
        while True:
            began, namespaces = loop.time(), self._namespaces
            why = await self._run_once(loop)
            if self._namespaces != namespaces:
                continue
            self._ready.clear()
            await self._look()
            if self._namespaces == namespaces and loop.time() - began < SHORT_SECONDS:
                raise ClusterError(f"watching the cluster ended: {why}; check the address and the credentials")
            log.warning("watch of AutoMLJobs begun anew", extra={"why": why})

    async def _run_once(self, loop: asyncio.AbstractEventLoop) -> str:
        """Why kopf ended."""
        ended: asyncio.Future[str] = loop.create_future()
        self._ended = ended
        stop = threading.Event()

        def resolve(why: str) -> None:
            if not ended.done():
                ended.set_result(why)

        def end(why: str) -> None:
            _call(loop, resolve, why)

        def log_in_or_end(**arguments: Any) -> kopf.ConnectionInfo | None:
            try:
                found = log_in(**arguments)
            except (kopf.LoginError, OSError, KeyError, ValueError) as error:
                # Kopf itself would wait for ever.
                end(f"cannot log in: {error}")
                raise
            self._ready.set()
            return found

        registry = make_registry(lambda *event: _call(loop, self._on_job, *event), log_in_or_end)
        thread = threading.Thread(target=self._watch, args=(registry, end, stop), name="kopf", daemon=True)
        thread.start()
        try:
            return await ended
        finally:
            stop.set()
            await asyncio.to_thread(thread.join, _STOP_SECONDS)

    def _watch(self, registry: kopf.OperatorRegistry, end: Callable[[str], None], stop: threading.Event) -> None:
        """What kopf's thread does."""
        logging.getLogger("kopf").setLevel(logging.ERROR)
        operator = kopf.operator(
            registry=registry,
            settings=make_settings(),
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=stop,
        )
        why = "it stopped"
        try:
            asyncio.run(operator)
        except Exception as error:  # noqa: BLE001  (it is handed to the thread that waits)
            why = f"{type(error).__name__}: {error}"
        finally:
            end(why)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    """Call something in another thread's loop; a loop that is closed needs nothing any more."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        return
