"""One pod as one process on this machine: from the container in its manifest to an exit code in its status.

What the kubelet does, for pods of one container: environment (also from fields), emptyDir and hostPath volumes, log,
readiness by HTTP, SIGTERM and after the grace period SIGKILL to the whole process group, restart with back-off.
Secrets, tokens and config maps are not there: a variable that points into such a volume is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kubeautoml.api.names import Env
from kubeautoml.api.objects import Manifest

DEFAULT_GRACE_SECONDS = 30.0
"""terminationGracePeriodSeconds of Kubernetes."""

MAX_RESTART_SECONDS = 30.0
"""Longest wait before a crashed server is started again; a guess that suits a person who watches (Kubernetes: 300)."""

PROBE_SECONDS = 0.2
"""Time between two readiness probes of a server that is not ready."""

_CREDENTIALS = (Env.TRAIN_CREDENTIALS_DIR, Env.TEST_CREDENTIALS_DIR, Env.OUTPUT_CREDENTIALS_DIR)

# Runs first in the child: ask the kernel for SIGKILL when the parent dies (it survives exec), then become the command.
# A preexec_fn would do the same in a fork of this threaded process, which may deadlock (subprocess documentation).
_LAUNCH = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(sys.argv[1]):
        os._exit(137)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    print(f"{sys.argv[2]}: {error.strerror}", file=sys.stderr)
    sys.exit(127)
"""


@dataclass(frozen=True)
class Command:
    """What to execute for a pod."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def command_of(pod: Manifest, volumes: Path, environment: Mapping[str, str]) -> Command:
    """The process that stands for the pod's container.

    Args:
        pod: a pod with exactly one container.
        volumes: folder under which emptyDir volumes live.
        environment: what the process inherits.
    """
    container = pod["spec"]["containers"][0]
    mounts = _mounts(pod, container, volumes)
    variables = dict(environment)
    for entry in container.get("env", []):
        value = _localised(_value_of(entry, pod), mounts)
        if value is None or entry["name"] in _CREDENTIALS:
            variables.pop(entry["name"], None)
        else:
            variables[entry["name"]] = _expanded(value, variables)
    words = [*container.get("command", []), *container.get("args", [])]
    local = [_localised(_expanded(w, variables), mounts) for w in words]
    return Command(_resolved([w for w in local if w is not None]), variables)


def _mounts(pod: Manifest, container: Manifest, volumes: Path) -> dict[str, Path | None]:
    """Where each mount path is on this machine; None for volumes that only a cluster has."""
    places: dict[str, Path | None] = {}
    for volume in pod["spec"].get("volumes", []):
        if "emptyDir" in volume:
            places[volume["name"]] = volumes / volume["name"]
        elif "hostPath" in volume:
            places[volume["name"]] = Path(volume["hostPath"]["path"])
        else:
            places[volume["name"]] = None
    return {m["mountPath"].rstrip("/"): places.get(m["name"]) for m in container.get("volumeMounts", [])}


def _value_of(entry: Manifest, pod: Manifest) -> str | None:
    """The value of one `env` entry; None for what comes from a Secret or ConfigMap."""
    if "valueFrom" not in entry:
        return str(entry.get("value", ""))
    path = entry["valueFrom"].get("fieldRef", {}).get("fieldPath")
    return _field(pod, path) if path else None


def _field(pod: Manifest, path: str) -> str:
    """A field of the pod, as the downward API spells it."""
    metadata = pod["metadata"]
    keyed = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if keyed:
        return str(metadata.get(keyed[1], {}).get(keyed[2], ""))
    known = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata.get("namespace", ""),
        "metadata.uid": metadata["uid"],
        "status.podIP": "127.0.0.1",
        "status.hostIP": "127.0.0.1",
        "spec.nodeName": socket.gethostname(),
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", "default"),
    }
    return str(known.get(path, ""))


def _localised(value: str | None, mounts: dict[str, Path | None]) -> str | None:
    """A path inside a mount as the path on this machine; None when it points into a volume that is not there."""
    if value is None:
        return None
    for mount in sorted(mounts, key=len, reverse=True):
        # below /tmp only the folder itself: a longer path there may be this machine's own (data, a virtual environment)
        is_inside = value.startswith(mount + "/") and mount != "/tmp"
        if value == mount or is_inside:
            place = mounts[mount]
            return None if place is None else str(place) + value[len(mount) :]
    return value


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    """Replace $(NAME) as Kubernetes does; $$ stands for one $, unknown names stay."""
    return re.sub(
        r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)",
        lambda m: "$" if m[0] == "$$" else variables.get(m[1], m[0]),
        text,
    )


def _resolved(words: list[str]) -> tuple[str, ...]:
    """The words with our own program found without PATH."""
    if words and words[0] == "kubeautoml":
        return (sys.executable, "-m", "kubeautoml.cli.main", *words[1:])
    return tuple(words)


def free_port(preferred: int = 0) -> int:
    """A port of 127.0.0.1 that nobody listens on: the preferred one if possible."""
    for port in (preferred, 0):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            return int(s.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


class LocalPod:
    """Runs one pod and reports its status.

    Args:
        pod: the manifest; its restartPolicy Always means that an ended process is started again.
        folder: the pod's own folder: working directory and emptyDir volumes.
        log: file that output is appended to.
        report: takes each new `status` of the pod.
        preferred_port: port a server gets if it is free; 0 for any.
    """

    def __init__(
        self,
        pod: Manifest,
        *,
        folder: Path,
        log: Path,
        environment: Mapping[str, str],
        report: Callable[[Manifest], None],
        clock: Callable[[], datetime],
        max_grace_seconds: float | None = None,
        preferred_port: int = 0,
    ) -> None:
        self._pod = pod
        self._folder = folder
        self._log = log
        self._environment = environment
        self._report = report
        self._clock = clock
        self._max_grace_seconds = max_grace_seconds
        self._preferred_port = preferred_port
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._restarts = 0
        self._started_at = ""
        self.port: int | None = None
        """Where a server listens, once it is started."""

    @property
    def name(self) -> str:
        name: str = self._pod["metadata"]["name"]
        return name

    @property
    def pid(self) -> int | None:
        """Process, and process group, while there is one."""
        return self._process.pid if self._process else None

    @property
    def _container(self) -> Manifest:
        container: Manifest = self._pod["spec"]["containers"][0]
        return container

    @property
    def _restarting(self) -> bool:
        return bool(self._pod["spec"].get("restartPolicy", "Always") == "Always")

    async def run(self) -> None:
        """From start to the end: the process has exited, or `stop` was called and nothing of it is left."""
        try:
            while not self._stopping.is_set():
                code = await self._run_once()
                if not self._restarting or self._stopping.is_set():
                    self._report_end(code)
                    return
                await self._wait_before_restart(code)
            self._report_end(143)
        finally:
            self.kill()
            shutil.rmtree(self._folder, ignore_errors=True)

    def stop(self, grace_seconds: float | None = None) -> None:
        """Ask the process group to end; kill it when the grace period is over. `run` returns once it has ended."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._signal(signal.SIGTERM)
        wait = grace_seconds if grace_seconds is not None else self._grace_seconds()
        asyncio.get_running_loop().call_later(wait, self.kill)

    def kill(self) -> None:
        """Kill the whole process group now."""
        self._signal(signal.SIGKILL)

    def _grace_seconds(self) -> float:
        grace = float(self._pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS))
        return min(grace, self._max_grace_seconds) if self._max_grace_seconds is not None else grace

    async def _run_once(self) -> int:
        """Start the process and wait for its exit code: 128 + n when signal n ended it."""
        try:
            self._process = await self._start()
        except OSError as error:
            self._log.write_text(f"{self._container.get('command')}: {error.strerror}\n")
            return 127
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        self._started_at = _stamp(self._clock())
        probe = asyncio.create_task(self._watch_readiness())
        try:
            code = await self._process.wait()
        finally:
            probe.cancel()
        self.kill()
        self._process = None
        return 128 - code if code < 0 else code

    async def _start(self) -> asyncio.subprocess.Process:
        environment = {**self._environment, "PYTHONUNBUFFERED": "1"}
        command = command_of(self._pod, self._folder / "volumes", environment)
        variables = dict(command.environment)
        if self._container.get("ports"):
            self.port = free_port(self._preferred_port)
            variables |= {Env.PORT.value: str(self.port), Env.BIND_HOST.value: "127.0.0.1"}
        self._make_folders()
        launch = (sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *command.arguments)
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *launch,
                env=variables,
                cwd=self._folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _make_folders(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        for volume in self._pod["spec"].get("volumes", []):
            if "emptyDir" in volume:
                (self._folder / "volumes" / volume["name"]).mkdir(parents=True, exist_ok=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    # Readiness

    async def _watch_readiness(self) -> None:
        probe = self._container.get("readinessProbe", {}).get("httpGet")
        self._report_running(ready=probe is None)
        if probe is None:
            return
        was_ready = False
        while True:
            ready = await self._answers(probe.get("path", "/"))
            if ready != was_ready:
                self._report_running(ready=ready)
                was_ready = ready
            period = float(self._container["readinessProbe"].get("periodSeconds", 10))
            await asyncio.sleep(period if ready else min(PROBE_SECONDS, period))

    async def _answers(self, path: str) -> bool:
        """Whether a GET gets a status from 200 to 399, as the kubelet judges."""
        timeout = float(self._container["readinessProbe"].get("timeoutSeconds", 1))
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                    status_line = await reader.readline()
                finally:
                    writer.close()
        except OSError:
            return False
        return re.match(rb"HTTP/1\.[01] [23]\d\d", status_line) is not None

    # Status

    def _report_running(self, *, ready: bool) -> None:
        self._report(self._status("Running", {"running": {"startedAt": self._started_at}}, ready=ready))

    async def _wait_before_restart(self, code: int) -> None:
        """Say CrashLoopBackOff and wait, longer every time, or until `stop`."""
        self._restarts += 1
        reason = {"reason": "CrashLoopBackOff", "message": f"exit code {code}; its output is in {self._log}"}
        self._report(self._status("Running", {"waiting": reason}, ready=False))
        with contextlib.suppress(TimeoutError):
            wait = min(2.0 ** (self._restarts - 1), MAX_RESTART_SECONDS)
            await asyncio.wait_for(self._stopping.wait(), wait)

    def _report_end(self, code: int) -> None:
        ended = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "StartError" if code == 127 else "Error",
            "message": "" if code == 0 else self._last_line(),
            "startedAt": self._started_at or _stamp(self._clock()),
            "finishedAt": _stamp(self._clock()),
        }
        state = {"terminated": {k: v for k, v in ended.items() if v != ""}}
        self._report(self._status("Succeeded" if code == 0 else "Failed", state, ready=False))

    def _last_line(self) -> str:
        """The last line of the log: what terminationMessagePolicy FallbackToLogsOnError gives, cut to one line."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 2048))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1][:1024] if lines else ""

    def _status(self, phase: str, state: Manifest, *, ready: bool) -> Manifest:
        return {
            "phase": phase,
            "podIP": "127.0.0.1",
            "hostIP": "127.0.0.1",
            "startTime": self._started_at or _stamp(self._clock()),
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [
                {
                    "name": self._container["name"],
                    "image": self._container.get("image", ""),
                    "ready": ready,
                    "restartCount": self._restarts,
                    "state": state,
                }
            ],
        }


def _stamp(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
