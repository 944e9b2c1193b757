"""One container of a pod as a process of this machine: started, probed, restarted, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from real.kubelet_probe import Probe, ask
from real.kubelet_volumes import NotYet, Paths, Source, environment, expand, memory_limit
from real.process import dies_with_us
from real.rest import Json

if TYPE_CHECKING:
    from real.kubelet_pod import PodRunner

FIRST_BACK_OFF_SECONDS, LONGEST_BACK_OFF_SECONDS = 1.0, 30.0
MEMORY_CHECK_SECONDS = 0.5
CREATING: Json = {"waiting": {"reason": "ContainerCreating"}}


def stamp() -> str:
    """Now, as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ContainerRunner:
    """Steps through a container's life; the pod's thread calls `step`, nobody else."""

    def __init__(self, pod: PodRunner, spec: Json, restart_policy: str) -> None:
        self.spec = spec
        self.name = str(spec["name"])
        self.log_file = pod.folder / f"{self.name}.log"
        self.state: Json = CREATING
        self.last_state: Json = {}
        self.restarts = 0
        self._pod = pod
        self._restart_policy = restart_policy
        self._process: subprocess.Popen[bytes] | None = None
        self._probes: dict[str, Probe] = {}
        self._env: dict[str, str] = {}
        self._start_at = 0.0
        self._back_off = FIRST_BACK_OFF_SECONDS
        self._kill_reason = ""
        self._next_memory_check = 0.0

    # What the pod asks

    @property
    def is_running(self) -> bool:
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        """Of a container that has ended for good."""
        return self.state["terminated"]["exitCode"] if "terminated" in self.state else None

    @property
    def has_started(self) -> bool:
        """Whether it ever ran, and its startup probe (if any) has passed since its last start."""
        startup = self._probes.get("startupProbe")
        return self.is_running and (startup is None or startup.passed is True)

    @property
    def is_ready(self) -> bool:
        if not self.has_started:
            return False
        return "readinessProbe" not in self.spec or self._passed("readinessProbe") is True

    def status(self) -> Json:
        """As it stands in the pod's containerStatuses."""
        image = self.spec["image"]
        return {
            "name": self.name,
            "image": image,
            "imageID": image,
            "containerID": f"test://{self._pod.uid}/{self.name}/{self.restarts}",
            "ready": self.is_ready,
            "started": self.has_started,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last_state,
        }

    # What the pod does

    def step(self, source: Source, volumes: dict[str, Path]) -> None:
        """Do what is due: start, notice the end, obey probes and limits, restart."""
        if self._process is None:
            if "terminated" not in self.state and time.monotonic() >= self._start_at:
                self._start(source, volumes)
        elif (code := self._process.poll()) is not None:
            self._ended(code)
        else:
            self._watch_over()

    def kill(self, number: int, reason: str = "") -> None:
        """Send a signal to all processes of the container."""
        if self._process is not None:
            self._kill_reason = reason or self._kill_reason
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def before_stop(self) -> None:
        """The preStop hook."""
        hook = (self.spec.get("lifecycle") or {}).get("preStop") or {}
        if self._process is None or not hook:
            return
        if "sleep" in hook:
            time.sleep(float(hook["sleep"]["seconds"]))
        if "exec" in hook:
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(hook["exec"]["command"], env=self._env, capture_output=True, timeout=30)

    def notice_end(self) -> bool:
        """Whether it has ended; the end is for good."""
        if self._process is not None and (code := self._process.poll()) is not None:
            self._record_end(code)
        return self._process is None

    def destroy(self) -> None:
        """Kill whatever runs, at once."""
        self._stop_probes()
        self.kill(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout=30)

    # Parts

    def _start(self, source: Source, volumes: dict[str, Path]) -> None:
        image = self.spec["image"]
        if image in self._pod.absent_images:
            self.state = {"waiting": {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}}
            return
        try:
            env = environment(source, self.spec)
        except NotYet as missing:
            self.state = {"waiting": {"reason": missing.reason, "message": str(missing)}}
            self._start_at = time.monotonic() + 0.5
            return
        paths = Paths.of(self.spec, volumes)
        self._env = self._pod.base_environment(paths) | {k: paths.rewrite(v) for k, v in env.items()}
        own = [program for name, program in self._pod.entrypoints.items() if image.startswith(name)]
        words = [*(self.spec.get("command") or own), *(self.spec.get("args") or [])]
        command = [paths.rewrite(expand(word, self._env)) for word in words]
        folder = Path(paths.rewrite(self.spec.get("workingDir") or "")) if self.spec.get("workingDir") else None
        self._launch(command, folder if folder and folder.is_dir() else self._pod.folder)

    def _launch(self, command: list[str], folder: Path) -> None:
        try:
            with self.log_file.open("ab") as out:
                self._process = subprocess.Popen(
                    dies_with_us(_found(command, self._env["PATH"])),
                    env=self._env,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
        except OSError as error:
            self.state = {"terminated": _terminated(128, "ContainerCannotRun", stamp(), str(error))}
            self._maybe_restart(128)
            return
        self._kill_reason = ""
        self.state = {"running": {"startedAt": stamp()}}
        if "startupProbe" in self.spec:
            self._probe("startupProbe")

    def _watch_over(self) -> None:
        """Probes begin once the startup probe has passed; a failed startup or liveness probe ends the container."""
        if self.has_started:
            for kind in ("readinessProbe", "livenessProbe"):
                if kind in self.spec and kind not in self._probes:
                    self._probe(kind)
        if any(self._passed(kind) is False for kind in ("startupProbe", "livenessProbe")):
            self._stop_probes()
            self.kill(signal.SIGTERM)
        limit = memory_limit(self.spec)
        if limit and self._process is not None and time.monotonic() >= self._next_memory_check:
            self._next_memory_check = time.monotonic() + MEMORY_CHECK_SECONDS
            if _memory_bytes(self._process.pid) > limit:
                self.kill(signal.SIGKILL, "OOMKilled")

    def _ended(self, code: int) -> None:
        self._record_end(code)
        self._maybe_restart(self.state["terminated"]["exitCode"])

    def _record_end(self, code: int) -> None:
        """What the process leaves behind in its group goes with it, as in a container."""
        self._stop_probes()
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process = None
        exit_code = code if code >= 0 else 128 - code
        reason = self._kill_reason if self._kill_reason and exit_code else ("Error" if exit_code else "Completed")
        self.state = {"terminated": _terminated(exit_code, reason, self.state["running"]["startedAt"])}

    def _maybe_restart(self, exit_code: int) -> None:
        if self._restart_policy == "Never" or (self._restart_policy == "OnFailure" and exit_code == 0):
            return
        self.last_state = self.state
        message = f"back-off {self._back_off:g}s restarting failed container={self.name}"
        self.state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
        self._start_at = time.monotonic() + self._back_off
        self._back_off = min(self._back_off * 2, LONGEST_BACK_OFF_SECONDS)
        self.restarts += 1

    def _probe(self, kind: str) -> None:
        def ask_once(spec: Json) -> bool:
            return ask(spec, self._pod.host, lambda port: self._pod.port_number(port), self._env, self._pod.folder)

        self._probes[kind] = Probe(self.spec[kind], ask_once)

    def _passed(self, kind: str) -> bool | None:
        probe = self._probes.get(kind)
        return probe.passed if probe else None

    def _stop_probes(self) -> None:
        for probe in self._probes.values():
            probe.stop()
        self._probes.clear()


def _found(command: list[str], path: str) -> list[str]:
    """The command with its program looked up on the container's PATH.

    Raises:
        FileNotFoundError: there is none.
    """
    import shutil

    program = shutil.which(command[0], path=path) if command else None
    if program is None:
        named = command[0] if command else "of the image, which this test node does not have"
        raise FileNotFoundError(f"exec: program {named} not found in PATH")
    return [program, *command[1:]]


def _terminated(exit_code: int, reason: str, started: str, message: str = "") -> Json:
    said = {"message": message} if message else {}
    return {"exitCode": exit_code, "reason": reason, "startedAt": started, "finishedAt": stamp(), **said}


def _memory_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; 0 where /proc does not say."""
    if sys.platform != "linux":
        return 0
    total, waiting = 0, [pid]
    while waiting:
        one = Path("/proc") / str(waiting.pop())
        with suppress(OSError, ValueError, IndexError):
            total += int((one / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            waiting += [int(child) for child in (one / "task" / one.name / "children").read_text().split()]
    return total
