"""Probes of a container: startup, readiness and liveness, by HTTP, TCP, gRPC or a command."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import urllib3

from real.rest import Json

LONGEST_PERIOD_SECONDS = 0.5
_SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse(status=SERVING)


class Probe:
    """Asks again and again in a thread of its own, until stopped.

    `passed` is None before the first verdict. Thresholds are lengths of time: as long as a real kubelet would take.
    """

    def __init__(self, spec: Json, ask: Callable[[Json], bool]) -> None:
        self.passed: bool | None = None
        self._spec = spec
        self._ask = ask
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="probe", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def _run(self) -> None:
        period = float(self._spec.get("periodSeconds", 10))
        patience = period * max(0, int(self._spec.get("failureThreshold", 3)) - 1)
        failing_since: float | None = None
        self._stopped.wait(min(float(self._spec.get("initialDelaySeconds", 0)), LONGEST_PERIOD_SECONDS))
        while not self._stopped.is_set():
            if self._ask(self._spec):
                self.passed, failing_since = True, None
            else:
                now = time.monotonic()
                failing_since = failing_since or now
                if now - failing_since >= patience:
                    self.passed = False
            self._stopped.wait(min(period, LONGEST_PERIOD_SECONDS))


def ask(spec: Json, host: str, port_number: Callable[[int | str], int], env: dict[str, str], folder: Path) -> bool:
    """One question of a probe."""
    timeout = float(spec.get("timeoutSeconds", 1))
    try:
        if "httpGet" in spec:
            return _http(spec["httpGet"], host, port_number(spec["httpGet"]["port"]), timeout)
        if "tcpSocket" in spec:
            socket.create_connection((host, port_number(spec["tcpSocket"]["port"])), timeout).close()
            return True
        if "grpc" in spec:
            return _grpc(spec["grpc"], host, timeout)
        command = spec["exec"]["command"]
        return subprocess.run(command, env=env, cwd=folder, capture_output=True, timeout=timeout).returncode == 0
    except (OSError, urllib3.exceptions.HTTPError, subprocess.TimeoutExpired):
        return False


def _http(action: Json, host: str, port: int, timeout: float) -> bool:
    headers = {header["name"]: header["value"] for header in action.get("httpHeaders") or []}
    url = f"{action.get('scheme', 'HTTP').lower()}://{host}:{port}{action.get('path') or '/'}"
    with urllib3.PoolManager(retries=False, cert_reqs="CERT_NONE") as pool:
        return 200 <= pool.request("GET", url, timeout=timeout, headers=headers, redirect=False).status < 400


def _grpc(action: Json, host: str, timeout: float) -> bool:
    """grpc.health.v1.Health/Check, whose two messages are short enough to write out."""
    import grpc

    service = str(action.get("service") or "").encode()
    request = b"\x0a" + bytes([len(service)]) + service if service else b""
    with grpc.insecure_channel(f"{host}:{action['port']}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            return bool(check(request, timeout=timeout) == _SERVING)
        except grpc.RpcError:
            return False
