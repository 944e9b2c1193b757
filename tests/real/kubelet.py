"""The test kubelet: one node that runs pods as plain processes of this machine.

What a real kubelet does, as far as it can be seen through the API, without containers: binds pods, waits for secrets and
config maps, materialises volumes, runs init containers and containers, probes them, restarts them, reports status, ends
them on delete, keeps and serves their logs. What is different:

- Images are recorded, not used. Commands are looked up on a PATH that begins with this Python's own bin folder.
- A process has no mount namespace, so mount paths in commands, arguments and values of the environment are rewritten to
  where the volume lies on this machine.
- Every pod has its own loopback address 127.a.b.c, which it is told in KUBEAUTOML_BIND_HOST (and status.podIP, through
  the downward API). The API server refuses loopback addresses in Endpoints, so the pod's status says 10.a.b.c instead:
  `pod_address` gives what a test can connect to.
- Probes run at least every half second; thresholds keep their real length in time (failureThreshold x periodSeconds).
- Back-off of crashing containers begins at one second instead of ten.
- A volume of a PersistentVolumeClaim is a folder that lives as long as this node; the claim is bound when a pod names it.
- Where the pod's own API token lies is told in TEST_SERVICE_ACCOUNT, since programs look for it at a fixed path.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import urllib3

from real.controlplane import ControlPlane
from real.kubelet_logs import serve_logs
from real.kubelet_pod import PodRunner
from real.rest import ApiError, Json

NODE = "test-node"
LABELS = {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"}


@contextmanager
def running_kubelet(plane: ControlPlane) -> Iterator[Kubelet]:
    """Register a node and run its pods until the end; then kill what still runs."""
    kubelet = Kubelet(plane)
    try:
        kubelet.start()
        yield kubelet
    finally:
        kubelet.stop()


class Kubelet:
    """One node of one control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.folder = Path(tempfile.mkdtemp(prefix="kubeautoml-kubelet-"))
        self.absent_images: set[str] = set()
        """Images that cannot be pulled: pods that name one stay in ImagePullBackOff."""
        self.images: set[str] = set()
        """Every image that a pod named."""
        self.programs: Path | None = None
        """Folder that stands first on the PATH of every container: stands for what is in the images."""
        self.entrypoints: dict[str, str] = {}
        """Program of a container that names none, by the beginning of its image's name."""
        self.environment: dict[str, str] = {}
        """More environment of every container that starts from now on."""
        self._runners: dict[str, PodRunner] = {}
        self._addresses = itertools.count(1)
        self._stopping = threading.Event()
        self.is_cordoned = False
        self._watcher = threading.Thread(target=self._watch, name="kubelet", daemon=True)

    # Life

    def start(self) -> None:
        """Register the node and begin to watch."""
        self._log_server = serve_logs(self)
        self._register(self._log_server.server_port)
        self._watcher.start()

    def stop(self) -> None:
        """Kill every pod's processes, as when a node loses power: nothing is reported any more."""
        self._stopping.set()
        for runner in list(self._runners.values()):
            runner.abandon()
        for runner in list(self._runners.values()):
            runner.join(timeout=10)
        if self._watcher.is_alive():
            self._watcher.join(timeout=0.2)  # it may wait for the server; it ends with this process
        self._log_server.shutdown()
        self._log_server.server_close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def cordon(self) -> None:
        """Take no more pods; those that run here run on."""
        self.is_cordoned = True

    def uncordon(self) -> None:
        """Take pods again, and those that have waited."""
        self.is_cordoned = False
        for pod in self.plane.admin.items("/api/v1/pods"):
            if not pod["spec"].get("nodeName") and _may_run_here(pod):
                self._bind(pod)

    # What tests ask

    def runner(self, namespace: str, pod: str) -> PodRunner:
        """The latest pod of that name.

        Raises:
            KeyError: this node never saw it.
        """
        found = [r for r in list(self._runners.values()) if (r.namespace, r.pod_name) == (namespace, pod)]
        if not found:
            raise KeyError(f"pod {namespace}/{pod} never ran on this node")
        return found[-1]

    def logs(self, namespace: str, pod: str, container: str | None = None) -> str:
        """What a pod has printed so far, restarts included; also after it was deleted; nothing of one not yet seen."""
        try:
            file = self.runner(namespace, pod).log_file(container)
        except KeyError:
            return ""
        return file.read_text(errors="replace") if file.exists() else ""

    def all_logs(self, namespace: str) -> str:
        """What all pods of a namespace have printed, for the message of a failing test."""
        shown = [r for r in list(self._runners.values()) if r.namespace == namespace]
        return "\n".join(f"--- {r.pod_name}\n{self.logs(namespace, r.pod_name)}" for r in shown)

    def pod_address(self, namespace: str, pod: str, port: int | str | None = None) -> tuple[str, int]:
        """Host and port where a pod's server can be reached from here; by default its first container port."""
        runner = self.runner(namespace, pod)
        return runner.host, runner.port_number(port)

    def kill_pod_process(
        self,
        namespace: str,
        pod: str,
        number: int = signal.SIGKILL,
        container: str | None = None,
        reason: str = "Error",
    ) -> None:
        """Send a signal to a container's processes behind the API's back; `reason` may be OOMKilled."""
        self.runner(namespace, pod).kill(number, container, reason)

    def ready_runners(self, namespace: str, labels: dict[str, str]) -> list[PodRunner]:
        """Pods that a Service with this selector would send somebody to."""
        found = [r for r in list(self._runners.values()) if r.namespace == namespace and r.is_ready]
        return [r for r in found if labels.items() <= r.labels.items()]

    # Watching

    def _register(self, log_port: int) -> None:
        capacity = {"cpu": "64", "memory": "256Gi", "pods": "500", "ephemeral-storage": "100Gi"}
        node: Json = {"metadata": {"name": NODE, "labels": LABELS}}
        self.plane.admin.ensure("/api/v1/nodes", node)
        status: Json = {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": log_port}},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "test kubelet"}],
        }
        self.plane.admin.patch(f"/api/v1/nodes/{NODE}/status", {"status": status})
        self.plane.admin.patch(f"/api/v1/nodes/{NODE}", {"spec": {"taints": []}})

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                listed = self.plane.admin.get("/api/v1/pods")
                self._forget_all_but({p["metadata"]["uid"] for p in listed["items"]})
                for pod in listed["items"]:
                    self._see(pod)
                self._follow(listed["metadata"]["resourceVersion"])
            except (ApiError, urllib3.exceptions.HTTPError, OSError):
                self._stopping.wait(0.2)

    def _follow(self, version: str) -> None:
        """Watch on from a version until it expires or we stop."""
        while not self._stopping.is_set():
            for event in self.plane.admin.watch("/api/v1/pods?allowWatchBookmarks=true", version, timeout_seconds=5):
                if event["type"] == "ERROR":
                    return
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] in ("ADDED", "MODIFIED"):
                    self._see(event["object"])
                elif event["type"] == "DELETED":
                    self._gone(event["object"]["metadata"]["uid"])

    def _see(self, pod: Json) -> None:
        """Bind a new pod; start it once bound; tell a running one that it changed."""
        uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName")
        if uid in self._runners:
            self._runners[uid].saw(pod)
        elif not node:
            if not self.is_cordoned and _may_run_here(pod):
                self._bind(pod)
        elif node == NODE and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            self.images.update(c["image"] for c in pod["spec"]["containers"])
            self._runners[uid] = runner = PodRunner(self, pod, self._next_host())
            runner.start()

    def _bind(self, pod: Json) -> None:
        """Take a pod that nobody has; one that is gone meanwhile, or whose namespace is going, is left alone, as a scheduler leaves it."""
        meta = pod["metadata"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta["name"], "uid": meta["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        }
        try:
            self.plane.admin.post(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/binding", binding)
        except ApiError as error:
            if error.status not in (404, 409) and "is being terminated" not in str(error):
                raise

    def _gone(self, uid: str) -> None:
        if uid in self._runners:
            self._runners[uid].abandon()

    def _forget_all_but(self, uids: set[str]) -> None:
        for uid in self._runners.keys() - uids:
            self._gone(uid)

    def _next_host(self) -> str:
        """127.a.b.c, different for every pod of the session and for sessions side by side."""
        number = next(self._addresses)
        return f"127.{64 + os.getpid() % 128}.{number // 250 % 250}.{number % 250 + 1}"


def _may_run_here(pod: Json) -> bool:
    """Whether a scheduler would choose this node: the pod is not held or going, and selects no other node."""
    wanted = pod["spec"].get("nodeSelector") or {}
    is_held = pod["metadata"].get("deletionTimestamp") or pod["spec"].get("schedulingGates")
    return not is_held and wanted.items() <= LABELS.items()
