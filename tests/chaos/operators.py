"""Replicas of the operator as processes that die and come back, each with a log of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from real.controlplane import ControlPlane
from real.process import dies_with_us
from real.proxy import FaultyProxy

_SCRIPT = Path(__file__).resolve().parents[1] / "acceptance" / "operator_for_any_server.py"
_TERM_SECONDS = 20.0
LEADERSHIP_LOST = 3
"""Exit code of an operator that could not renew its lease in time: meant to happen, and no crash."""

EXPECTED_ERRORS = ("leadership lost", "will retry")
"""What an operator says when it has to end, though nobody told it to; and kopf of each try to reach the API server."""


def kubeconfig_through(proxy: FaultyProxy, plane: ControlPlane, path: Path) -> Path:
    """The operator's kubeconfig, with the proxy in front of the API server."""
    config = json.loads(plane.operator_kubeconfig().read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{proxy.port}"
    path.write_text(json.dumps(config))
    return path


class OperatorReplica:
    """One replica, as a Deployment would keep it."""

    def __init__(self, name: str, command: list[str], lease_namespace: str, log: Path) -> None:
        self.name, self.log = name, log
        self._command = command
        foreign = {k: v for k, v in os.environ.items() if not k.startswith("KUBEAUTOML_")}
        own = {"NAMESPACE": lease_namespace, "POD_NAME": name, "METRICS_PORT": "0", "HEALTH_PORT": "0"}
        self._environment = {**foreign, **{f"KUBEAUTOML_{k}": v for k, v in own.items()}}
        self._process: subprocess.Popen[bytes] | None = None
        self.crashes: list[str] = []

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it unless it runs."""
        if self.is_running:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(dies_with_us(self._command), stdout=log, stderr=log, env=self._environment)

    def keep_running(self) -> None:
        """Start it again should it have ended by itself, and remember if that was a crash."""
        if self._process is None:
            return
        code = self._process.poll()
        if code is not None:
            if code != LEADERSHIP_LOST and not self._began_in_an_outage(code):
                self.crashes.append(f"{self.name} ended with {code}: {self.log.read_text(errors='replace')[-1500:]}")
            self.start()

    def end(self, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait; it stays down until `start`."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            code = process.wait(_TERM_SECONDS)
        except subprocess.TimeoutExpired:
            self.crashes.append(f"{self.name} did not leave within {_TERM_SECONDS:.0f} s of SIGTERM")
            process.kill()
            process.wait(10)
            return
        if number == signal.SIGTERM and code not in (0, -signal.SIGTERM, LEADERSHIP_LOST):
            self.crashes.append(f"{self.name} ended with {code} after SIGTERM")

    def _began_in_an_outage(self, code: int) -> bool:
        """Whether it found no API server when it was started, said so in one line, and left it to be started again."""
        lines = self.log.read_text(errors="replace").splitlines()
        said = [line for line in lines if '"level": "error"' in line and "will retry" not in line]
        return code == 1 and bool(said) and _is_expected(said[-1])

    def errors(self) -> list[str]:
        """Lines of level error, and tracebacks: an operator that meets a fault says it in one line, as a warning."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        found = [line for line in lines if "Traceback" in line or '"level": "error"' in line]
        return [line for line in found if not _is_expected(line)]


def _is_expected(line: str) -> bool:
    began_in_an_outage = "operator cannot work" in line and '"reason": "ClusterUnavailable"' in line
    return began_in_an_outage or any(words in line for words in EXPECTED_ERRORS)


def operator_command(plane: ControlPlane, kubeconfig: Path, study_url: str, namespaces: list[str]) -> list[str]:
    """`kubeautoml operator`, through the filter that an old API server needs."""
    version = ".".join(map(str, plane.version))
    scope = [word for name in namespaces for word in ("-n", name)]
    options = ["--kubeconfig", str(kubeconfig), "--study-url", study_url]
    return [sys.executable, str(_SCRIPT), version, *scope, *options]
