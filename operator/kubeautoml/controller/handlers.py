"""The only user of kopf: it watches, and every event only says which job to look at. Nothing is decided here.

With event handlers alone kopf writes nothing into objects: no annotation, no finalizer, no status (tests hold it).
It runs in a thread with a loop of its own, so that its shutdown, which cancels every task it finds, finds only its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import kopf

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.kinds import GROUP, VERSION
from kubeautoml.api.names import LABEL_JOB, LABEL_JOB_UID
from kubeautoml.api.objects import Ref

CHILD_RESOURCES = (("batch", "v1", "jobs"), ("apps", "v1", "deployments"), ("", "v1", "pods"))
"""Watched with the label that all children carry, so that the API server sends no other objects."""

_STOP_SECONDS = 10.0
"""Longest wait for kopf's thread at the end; the process ends anyway."""


class Wakes:
    """Turns events into the jobs they concern.

    Args:
        wake: asks for a pass over a job; called in kopf's thread.
    """

    def __init__(self, wake: Callable[[Ref], None]) -> None:
        self._wake = wake
        self._jobs: dict[str, Ref] = {}
        self._seen: dict[str, tuple[Any, ...]] = {}

    def job(self, event_type: str | None, manifest: Any) -> None:
        """An AutoMLJob: changes of its status are our own writing and wake nobody."""
        meta = manifest["metadata"]
        uid, ref = meta["uid"], Ref("AutoMLJob", meta["namespace"], meta["name"])
        if event_type == "DELETED":
            self._jobs.pop(uid, None)
            self._seen.pop(uid, None)
            self._wake(ref)
            return
        mark = (meta.get("generation"), meta.get("deletionTimestamp"))
        if self._seen.get(uid) != mark:
            self._jobs[uid], self._seen[uid] = ref, mark
            self._wake(ref)

    def child(self, manifest: Any) -> None:
        """A child or a pod: found by the uid of its job, since a label cannot hold a long name."""
        meta = manifest["metadata"]
        labels = meta.get("labels", {})
        ref = self._jobs.get(labels.get(LABEL_JOB_UID, ""))
        if ref is None and LABEL_JOB in labels:
            ref = Ref("AutoMLJob", meta["namespace"], labels[LABEL_JOB])
        if ref is not None:
            self._wake(ref)

    def profile(self) -> None:
        """A profile: any job may use it."""
        for ref in self._jobs.values():
            self._wake(ref)


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


def make_registry(wakes: Wakes, log_in: Callable[..., kopf.ConnectionInfo | None] = log_in) -> kopf.OperatorRegistry:
    """The handlers."""
    registry = kopf.OperatorRegistry()

    @kopf.on.event(GROUP, VERSION, "automljobs", registry=registry)
    async def on_job(event: Any, **_: Any) -> None:
        wakes.job(event["type"], event["object"])

    @kopf.on.event(GROUP, VERSION, "automlprofiles", registry=registry)
    async def on_profile(**_: Any) -> None:
        wakes.profile()

    async def on_child(event: Any, **_: Any) -> None:
        wakes.child(event["object"])

    for resource in CHILD_RESOURCES:
        kopf.on.event(*resource, registry=registry, id=f"child-{resource[2]}")(on_child)
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
    for group, version, plural in CHILD_RESOURCES:
        settings.watching.label_selectors[group, version, plural] = LABEL_JOB_UID
    return settings


class _Patience:
    """Waits between attempts at a request, without an end: an API server that is away comes back some day."""

    def __iter__(self) -> Iterator[float]:
        yield from (1.0, 1.0, 2.0, 3.0, 5.0, 8.0)
        yield from repeat(13.0)


class Watching:
    """Kopf in its thread.

    Args:
        wake: asks for a pass over a job; called in the loop that `run` is awaited in.
        namespaces: where to look; empty for all.
    """

    def __init__(self, wake: Callable[[Ref], None], namespaces: tuple[str, ...]) -> None:
        self._wake = wake
        self._namespaces = namespaces
        self._stop = threading.Event()
        self._ready = threading.Event()

    @property
    def is_ready(self) -> bool:
        """Whether the watches have started."""
        return self._ready.is_set()

    async def run(self) -> None:
        """Watch until cancelled.

        Raises:
            ClusterError: kopf could not log in, or ended by itself.
        """
        loop = asyncio.get_running_loop()
        wakes = Wakes(lambda ref: _call(loop, self._wake, ref))
        ended: asyncio.Future[str] = loop.create_future()

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

        thread = threading.Thread(target=self._watch, args=(wakes, log_in_or_end, end), name="kopf", daemon=True)
        thread.start()
        try:
            why = await ended
        finally:
            self._stop.set()
            await asyncio.to_thread(thread.join, _STOP_SECONDS)
        raise ClusterError(f"watching the cluster ended: {why}; check the address and the credentials")

    def _watch(
        self, wakes: Wakes, log_in: Callable[..., kopf.ConnectionInfo | None], end: Callable[[str], None]
    ) -> None:
        """What kopf's thread does."""
        logging.getLogger("kopf").setLevel(logging.ERROR)
        operator = kopf.operator(
            registry=make_registry(wakes, log_in),
            settings=make_settings(),
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._stop,
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
