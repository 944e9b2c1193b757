"""One pod from its binding to its end, in a thread of its own."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import urllib3

from kubeautoml.api.names import Env
from real.kubelet_container import ContainerRunner, stamp
from real.kubelet_volumes import NotYet, Paths, Source, make_volumes, remove
from real.rest import STRATEGIC_MERGE, ApiError, Json

if TYPE_CHECKING:
    from real.kubelet import Kubelet

STEP_SECONDS = 0.03
RETRY_SECONDS = 0.5


class PodRunner(threading.Thread):
    """Runs one pod. `saw`, `kill` and `abandon` may be called from other threads."""

    def __init__(self, kubelet: Kubelet, pod: Json, host: str) -> None:
        super().__init__(name=f"pod-{pod['metadata']['name']}", daemon=True)
        meta, spec = pod["metadata"], pod["spec"]
        self.namespace, self.uid = str(meta["namespace"]), str(meta["uid"])
        self.pod_name = str(meta["name"])
        self.host = host
        """The address on which its processes can listen."""
        self.folder = kubelet.folder / f"{self.namespace}_{self.pod_name}_{self.uid}"
        self.folder.mkdir()
        self.is_over = False
        """Nothing of it runs any more."""
        self.absent_images = kubelet.absent_images
        self.entrypoints = kubelet.entrypoints
        self._kubelet = kubelet
        self._api = kubelet.plane.admin
        self._pod = pod
        policy = spec.get("restartPolicy", "Always")
        once = "Never" if policy == "Never" else "OnFailure"
        self._init = [ContainerRunner(self, c, once) for c in spec.get("initContainers") or []]
        self._containers = [ContainerRunner(self, c, policy) for c in spec["containers"]]
        self._volumes: dict[str, Path] = {}
        self._wake = threading.Event()
        self._deleting = threading.Event()
        self._abandoned = threading.Event()
        if meta.get("deletionTimestamp"):
            self._deleting.set()
        self._started_at = stamp()
        self._transitions: dict[str, tuple[str, str]] = {}
        self._reported: Json = {}

    # From other threads

    @property
    def labels(self) -> dict[str, str]:
        return dict(self._pod["metadata"].get("labels") or {})

    @property
    def is_ready(self) -> bool:
        """Whether Services send anybody here."""
        return not self.is_over and not self._must_leave() and all(c.is_ready for c in self._containers)

    def saw(self, pod: Json) -> None:
        """The object changed."""
        self._pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._deleting.set()
            self._wake.set()
            if self.is_over:
                self._remove_object()

    def abandon(self) -> None:
        """Kill everything and report nothing: the object or the node is gone."""
        self._abandoned.set()
        self._wake.set()

    def kill(self, number: int, container: str | None, reason: str) -> None:
        """Send a signal behind the API's back."""
        self._container(container).kill(number, reason)

    def log_file(self, container: str | None = None) -> Path:
        """Where a container's output goes; the first container by default."""
        return self._container(container).log_file

    def port_number(self, port: int | str | None) -> int:
        """A container port by number or name; the first one by default.

        Raises:
            KeyError: no container has such a port.
        """
        if isinstance(port, int):
            return port
        ports = [p for c in self._containers for p in c.spec.get("ports") or []]
        found = next((p for p in ports if port in (None, p.get("name"))), None)
        if found is None:
            raise KeyError(f"pod {self.namespace}/{self.pod_name} has no port {port or 'at all'}")
        return int(found["containerPort"])

    def base_environment(self, paths: Paths) -> dict[str, str]:
        """What every container of the pod sees besides its own variables: nothing of this machine's but the PATH."""
        temporary = paths.temporary or self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        server = urlsplit(self._kubelet.plane.server)
        programs = [str(self._kubelet.programs)] if self._kubelet.programs else []
        account = paths.mounts.get("/var/run/secrets/kubernetes.io/serviceaccount")
        return {
            "PATH": os.pathsep.join([*programs, str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "HOME": str(self.folder),
            "HOSTNAME": self.pod_name,
            "LANG": "C.UTF-8",
            "TMPDIR": str(temporary),
            "PYTHONUNBUFFERED": "1",
            "KUBERNETES_SERVICE_HOST": str(server.hostname),
            "KUBERNETES_SERVICE_PORT": str(server.port),
            Env.BIND_HOST.value: self.host,
            **({"TEST_SERVICE_ACCOUNT": str(account)} if account else {}),
            **self._kubelet.environment,
        }

    # The thread

    def run(self) -> None:
        try:
            self._live()
        finally:
            for container in [*self._init, *self._containers]:
                container.destroy()
            remove(self.folder / "volumes")
            self.is_over = True
        if self._deleting.is_set() and not self._abandoned.is_set():
            self._remove_object()

    def _live(self) -> None:
        self._report("Pending")
        if not self._prepare() or not self._initialise():
            return self._leave()
        while not self._must_leave():
            self._step(self._containers)
            if all(c.exit_code is not None for c in self._containers):
                return self._report_until_heard(self._final_phase())
            has_begun = any(c.is_running or c.restarts for c in self._containers)
            self._report("Running" if has_begun else "Pending")
            self._pause(STEP_SECONDS)
        return self._leave()

    def _prepare(self) -> bool:
        """Make the volumes, waiting for what they need; False when the pod must go before."""
        complained = ""
        while not self._must_leave():
            try:
                self._volumes = make_volumes(self._source(), self.folder / "volumes")
                return True
            except NotYet as missing:
                if str(missing) != complained:
                    complained = str(missing)
                    self._complain("FailedMount", f"MountVolume.SetUp failed for volume: {missing}")
            except (ApiError, urllib3.exceptions.HTTPError) as error:
                complained = str(error)
            self._report("Pending")
            self._pause(RETRY_SECONDS)
        return False

    def _initialise(self) -> bool:
        """Run the init containers one after the other; False when one failed for good or the pod must go."""
        for container in self._init:
            while container.exit_code is None and not self._must_leave():
                self._step([container])
                self._report("Pending")
                self._pause(STEP_SECONDS)
            if container.exit_code != 0:
                if not self._must_leave():
                    self._report_until_heard("Failed")
                return False
        return True

    def _step(self, containers: list[ContainerRunner]) -> None:
        source = self._source()
        for container in containers:
            with suppress(ApiError, urllib3.exceptions.HTTPError):  # asked again at the next step
                container.step(source, self._volumes)

    def _must_leave(self) -> bool:
        return self._deleting.is_set() or self._abandoned.is_set()

    def _leave(self) -> None:
        """End politely when the pod was deleted: hook, SIGTERM, the grace period, SIGKILL, a last report."""
        running = [c for c in [*self._init, *self._containers] if c.is_running]
        if self._abandoned.is_set() or not self._deleting.is_set():
            return
        deadline = time.monotonic() + float(self._pod["metadata"].get("deletionGracePeriodSeconds", 30))
        for container in running:
            container.before_stop()
            container.kill(signal.SIGTERM)
        while not all(c.notice_end() for c in running) and time.monotonic() < deadline:
            if self._abandoned.wait(STEP_SECONDS):
                return
        for container in running:
            container.kill(signal.SIGKILL)
        while not all(c.notice_end() for c in running):
            time.sleep(STEP_SECONDS)
        self._report_until_heard(self._final_phase())

    def _final_phase(self) -> str:
        return "Succeeded" if all(c.exit_code == 0 for c in self._containers) else "Failed"

    # Reporting

    def _report_until_heard(self, phase: str) -> None:
        while not self._abandoned.is_set() and not self._report(phase):
            self._abandoned.wait(RETRY_SECONDS)

    def _report(self, phase: str) -> bool:
        """Send the status if it changed; False when the API server did not take it."""
        status = self._status(phase)
        if status == self._reported or self._abandoned.is_set():
            return True
        try:
            body = {"metadata": {"uid": self.uid}, "status": status}
            self._api.patch(f"{self._path()}/status", body, STRATEGIC_MERGE)
        except (ApiError, urllib3.exceptions.HTTPError) as error:
            if isinstance(error, ApiError) and error.status in (404, 409, 422):
                self.abandon()  # gone, or another pod of the same name
            return False
        self._reported = status
        return True

    def _status(self, phase: str) -> Json:
        is_over = phase in ("Succeeded", "Failed")
        ready = not is_over and all(c.is_ready for c in self._containers)
        why = "" if ready else "PodCompleted" if phase == "Succeeded" else "ContainersNotReady"
        ip = "10." + self.host.split(".", 1)[1]
        initialised = all(c.exit_code == 0 for c in self._init)
        return {
            "phase": phase,
            "conditions": [
                self._condition("Initialized", initialised, "" if initialised else "ContainersNotInitialized"),
                self._condition("Ready", ready, why),
                self._condition("ContainersReady", ready, why),
                self._condition("PodScheduled", True, ""),
            ],
            "hostIP": "127.0.0.1",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "startTime": self._started_at,
            "containerStatuses": [c.status() for c in self._containers],
            **({"initContainerStatuses": [c.status() for c in self._init]} if self._init else {}),
        }

    def _condition(self, kind: str, holds: bool, reason: str) -> Json:
        status = "True" if holds else "False"
        before, since = self._transitions.get(kind, ("", ""))
        if before != status:
            since = stamp()
            self._transitions[kind] = (status, since)
        return {"type": kind, "status": status, "lastTransitionTime": since, **({"reason": reason} if reason else {})}

    def _complain(self, reason: str, message: str) -> None:
        """An Event, since nothing in a pod's status says why a volume cannot be mounted."""
        now = stamp()
        involved = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": self.pod_name,
            "namespace": self.namespace,
            "uid": self.uid,
        }
        event = {
            "metadata": {"generateName": f"{self.pod_name}.", "namespace": self.namespace},
            "involvedObject": involved,
            "type": "Warning",
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "kubelet"},
        }
        with suppress(ApiError, urllib3.exceptions.HTTPError):
            self._api.post(f"/api/v1/namespaces/{self.namespace}/events", event)

    def _remove_object(self) -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        with suppress(ApiError, urllib3.exceptions.HTTPError):
            self._api.delete(self._path(), options)

    # Small parts

    def _source(self) -> Source:
        return Source(self._api, self._pod, self.host, self._kubelet.folder / "claims")

    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.pod_name}"

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)

    def _container(self, name: str | None) -> ContainerRunner:
        every = [*self._containers, *self._init]
        return next(c for c in every if name in (None, c.name))
