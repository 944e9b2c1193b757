"""The only user of kopf: it watches, and every event only says which job to look at. Nothing is decided here.

With event handlers alone kopf writes nothing into objects: no annotation, no finalizer, no status (tests hold it).
It runs in a thread with a loop of its own, so that its shutdown, which cancels every task it finds, finds only its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import kopf

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.kinds import GROUP, VERSION
from kubeautoml.api.names import LABEL_JOB, LABEL_JOB_UID
from kubeautoml.api.objects import Ref

CHILD_RESOURCES = (("batch", "v1", "jobs"), ("apps", "v1", "deployments"), ("", "v1", "pods"))
"""Watched with the label that all children carry, so that the API server sends no other objects."""


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


def make_registry(wakes: Wakes) -> kopf.OperatorRegistry:
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

    @kopf.on.login(registry=registry)
    def log_in(**arguments: Any) -> Any:
        # In a pod its own token; else what the Kubernetes client makes of KUBECONFIG, including its helper programs.
        return kopf.login_with_service_account(**arguments) or kopf.login_via_client(**arguments)

    return registry


def make_settings() -> kopf.OperatorSettings:
    """Kopf as a watcher: no peering, no events, no watching of CRDs and namespaces (which would need more rights)."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = None
    for group, version, plural in CHILD_RESOURCES:
        settings.watching.label_selectors[group, version, plural] = LABEL_JOB_UID
    return settings


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
            ClusterError: kopf ended by itself, for instance because it may not log in.
        """
        loop = asyncio.get_running_loop()
        wakes = Wakes(lambda ref: _call(loop, self._wake, ref))
        ended: asyncio.Future[None] = loop.create_future()

        def watch() -> None:
            error: BaseException | None = None
            try:
                asyncio.run(self._watch(wakes))
            except BaseException as caught:  # noqa: BLE001  (it is handed to the other thread)
                error = caught
            _call(loop, _finish, ended, error)

        thread = threading.Thread(target=watch, name="kopf", daemon=True)
        thread.start()
        try:
            await asyncio.shield(ended)
        finally:
            self._stop.set()
            await asyncio.to_thread(thread.join, 10)

    async def _watch(self, wakes: Wakes) -> None:
        logging.getLogger("kopf").setLevel(logging.ERROR)
        await kopf.operator(
            registry=make_registry(wakes),
            settings=make_settings(),
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._stop,
            ready_flag=self._ready,
        )


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    """Call something in another thread's loop; a loop that is closed needs nothing any more."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        return


def _finish(ended: asyncio.Future[None], error: BaseException | None) -> None:
    if not ended.done():
        what = f"{type(error).__name__}: {error}" if error else "it stopped"
        failure = ClusterError(f"watching the cluster ended: {what}; check the address and the credentials")
        failure.__cause__ = error
        ended.set_exception(failure)
