"""The cluster on a laptop: a MemoryCluster whose Jobs (and, on request, Deployments) run as processes.

`kubeautoml run` reconciles a job over it with the very code that runs in a real cluster. Processes die with this one,
also when it is killed (on Linux, by the kernel's parent-death signal; elsewhere only when it ends in an orderly way).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cluster.base import Change
from kubeautoml.cluster.local_deployment import DeploymentController
from kubeautoml.cluster.local_job import JobController
from kubeautoml.cluster.local_pod import LocalPod
from kubeautoml.cluster.memory import MemoryCluster


class LocalCluster(MemoryCluster):
    """An async context manager: leaving it ends every process.

    Args:
        workdir: `logs/<pod>.log` stay there; `pods/` holds the pods' folders while they run.
        serve: run Deployments, too; without it they are stored only.
        serve_port: port of 127.0.0.1 for the first server, if it is free; 0 for any.
        environment: what processes inherit; default: this process's environment.
        max_grace_seconds: upper limit to the pods' own terminationGracePeriodSeconds.
        backoff_seconds: wait before a Job's first failed pod is replaced; doubles with each failure.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        serve: bool = False,
        serve_port: int = 0,
        environment: Mapping[str, str] | None = None,
        max_grace_seconds: float | None = None,
        backoff_seconds: float = 1.0,
        new_uid: Callable[[], str] = lambda: str(uuid.uuid4()),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(new_uid=new_uid, clock=clock)
        self._workdir = workdir.resolve()
        self._serve = serve
        self._serve_port = serve_port
        self._environment = dict(os.environ if environment is None else environment)
        self._max_grace_seconds = max_grace_seconds
        self._backoff_seconds = backoff_seconds
        self._controllers: dict[str, JobController | DeploymentController] = {}
        self._awake: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._running: dict[str, LocalPod] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, grace_seconds: float | None = None) -> None:
        """End every process: SIGTERM, and SIGKILL after the pods' grace period or the given one. Safe to call twice."""
        self._is_closing = True
        try:
            for pod in self._running.values():
                pod.stop(grace_seconds)
            if self._tasks:
                await asyncio.wait(set(self._tasks))
        finally:
            for pod in self._running.values():
                pod.kill()
            for task in self._tasks:
                task.cancel()
            for timer in self._timers.values():
                timer.cancel()
            shutil.rmtree(self._workdir / "pods", ignore_errors=True)

    def log_file(self, pod_name: str) -> Path:
        """Where a pod's output goes; it stays after the pod."""
        return self._workdir / "logs" / f"{pod_name}.log"

    def pid_of(self, pod_name: str) -> int:
        """The process (and process group) that a running pod is.

        Raises:
            ClusterError: no such pod has a process.
        """
        for pod in self._running.values():
            if pod.name == pod_name and pod.pid is not None:
                return pod.pid
        raise ClusterError(f"Pod {pod_name} has no process", reason="NotFound")

    def endpoint(self, deployment: Ref) -> str | None:
        """Base URL of a ready server of a Deployment, the newest first; None while none is ready."""
        found = self.look(deployment)
        for pod in reversed(self.pods_of(found["metadata"]["uid"]) if found else []):
            process = self._running.get(pod["metadata"]["uid"])
            containers = pod["status"].get("containerStatuses", ())  # none until the first report
            if process and process.port and containers and containers[0]["ready"]:
                return f"http://127.0.0.1:{process.port}"
        return None

    # Reacting to changes

    async def apply(self, manifest: Manifest) -> Manifest:
        containers = manifest.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [None])
        if manifest.get("kind") in ("Job", "Deployment") and len(containers) != 1:
            raise ClusterError(
                f"a pod on this machine must have one container, got {len(containers)} in {Ref.of(manifest)}",
                reason="Invalid",
            )
        return await super().apply(manifest)

    def _notify(self, change: Change) -> None:
        super()._notify(change)
        kind, uid = change.manifest["kind"], change.manifest["metadata"]["uid"]
        if kind == "Pod":
            self._pod_changed(change)
        elif change.type == "DELETED":
            self._controllers.pop(uid, None)
        elif kind == "Job" or (kind == "Deployment" and self._serve):
            if uid not in self._controllers:
                self._controllers[uid] = (
                    JobController(self, change.manifest, self._backoff_seconds)
                    if kind == "Job"
                    else DeploymentController(self, change.manifest)
                )
            self._wake(uid)

    def _pod_changed(self, change: Change) -> None:
        pod = change.manifest
        uid = pod["metadata"]["uid"]
        if change.type == "ADDED":
            self._start(pod)
        elif "deletionTimestamp" in pod["metadata"] and uid in self._running:
            self._running[uid].stop()
        owner = _controller_uid(pod)
        if owner in self._controllers:
            self._controllers[owner].pod_changed(change)
            self._wake(owner)

    def _wake(self, uid: str) -> None:
        """Let a controller look, once, as soon as the present change is finished."""
        if uid not in self._awake and not self._is_closing:
            self._awake.add(uid)
            asyncio.get_running_loop().call_soon(self._sync, uid)

    def _sync(self, uid: str) -> None:
        self._awake.discard(uid)
        if uid in self._controllers and not self._is_closing:
            self._controllers[uid].sync()

    # Pods

    def _start(self, pod: Manifest) -> None:
        ref, uid, name = Ref.of(pod), pod["metadata"]["uid"], pod["metadata"]["name"]
        process = LocalPod(
            deepcopy(pod),
            folder=self._workdir / "pods" / name,
            log=self.log_file(name),
            environment=self._environment,
            report=lambda status: self._report(ref, uid, status),
            clock=self._clock,
            max_grace_seconds=self._max_grace_seconds,
            preferred_port=self._serve_port,
        )
        self._running[uid] = process
        task = asyncio.create_task(self._run(ref, uid, process), name=f"pod {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, ref: Ref, uid: str, process: LocalPod) -> None:
        try:
            await process.run()
        finally:
            self._running.pop(uid, None)
            pod = self.look(ref)
            if pod and pod["metadata"]["uid"] == uid and "deletionTimestamp" in pod["metadata"]:
                self._begin_delete(ref)

    def _report(self, ref: Ref, uid: str, status: Manifest) -> None:
        pod = self.look(ref)
        if pod and pod["metadata"]["uid"] == uid:
            self._write_status(ref, status)

    def _is_held(self, manifest: Manifest) -> bool:
        return manifest["metadata"]["uid"] in self._running or super()._is_held(manifest)

    # What the controllers need (local_job.Surroundings)

    def look(self, ref: Ref) -> Manifest | None:
        stored = self._objects.get(ref)
        return stored.manifest if stored else None

    def pods_of(self, uid: str) -> list[Manifest]:
        pods = [s.manifest for r, s in self._objects.items() if r.kind == "Pod"]
        return [p for p in pods if _controller_uid(p) == uid]

    def create_pod(self, owner: Manifest, labels: dict[str, str]) -> None:
        template, (ref, uid) = owner["spec"]["template"], self._new_pod_name(Ref.of(owner))
        own = template.get("metadata", {})
        body: Manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": ref.name,
                "namespace": ref.namespace,
                "labels": {**own.get("labels", {}), **labels},
                "annotations": dict(own.get("annotations", {})),
                "ownerReferences": [
                    {
                        "apiVersion": owner["apiVersion"],
                        "kind": owner["kind"],
                        "name": owner["metadata"]["name"],
                        "uid": owner["metadata"]["uid"],
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": deepcopy(template["spec"]),
            "status": {"phase": "Pending"},
        }
        self._store(ref, body, uid=uid)

    def _new_pod_name(self, owner: Ref) -> tuple[Ref, str]:
        while True:
            uid = self._new_uid()
            ref = Ref("Pod", owner.namespace, f"{owner.name}-{uid.replace('-', '')[-5:]}")
            if ref not in self._objects:
                return ref, uid

    def delete_pod(self, pod: Manifest) -> None:
        self._begin_delete(Ref.of(pod))

    def set_status(self, ref: Ref, status: Manifest) -> None:
        self._write_status(ref, status)

    def now(self) -> datetime:
        return self._clock()

    def seconds(self) -> float:
        return asyncio.get_running_loop().time()

    def wake_later(self, uid: str, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        timer = self._timers.get(uid)
        if timer and loop.time() < timer.when() <= loop.time() + seconds:
            return
        if timer:
            timer.cancel()
        self._timers[uid] = loop.call_later(seconds, self._wake, uid)


def _controller_uid(pod: Manifest) -> str:
    """The uid of the Job or Deployment that keeps a pod."""
    owners = pod["metadata"].get("ownerReferences", [])
    return next((str(o["uid"]) for o in owners if o.get("controller")), "")
